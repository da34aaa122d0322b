//! FSIN, FCOS, FSINCOS and FPTAN.
//!
//! Arguments are reduced by the 66-bit value of pi that processors use (SDM vol. 1, 8.3.8), exactly; then the series
//! run with 126 bits.

use super::INDEFINITE;
use super::big::{self, ONE};
use super::state;
use super::state::fsw;
use super::transcendental::inexact;
use crate::engine::float::{Class, Unpacked, Wide, flag};
use crate::regs::X87;

/// Half of the 66-bit pi, in units of 2^-67.
const HALF_PI: u128 = 0xc_90fd_aa22_168c_234c;

/// An angle within a quarter of pi of zero, and the quarter turns taken off.
fn reduce(x: Unpacked) -> (Wide, u32) {
    if x.exp < -4 {
        return (Wide::from_number(x), 0);
    }
    let (mut rest, mut turns) = (x.sig as u128, 0u32);
    // sig * 2^(exp - 63) is sig * 2^(exp + 4) units; all of it modulo HALF_PI, which is above any sig.
    for _ in 0..x.exp + 4 {
        rest <<= 1;
        turns <<= 1;
        if rest >= HALF_PI {
            rest -= HALF_PI;
            turns |= 1;
        }
    }
    let past = 2 * rest > HALF_PI;
    let (rest, turns) = if past {
        (HALF_PI - rest, turns.wrapping_add(1))
    } else {
        (rest, turns)
    };
    let angle = if rest == 0 {
        big::ZERO
    } else {
        Wide::from_magnitude(past != x.sign, rest)
    };
    let angle = Wide {
        exp: angle.exp - 67,
        ..angle
    };
    (angle, if x.sign { turns.wrapping_neg() } else { turns } & 3)
}

fn sine_series(x: Wide) -> Wide {
    let square = big::neg(big::mul(x, x));
    big::series(x, |term, n| {
        big::div_small(big::mul(term, square), 2 * n * (2 * n + 1))
    })
}

fn cosine_series(x: Wide) -> Wide {
    let square = big::neg(big::mul(x, x));
    big::series(ONE, |term, n| {
        big::div_small(big::mul(term, square), (2 * n - 1) * 2 * n)
    })
}

/// Sine and cosine.
fn sine_cosine(x: Unpacked) -> (Wide, Wide) {
    let (angle, turns) = reduce(x);
    let (s, c) = (sine_series(angle), cosine_series(angle));
    match turns {
        0 => (s, c),
        1 => (c, big::neg(s)),
        2 => (big::neg(s), big::neg(c)),
        _ => (big::neg(c), s),
    }
}

/// Which of the functions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Trigonometric {
    Sine,
    Cosine,
    SineCosine,
    Tangent,
}

/// What the argument leads to.
enum Argument {
    /// Both results are this (a NaN).
    Nan(u128),
    /// Plus or minus zero.
    Zero,
    /// The functions' domain.
    Number(Unpacked),
}

impl X87 {
    /// FSIN, FCOS, FSINCOS, FPTAN. Beyond 2^63 in magnitude C2 is set and ST(0) stays.
    pub fn trigonometric(&mut self, function: Trigonometric) {
        let pushes = matches!(function, Trigonometric::SineCosine | Trigonometric::Tangent);
        self.set_cc(fsw::C1 | fsw::C2, 0);
        if self.is_empty(0) || (pushes && !self.is_empty(7)) {
            let overflow = !self.is_empty(0);
            if self.stack_fault(overflow) {
                self.set_st(0, INDEFINITE);
                if pushes {
                    self.push(INDEFINITE);
                }
            }
            return;
        }
        let Some(argument) = self.angle_argument() else {
            return;
        };
        let bits = self.st(0);
        match (argument, function) {
            (Argument::Nan(nan), _) => {
                self.set_st(0, nan);
                if pushes {
                    self.push(nan);
                }
            }
            (Argument::Zero, Trigonometric::Sine) => {}
            (Argument::Zero, Trigonometric::Cosine) => self.set_st(0, state::ONE),
            (Argument::Zero, _) => {
                self.set_st(0, bits);
                self.push(state::ONE);
            }
            (Argument::Number(x), _) => self.turn(x, function),
        }
    }

    fn angle_argument(&mut self) -> Option<Argument> {
        let bits = self.st(0);
        let x = Unpacked::from_f80(bits);
        match x.class {
            Class::Unsupported | Class::Infinity => self.invalid().map(Argument::Nan),
            Class::QuietNan | Class::SignalingNan => self.propagate(bits, bits).map(Argument::Nan),
            Class::Zero => Some(Argument::Zero),
            Class::Normal if x.exp >= 63 => {
                self.set_cc(fsw::C2, fsw::C2);
                None
            }
            Class::Denormal if !self.raise(flag::DE) => None,
            Class::Normal | Class::Denormal => Some(Argument::Number(x)),
        }
    }

    fn turn(&mut self, x: Unpacked, function: Trigonometric) {
        let (sine, cosine) = sine_cosine(x);
        match function {
            Trigonometric::Sine => {
                let value = self.round_wide(inexact(sine));
                self.set_st(0, value);
            }
            Trigonometric::Cosine => {
                let value = self.round_wide(inexact(cosine));
                self.set_st(0, value);
            }
            Trigonometric::SineCosine => {
                let value = self.round_wide(inexact(sine));
                self.set_st(0, value);
                let value = self.round_wide(inexact(cosine));
                self.push(value);
            }
            Trigonometric::Tangent => {
                let value = self.round_wide(inexact(big::div(sine, cosine)));
                self.set_st(0, value);
                self.push(state::ONE);
            }
        }
    }
}
