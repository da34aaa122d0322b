//! What can go wrong, with the facts; `Display` makes the sentence.

use crate::paging::Level;
use crate::session::SessionId;
use crate::virtual_memory::AddressSpace;
use hv_core::introspect;
use hv_core::{GuestPhysAddr, GuestVirtAddr};
use std::fmt;

/// Why a session's call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A vCPU can only be stepped by a session that holds the domain.
    #[error("session {0} doesn't hold the domain: stop it first")]
    NotHolding(SessionId),
    /// The domain refused.
    #[error(transparent)]
    Domain(#[from] introspect::Error),
}

/// Why an address can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The address isn't a sign-extended one of the paging mode's width.
    #[error("not canonical: not a sign-extended {bits}-bit address")]
    NotCanonical {
        /// The width of linear addresses: 48 or 57.
        bits: u32,
    },
    /// The paging mode has 32-bit addresses.
    #[error("beyond the 4 GiB that the vCPU's paging mode can address")]
    Beyond4GiB,
    /// A page-table entry's present bit is clear.
    #[error("{} not present", .0.name)]
    NotPresent(Level),
    /// A page-table entry has a bit set that must be clear.
    #[error("{} at {} has reserved bits set: {:#x}", .0.name, .0.entry_addr, .0.entry)]
    ReservedBits(Level),
    /// A page-table entry would lie where the domain has no memory.
    #[error("no memory at guest-physical {entry_addr}, where the {name} should be")]
    NoTable {
        /// The entry's kind, as in [`Level::name`].
        name: &'static str,
        /// Where it should be.
        entry_addr: GuestPhysAddr,
    },
    /// The page is mapped to where the domain has no memory (or, for a write, only ROM).
    #[error("no memory at guest-physical {0}")]
    NoMemory(GuestPhysAddr),
    /// The page is mapped to memory that can't be written.
    #[error("guest-physical {0} can't be written")]
    NotWritable(GuestPhysAddr),
    /// The domain refused.
    #[error(transparent)]
    Domain(#[from] introspect::Error),
}

/// A read of which not even the first byte could be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {} at {address} ({space}): {fault}", Bytes(*.wanted))]
pub struct ReadError {
    /// The address space that was read.
    pub space: AddressSpace,
    /// Where.
    pub address: GuestVirtAddr,
    /// How many bytes were asked for.
    pub wanted: usize,
    /// Why.
    pub fault: Fault,
}

/// A write of which not even the first byte could be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot write {} at {address} ({space}): {fault}", Bytes(*.wanted))]
pub struct WriteError {
    /// The address space that was written.
    pub space: AddressSpace,
    /// Where.
    pub address: GuestVirtAddr,
    /// How many bytes were given.
    pub wanted: usize,
    /// Why.
    pub fault: Fault,
}

/// An address that no physical one belongs to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot translate {address} ({space}): {fault}")]
pub struct TranslateError {
    /// The address space.
    pub space: AddressSpace,
    /// The address.
    pub address: GuestVirtAddr,
    /// The entries that were read on the way, the one at fault last.
    pub levels: Vec<Level>,
    /// Why.
    pub fault: Fault,
}

/// A count of bytes for people.
struct Bytes(usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("1 byte"),
            n => write!(f, "{n} bytes"),
        }
    }
}
