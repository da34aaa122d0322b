//! Why a dump couldn't be written or read.

use crate::pages::Pfn;
use std::io;

/// Why a dump couldn't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused; `what` says which step.
    #[error("{what}: {source}")]
    Io {
        /// Which step, with the file's name.
        what: String,
        /// Its reason.
        source: io::Error,
    },
    /// No reader knows the file.
    #[error("not a dump in a known format: {0}")]
    Unknown(String),
    /// The file contradicts itself or its format.
    #[error("at byte {at:#x}: {why}")]
    Damaged {
        /// Where in the file.
        at: u64,
        /// What is wrong there.
        why: String,
    },
    /// The file ends too early.
    #[error("the file ends at byte {length:#x}, but {what} needs bytes {at:#x} to {end:#x}")]
    Truncated {
        /// What should be there.
        what: &'static str,
        /// Its first byte.
        at: u64,
        /// The byte after its last.
        end: u64,
        /// The file's length.
        length: u64,
    },
    /// The format exists, and is not read or written; `0` says which and why.
    #[error("{0}")]
    Unsupported(String),
    /// The guest isn't what the format is for; `0` says why.
    #[error("{0}")]
    WrongGuest(String),
    /// The guest's memory couldn't be read.
    #[error("page {pfn} of the guest: {source}")]
    Guest {
        /// Which page.
        pfn: Pfn,
        /// The hypervisor's reason.
        source: hv_core::introspect::Error,
    },
    /// The file exists already.
    #[error("{0} exists")]
    Exists(String),
    /// The observer ended it.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// For `map_err` on a step's result.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }

    /// A contradiction at a place of the file.
    pub fn damaged(at: u64, why: impl Into<String>) -> Error {
        Error::Damaged { at, why: why.into() }
    }
}
