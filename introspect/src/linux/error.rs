//! Why a guest isn't a recognised Linux, and why a part of one can't be read.

use crate::error::Fault;
use hv_core::GuestVirtAddr;
use hv_core::introspect;

/// Something about this kernel build that nothing says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// A symbol's address.
    #[error("the kernel has no symbol {0}, or its symbols weren't found")]
    Symbol(&'static str),
    /// A member's place.
    #[error(
        "the place of {1} in struct {0} isn't known: the kernel has no BTF, and VMCOREINFO doesn't say it"
    )]
    Member(&'static str, &'static str),
    /// A structure's size.
    #[error("the size of struct {0} isn't known: the kernel has no BTF, and VMCOREINFO doesn't say it")]
    Size(&'static str),
    /// A number that VMCOREINFO should say.
    #[error("{0} isn't known: VMCOREINFO doesn't say it")]
    Number(&'static str),
}

/// Why something of a recognised Linux can't be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// This build has a hole there.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// Guest memory that must be there isn't.
    #[error("cannot read {what} at {address}: {fault}")]
    Unreadable {
        /// What it is.
        what: &'static str,
        /// Where.
        address: GuestVirtAddr,
        /// Why not.
        fault: Fault,
    },
    /// Guest memory holds something that cannot be.
    #[error("{what} at {address} is no such thing: {why}")]
    Implausible {
        /// What it should be.
        what: &'static str,
        /// Where.
        address: GuestVirtAddr,
        /// What is wrong with it.
        why: String,
    },
    /// A task has no such registers in memory.
    #[error("the registers of task {pid} aren't in memory: {why}")]
    NoRegisters {
        /// Whose.
        pid: u32,
        /// Why not.
        why: &'static str,
    },
}

/// Why a guest wasn't recognised as Linux.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotLinux {
    /// No vCPU is in a mode in which a 64-bit Linux kernel can be looked for.
    #[error("no vCPU is in 64-bit mode yet")]
    NotUp,
    /// Nothing that was looked at is a Linux kernel.
    #[error("no Linux kernel found: {0}")]
    NoKernel(String),
    /// The domain refused.
    #[error(transparent)]
    Domain(#[from] introspect::Error),
}
