//! SSE arithmetic on one single or double: the meaning of each lane of a packed instruction.
//!
//! Values are bits in a `u64`, singles in its low half. NaN rule (SDM vol. 1, table 4-7): the first operand if it is a
//! NaN, else the second, made quiet.

use super::Env;
use crate::engine::float::{self, Format, Rounding, Unpacked, Wide, flag};
use core::cmp::Ordering;

/// Single or double precision.
pub trait Precision {
    /// The format.
    const FORMAT: Format;
    /// The default NaN.
    const INDEFINITE: u64;
    /// Host arithmetic on bits, if operands and result make it exact but for the inexact flag.
    fn host(op: Op, a: u64, b: u64) -> Option<u64>;
}

/// Single precision.
pub struct F32;
/// Double precision.
pub struct F64;

/// The operations that round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Op {
    Add,
    Sub,
    Mul,
    Div,
}

macro_rules! precision {
    ($name:ident, $float:ty, $bits:ty) => {
        impl Precision for $name {
            const FORMAT: Format = Format::$name;
            const INDEFINITE: u64 = (<$bits>::MAX << (Format::$name.precision - 2)) as u64;

            #[inline]
            fn host(op: Op, a: u64, b: u64) -> Option<u64> {
                let (a, b) = (
                    <$float>::from_bits(a as $bits),
                    <$float>::from_bits(b as $bits),
                );
                if !a.is_normal() || !b.is_normal() {
                    return None;
                }
                let result = match op {
                    Op::Add => a + b,
                    Op::Sub => a - b,
                    Op::Mul => a * b,
                    Op::Div => a / b,
                };
                (result.is_finite() && result.abs() > <$float>::MIN_POSITIVE).then(|| result.to_bits() as u64)
            }
        }
    };
}

precision!(F32, f32, u32);
precision!(F64, f64, u64);

/// Takes an operand apart, with DAZ applied.
#[inline]
pub fn operand<P: Precision>(env: &Env, bits: u64) -> Unpacked {
    let x = Unpacked::from_ieee(P::FORMAT, bits);
    if x.is_denormal() && env.daz() {
        Unpacked::zero(x.sign)
    } else {
        x
    }
}

/// Rounds and packs a result.
pub fn result<P: Precision>(env: &mut Env, wide: Wide) -> u64 {
    let rounded = wide.round(P::FORMAT, env.rounding(), env.range());
    env.raise(rounded.flags);
    rounded.to_ieee(P::FORMAT)
}

/// An invalid operation: raises it and gives the default NaN.
pub fn invalid<P: Precision>(env: &mut Env) -> u64 {
    env.raise(flag::IE);
    P::INDEFINITE
}

fn quiet_nan<P: Precision>(env: &mut Env, a: &Unpacked, b: &Unpacked) -> Option<u64> {
    if a.is_signaling() || b.is_signaling() {
        env.raise(flag::IE);
    }
    match (a.is_nan(), b.is_nan()) {
        (true, _) => Some(a.special_to_ieee(P::FORMAT)),
        (_, true) => Some(b.special_to_ieee(P::FORMAT)),
        _ => None,
    }
}

fn zero<P: Precision>(sign: bool) -> u64 {
    float::format::pack_ieee(P::FORMAT, sign, 0, 0)
}

fn infinity<P: Precision>(sign: bool) -> u64 {
    float::format::pack_ieee(P::FORMAT, sign, P::FORMAT.top_biased(), 1 << 63)
}

/// ADD, SUB, MUL, DIV.
#[inline]
pub fn arithmetic<P: Precision>(env: &mut Env, op: Op, a: u64, b: u64) -> u64 {
    if env.quick()
        && let Some(result) = P::host(op, a, b)
    {
        return result;
    }
    arithmetic_soft::<P>(env, op, a, b)
}

fn arithmetic_soft<P: Precision>(env: &mut Env, op: Op, a: u64, b: u64) -> u64 {
    let (a, mut b) = (operand::<P>(env, a), operand::<P>(env, b));
    if let Some(nan) = quiet_nan::<P>(env, &a, &b) {
        return nan;
    }
    let denormal = if a.is_denormal() || b.is_denormal() {
        flag::DE
    } else {
        0
    };
    let sign = a.sign != b.sign;
    match op {
        Op::Add | Op::Sub => {
            b.sign ^= op == Op::Sub;
            let (a_inf, b_inf) = (a.is_infinite(), b.is_infinite());
            if a_inf && b_inf && a.sign != b.sign {
                return invalid::<P>(env);
            }
            env.raise(denormal);
            match (a_inf, b_inf) {
                (true, _) => return infinity::<P>(a.sign),
                (_, true) => return infinity::<P>(b.sign),
                _ => {}
            }
            let sum = match (a.is_zero(), b.is_zero()) {
                (true, true) if a.sign == b.sign => return zero::<P>(a.sign),
                (true, true) => None,
                (true, false) => Some(Wide::from_number(b)),
                (false, true) => Some(Wide::from_number(a)),
                (false, false) => float::arith::add(a, b),
            };
            match sum {
                Some(wide) => result::<P>(env, wide),
                None => zero::<P>(env.rounding() == Rounding::Down),
            }
        }
        Op::Mul => {
            if a.is_infinite() && b.is_zero() || a.is_zero() && b.is_infinite() {
                return invalid::<P>(env);
            }
            env.raise(denormal);
            if a.is_infinite() || b.is_infinite() {
                infinity::<P>(sign)
            } else if a.is_zero() || b.is_zero() {
                zero::<P>(sign)
            } else {
                result::<P>(env, float::arith::mul(a, b))
            }
        }
        Op::Div => {
            if a.is_infinite() && b.is_infinite() || a.is_zero() && b.is_zero() {
                return invalid::<P>(env);
            }
            if b.is_zero() && a.is_number() {
                env.raise(flag::ZE);
                return infinity::<P>(sign);
            }
            env.raise(denormal);
            if a.is_infinite() || b.is_zero() {
                infinity::<P>(sign)
            } else if b.is_infinite() || a.is_zero() {
                zero::<P>(sign)
            } else {
                result::<P>(env, float::arith::div(a, b))
            }
        }
    }
}

