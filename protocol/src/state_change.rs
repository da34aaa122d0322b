//! Why the guest stopped: DBGKD_ANY_WAIT_STATE_CHANGE (windbgkd.h; nt kernel public PDB 10.0.19041 for its parts).
//!
//! ```text
//!   0  new state, processor, how many, thread, program counter
//!  32  an exception, a module, or a command            (a union of 160 bytes)
//! 192  debug registers, flags, code at the counter     (a union of 48 bytes, by machine)
//! 240  a path, or strings
//! ```

use crate::assert_size;
use crate::status::NtStatus;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// DbgKdExceptionStateChange.
pub const EXCEPTION: u32 = 0x3030;
/// DbgKdLoadSymbolsStateChange.
pub const LOAD_SYMBOLS: u32 = 0x3031;
/// DbgKdCommandStringStateChange.
pub const COMMAND_STRING: u32 = 0x3032;

/// The most bytes of code that a report holds (DBGKD_MAXSTREAM).
pub const MAX_STREAM: usize = 16;
/// REPORT_INCLUDES_SEGS.
pub const REPORT_INCLUDES_SEGS: u16 = 1;
/// REPORT_STANDARD_CS: the code segment is the kernel's flat one.
pub const REPORT_STANDARD_CS: u16 = 2;

/// DBGKD_ANY_WAIT_STATE_CHANGE.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct StateChange {
    /// [`EXCEPTION`], [`LOAD_SYMBOLS`] or [`COMMAND_STRING`].
    pub new_state: U32,
    /// The processor family.
    pub processor_level: U16,
    /// The processor that reports.
    pub processor: U16,
    /// How many processors there are.
    pub processor_count: U32,
    /// Nothing.
    pub padding: U32,
    /// The current KTHREAD of that processor.
    pub thread: U64,
    /// Its program counter.
    pub program_counter: U64,
    /// What happened.
    pub union: [u8; 160],
    /// [`Amd64Report`] or [`X86Report`].
    pub report: [u8; 48],
}
assert_size!(StateChange = 240);

/// DBGKM_EXCEPTION64: an EXCEPTION_RECORD64, and which chance this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Exception {
    /// An NTSTATUS.
    pub code: U32,
    /// 1: the guest can't go on.
    pub flags: U32,
    /// A nested record's address.
    pub nested: U64,
    /// The instruction's address.
    pub address: U64,
    /// How many of `information` count.
    pub parameter_count: U32,
    /// Nothing.
    pub padding: U32,
    /// What the code says they are.
    pub information: [U64; 15],
    /// 1: nobody has seen it yet.
    pub first_chance: U32,
    /// Nothing.
    pub tail: U32,
}
assert_size!(Exception = 160);

impl Exception {
    /// A first-chance exception without parameters.
    pub fn new(code: NtStatus, address: u64) -> Exception {
        Exception {
            code: code.0.into(),
            address: address.into(),
            first_chance: 1.into(),
            ..FromZeros::new_zeroed()
        }
    }

    /// With these parameters, 15 at most.
    pub fn with_parameters(mut self, parameters: &[u64]) -> Exception {
        let count = parameters.len().min(self.information.len());
        for (slot, value) in self.information.iter_mut().zip(parameters) {
            *slot = (*value).into();
        }
        self.parameter_count = (count as u32).into();
        self
    }
}

/// DBGKD_LOAD_SYMBOLS64; the path follows the state change, its NUL included in the length.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct LoadSymbols {
    /// Bytes of path; 0 if there is none.
    pub path_length: U32,
    /// Nothing.
    pub padding: U32,
    /// The image's base. All ones, unloading: everything is gone.
    pub base: U64,
    /// The process; 0 for drivers.
    pub process_id: U64,
    /// From the image's header.
    pub checksum: U32,
    /// Bytes of image.
    pub size: U32,
    /// 1: it is unloaded.
    pub unload: u8,
    /// Nothing.
    pub tail: [u8; 7],
}
assert_size!(LoadSymbols = 40);

/// AMD64_DBGKD_CONTROL_REPORT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)] // registers
pub struct Amd64Report {
    pub dr6: U64,
    pub dr7: U64,
    pub eflags: U32,
    /// How many bytes of the stream count.
    pub instruction_count: U16,
    /// [`REPORT_INCLUDES_SEGS`], [`REPORT_STANDARD_CS`].
    pub flags: U16,
    /// Memory at the program counter.
    pub stream: [u8; MAX_STREAM],
    pub cs: U16,
    pub ds: U16,
    pub es: U16,
    pub fs: U16,
}
assert_size!(Amd64Report = 48);

/// X86_DBGKD_CONTROL_REPORT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)] // registers
pub struct X86Report {
    pub dr6: U32,
    pub dr7: U32,
    /// How many bytes of the stream count.
    pub instruction_count: U16,
    /// [`REPORT_INCLUDES_SEGS`], [`REPORT_STANDARD_CS`].
    pub flags: U16,
    /// Memory at the program counter.
    pub stream: [u8; MAX_STREAM],
    pub cs: U16,
    pub ds: U16,
    pub es: U16,
    pub fs: U16,
    pub eflags: U32,
}
assert_size!(X86Report = 40);

impl StateChange {
    /// A change with nothing said yet but what it is.
    pub fn new(new_state: u32) -> StateChange {
        StateChange {
            new_state: new_state.into(),
            ..FromZeros::new_zeroed()
        }
    }

    /// Puts the exception in.
    pub fn set_exception(&mut self, exception: &Exception) {
        self.union.copy_from_slice(exception.as_bytes());
    }

    /// Puts the module in.
    pub fn set_load_symbols(&mut self, module: &LoadSymbols) {
        self.union[..size_of::<LoadSymbols>()].copy_from_slice(module.as_bytes());
    }

    /// Puts the report of a 64-bit processor in.
    pub fn set_amd64_report(&mut self, report: &Amd64Report) {
        self.report.copy_from_slice(report.as_bytes());
    }

    /// Puts the report of a 32-bit processor in.
    pub fn set_x86_report(&mut self, report: &X86Report) {
        self.report[..size_of::<X86Report>()].copy_from_slice(report.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn fields_lie_where_kernels_have_them() {
        assert_eq!(offset_of!(StateChange, thread), 16);
        assert_eq!(offset_of!(StateChange, union), 32);
        assert_eq!(offset_of!(StateChange, report), 192);
        assert_eq!(32 + offset_of!(Exception, information), 64);
        assert_eq!(32 + offset_of!(Exception, first_chance), 184);
        assert_eq!(32 + offset_of!(LoadSymbols, unload), 64);
        assert_eq!(192 + offset_of!(Amd64Report, eflags), 208);
        assert_eq!(192 + offset_of!(Amd64Report, stream), 216);
        assert_eq!(192 + offset_of!(X86Report, stream), 204);
        assert_eq!(192 + offset_of!(X86Report, eflags), 228);
    }

    #[test]
    fn no_more_parameters_are_kept_than_there_is_room_for() {
        let exception = Exception::new(NtStatus::BREAKPOINT, 1).with_parameters(&[7; 20]);
        assert_eq!(exception.parameter_count.get(), 15);
        assert_eq!(exception.first_chance.get(), 1);
    }
}
