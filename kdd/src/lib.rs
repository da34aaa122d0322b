//! The service that debugs virtual machines from outside, and its command line.
//!
//! ```text
//!  kdd list, regs, …         control::client ──JSON lines──► control::server ──► serve::Service
//!  kdd run, kdd serve        own the Service                                        │ domains
//!  gdb, lldb                 ──────────────── remote protocol ──► gdb_bridge ──► introspect::Target ──► hv_core
//!  WinDbg, kd                ──────────────── KD protocol ───────► kd ─────────► introspect::Target
//! ```
//!
//! The three things that matter:
//! - [`control::message`]: every message of the control socket, the one place that says what can be asked;
//! - [`control::client::Client`]: asks a running service;
//! - [`serve::Service`]: owns the domains and the debug endpoints.
//!
//! The command line is [`cli`]: it parses, asks, prints, and does nothing else. Each failure, wherever it starts,
//! is a [`Failure`]: one line that says what, why, and what to do, with the exit status it stands for.
//!
//! ```no_run
//! use kdd::control::{client::Client, message::{Reply, Request}};
//!
//! let mut client = Client::connect(None, None)?;
//! if let Reply::Domains { domains } = client.ask(Request::List)? {
//!     for domain in domains {
//!         println!("{} is {}", domain.name, domain.state);
//!     }
//! }
//! # Ok::<(), kdd::Failure>(())
//! ```

pub mod cli;
pub mod console;
pub mod control;
mod failure;
pub mod kd;
pub mod nt;
pub mod parse;
pub mod serve;
mod time;

pub use failure::{Failure, FailureKind};
