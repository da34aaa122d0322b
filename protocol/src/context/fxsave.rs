//! The FXSAVE image (SDM vol. 1, 10.5.1; XSAVE_FORMAT in the nt kernel's public PDB 10.0.19041).

use crate::assert_size;
use zerocopy::byteorder::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// XSAVE_FORMAT: what FXSAVE64 stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)] // registers
pub struct Fxsave {
    pub control_word: U16,
    pub status_word: U16,
    /// One bit a physical register: 1 not empty.
    pub tag_word: u8,
    pub reserved1: u8,
    pub opcode: U16,
    /// FXSAVE64's instruction pointer; the 32-bit form has the selector in its third word.
    pub instruction_pointer: U64,
    /// As `instruction_pointer`.
    pub data_pointer: U64,
    pub mxcsr: U32,
    pub mxcsr_mask: U32,
    /// ST0 to ST7, in that order.
    pub st: [U128; 8],
    pub xmm: [U128; 16],
    pub reserved4: [u8; 96],
}
assert_size!(Fxsave = 512);
