//! FLD, FILD, FST, FIST, FISTTP, FXCH and the constants.

use super::INDEFINITE;
use super::state::Source;
use crate::engine::float::round::Range;
use crate::engine::float::{Class, Format, Rounding, Unpacked, Wide, arith, flag};
use crate::regs::X87;

/// The constants: value with 64 bits, and what the bits after them round to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Constant {
    One,
    Log2Ten,
    Log2E,
    Pi,
    Log10Two,
    LnTwo,
    Zero,
}

impl Constant {
    /// Exponent and the first 128 significant bits.
    const fn bits(self) -> Option<(i32, u128)> {
        Some(match self {
            Constant::One => (0, 1 << 127),
            Constant::Log2Ten => (1, 0xd49a_784b_cd1b_8afe_492b_f6ff_4daf_db4c),
            Constant::Log2E => (0, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e88),
            Constant::Pi => (1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1),
            Constant::Log10Two => (-2, 0x9a20_9a84_fbcf_f798_8f89_59ac_0b7c_9178),
            Constant::LnTwo => (-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af),
            Constant::Zero => return None,
        })
    }
}

impl X87 {
    /// FLD of an 80-bit value: no value is wrong.
    pub fn load(&mut self, bits: u128) {
        if self.room() {
            self.set_c1(false);
            self.push(bits);
        }
    }

    /// FLD ST(i).
    pub fn load_stack(&mut self, i: usize) {
        if self.is_empty(i) {
            if self.stack_fault(false) {
                self.push(INDEFINITE);
            }
        } else {
            self.load(self.st(i));
        }
    }

    /// FLD of a single or double, FILD.
    pub fn load_converted(&mut self, source: Source) {
        if !self.room() {
            return;
        }
        self.set_c1(false);
        let signaling = Unpacked::from_f80(source.bits).is_signaling();
        let flags = if signaling { flag::IE } else { 0 } | if source.denormal { flag::DE } else { 0 };
        // An unmasked denormal doesn't keep the value from being loaded.
        if self.raise(flags) || !signaling {
            self.push(if signaling {
                source.bits | 1 << 62
            } else {
                source.bits
            });
        }
    }

    /// FLD1, FLDPI and so on, rounded under rounding control.
    pub fn load_constant(&mut self, constant: Constant) {
        let bits = match constant.bits() {
            None => 0,
            Some((exp, sig)) => Wide {
                sign: false,
                exp,
                sig,
            }
            .round(Format::F80, self.rounding(), Range::MASKED)
            .to_f80(),
        };
        self.load(bits);
    }

    /// FST and FSTP to a register.
    pub fn store_stack(&mut self, i: usize, pop: bool) {
        self.set_c1(false);
        if self.is_empty(0) {
            if !self.stack_fault(false) {
                return;
            }
            self.set_st(i, INDEFINITE);
        } else {
            self.set_st(i, self.st(0));
        }
        if pop {
            self.pop();
        }
    }

    /// FSTP to an 80-bit place in memory.
    pub fn store_f80(&mut self) -> Option<u128> {
        self.set_c1(false);
        let bits = if self.is_empty(0) {
            if !self.stack_fault(false) {
                return None;
            }
            INDEFINITE
        } else {
            self.st(0)
        };
        self.pop();
        Some(bits)
    }

    /// FST and FSTP to a single (`Format::F32`) or double in memory.
    pub fn store_float(&mut self, format: Format, pop: bool) -> Option<u64> {
        self.set_c1(false);
        let bits = if self.is_empty(0) {
            self.stack_fault(false)
                .then_some(Unpacked::from_f80(INDEFINITE).special_to_ieee(format))
        } else {
            self.narrow(format)
        }?;
        if pop {
            self.pop();
        }
        Some(bits)
    }

    fn narrow(&mut self, format: Format) -> Option<u64> {
        let x = Unpacked::from_f80(self.st(0));
        match x.class {
            Class::Unsupported => {
                let indefinite = Unpacked::from_f80(self.invalid()?);
                Some(indefinite.special_to_ieee(format))
            }
            Class::SignalingNan if !self.raise(flag::IE) => None,
            Class::QuietNan | Class::SignalingNan | Class::Infinity => Some(x.special_to_ieee(format)),
            Class::Zero => Some(crate::engine::float::format::pack_ieee(format, x.sign, 0, 0)),
            // Storing doesn't raise denormal.
            Class::Normal | Class::Denormal => {
                let rounded = Wide::from_number(x).round(format, self.rounding(), self.register_range());
                // Memory takes no result with a wrapped exponent.
                if self.traps(rounded.flags & (flag::OE | flag::UE)) {
                    self.raise(rounded.flags & (flag::OE | flag::UE));
                    return None;
                }
                self.raise(rounded.flags);
                self.set_c1(rounded.up);
                Some(rounded.to_ieee(format))
            }
        }
    }

    /// FIST, FISTP, FISTTP (`truncate`) to an integer of `bits` width.
    pub fn store_integer(&mut self, bits: u32, truncate: bool, pop: bool) -> Option<i64> {
        self.set_c1(false);
        let limit = 1u128 << (bits - 1);
        let indefinite = (limit as i64).wrapping_neg();
        let value = if self.is_empty(0) {
            self.stack_fault(false).then_some(indefinite)
        } else {
            self.integer(limit, truncate, indefinite)
        }?;
        if pop {
            self.pop();
        }
        Some(value)
    }

    fn integer(&mut self, limit: u128, truncate: bool, indefinite: i64) -> Option<i64> {
        let x = Unpacked::from_f80(self.st(0));
        if !x.is_zero() && !x.is_number() {
            return self.invalid().map(|_| indefinite);
        }
        let mode = if truncate { Rounding::Zero } else { self.rounding() };
        let (magnitude, inexact, up) = arith::to_integer(x, mode);
        if magnitude > limit || (magnitude == limit && !x.sign) {
            return self.invalid().map(|_| indefinite);
        }
        if inexact {
            self.raise(flag::PE);
            self.set_c1(up);
        }
        let magnitude = magnitude as i64;
        Some(if x.sign {
            magnitude.wrapping_neg()
        } else {
            magnitude
        })
    }

    /// FXCH.
    pub fn exchange(&mut self, i: usize) {
        self.set_c1(false);
        if self.is_empty(0) || self.is_empty(i) {
            if !self.stack_fault(false) {
                return;
            }
            for j in [0, i] {
                if self.is_empty(j) {
                    self.set_st(j, INDEFINITE);
                }
            }
        }
        let (a, b) = (self.st(0), self.st(i));
        self.set_st(0, b);
        self.set_st(i, a);
    }
}
