//! MXCSR around a floating-point instruction (SDM vol. 1, 10.2.3 and 11.5).

use crate::engine::float::round::Range;
use crate::engine::float::{Rounding, flag};

/// MXCSR bits that can be set; a load of any other faults.
pub const MXCSR_MASK: u32 = 0xffff;
/// Denormals are zeros.
pub const DAZ: u32 = 1 << 6;
/// Flush to zero.
pub const FTZ: u32 = 1 << 15;

const MASKS_AT: u32 = 7;
const ROUNDING_AT: u32 = 13;

/// An exception that MXCSR doesn't mask: #XM is due, or #UD without CR4.OSXMMEXCPT. Destinations stay as they were;
/// the flags are in MXCSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unmasked;

/// The controls one instruction runs under, and the flags its lanes have raised so far.
#[derive(Clone, Copy, Debug)]
pub struct Env {
    mxcsr: u32,
    flags: u8,
    quick: bool,
}

impl Env {
    /// The environment that `mxcsr` describes.
    #[inline]
    pub const fn new(mxcsr: u32) -> Env {
        // Inexact is already recorded, nothing traps and rounding is to nearest: then the host's own arithmetic on
        // normal numbers with a normal result has nothing more to tell.
        const ALL_MASKED: u32 = (flag::ALL as u32) << MASKS_AT;
        const QUICK: u32 = ALL_MASKED | flag::PE as u32;
        let quick = mxcsr & (QUICK | 3 << ROUNDING_AT) == QUICK;
        Env {
            mxcsr,
            flags: 0,
            quick,
        }
    }

    /// Whether host arithmetic may stand in, given normal operands and a normal result that isn't the smallest.
    #[inline]
    pub const fn quick(&self) -> bool {
        self.quick
    }
    /// Rounding control.
    pub const fn rounding(&self) -> Rounding {
        Rounding::from_bits(self.mxcsr >> ROUNDING_AT)
    }
    /// Denormal operands count as zeros.
    pub const fn daz(&self) -> bool {
        self.mxcsr & DAZ != 0
    }
    /// How results beyond the exponent range are treated.
    pub const fn range(&self) -> Range {
        Range {
            masks: self.masks(),
            flush: self.mxcsr & FTZ != 0,
            adjust: 0,
        }
    }
    const fn masks(&self) -> u8 {
        (self.mxcsr >> MASKS_AT) as u8 & flag::ALL
    }
    /// Raises exceptions.
    #[inline]
    pub const fn raise(&mut self, flags: u8) {
        self.flags |= flags;
    }

    /// Ends the instruction: records the flags and tells whether one of them is unmasked. An unmasked exception found
    /// before computing keeps those found after from being recorded (SDM vol. 1, 11.5.2).
    #[inline]
    pub const fn finish(self, mxcsr: &mut u32) -> Result<(), Unmasked> {
        let unmasked = self.flags & !self.masks();
        let seen = if unmasked & flag::BEFORE != 0 {
            self.flags & flag::BEFORE
        } else {
            self.flags
        };
        *mxcsr |= seen as u32;
        if unmasked != 0 { Err(Unmasked) } else { Ok(()) }
    }
}

/// Runs `operation` under `mxcsr` and records its exceptions there.
#[inline]
pub fn run<T>(mxcsr: &mut u32, operation: impl FnOnce(&mut Env) -> T) -> Result<T, Unmasked> {
    let mut env = Env::new(*mxcsr);
    let value = operation(&mut env);
    env.finish(mxcsr).map(|()| value)
}
