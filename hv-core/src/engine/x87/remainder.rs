//! FPREM and FPREM1.

use super::state::{Source, fsw};
use crate::engine::float::{Class, Format, Unpacked, Wide, flag};
use crate::regs::X87;

impl X87 {
    /// FPREM, or FPREM1 (`nearest`): the remainder of ST(0) by ST(1), reducing the exponent by at most 63 a time. C2
    /// says that there is more to do; C0, C3, C1 have the quotient's low bits.
    pub fn remainder(&mut self, nearest: bool) {
        self.set_cc(fsw::C1 | fsw::C2, 0);
        if self.is_empty(0) || self.is_empty(1) {
            if self.stack_fault(false) {
                self.set_st(0, super::INDEFINITE);
            }
            return;
        }
        if let Some(result) = self.reduce(nearest) {
            self.set_st(0, result);
        }
    }

    fn reduce(&mut self, nearest: bool) -> Option<u128> {
        let (a, b) = (self.st(0), self.st(1));
        let (x, y) = (Unpacked::from_f80(a), Unpacked::from_f80(b));
        if x.class == Class::Unsupported || y.class == Class::Unsupported {
            return self.invalid();
        }
        if x.is_nan() || y.is_nan() {
            return self.propagate(a, b);
        }
        if x.is_infinite() || y.is_zero() {
            return self.invalid();
        }
        let denormal = Source::f80(a).denormal || Source::f80(b).denormal;
        if !self.raise(if denormal { flag::DE } else { 0 }) {
            return None;
        }
        if x.is_zero() || y.is_infinite() {
            self.set_quotient(0);
            // A pseudo-denormal comes out normal.
            return Some(if x.is_zero() {
                a
            } else {
                self.exact(x.sign, x.exp, x.sig as u128)
            });
        }
        let distance = x.exp - y.exp;
        if distance < -1 || (distance < 0 && !nearest) {
            self.set_quotient(0);
            return Some(self.exact(x.sign, x.exp, x.sig as u128));
        }
        if distance >= 64 {
            // A part of the way: the quotient's top N bits, N between 32 and 63.
            let bits = 32 + (distance & 31);
            let (_, rest) = divide(x.sig, y.sig, bits);
            self.set_cc(fsw::CC, fsw::C2);
            return Some(self.exact(x.sign, y.exp + distance - bits, rest));
        }
        let (mut quotient, mut rest, exp) = if distance < 0 {
            // Here the dividend is below the divisor: both at the dividend's exponent.
            (0, x.sig as u128, x.exp)
        } else {
            let (quotient, rest) = divide(x.sig, y.sig, distance);
            (quotient, rest, y.exp)
        };
        let divisor = (y.sig as u128) << (y.exp - exp);
        let mut sign = x.sign;
        if nearest && (2 * rest > divisor || (2 * rest == divisor && quotient & 1 != 0)) {
            quotient = quotient.wrapping_add(1);
            rest = divisor - rest;
            sign = !sign;
        }
        self.set_quotient(quotient);
        // An exact zero has the dividend's sign.
        Some(self.exact(if rest == 0 { x.sign } else { sign }, exp, rest))
    }

    fn set_quotient(&mut self, quotient: u64) {
        let bit = |n: u32, cc: u16| if quotient >> n & 1 != 0 { cc } else { 0 };
        self.set_cc(fsw::CC, bit(2, fsw::C0) | bit(1, fsw::C3) | bit(0, fsw::C1));
    }

    /// `sig / 2^63 * 2^exp`, which the format holds exactly.
    fn exact(&mut self, sign: bool, exp: i32, sig: u128) -> u128 {
        if sig == 0 {
            return if sign { super::state::SIGN } else { 0 };
        }
        let wide = Wide::from_magnitude(sign, sig);
        let rounded = Wide {
            exp: wide.exp + exp - 63,
            ..wide
        }
        .round(Format::F80, self.rounding(), self.register_range());
        self.raise(rounded.flags);
        rounded.to_f80()
    }
}

/// Divides `a * 2^bits` by `b`: the quotient's low 64 bits and the remainder, below `b`.
fn divide(a: u64, b: u64, bits: i32) -> (u64, u128) {
    let b = b as u128;
    let mut rest = a as u128;
    let mut quotient = (rest >= b) as u64;
    rest -= if rest >= b { b } else { 0 };
    for _ in 0..bits {
        rest <<= 1;
        let fits = rest >= b;
        rest -= if fits { b } else { 0 };
        quotient = quotient << 1 | fits as u64;
    }
    (quotient, rest)
}
