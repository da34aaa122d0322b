//! FBLD and FBSTP: eighteen packed decimal digits and a sign (SDM vol. 1, 4.7).

use super::state::Source;
use crate::engine::float::{Unpacked, arith, flag};
use crate::regs::X87;

/// What FBSTP stores for a masked invalid operation.
const INDEFINITE: u128 = 0xffff_c000_0000_0000_0000;
const LARGEST: u128 = 999_999_999_999_999_999;

impl X87 {
    /// FBLD of the 80 bits of a packed decimal. Digits above nine aren't checked, as on real processors.
    pub fn load_bcd(&mut self, packed: u128) {
        let magnitude = (0..18)
            .rev()
            .fold(0i64, |n, i| n * 10 + (packed >> (4 * i) & 0xf) as i64);
        let sign = packed & 1 << 79;
        self.load(Source::integer(magnitude).bits | sign);
    }

    /// FBSTP.
    pub fn store_bcd(&mut self) -> Option<u128> {
        self.set_c1(false);
        let packed = if self.is_empty(0) {
            self.stack_fault(false).then_some(INDEFINITE)
        } else {
            self.decimal()
        }?;
        self.pop();
        Some(packed)
    }

    fn decimal(&mut self) -> Option<u128> {
        let x = Unpacked::from_f80(self.st(0));
        if !x.is_zero() && !x.is_number() {
            return self.invalid().map(|_| INDEFINITE);
        }
        let (mut magnitude, inexact, up) = arith::to_integer(x, self.rounding());
        if magnitude > LARGEST {
            return self.invalid().map(|_| INDEFINITE);
        }
        if inexact {
            self.raise(flag::PE);
            self.set_c1(up);
        }
        let mut packed = if x.sign { 1 << 79 } else { 0 };
        for i in 0..18 {
            packed |= (magnitude % 10) << (4 * i);
            magnitude /= 10;
        }
        Some(packed)
    }
}
