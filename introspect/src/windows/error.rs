//! Why a guest isn't a recognised Windows, and why a part of one can't be read.

use super::field::{Field, Global};
use crate::error::Fault;
use hv_core::introspect;
use hv_core::{GuestVirtAddr, VcpuId};

/// Something about this kernel build that nothing says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// A structure field's offset.
    #[error("the offset of {0} isn't known for this kernel: put its PDB on the symbol path")]
    Field(Field),
    /// A variable's or function's address.
    #[error("the address of {0} isn't known for this kernel: put its PDB on the symbol path")]
    Global(Global),
}

/// Why something of a recognised Windows can't be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The layout has a hole there.
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
    /// No page-table root was found through which the kernel is mapped.
    #[error("vCPU {vcpu}: no page-table root found that maps the kernel")]
    NoKernelRoot {
        /// The vCPU.
        vcpu: VcpuId,
    },
    /// The processor's control region wasn't found.
    #[error("vCPU {vcpu}: no KPCR found: {why}")]
    NoProcessor {
        /// The vCPU.
        vcpu: VcpuId,
        /// What was tried.
        why: String,
    },
    /// The debugger data block can't be had.
    #[error("no debugger data: {0}")]
    NoDebuggerData(String),
    /// The kernel that was recognised isn't there any more (a reset, another kernel).
    #[error("the recognised kernel isn't in memory any more")]
    Gone,
    /// The domain refused.
    #[error(transparent)]
    Domain(#[from] introspect::Error),
}

/// Why a guest wasn't recognised as Windows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotWindows {
    /// No vCPU is in a mode in which a Windows kernel can be looked for.
    #[error("no vCPU has paging on yet")]
    NotUp,
    /// No vCPU's entry points lead to a Windows kernel image.
    #[error("no Windows kernel found: {0}")]
    NoKernel(String),
    /// The domain refused.
    #[error(transparent)]
    Domain(#[from] introspect::Error),
}
