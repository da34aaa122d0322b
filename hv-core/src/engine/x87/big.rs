//! Arithmetic with some 126 significant bits, for the transcendental functions. [`Wide`] is the number; here a zero
//! significand is zero. Each operation truncates, with a sticky last bit.

use crate::engine::float::Wide;
use crate::engine::float::round::shift_right_jam;

/// Zero.
pub const ZERO: Wide = Wide {
    sign: false,
    exp: 0,
    sig: 0,
};
/// One.
pub const ONE: Wide = Wide {
    sign: false,
    exp: 0,
    sig: 1 << 127,
};

/// A small integer.
pub const fn integer(n: i64) -> Wide {
    if n == 0 {
        ZERO
    } else {
        Wide::from_magnitude(n < 0, n.unsigned_abs() as u128)
    }
}

/// `-a`.
pub const fn neg(a: Wide) -> Wide {
    Wide { sign: !a.sign, ..a }
}

/// `a + b`.
pub fn add(a: Wide, b: Wide) -> Wide {
    if a.sig == 0 {
        return b;
    }
    if b.sig == 0 {
        return a;
    }
    let (big, small) = if (a.exp, a.sig) >= (b.exp, b.sig) {
        (a, b)
    } else {
        (b, a)
    };
    let x = shift_right_jam(big.sig, 1);
    let y = shift_right_jam(small.sig, (big.exp - small.exp) as u32 + 1);
    let sum = if a.sign == b.sign { x + y } else { x - y };
    if sum == 0 {
        return ZERO;
    }
    let shift = sum.leading_zeros();
    Wide {
        sign: big.sign,
        exp: big.exp + 1 - shift as i32,
        sig: sum << shift,
    }
}

/// `a - b`.
pub fn sub(a: Wide, b: Wide) -> Wide {
    add(a, neg(b))
}

/// `a * b`.
pub fn mul(a: Wide, b: Wide) -> Wide {
    if a.sig == 0 || b.sig == 0 {
        return ZERO;
    }
    let (ah, al) = (a.sig >> 64, a.sig as u64 as u128);
    let (bh, bl) = (b.sig >> 64, b.sig as u64 as u128);
    let low = al * bl;
    let (cross, carry) = (ah * bl).overflowing_add(al * bh);
    let (low, carry_low) = low.overflowing_add(cross << 64);
    let high = ah * bh + (cross >> 64) + ((carry as u128) << 64) + carry_low as u128;
    // The product of two numbers in [2^127, 2^128) has 255 or 256 bits.
    let shift = high.leading_zeros();
    let sig = if shift == 0 { high } else { high << 1 | low >> 127 };
    let rest = if shift == 0 { low } else { low << 1 };
    Wide {
        sign: a.sign != b.sign,
        exp: a.exp + b.exp + 1 - shift as i32,
        sig: sig | (rest != 0) as u128,
    }
}

/// `a / b` for `b` other than zero.
pub fn div(a: Wide, b: Wide) -> Wide {
    if a.sig == 0 {
        return ZERO;
    }
    let below = a.sig < b.sig;
    let mut rest = if below { a.sig } else { a.sig - b.sig };
    let mut quotient = !below as u128;
    // One more bit when the first one is zero, to fill all 128.
    for _ in 0..127 + below as u32 {
        let carry = rest >> 127 != 0;
        rest <<= 1;
        quotient <<= 1;
        if carry || rest >= b.sig {
            rest = rest.wrapping_sub(b.sig);
            quotient |= 1;
        }
    }
    Wide {
        sign: a.sign != b.sign,
        exp: a.exp - b.exp - below as i32,
        sig: quotient | (rest != 0) as u128,
    }
}

/// `a / n`.
pub fn div_small(a: Wide, n: u64) -> Wide {
    if a.sig == 0 {
        return ZERO;
    }
    let n = n as u128;
    let (quotient, rest) = (a.sig / n, a.sig % n);
    let shift = quotient.leading_zeros();
    // The bits that come in from the remainder: rest < n, so that this fits.
    let low = if shift == 0 { 0 } else { (rest << shift) / n };
    Wide {
        sign: a.sign,
        exp: a.exp - shift as i32,
        sig: quotient << shift | low | (rest != 0) as u128,
    }
}

/// `first + first * x * c(1) + first * x^2 * c(1) c(2) + ...`: `next` makes each term from the one before it, and
/// the sum ends when terms fall below its last bit.
pub fn series(first: Wide, mut next: impl FnMut(Wide, u64) -> Wide) -> Wide {
    let (mut sum, mut term) = (first, first);
    // Every series here converges by at least two bits a term.
    for n in 1..80 {
        term = next(term, n);
        sum = add(sum, term);
        if term.sig == 0 || term.exp < sum.exp - 130 {
            break;
        }
    }
    sum
}