/// SQRT.
pub fn sqrt<P: Precision>(env: &mut Env, a: u64) -> u64 {
    let a = operand::<P>(env, a);
    if let Some(nan) = quiet_nan::<P>(env, &a, &a) {
        return nan;
    }
    if a.is_zero() {
        return zero::<P>(a.sign);
    }
    if a.sign {
        return invalid::<P>(env);
    }
    if a.is_infinite() {
        return infinity::<P>(false);
    }
    if a.is_denormal() {
        env.raise(flag::DE);
    }
    result::<P>(env, float::arith::sqrt(a))
}

/// Compares; `quiet` passes quiet NaNs without invalid.
fn compare<P: Precision>(env: &mut Env, a: u64, b: u64, quiet: bool) -> Option<Ordering> {
    let (a, b) = (operand::<P>(env, a), operand::<P>(env, b));
    if a.is_nan() || b.is_nan() {
        if !quiet || a.is_signaling() || b.is_signaling() {
            env.raise(flag::IE);
        }
        return None;
    }
    if a.is_denormal() || b.is_denormal() {
        env.raise(flag::DE);
    }
    a.compare(&b)
}

/// MIN (`want` is `Less`) and MAX (`Greater`): the second operand unless the first one wins outright. The chosen
/// operand passes unchanged, but for a denormal under DAZ.
pub fn min_max<P: Precision>(env: &mut Env, want: Ordering, a: u64, b: u64) -> u64 {
    let chosen = if compare::<P>(env, a, b, false) == Some(want) {
        a
    } else {
        b
    };
    let value = Unpacked::from_ieee(P::FORMAT, chosen);
    if value.is_denormal() && env.daz() {
        zero::<P>(value.sign)
    } else {
        chosen
    }
}

/// CMPcc with the predicate in the low three bits of `imm`: all ones for true.
pub fn compare_mask<P: Precision>(env: &mut Env, imm: u8, a: u64, b: u64) -> u64 {
    let quiet = matches!(imm & 3, 0 | 3);
    let order = compare::<P>(env, a, b, quiet);
    let truth = match imm & 3 {
        0 => order == Some(Ordering::Equal),
        1 => order == Some(Ordering::Less),
        2 => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        _ => order.is_none(),
    };
    if truth != (imm & 4 != 0) { u64::MAX } else { 0 }
}

/// COMIS (`quiet` false) and UCOMIS (true): ZF, PF and CF of RFLAGS; OF, SF and AF are zero.
pub fn compare_flags<P: Precision>(env: &mut Env, a: u64, b: u64, quiet: bool) -> u64 {
    use crate::regs::rflags::{CF, PF, ZF};
    match compare::<P>(env, a, b, quiet) {
        None => ZF | PF | CF,
        Some(Ordering::Less) => CF,
        Some(Ordering::Equal) => ZF,
        Some(Ordering::Greater) => 0,
    }
}

/// ROUND with its immediate: bits 0 and 1 the mode, bit 2 takes MXCSR's instead, bit 3 silences inexact.
pub fn round<P: Precision>(env: &mut Env, imm: u8, bits: u64) -> u64 {
    let a = operand::<P>(env, bits);
    if let Some(nan) = quiet_nan::<P>(env, &a, &a) {
        return nan;
    }
    if a.is_infinite() {
        return infinity::<P>(a.sign);
    }
    if a.is_zero() {
        return zero::<P>(a.sign);
    }
    let mode = if imm & 4 != 0 {
        env.rounding()
    } else {
        Rounding::from_bits(imm as u32)
    };
    if a.exp >= 63 {
        return bits;
    }
    let (whole, inexact, _) = float::arith::to_integer(a, mode);
    if inexact && imm & 8 == 0 {
        env.raise(flag::PE);
    }
    if whole == 0 {
        return zero::<P>(a.sign);
    }
    // An integer of at most as many bits as the format holds, so that this rounds nothing.
    result::<P>(env, Wide::from_magnitude(a.sign, whole))
}
