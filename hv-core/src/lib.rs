//! The hypervisor core: domains, vCPUs, guest memory, devices, and the introspection calls.
//!
//! It runs guests without privilege, by interpretation, deterministically: the same configuration and input give the
//! same state at the same tick of virtual time. Three types matter:
//!
//! - [`Hypervisor`] holds domains by [`DomId`] and name.
//! - [`Domain`] is a guest on a thread of its own; it is looked at and controlled through the capability traits of
//!   [`introspect`], which know nothing of the engine.
//! - [`machine::Machine`] is what a domain runs, for those who want no thread and no clock.
//!
//! ```no_run
//! use hv_core::introspect::{ControlRun, ReadRegisters};
//! use hv_core::machine::{GuestImage, MachineConfig};
//! use hv_core::{DomainConfig, Hypervisor, VcpuId};
//!
//! let hypervisor = Hypervisor::new();
//! let domain = hypervisor.create(DomainConfig {
//!     name: Some("linux".into()),
//!     machine: MachineConfig {
//!         memory_bytes: 256 << 20,
//!         vcpus: 1,
//!         seed: 0,
//!         cpu_model: String::new(),
//!         debug_exit: None,
//!         guest: GuestImage::Linux {
//!             kernel: std::fs::read("vmlinuz")?.into(),
//!             initrd: None,
//!             command_line: "console=ttyS0".into(),
//!         },
//!     },
//!     paused: false,
//!     throttle: true,
//! })?;
//! domain.pause()?;
//! println!("rip {:#x}", domain.registers(VcpuId(0))?.rip);
//! domain.unpause()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod addr;
pub mod devices;
pub mod domain;
pub mod engine;
pub mod hypervisor;
pub mod introspect;
pub mod load;
pub mod machine;
mod memory;
pub mod regs;

pub use addr::{DomId, GuestPhysAddr, GuestVirtAddr, Ticks, VcpuId};
pub use domain::Domain;
pub use hypervisor::{DomainConfig, Hypervisor, HypervisorError, Registration};
