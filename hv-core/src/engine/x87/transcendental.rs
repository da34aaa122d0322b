//! F2XM1, FYL2X, FYL2XP1 and FPATAN.
//!
//! All are computed with 126 bits by series and rounded once, which leaves them correctly rounded but for one case in
//! some 2^60; processors promise one unit in the last place (SDM vol. 1, 8.3.10).

use super::big::{self, ONE, ZERO};
use super::state::{INFINITY, SIGN};
use crate::engine::float::{Class, Format, Unpacked, Wide, flag};
use crate::regs::X87;

const LN_2: Wide = Wide {
    sign: false,
    exp: -1,
    sig: 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af,
};
const LOG2_E: Wide = Wide {
    sign: false,
    exp: 0,
    sig: 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e88,
};
const PI: Wide = Wide {
    sign: false,
    exp: 1,
    sig: 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1,
};
/// The square root of two, to the bits that choosing a side needs.
const SQRT_2: u128 = 0xb504_f333_f9de_6484 << 64;

/// The arc tangents of 1/8 to 8/8.
const ARC_TANGENTS: [(i32, u128); 8] = [
    (-4, 0xfead_d4d5_617b_6e32_c897_989f_3e88_8ef7),
    (-3, 0xfadb_afc9_6406_eb15_6dc7_9ef5_f7a2_17e5),
    (-2, 0xb7b0_ca0f_26f7_8473_8aa3_2122_dcfe_4483),
    (-2, 0xed63_382b_0dda_7b45_6fe4_45ec_bc3a_8d03),
    (-1, 0x8f00_5d5e_f7f5_9f9b_5c83_5e16_65c4_3747),
    (-1, 0xa4bc_7d19_34f7_0924_19a8_7f2a_457d_ac9e),
    (-1, 0xb805_3e2b_c231_9e73_cb2d_a552_10a4_443d),
    (-1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1),
];

/// Marks a result as inexact, as these functions' values are but for special arguments.
pub(super) const fn inexact(x: Wide) -> Wide {
    Wide { sig: x.sig | 1, ..x }
}

/// `2^x - 1` for `|x| <= 1`.
fn exp2_minus_1(x: Wide) -> Wide {
    let y = big::mul(x, LN_2);
    big::series(y, |term, n| big::div_small(big::mul(term, y), n + 1))
}

/// `2 * atanh(s)`.
fn twice_atanh(s: Wide) -> Wide {
    let square = big::mul(s, s);
    let mut power = s;
    let sum = big::series(s, |_, n| {
        power = big::mul(power, square);
        big::div_small(power, 2 * n + 1)
    });
    Wide {
        exp: sum.exp + 1,
        ..sum
    }
}

/// `log2(x)` for positive `x`.
fn log2(x: Wide) -> Wide {
    let above = x.sig > SQRT_2;
    let power = x.exp + above as i32;
    if x.sig == 1 << 127 {
        return big::integer(power as i64);
    }
    let m = Wide {
        sign: false,
        exp: -(above as i32),
        sig: x.sig,
    };
    let s = big::div(big::sub(m, ONE), big::add(m, ONE));
    let fraction = big::mul(twice_atanh(s), LOG2_E);
    big::add(big::integer(power as i64), fraction)
}

/// `log2(1 + x)` for `x > -1`.
fn log2_of_1_plus(x: Wide) -> Wide {
    if x.exp < -2 {
        // 1 + x might lose bits of x; (m - 1) / (m + 1) with m = 1 + x doesn't.
        let s = big::div(x, big::add(Wide { exp: 1, ..ONE }, x));
        big::mul(twice_atanh(s), LOG2_E)
    } else {
        log2(big::add(ONE, x))
    }
}

/// `atan(u)` for `0 <= u <= 1`.
fn arc_tangent(u: Wide) -> Wide {
    let eighths = (Wide { exp: u.exp + 3, ..u }).nearest_small();
    let (base, z) = match eighths {
        0 => (ZERO, u),
        k => {
            let c = big::div_small(big::integer(k as i64), 8);
            let (exp, sig) = ARC_TANGENTS[(k as usize).min(8) - 1];
            let z = big::div(big::sub(u, c), big::add(ONE, big::mul(u, c)));
            (
                Wide {
                    sign: false,
                    exp,
                    sig,
                },
                z,
            )
        }
    };
    if z.sig == 0 {
        return base;
    }
    let square = big::neg(big::mul(z, z));
    let mut power = z;
    let small = big::series(z, |_, n| {
        power = big::mul(power, square);
        big::div_small(power, 2 * n + 1)
    });
    big::add(base, small)
}

impl Wide {
    /// The nearest integer of a number in [0, 8].
    const fn nearest_small(self) -> u32 {
        if self.exp < -1 || self.sig == 0 {
            return 0;
        }
        // Half units: exp is at most 3.
        let halves = (self.sig >> (126 - self.exp as i64)) as u32;
        halves.div_ceil(2)
    }
}

impl X87 {
    /// Rounds a transcendental function's value to 64 bits.
    pub(super) fn round_wide(&mut self, wide: Wide) -> u128 {
        let rounded = wide.round(Format::F80, self.rounding(), self.register_range());
        self.conclude(rounded)
    }

