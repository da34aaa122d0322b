//! CONTEXT and KSPECIAL_REGISTERS of AMD64 (nt kernel public PDB 10.0.19041).

use super::fxsave::Fxsave;
use crate::assert_size;
use zerocopy::byteorder::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The parts of a [`Context`] that are valid (CONTEXT_…).
#[allow(missing_docs)] // as winnt.h says
pub mod flags {
    pub const AMD64: u32 = 0x10_0000;
    pub const CONTROL: u32 = 1;
    pub const INTEGER: u32 = 2;
    pub const SEGMENTS: u32 = 4;
    pub const FLOATING_POINT: u32 = 8;
    pub const DEBUG_REGISTERS: u32 = 0x10;
    pub const ALL: u32 = AMD64 | CONTROL | INTEGER | SEGMENTS | FLOATING_POINT | DEBUG_REGISTERS;
}

/// CONTEXT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)] // registers
pub struct Context {
    pub home: [U64; 6],
    pub context_flags: U32,
    pub mxcsr: U32,
    pub cs: U16,
    pub ds: U16,
    pub es: U16,
    pub fs: U16,
    pub gs: U16,
    pub ss: U16,
    pub eflags: U32,
    pub dr: [U64; 4],
    pub dr6: U64,
    pub dr7: U64,
    /// RAX RCX RDX RBX RSP RBP RSI RDI R8 … R15.
    pub gpr: [U64; 16],
    pub rip: U64,
    pub fxsave: Fxsave,
    pub vector_register: [U128; 26],
    pub vector_control: U64,
    pub debug_control: U64,
    pub last_branch_to_rip: U64,
    pub last_branch_from_rip: U64,
    pub last_exception_to_rip: U64,
    pub last_exception_from_rip: U64,
}
assert_size!(Context = 1232);

/// KDESCRIPTOR: GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)] // a register
pub struct Descriptor {
    pub padding: [U16; 3],
    pub limit: U16,
    pub base: U64,
}
assert_size!(Descriptor = 16);

/// KSPECIAL_REGISTERS. Before Windows 10 17763 it ends at `xcr0`, and before Windows 8 in front of that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)] // registers
pub struct SpecialRegisters {
    pub cr0: U64,
    pub cr2: U64,
    pub cr3: U64,
    pub cr4: U64,
    pub dr: [U64; 4],
    pub dr6: U64,
    pub dr7: U64,
    pub gdtr: Descriptor,
    pub idtr: Descriptor,
    pub tr: U16,
    pub ldtr: U16,
    pub mxcsr: U32,
    pub debug_control: U64,
    pub last_branch_to_rip: U64,
    pub last_branch_from_rip: U64,
    pub last_exception_to_rip: U64,
    pub last_exception_from_rip: U64,
    pub cr8: U64,
    pub gs_base: U64,
    pub gs_swap: U64,
    pub star: U64,
    pub lstar: U64,
    pub cstar: U64,
    pub syscall_mask: U64,
    pub xcr0: U64,
    pub fs_base: U64,
    pub padding: U64,
}
assert_size!(SpecialRegisters = 0xf0);

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn fields_lie_where_the_pdb_has_them() {
        let context = [
            (offset_of!(Context, context_flags), 0x30),
            (offset_of!(Context, cs), 0x38),
            (offset_of!(Context, ss), 0x42),
            (offset_of!(Context, eflags), 0x44),
            (offset_of!(Context, dr), 0x48),
            (offset_of!(Context, dr7), 0x70),
            (offset_of!(Context, gpr), 0x78),
            (offset_of!(Context, rip), 0xf8),
            (offset_of!(Context, fxsave), 0x100),
            (offset_of!(Context, vector_register), 0x300),
            (offset_of!(Context, vector_control), 0x4a0),
            (offset_of!(Context, last_exception_from_rip), 0x4c8),
        ];
        let special = [
            (offset_of!(SpecialRegisters, dr), 0x20),
            (offset_of!(SpecialRegisters, dr7), 0x48),
            (
                offset_of!(SpecialRegisters, gdtr) + offset_of!(Descriptor, limit),
                0x56,
            ),
            (offset_of!(SpecialRegisters, idtr), 0x60),
            (offset_of!(SpecialRegisters, tr), 0x70),
            (offset_of!(SpecialRegisters, mxcsr), 0x74),
            (offset_of!(SpecialRegisters, cr8), 0xa0),
            (offset_of!(SpecialRegisters, gs_base), 0xa8),
            (offset_of!(SpecialRegisters, lstar), 0xc0),
            (offset_of!(SpecialRegisters, xcr0), 0xd8),
            (offset_of!(SpecialRegisters, fs_base), 0xe0),
        ];
        for (is, expected) in context.into_iter().chain(special) {
            assert_eq!(is, expected);
        }
    }

    #[test]
    fn all_is_what_kernels_send() {
        assert_eq!(flags::ALL, 0x10_001f);
    }
}
