//! The dom0 side of a domain: one [`Target`] per domain, shared by every debugger that looks at it.
//!
//! ```text
//!   gdb session      KD session      command line
//!        │                │                │
//!     Session          Session          Session       its own hold, its own breakpoints
//!        └────────────────┼────────────────┘
//!                       Target ───── virtual memory: walks the guest's page tables
//!                         │  ▲
//!    pause, step, insert  │  │  Stopped, Crashed, Console …
//!                         ▼  │
//!                 dyn Introspect (a domain: hv-core, another hypervisor, a dump file)
//! ```
//!
//! **Run control.** The hypervisor's pause is counted. Each session holds the domain with a pause of its own, and
//! the domain runs while nobody holds it. When the domain stops by itself, every attached session gets a hold
//! before the stop's own pause is given back. A [`Session`] that is dropped takes its breakpoints and its hold
//! with it, at whatever moment that happens.
//!
//! **What may not happen here.** No call into the domain and none of a session's sink is made with a lock of the
//! target held: events arrive on the domain's own thread, while another thread may be waiting in `pause` for that
//! one. Nothing here knows of an engine. Guest memory is hostile: every walk is bounded by the number of levels,
//! every address is masked.
//!
//! ```
//! use hv_core::introspect::{Breakpoint, BreakpointKind, Introspect, Place};
//! use hv_core::{GuestVirtAddr, VcpuId};
//! use introspect::{AddressSpace, Target, TargetEvent};
//! use std::sync::Arc;
//!
//! fn look(domain: Arc<dyn Introspect>, address: GuestVirtAddr) -> Result<(), Box<dyn std::error::Error>> {
//!     let target = Target::new(domain);
//!     let session = target.attach("an example", Box::new(|event: &TargetEvent| println!("{event:?}")));
//!     session.stop()?;
//!     session.insert_breakpoint(Breakpoint {
//!         place: Place::Virtual(address),
//!         kind: BreakpointKind::Execute,
//!         condition: None,
//!     })?;
//!     let mut code = [0; 16];
//!     let got = target.read_virtual(AddressSpace::Vcpu(VcpuId(0)), address, &mut code)?;
//!     println!("{:x?}", &code[..got]);
//!     session.resume()?;
//!     Ok(()) // the session ends: no breakpoint of it is left, and the domain runs
//! }
//! ```

mod error;
mod event;
mod hold;
pub mod linux;
mod outbox;
mod paging;
mod region;
mod session;
mod target;
mod virtual_memory;
pub mod windows;

pub use error::{Error, Fault, ReadError, TranslateError, WriteError};
pub use event::{EventSink, TargetEvent};
pub use paging::{KernelHalf, Level, PageTables, PagingMode, Translation};
pub use region::{Region, RegionRights};
pub use session::{Session, SessionId, SessionInfo};
pub use target::Target;
pub use virtual_memory::AddressSpace;
