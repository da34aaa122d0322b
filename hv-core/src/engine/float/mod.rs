//! Floating-point arithmetic in integers: the one core beneath SSE and the x87.
//!
//! ```text
//!  bits ──unpack──► Unpacked ──arith──► Wide (128-bit significand, sticky) ──round──► Rounded ──pack──► bits
//! ```
//!
//! Results and exception flags depend on the operands only, never on the host. Everything works on one shape, a
//! sign, an exponent and a left-aligned significand, so f32, f64 and the 80-bit format (at each of its three
//! precisions) are the same code with another [`Format`].

pub mod arith;
pub mod format;
pub mod round;

pub use format::{Class, Format, Unpacked};
pub use round::{Rounded, Wide};

/// Exception flags, in the bit order that MXCSR and the x87 status word share (SDM vol. 1, 8.1.3.3 and 10.2.3).
pub mod flag {
    /// Invalid operation.
    pub const IE: u8 = 1 << 0;
    /// Denormal operand.
    pub const DE: u8 = 1 << 1;
    /// Division by zero.
    pub const ZE: u8 = 1 << 2;
    /// Overflow.
    pub const OE: u8 = 1 << 3;
    /// Underflow.
    pub const UE: u8 = 1 << 4;
    /// Inexact result.
    pub const PE: u8 = 1 << 5;
    /// Those found before anything is computed.
    pub const BEFORE: u8 = IE | DE | ZE;
    /// All six.
    pub const ALL: u8 = 0x3f;
}

/// The rounding modes, numbered as in the RC fields of MXCSR and the x87 control word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rounding {
    /// To nearest, ties to even.
    Nearest,
    /// Toward minus infinity.
    Down,
    /// Toward plus infinity.
    Up,
    /// Toward zero.
    Zero,
}

impl Rounding {
    /// From the two bits of an RC field; higher bits are ignored.
    pub const fn from_bits(rc: u32) -> Rounding {
        match rc & 3 {
            0 => Rounding::Nearest,
            1 => Rounding::Down,
            2 => Rounding::Up,
            _ => Rounding::Zero,
        }
    }
}