    /// F2XM1; outside [-1, 1], where the manual leaves it undefined, ST(0) stays.
    pub fn exp2_minus_1(&mut self) {
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
            Class::Infinity => Some(if x.sign { super::state::ONE | SIGN } else { bits }),
            Class::Denormal if !self.raise(flag::DE) => None,
            Class::Normal | Class::Denormal if x.exp >= 0 => {
                let one = x.exp == 0 && x.sig == 1 << 63;
                // 2^1 - 1 = 1 and 2^-1 - 1 = -1/2 are exact.
                Some(if one && x.sign { bits - (1 << 64) } else { bits })
            }
            Class::Normal | Class::Denormal => {
                Some(self.round_wide(inexact(exp2_minus_1(Wide::from_number(x)))))
            }
        };
        if let Some(result) = result {
            self.set_st(0, result);
        }
    }

    /// FYL2X, or FYL2XP1 (`plus_1`): `ST(1) * log2(ST(0))` into ST(1), then a pop.
    pub fn y_log2(&mut self, plus_1: bool) {
        self.binary_function(|fpu, x, y| fpu.y_log2_of(x, y, plus_1));
    }

    /// FPATAN: the angle of the point (ST(0), ST(1)) into ST(1), then a pop.
    pub fn arc_tangent(&mut self) {
        self.binary_function(X87::angle);
    }

    /// A function of ST(0) and ST(1) whose result replaces both; NaNs are dealt with here.
    fn binary_function(&mut self, f: impl FnOnce(&mut X87, Unpacked, Unpacked) -> Option<u128>) {
        self.set_c1(false);
        let result = if self.is_empty(0) || self.is_empty(1) {
            self.stack_fault(false).then_some(super::INDEFINITE)
        } else {
            let (a, b) = (self.st(0), self.st(1));
            let (x, y) = (Unpacked::from_f80(a), Unpacked::from_f80(b));
            if x.class == Class::Unsupported || y.class == Class::Unsupported {
                self.invalid()
            } else if x.is_nan() || y.is_nan() {
                self.propagate(a, b)
            } else {
                f(self, x, y)
            }
        };
        if let Some(result) = result {
            self.set_st(1, result);
            self.pop();
        }
    }

    fn denormal_operands(&mut self, x: &Unpacked, y: &Unpacked) -> bool {
        self.raise(if x.is_denormal() || y.is_denormal() {
            flag::DE
        } else {
            0
        })
    }

    fn y_log2_of(&mut self, x: Unpacked, y: Unpacked, plus_1: bool) -> Option<u128> {
        let one = Unpacked {
            class: Class::Normal,
            sign: false,
            exp: 0,
            sig: 1 << 63,
        };
        // Where the logarithm's argument lies: below zero, at zero, at one, at infinity.
        let from_pole = if plus_1 {
            x.compare(&Unpacked { sign: true, ..one })
        } else {
            x.compare(&Unpacked::zero(false))
        };
        let from_one = if plus_1 {
            x.compare(&Unpacked::zero(false))
        } else {
            x.compare(&one)
        };
        let (at_one, below_one) = (
            from_one == Some(core::cmp::Ordering::Equal),
            from_one == Some(core::cmp::Ordering::Less),
        );
        // The sign of the logarithm; +0 counts as positive, and FYL2XP1 of -0 as negative.
        let sign = y.sign != (below_one || (plus_1 && x.is_zero() && x.sign));
        let signed = |bits: u128| if sign { bits | SIGN } else { bits };
        match from_pole {
            Some(core::cmp::Ordering::Less) => return self.invalid(),
            Some(core::cmp::Ordering::Equal) => {
                if y.is_zero() {
                    return self.invalid();
                }
                if y.is_infinite() {
                    return Some(signed(INFINITY));
                }
                return self.raise(flag::ZE).then_some(signed(INFINITY));
            }
            _ => {}
        }
        if (y.is_infinite() && at_one) || (x.is_infinite() && y.is_zero()) {
            return self.invalid();
        }
        if !self.denormal_operands(&x, &y) {
            return None;
        }
        if x.is_infinite() || y.is_infinite() {
            return Some(signed(INFINITY));
        }
        if at_one || y.is_zero() {
            return Some(signed(0));
        }
        let log = if plus_1 {
            log2_of_1_plus(Wide::from_number(x))
        } else {
            log2(Wide::from_number(x))
        };
        // Processors call even the logarithm of a power of two inexact.
        let result = self.round_wide(big::mul(log, Wide::from_number(y)));
        let tiny = result >> 64 & 0x7fff == 0;
        self.raise(if tiny { flag::PE | flag::UE } else { flag::PE });
        Some(result)
    }

    fn angle(&mut self, x: Unpacked, y: Unpacked) -> Option<u128> {
        if !self.denormal_operands(&x, &y) {
            return None;
        }
        if (y.is_zero() || (x.is_infinite() && !y.is_infinite())) && !x.sign {
            return Some(if y.sign { SIGN } else { 0 });
        }
        // Both infinite: as if both were one. Elsewhere the quotient decides.
        let (wx, wy) = match (x.is_infinite(), y.is_infinite()) {
            (true, true) => (ONE, ONE),
            (true, false) => (ONE, ZERO),
            (false, true) => (ZERO, ONE),
            _ => (magnitude(&x), magnitude(&y)),
        };
        let steep = wy.sig != 0 && (wx.sig == 0 || (wy.exp, wy.sig) > (wx.exp, wx.sig));
        let (low, high) = if steep { (wx, wy) } else { (wy, wx) };
        let acute = if low.sig == 0 {
            ZERO
        } else {
            arc_tangent(big::div(low, high))
        };
        let half_pi = Wide { exp: 0, ..PI };
        let angle = if steep { big::sub(half_pi, acute) } else { acute };
        let angle = if x.sign { big::sub(PI, angle) } else { angle };
        Some(self.round_wide(inexact(Wide {
            sign: y.sign,
            ..angle
        })))
    }
}

fn magnitude(x: &Unpacked) -> Wide {
    if x.is_zero() {
        ZERO
    } else {
        Wide {
            sign: false,
            ..Wide::from_number(*x)
        }
    }
}
