//! Windows crash dumps: full and bitmap ones are written, all kinds are read.
//!
//! ```text
//!  writing:  Windows (introspect) ─► facts ─► DUMP_HEADER ─┐
//!                                      └► patches          ├─► Sink
//!            Source ──────────────────────┴► selection ────┘   counted first, so that a stream does
//!
//!  reading:  DUMP_HEADER ─► map: which page is where in the file ─► KDDEBUGGER_DATA64 ─► registers, facts
//! ```
//!
//! | type | after the header | |
//! |---|---|---|
//! | 1 full | the pages of up to 42 runs | written, read |
//! | 2 summary | a bitmap in the form of before Windows 8 | read |
//! | 4 triage | pieces of virtual memory | read: page tables are made for them |
//! | 5 bitmap, full | a bitmap and the pages of its bits | written, read |
//! | 6 bitmap, kernel | the same, of what the kernel has mapped | written, read |
//! | 8, 9, 10 | ranges and their pages, as newer debuggers write them | read |
//!
//! What only the file has: a KDDEBUGGER_DATA64 that isn't encoded, and in each KPRCB the vCPU's registers. The guest
//! is never changed.

mod bitmap;
mod body;
mod bugcheck;
mod describe;
mod facts;
mod header;
mod kdbg;
mod map;
mod physical;
mod processors;
mod read;
mod select;
#[cfg(test)]
mod tests;
mod triage;
mod write;

pub use bugcheck::name as bugcheck_name;
pub use header::{MAX_RUNS32, MAX_RUNS64};
pub use read::{WindowsDump, is_dump, open};
pub use write::{Kind, Options, write};
