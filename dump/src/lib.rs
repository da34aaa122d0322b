//! Crash-dump files of virtual machines, written from outside the guest and read back as guests.
//!
//! ```text
//!  writing:  domain that stands still ─► Source ─► writer of a format ─► Sink ─► NewFile: complete, or not there
//!            (or a fork of one that runs)  │ patched pages                 │ holes
//!                                          └ what only the file has        └ Observer: progress, may end it
//!
//!  reading:  file ─► FileBytes ─► reader of its format ─► Image ─► DumpDomain: hv-core's reading traits
//!                    (checked)                              └► Description: what `kdd dump-info` tells
//! ```
//!
//! A writer knows nothing of files and a reader nothing of guests. What a format needs to know of the guest's operating
//! system (a Windows header's lists, VMCOREINFO) comes from `introspect` and is handed to the writer. Guest memory is
//! never changed to make a dump: what must differ in the file is a patch of [`Source`].
//!
//! Files come from strangers. Every number in one is checked against the file's length before it is used; nothing is
//! allocated by an unchecked number. Files are read by position and not mapped into memory: one that shrinks while it is
//! used is an error then, and not the end of the process.

mod bytes;
mod copy;
mod domain;
pub mod elf;
mod error;
#[cfg(test)]
mod fake;
mod flattened;
mod image;
pub mod kdump;
pub mod lime;
pub mod linux;
mod open;
mod output;
mod pages;
pub mod raw;
mod registers;
mod source;
mod spans;
pub mod windows;

pub use bytes::FileBytes;
pub use domain::DumpDomain;
pub use error::Error;
pub use flattened::is_flattened;
pub use image::{Absent, Description, Format, Image, Problem};
pub use open::open;
pub use output::{NewFile, Sink, Stream, remove_abandoned};
pub use pages::{PAGE_SIZE, Page, PageRange, Pfn};
pub use source::{Ignore, Observer, Source, Written};

/// The result of reading or writing a dump.
pub type Result<T, E = Error> = std::result::Result<T, E>;
