//! What follows a CONTEXT whose flags have CONTEXT_XSTATE: CONTEXT_EX and the part of the XSAVE area that the CONTEXT
//! itself doesn't hold (winnt.h).

use crate::assert_size;
use zerocopy::byteorder::little_endian::{I32, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The part of a CONTEXT's flags that says so, on x86 and AMD64 alike (CONTEXT_XSTATE).
pub const FLAG: u32 = 0x40;
/// The area's alignment.
pub const ALIGNMENT: usize = 64;

/// CONTEXT_CHUNK.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Chunk {
    /// From the CONTEXT_EX.
    pub offset: I32,
    /// Bytes.
    pub length: U32,
}
assert_size!(Chunk = 8);

/// CONTEXT_EX: right behind the CONTEXT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Extension {
    /// All of it, from the CONTEXT on.
    pub all: Chunk,
    /// The CONTEXT.
    pub legacy: Chunk,
    /// The area, from its header on.
    pub xstate: Chunk,
}
assert_size!(Extension = 24);

/// XSAVE_AREA_HEADER: what the area holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// The components, as in XCR0.
    pub mask: U64,
    /// How they are laid out: 0, at their standard places.
    pub compaction_mask: U64,
    /// 0.
    pub reserved: [U64; 6],
}
assert_size!(Header = 64);
