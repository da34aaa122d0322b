//! KDDEBUGGER_DATA64 and KdVersionBlock: the kernel's directory for debuggers, plain or encoded.
//!
//! ```text
//!   KdVersionBlock (never encoded) ─ DebuggerDataList ─► KdpDebuggerDataListHead ─ Flink ─► KDDEBUGGER_DATA64
//!                                                                                              │
//!          plain  ◄── tag readable ── decoded with the kernel's keys ── by 64 trials ── composed
//! ```

pub(crate) mod compose;
pub(crate) mod encoding;
pub(crate) mod layout;
pub(crate) mod read;
pub(crate) mod version;

use super::Source;
use hv_core::GuestVirtAddr;
use std::fmt;

/// KdVersionBlock (DBGKD_GET_VERSION64, windbgkd.h) as it lies in guest memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VersionBlock {
    /// Where it is.
    pub address: GuestVirtAddr,
    /// How it was found.
    pub source: Source,
    /// Its 0x28 bytes.
    pub bytes: [u8; 0x28],
    /// MajorVersion: 0xF free, 0xC checked.
    pub major: u16,
    /// MinorVersion: the build.
    pub minor: u16,
    /// Flags.
    pub flags: u16,
    /// KernBase.
    pub kernel_base: GuestVirtAddr,
    /// PsLoadedModuleList.
    pub loaded_module_list: GuestVirtAddr,
    /// DebuggerDataList: the address of KdpDebuggerDataListHead.
    pub debugger_data_list: GuestVirtAddr,
}

/// How the guest's own debugger data block was when it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// Readable as it is.
    Plain,
    /// Encoded; decoded with the keys that symbols name.
    DecodedWithKeys,
    /// Encoded; decoded by trying the 64 rotations against known words.
    DecodedByTrial,
    /// The guest's copy couldn't be read or decoded: the block is composed of known symbols and offsets. Fields
    /// that nobody knows are zero.
    Composed,
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Encoding::Plain => "plain",
            Encoding::DecodedWithKeys => "decoded with the kernel's keys",
            Encoding::DecodedByTrial => "decoded by trial",
            Encoding::Composed => "composed",
        })
    }
}

/// The debugger data block, readable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DebuggerData {
    /// KdpDebuggerDataListHead, whose `Flink` is [`DebuggerData::address`]; `None` if nothing says where it is.
    pub list_head: Option<GuestVirtAddr>,
    /// The list head can be read and points to the block. If not, whoever serves the block answers that read, too.
    pub list_head_readable: bool,
    /// Where the block is in the guest's memory. Reads that overlap `address .. address + bytes.len()` are to be
    /// answered from `bytes` unless the guest's own copy is plain.
    pub address: GuestVirtAddr,
    /// How the guest's own copy is.
    pub encoding: Encoding,
    /// The decoded block, exactly `Size` bytes.
    pub bytes: Vec<u8>,
}

impl DebuggerData {
    /// The guest's own copy can be served as it is.
    pub fn is_plain(&self) -> bool {
        self.encoding == Encoding::Plain
    }
}
