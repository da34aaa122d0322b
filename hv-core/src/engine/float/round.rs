//! Rounding an exact (or sticky) result into a format, with the exceptions that come of it.

use super::{Format, Rounding, flag};

/// An unrounded finite result: `sig / 2^127 * 2^exp`, bit 127 of `sig` set; bit 0 is sticky, which means that it is
/// set when anything below was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wide {
    /// Negative.
    pub sign: bool,
    /// Unbiased exponent.
    pub exp: i32,
    /// Significand.
    pub sig: u128,
}

/// A rounded result, ready to be packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rounded {
    /// Negative.
    pub sign: bool,
    /// Biased exponent: 0 for zeros and denormals, the format's top for infinity.
    pub biased: u32,
    /// Left-aligned significand with its integer bit.
    pub sig: u64,
    /// The exceptions: overflow, underflow, inexact.
    pub flags: u8,
    /// The magnitude was rounded up (the x87's C1).
    pub up: bool,
}

/// What is done with results outside the exponent range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// Exceptions that are masked, as bits of [`flag`].
    pub masks: u8,
    /// SSE's flush-to-zero (it counts only while underflow is masked).
    pub flush: bool,
    /// What is taken from (added to) the exponent on an unmasked overflow (underflow): the x87's 24576.
    pub adjust: i32,
}

impl Range {
    /// Default handling of everything.
    pub const MASKED: Range = Range {
        masks: flag::ALL,
        flush: false,
        adjust: 0,
    };
}

/// Shifts right; bits that fall out leave bit 0 set.
pub const fn shift_right_jam(value: u128, by: u32) -> u128 {
    if by == 0 {
        value
    } else if by >= 128 {
        (value != 0) as u128
    } else {
        value >> by | (value << (128 - by) != 0) as u128
    }
}

/// Whether the magnitude `kept.rest` goes up, where `rest` is left-aligned below the last kept bit.
pub const fn rounds_up(mode: Rounding, sign: bool, odd: bool, rest: u128) -> bool {
    const HALF: u128 = 1 << 127;
    match mode {
        Rounding::Nearest => rest > HALF || (rest == HALF && odd),
        Rounding::Down => sign && rest != 0,
        Rounding::Up => !sign && rest != 0,
        Rounding::Zero => false,
    }
}

/// `sig` cut to `precision` bits, rounded: the kept bits left-aligned at bit 63, a carry out, inexact, up.
const fn cut(mode: Rounding, sign: bool, sig: u128, precision: u32) -> (u64, bool, bool, bool) {
    let rest = sig << precision;
    let kept = (sig >> (128 - precision)) as u64;
    let up = rounds_up(mode, sign, kept & 1 != 0, rest);
    let unit = 64 - precision;
    let (sum, carry) = (kept << unit).overflowing_add((up as u64) << unit);
    (sum, carry, rest != 0, up)
}

impl Wide {
    /// Rounds into `format`. Tininess is detected after rounding, as x86 does (SDM vol. 1, 4.9.1.5).
    pub const fn round(self, format: Format, mode: Rounding, range: Range) -> Rounded {
        let Wide { sign, exp, sig } = self;
        let (kept, carry, inexact, up) = cut(mode, sign, sig, format.precision);
        let kept = if carry { 1 << 63 } else { kept };
        let unbounded = exp + carry as i32;
        let inexact_flag = if inexact { flag::PE } else { 0 };

        if unbounded > format.bias {
            if range.masks & flag::OE == 0 {
                let biased = (unbounded - range.adjust + format.bias) as u32;
                return Rounded {
                    sign,
                    biased,
                    sig: kept,
                    flags: flag::OE | inexact_flag,
                    up,
                };
            }
            let to_infinity = match mode {
                Rounding::Nearest => true,
                Rounding::Down => sign,
                Rounding::Up => !sign,
                Rounding::Zero => false,
            };
            let flags = flag::OE | flag::PE;
            let top = format.top_biased();
            return if to_infinity {
                Rounded {
                    sign,
                    biased: top,
                    sig: 1 << 63,
                    flags,
                    up: true,
                }
            } else {
                let largest = u64::MAX << (64 - format.precision);
                Rounded {
                    sign,
                    biased: top - 1,
                    sig: largest,
                    flags,
                    up: false,
                }
            };
        }
        if exp >= format.min_exp() {
            let biased = (unbounded + format.bias) as u32;
            return Rounded {
                sign,
                biased,
                sig: kept,
                flags: inexact_flag,
                up,
            };
        }

        // Below the range, unless rounding with an unlimited exponent lifts it to the smallest normal number.
        let tiny = unbounded < format.min_exp();
        if tiny && range.masks & flag::UE == 0 {
            let biased = (unbounded + range.adjust + format.bias) as u32;
            return Rounded {
                sign,
                biased,
                sig: kept,
                flags: flag::UE | inexact_flag,
                up,
            };
        }
        if tiny && range.flush {
            return Rounded {
                sign,
                biased: 0,
                sig: 0,
                flags: flag::UE | flag::PE,
                up: false,
            };
        }
        let shifted = shift_right_jam(sig, (format.min_exp() - exp) as u32);
        let (kept, _, inexact, up) = cut(mode, sign, shifted, format.precision);
        let flags = match (inexact, tiny) {
            (true, true) => flag::UE | flag::PE,
            (true, false) => flag::PE,
            _ => 0,
        };
        Rounded {
            sign,
            biased: (kept >> 63) as u32,
            sig: kept,
            flags,
            up,
        }
    }
}

impl Rounded {
    /// The bits as a single or double.
    pub const fn to_ieee(self, format: Format) -> u64 {
        super::format::pack_ieee(format, self.sign, self.biased, self.sig)
    }
    /// The bits as an 80-bit value.
    pub const fn to_f80(self) -> u128 {
        super::format::pack_f80(self.sign, self.biased, self.sig)
    }
}
