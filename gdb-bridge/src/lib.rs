//! The GDB remote stub: stock gdb and lldb debug a guest from outside.
//!
//! ```text
//!  gdb, lldb ──socket── server ──bytes── GdbSession ──── introspect::Target ── the domain
//!                                           │
//!               framing ── packets ── stub (the gdbstub crate)
//!                             │         │
//!               memory, breakpoints, registers, inferior, tasks, agent, monitor, session/run
//! ```
//! - [`server`] listens, and drives one session for each connection.
//! - [`GdbSession`] is a session without any I/O: bytes in, bytes out. The server, the tests and the fuzzer drive
//!   the same code.
//! - [`Options`] is what the service lends to sessions.
//!
//! A session holds the guest only while its client wants it stopped, and what it set goes with it, at whatever byte
//! the client dies. Two clients are two sessions of one [`introspect::Target`], each with its own breakpoints.
//!
//! ```
//! use gdb_bridge::server::{ListenAddress, listen};
//! use introspect::Target;
//! use std::sync::Arc;
//!
//! async fn serve(target: Arc<Target>) -> std::io::Result<()> {
//!     let endpoint = listen(target, ListenAddress::Tcp(([127, 0, 0, 1], 0).into())).await?;
//!     println!("gdb -ex 'target remote {}'", endpoint.address);
//!     std::future::pending().await // dropping the endpoint ends its sessions
//! }
//! ```
//!
//! # What gdbstub does, and what is done beside it
//! The `gdbstub` crate keeps track of running and stopped; parses and answers register packets (`g G p P`), thread
//! packets (`qfThreadInfo T qThreadExtraInfo`), resume requests (`vCont`, with its single and range steps and
//! scheduler locking), plain breakpoints (`Z z`), `D`, `qXfer:features`, `qRcmd`, lldb's `qHostInfo` and
//! `qProcessInfo`; and words the stop replies. The traits it asks for are implemented in `stub/`, a file for each.
//!
//! Beside it, in `packets/` and `framing`, because it has no place for them or does them otherwise than a machine
//! needs:
//!
//! | what | why |
//! |---|---|
//! | framing, acknowledgements, NAK and repetition | gdbstub ends the session at a wrong checksum or a `-` |
//! | `m x M X` | its reads go on after a hole; `x` is unknown to it; memory is where speed counts |
//! | conditions and commands of breakpoints | it skips the agent expressions |
//! | `qSupported` | its list lacks what is done here |
//! | `?`, `qC`, `H` with unknown threads, `c` and `s` of the whole machine, `vCont` steps without a thread | it has fixed answers to them or refuses them |
//! | `qXfer:threads`, `qSearch:memory`, `qCRC`, QEMU's `PhyMemMode`, `QNonStop`, lldb's `qThreadStopInfo`, `jThreadsInfo`, `QListThreadsInStopReply`, `QEnableErrorStrings`, `qMemoryRegionInfo` and `qWatchpointSupportInfo` | it doesn't know them |
//! | `!`, `R`, `vAttach`, `vKill`, `k` | its extended mode is about processes; ours has one guest, which is never killed |
//! | `qXfer:exec-file`, `qXfer:libraries`, `vFile` | its buffer is copied several times, and its errors aren't the protocol's; a symbol file has many megabytes |
//! | carrying out a resume request | that is always the user's part with gdbstub |
//!
//! A packet that makes gdbstub give up costs its state machine, which is made anew with the same thread selected:
//! hostile input ends nothing.
//!
//! `qXfer:memory-map` isn't offered: it is of virtual addresses, where the guest may map anything anywhere at any
//! time, and gdb would refuse to touch whatever a map left out. lldb asks for one region at a time, of the page
//! tables as they are.
//!
//! Reverse execution has its place in `stub/resume.rs` (gdbstub's `ReverseStep` and `ReverseCont` traits) and as
//! further plans in `resume.rs`.

mod agent;
mod breakpoints;
mod files;
mod framing;
mod guest;
mod hex;
mod inferior;
mod monitor;
mod packets;
mod process;
mod registers;
mod resume;
pub mod server;
mod session;
mod stub;
mod tasks;
mod thread;
mod threads;

pub use guest::{Adopt, Options};
pub use session::{GdbSession, Notify, StartError};
