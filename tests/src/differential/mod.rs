//! User-mode instructions, run three times from the same state: by the host's CPU, by the engine one step at a time, and
//! by the engine in whole blocks. All three must end in the same state.
//!
//! ```text
//!                       ┌─► NativeCpu   a traced child process; its registers and memory are set, it runs to a trap
//! Generator ─► Case ────┼─► EngineCpu   steps, in a machine with the same pages mapped for ring 3
//!   (seed)              └─► EngineCpu   blocks
//!                               │
//!                               ▼  compare (only what the manuals define) ─► shrink ─► a report with the seed
//! ```
//! A [`case::Case`] is a start state, a memory image and some instructions; the byte after the last one is INT3. Where it
//! ends, at that INT3 or at a fault, is part of what is compared: the child's signal must be the one that Linux makes
//! of the engine's exception.
//!
//! The host need not be the CPU that the engine models. What two real CPUs may do differently is listed in
//! [`known`], and where that can't be told from the result, left out by the generators, with the manual's reason, and is left out of the comparison; nothing else is.

pub mod campaign;
pub mod case;
pub mod compare;
pub mod coverage;
pub mod directed;
pub mod engine;
pub mod generate;
pub mod image;
pub mod known;
pub mod layout;
pub mod native;
mod ptrace;
pub mod report;
pub mod rng;
pub mod shrink;
pub mod state;
