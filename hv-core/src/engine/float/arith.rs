//! Exact arithmetic on finite numbers. Zeros, infinities and NaNs are the caller's: their rules differ between SSE
//! and the x87.

use super::round::{rounds_up, shift_right_jam};
use super::{Class, Rounding, Unpacked, Wide};

impl Wide {
    /// A number as it is.
    pub const fn from_number(x: Unpacked) -> Wide {
        Wide {
            sign: x.sign,
            exp: x.exp,
            sig: (x.sig as u128) << 64,
        }
    }

    /// A non-zero integer.
    pub const fn from_magnitude(sign: bool, magnitude: u128) -> Wide {
        let shift = magnitude.leading_zeros();
        Wide {
            sign,
            exp: 127 - shift as i32,
            sig: magnitude << shift,
        }
    }
}

/// `a + b`; `None` for an exact zero.
pub fn add(a: Unpacked, b: Unpacked) -> Option<Wide> {
    let (big, small) = if (a.exp, a.sig) >= (b.exp, b.sig) {
        (a, b)
    } else {
        (b, a)
    };
    // Bit 126 is the top: one bit of headroom above, 63 guard bits below.
    let x = (big.sig as u128) << 63;
    let y = shift_right_jam((small.sig as u128) << 63, (big.exp - small.exp) as u32);
    let sum = if a.sign == b.sign { x + y } else { x - y };
    if sum == 0 {
        return None;
    }
    let shift = sum.leading_zeros();
    Some(Wide {
        sign: big.sign,
        exp: big.exp + 1 - shift as i32,
        sig: sum << shift,
    })
}

/// `a * b`.
pub const fn mul(a: Unpacked, b: Unpacked) -> Wide {
    let product = a.sig as u128 * b.sig as u128;
    let shift = product.leading_zeros();
    Wide {
        sign: a.sign != b.sign,
        exp: a.exp + b.exp + 1 - shift as i32,
        sig: product << shift,
    }
}

/// `a / b`.
pub const fn div(a: Unpacked, b: Unpacked) -> Wide {
    let divisor = b.sig as u128;
    let numerator = (a.sig as u128) << 63;
    let (high, rest) = (numerator / divisor, numerator % divisor);
    let (low, rest) = ((rest << 64) / divisor, (rest << 64) % divisor);
    let quotient = high << 64 | low | (rest != 0) as u128;
    let shift = quotient.leading_zeros();
    Wide {
        sign: a.sign != b.sign,
        exp: a.exp - b.exp - shift as i32,
        sig: quotient << shift,
    }
}

/// The square root of a positive number.
pub const fn sqrt(a: Unpacked) -> Wide {
    // An even exponent, so that the significand is in [1, 4) and its root in [1, 2).
    let odd = a.exp & 1 != 0;
    let radicand = (a.sig as u128) << if odd { 64 } else { 63 };
    let root = radicand.isqrt();
    let rest = radicand - root * root;
    // (root + 1/2)^2 = root^2 + root + 1/4: the half bit is set when the remainder exceeds the root.
    let half = if rest > root { 1 << 63 } else { 0 };
    Wide {
        sign: false,
        exp: a.exp >> 1,
        sig: root << 64 | half | (rest != 0) as u128,
    }
}

/// A finite number rounded to an integer: the magnitude (saturated at 2^127 and above), inexact, rounded up.
pub const fn to_integer(a: Unpacked, mode: Rounding) -> (u128, bool, bool) {
    if matches!(a.class, Class::Zero) {
        return (0, false, false);
    }
    if a.exp >= 127 {
        return (u128::MAX, false, false);
    }
    if a.exp >= 63 {
        return ((a.sig as u128) << (a.exp - 63), false, false);
    }
    // Integer part in the high half, fraction in the low half (jammed: only its relation to 1/2 counts).
    let wide = shift_right_jam((a.sig as u128) << 64, (63 - a.exp) as u32);
    let (whole, rest) = (wide >> 64, wide << 64);
    let up = rounds_up(mode, a.sign, whole & 1 != 0, rest);
    (whole + up as u128, rest != 0, up)
}
