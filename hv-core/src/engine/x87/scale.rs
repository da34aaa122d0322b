//! FRNDINT, FSCALE and FXTRACT.

use super::state::{INFINITY, SIGN, Source};
use crate::engine::float::{Class, Format, Rounding, Unpacked, Wide, arith, flag};
use crate::regs::X87;

impl X87 {
    /// FRNDINT.
    pub fn round_to_integer(&mut self) {
        if !self.needs_st0() {
            return;
        }
        self.set_c1(false);
        let bits = self.st(0);
        let x = Unpacked::from_f80(bits);
        let result = match x.class {
            Class::Unsupported => self.invalid(),
            Class::QuietNan | Class::SignalingNan => self.propagate(bits, bits),
            Class::Zero | Class::Infinity => Some(bits),
            Class::Denormal if !self.raise(flag::DE) => None,
            Class::Normal | Class::Denormal if x.exp >= 63 => Some(bits),
            Class::Normal | Class::Denormal => {
                let (whole, inexact, up) = arith::to_integer(x, self.rounding());
                if inexact {
                    self.raise(flag::PE);
                    self.set_c1(up);
                }
                Some(if whole == 0 {
                    bits & SIGN
                } else {
                    let range = self.register_range();
                    Wide::from_magnitude(x.sign, whole)
                        .round(Format::F80, Rounding::Zero, range)
                        .to_f80()
                })
            }
        };
        if let Some(result) = result {
            self.set_st(0, result);
        }
    }

    /// FSCALE: ST(0) times two to the integer part of ST(1).
    pub fn scale(&mut self) {
        self.set_c1(false);
        let result = if self.is_empty(0) || self.is_empty(1) {
            self.stack_fault(false).then_some(super::INDEFINITE)
        } else {
            self.scaled()
        };
        if let Some(result) = result {
            self.set_st(0, result);
        }
    }

    fn scaled(&mut self) -> Option<u128> {
        let (a, b) = (self.st(0), self.st(1));
        let (x, y) = (Unpacked::from_f80(a), Unpacked::from_f80(b));
        if x.class == Class::Unsupported || y.class == Class::Unsupported {
            return self.invalid();
        }
        if x.is_nan() || y.is_nan() {
            return self.propagate(a, b);
        }
        let wrong = if y.sign { x.is_infinite() } else { x.is_zero() };
        if y.is_infinite() && wrong {
            return self.invalid();
        }
        let denormal = Source::f80(a).denormal || Source::f80(b).denormal;
        if !self.raise(if denormal { flag::DE } else { 0 }) {
            return None;
        }
        if x.is_zero() || x.is_infinite() {
            return Some(a);
        }
        if y.is_infinite() {
            return Some(a & SIGN | if y.sign { 0 } else { INFINITY });
        }
        let (whole, ..) = arith::to_integer(y, Rounding::Zero);
        let by = whole.min(0x1_0000) as i32;
        let exp = x.exp + if y.sign { -by } else { by };
        let rounded = Wide {
            exp,
            ..Wide::from_number(x)
        }
        .round(Format::F80, self.rounding(), self.register_range());
        // So far beyond the range that even a wrapped exponent doesn't fit.
        let rounded = if rounded.biased >= Format::F80.top_biased() && self.traps(rounded.flags) {
            let over = exp > 0;
            let biased = if over { Format::F80.top_biased() } else { 0 };
            let flags = rounded.flags | flag::PE;
            crate::engine::float::Rounded {
                biased,
                sig: if over { 1 << 63 } else { 0 },
                flags,
                up: over,
                ..rounded
            }
        } else {
            rounded
        };
        Some(self.conclude(rounded))
    }

    /// FXTRACT: the exponent replaces ST(0), the significand is pushed.
    pub fn extract(&mut self) {
        self.set_c1(false);
        if self.is_empty(0) || !self.is_empty(7) {
            let overflow = !self.is_empty(0);
            if self.stack_fault(overflow) {
                self.set_st(0, super::INDEFINITE);
                self.push(super::INDEFINITE);
            }
            return;
        }
        let bits = self.st(0);
        let x = Unpacked::from_f80(bits);
        let parts = match x.class {
            Class::Unsupported => self.invalid().map(|nan| (nan, nan)),
            Class::QuietNan | Class::SignalingNan => self.propagate(bits, bits).map(|nan| (nan, nan)),
            Class::Infinity => Some((INFINITY, bits)),
            Class::Zero => self.raise(flag::ZE).then_some((INFINITY | SIGN, bits)),
            Class::Denormal if !self.raise(flag::DE) => None,
            Class::Normal | Class::Denormal => Some((
                Source::integer(x.exp as i64).bits,
                bits & SIGN | 0x3fff << 64 | x.sig as u128,
            )),
        };
        if let Some((exponent, significand)) = parts {
            self.set_st(0, exponent);
            self.push(significand);
        }
    }
}
