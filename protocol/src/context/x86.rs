//! CONTEXT and KSPECIAL_REGISTERS of x86 (winnt.h; ntddk.h's KPROCESSOR_STATE).

use super::fxsave::Fxsave;
use crate::assert_size;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The parts of a [`Context`] that are valid (CONTEXT_…).
#[allow(missing_docs)] // as winnt.h says
pub mod flags {
    pub const I386: u32 = 0x1_0000;
    pub const CONTROL: u32 = 1;
    pub const INTEGER: u32 = 2;
    pub const SEGMENTS: u32 = 4;
    pub const FLOATING_POINT: u32 = 8;
    pub const DEBUG_REGISTERS: u32 = 0x10;
    pub const EXTENDED_REGISTERS: u32 = 0x20;
    pub const ALL: u32 =
        I386 | CONTROL | INTEGER | SEGMENTS | FLOATING_POINT | DEBUG_REGISTERS | EXTENDED_REGISTERS;
}

/// FLOATING_SAVE_AREA: what FNSAVE stores, and CR0's NPX state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)] // registers
pub struct FloatSave {
    pub control_word: U32,
    pub status_word: U32,
    /// Two bits a physical register.
    pub tag_word: U32,
    pub error_offset: U32,
    pub error_selector: U32,
    pub data_offset: U32,
    pub data_selector: U32,
    /// ST0 to ST7, ten bytes each.
    pub register_area: [u8; 80],
    pub cr0_npx_state: U32,
}
assert_size!(FloatSave = 112);

/// CONTEXT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)] // registers
pub struct Context {
    pub context_flags: U32,
    pub dr: [U32; 4],
    pub dr6: U32,
    pub dr7: U32,
    pub float_save: FloatSave,
    pub gs: U32,
    pub fs: U32,
    pub es: U32,
    pub ds: U32,
    pub edi: U32,
    pub esi: U32,
    pub ebx: U32,
    pub edx: U32,
    pub ecx: U32,
    pub eax: U32,
    pub ebp: U32,
    pub eip: U32,
    pub cs: U32,
    pub eflags: U32,
    pub esp: U32,
    pub ss: U32,
    pub extended: Fxsave,
}
assert_size!(Context = 716);

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)] // a register
pub struct Descriptor {
    pub padding: U16,
    pub limit: U16,
    pub base: U32,
}
assert_size!(Descriptor = 8);

/// KSPECIAL_REGISTERS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)] // registers
pub struct SpecialRegisters {
    pub cr0: U32,
    pub cr2: U32,
    pub cr3: U32,
    pub cr4: U32,
    pub dr: [U32; 4],
    pub dr6: U32,
    pub dr7: U32,
    pub gdtr: Descriptor,
    pub idtr: Descriptor,
    pub tr: U16,
    pub ldtr: U16,
    pub reserved: [U32; 6],
}
assert_size!(SpecialRegisters = 84);

/// KPROCESSOR_STATE: what the control space of an x86 processor is, byte by byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ProcessorState {
    /// The general part.
    pub context: Context,
    /// The system's part.
    pub special: SpecialRegisters,
}
assert_size!(ProcessorState = 0x320);

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn fields_lie_where_winnt_has_them() {
        let context = [
            (offset_of!(Context, dr7), 0x18),
            (offset_of!(Context, float_save), 0x1c),
            (offset_of!(Context, gs), 0x8c),
            (offset_of!(Context, edi), 0x9c),
            (offset_of!(Context, eip), 0xb8),
            (offset_of!(Context, eflags), 0xc0),
            (offset_of!(Context, esp), 0xc4),
            (offset_of!(Context, extended), 0xcc),
        ];
        let special = [
            (offset_of!(SpecialRegisters, dr), 0x10),
            (offset_of!(SpecialRegisters, dr7), 0x24),
            (offset_of!(SpecialRegisters, gdtr), 0x28),
            (offset_of!(SpecialRegisters, tr), 0x38),
            (offset_of!(ProcessorState, special), 0x2cc),
        ];
        for (is, expected) in context.into_iter().chain(special) {
            assert_eq!(is, expected);
        }
        assert_eq!(flags::ALL, 0x1_003f);
    }
}
