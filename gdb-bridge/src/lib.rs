//! The GDB remote stub: stock gdb and lldb debug a guest from outside.
mod agent;
mod breakpoints;
mod framing;
mod guest;
mod hex;
mod monitor;
mod packets;
mod registers;
mod resume;
mod server;
mod session;
mod stub;
mod threads;

pub use guest::{Adopt, Options};
pub use server::{Listener, serve};
pub use session::{GdbSession, Notify, StartError};
