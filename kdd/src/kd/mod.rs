//! The KD protocol's target side: to WinDbg and kd this is a kernel with debugging enabled.
//!
//! ```text
//!  bytes ─► protocol::Link ─► KdSession ─┬─ requests ─► memory, context, control_space, breakpoints, search, …
//!                                 ▲      ├─ run ──────► introspect::Session: stop, step, resume
//!          TargetEvent ───────────┘      └─ watches ──► bugchecks, services, modules, prints of the guest
//!  bytes ◄─ protocol::Link ◄─ reports (state_change), replies, text
//! ```
//!
//! [`KdSession`] is sans-I/O: whoever drives it gives bytes, events and the time, and sends what it has to say;
//! [`server`] does so over sockets and terminals. What is known of the guest's kernel comes through
//! [`kernel::Kernel`]. Nothing of the host's is ever in the guest: breakpoints are the engine's, debug registers and
//! the trap flag are kept here, and dropping the session leaves the guest as if nobody had been there.
//!
//! Windows in the guest knows nothing of a debugger, so what a debug-enabled kernel would do by itself (stop in a
//! bugcheck, tell of modules, print) is noticed from outside.

mod breakpoints;
mod bugcheck;
mod context;
mod control_space;
mod crash;
mod guest;
mod hardware_breakpoints;
mod int3;
mod io;
pub mod kernel;
mod memory;
mod modules;
mod msr;
mod prints;
mod reply;
mod requests;
mod run;
mod scan;
mod search;
pub mod server;
mod services;
mod session;
mod state_change;
mod step;
mod stops;
mod version;
mod watches;

pub use session::{KdSession, Notify};
