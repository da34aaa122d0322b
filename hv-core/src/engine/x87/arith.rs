//! FADD, FSUB, FMUL, FDIV in all their forms, and FSQRT.

use super::state::{INFINITY, SIGN, Source};
use crate::engine::float::{self, Class, Rounding, Unpacked, Wide, flag};
use crate::regs::X87;

/// The two-operand operations; the R forms exchange the operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Arith {
    Add,
    Mul,
    Sub,
    SubR,
    Div,
    DivR,
}

const fn signed(sign: bool, bits: u128) -> u128 {
    if sign { bits | SIGN } else { bits }
}

impl X87 {
    /// `ST(0) = ST(0) op source` with a source from memory.
    pub fn arith_memory(&mut self, op: Arith, source: Source) {
        if self.needs_st0()
            && let Some(result) = self.compute(op, Source::f80(self.st(0)), source)
        {
            self.set_st(0, result);
        }
    }

    /// `ST(to) = ST(to) op ST(from)`, then a pop if wanted.
    pub fn arith_stack(&mut self, op: Arith, to: usize, from: usize, pop: bool) {
        let result = if self.is_empty(to) || self.is_empty(from) {
            self.stack_fault(false).then_some(super::INDEFINITE)
        } else {
            self.compute(op, Source::f80(self.st(to)), Source::f80(self.st(from)))
        };
        if let Some(result) = result {
            self.set_st(to, result);
            if pop {
                self.pop();
            }
        }
    }

    fn compute(&mut self, op: Arith, a: Source, b: Source) -> Option<u128> {
        self.set_c1(false);
        let (a, b) = if matches!(op, Arith::SubR | Arith::DivR) {
            (b, a)
        } else {
            (a, b)
        };
        let (x, mut y) = (Unpacked::from_f80(a.bits), Unpacked::from_f80(b.bits));
        if x.class == Class::Unsupported || y.class == Class::Unsupported {
            return self.invalid();
        }
        if x.is_nan() || y.is_nan() {
            return self.propagate(a.bits, b.bits);
        }
        let denormal = if a.denormal || b.denormal { flag::DE } else { 0 };
        match op {
            Arith::Add | Arith::Sub | Arith::SubR => {
                y.sign ^= op != Arith::Add;
                self.sum(x, y, denormal)
            }
            Arith::Mul => self.product(x, y, denormal),
            Arith::Div | Arith::DivR => self.quotient(x, y, denormal),
        }
    }

    fn sum(&mut self, x: Unpacked, y: Unpacked, denormal: u8) -> Option<u128> {
        if x.is_infinite() && y.is_infinite() && x.sign != y.sign {
            return self.invalid();
        }
        if !self.raise(denormal) {
            return None;
        }
        let wide = match (x.is_infinite(), y.is_infinite(), x.is_zero(), y.is_zero()) {
            (true, ..) => return Some(signed(x.sign, INFINITY)),
            (_, true, ..) => return Some(signed(y.sign, INFINITY)),
            (_, _, true, true) if x.sign == y.sign => return Some(signed(x.sign, 0)),
            (_, _, true, true) => None,
            (_, _, true, _) => Some(Wide::from_number(y)),
            (_, _, _, true) => Some(Wide::from_number(x)),
            _ => float::arith::add(x, y),
        };
        match wide {
            Some(wide) => Some(self.rounded(wide)),
            None => Some(signed(self.rounding() == Rounding::Down, 0)),
        }
    }

    fn product(&mut self, x: Unpacked, y: Unpacked, denormal: u8) -> Option<u128> {
        let sign = x.sign != y.sign;
        if x.is_infinite() && y.is_zero() || x.is_zero() && y.is_infinite() {
            return self.invalid();
        }
        if !self.raise(denormal) {
            return None;
        }
        if x.is_infinite() || y.is_infinite() {
            return Some(signed(sign, INFINITY));
        }
        if x.is_zero() || y.is_zero() {
            return Some(signed(sign, 0));
        }
        Some(self.rounded(float::arith::mul(x, y)))
    }

    fn quotient(&mut self, x: Unpacked, y: Unpacked, denormal: u8) -> Option<u128> {
        let sign = x.sign != y.sign;
        if x.is_infinite() && y.is_infinite() || x.is_zero() && y.is_zero() {
            return self.invalid();
        }
        if y.is_zero() && x.is_number() {
            return self.raise(flag::ZE).then_some(signed(sign, INFINITY));
        }
        if !self.raise(denormal) {
            return None;
        }
        if x.is_infinite() || y.is_zero() {
            return Some(signed(sign, INFINITY));
        }
        if x.is_zero() || y.is_infinite() {
            return Some(signed(sign, 0));
        }
        Some(self.rounded(float::arith::div(x, y)))
    }

    /// Rounds under precision and rounding control.
    fn rounded(&mut self, wide: Wide) -> u128 {
        let rounded = wide.round(self.format(), self.rounding(), self.register_range());
        self.conclude(rounded)
    }

    /// FSQRT.
    pub fn sqrt(&mut self) {
        if !self.needs_st0() {
            return;
        }
        self.set_c1(false);
        let bits = self.st(0);
        let x = Unpacked::from_f80(bits);
        let result = match x.class {
            Class::Unsupported => self.invalid(),
            Class::QuietNan | Class::SignalingNan => self.propagate(bits, bits),
            Class::Zero => Some(bits),
            _ if x.sign => self.invalid(),
            Class::Infinity => Some(bits),
            Class::Denormal if !self.raise(flag::DE) => None,
            _ => Some(self.rounded(float::arith::sqrt(x))),
        };
        if let Some(result) = result {
            self.set_st(0, result);
        }
    }

    /// FCHS (`negate`) and FABS: no value is wrong for them.
    pub fn change_sign(&mut self, negate: bool) {
        if self.needs_st0() {
            self.set_c1(false);
            let bits = self.st(0);
            self.set_st(0, if negate { bits ^ SIGN } else { bits & !SIGN });
        }
    }
}
