//! SSE conversions between singles, doubles and integers.

use super::scalar::{self, F32, F64, Precision};
use super::{Env, Vector};
use crate::engine::float::{Rounding, Wide, arith, flag};

/// A signed integer of `bits` width from a float; out of range gives the integer indefinite (the smallest integer).
pub fn to_integer<P: Precision>(env: &mut Env, x: u64, bits: u32, truncate: bool) -> i64 {
    let a = scalar::operand::<P>(env, x);
    let mode = if truncate { Rounding::Zero } else { env.rounding() };
    let limit = 1u128 << (bits - 1);
    if !a.is_zero() && !a.is_number() {
        env.raise(flag::IE);
        return (limit as i64).wrapping_neg();
    }
    let (magnitude, inexact, _) = arith::to_integer(a, mode);
    if magnitude > limit || (magnitude == limit && !a.sign) {
        env.raise(flag::IE);
        return (limit as i64).wrapping_neg();
    }
    if inexact {
        env.raise(flag::PE);
    }
    let magnitude = magnitude as i64;
    if a.sign {
        magnitude.wrapping_neg()
    } else {
        magnitude
    }
}

/// A float from a signed integer.
pub fn from_integer<P: Precision>(env: &mut Env, x: i64) -> u64 {
    if x == 0 {
        return 0;
    }
    scalar::result::<P>(env, Wide::from_magnitude(x < 0, x.unsigned_abs() as u128))
}

fn change<From: Precision, To: Precision>(env: &mut Env, x: u64) -> u64 {
    let a = scalar::operand::<From>(env, x);
    if a.is_nan() {
        if a.is_signaling() {
            env.raise(flag::IE);
        }
        return a.special_to_ieee(To::FORMAT);
    }
    if a.is_infinite() {
        return a.special_to_ieee(To::FORMAT);
    }
    if a.is_zero() {
        return crate::engine::float::format::pack_ieee(To::FORMAT, a.sign, 0, 0);
    }
    if a.is_denormal() {
        env.raise(flag::DE);
    }
    scalar::result::<To>(env, Wide::from_number(a))
}

/// CVTSS2SD.
pub fn f32_to_f64(env: &mut Env, x: u32) -> u64 {
    change::<F32, F64>(env, x as u64)
}

/// CVTSD2SS.
pub fn f64_to_f32(env: &mut Env, x: u64) -> u32 {
    change::<F64, F32>(env, x) as u32
}

fn two<T>(mut lane: impl FnMut(usize) -> T) -> [T; 2] {
    [lane(0), lane(1)]
}

/// CVTPS2PD.
pub fn cvtps2pd(env: &mut Env, b: u128) -> u128 {
    let b = b.u32s();
    let out = two(|i| f32_to_f64(env, b[i]));
    u128::gen64(|i| out[i])
}
/// CVTPD2PS; the upper half is cleared.
pub fn cvtpd2ps(env: &mut Env, b: u128) -> u128 {
    let b = b.u64s();
    let out = two(|i| f64_to_f32(env, b[i]));
    out[0] as u128 | (out[1] as u128) << 32
}
/// CVTDQ2PS.
pub fn cvtdq2ps(env: &mut Env, b: u128) -> u128 {
    let b = b.u32s();
    let out: [u32; 4] = core::array::from_fn(|i| from_integer::<F32>(env, b[i] as i32 as i64) as u32);
    u128::gen32(|i| out[i])
}
/// CVTDQ2PD, CVTPI2PD: from the low two integers.
pub fn cvtdq2pd(env: &mut Env, b: u64) -> u128 {
    let b = b.u32s();
    let out = two(|i| from_integer::<F64>(env, b[i] as i32 as i64));
    u128::gen64(|i| out[i])
}
/// CVTPS2DQ, CVTTPS2DQ.
pub fn cvtps2dq(env: &mut Env, b: u128, truncate: bool) -> u128 {
    let b = b.u32s();
    let out: [u32; 4] = core::array::from_fn(|i| to_integer::<F32>(env, b[i] as u64, 32, truncate) as u32);
    u128::gen32(|i| out[i])
}
/// CVTPD2DQ, CVTTPD2DQ, CVTPD2PI, CVTTPD2PI: two integers.
pub fn cvtpd2dq(env: &mut Env, b: u128, truncate: bool) -> u64 {
    let b = b.u64s();
    let out = two(|i| to_integer::<F64>(env, b[i], 32, truncate) as u32);
    u64::gen32(|i| out[i])
}
/// CVTPI2PS: two singles.
pub fn cvtpi2ps(env: &mut Env, b: u64) -> u64 {
    let b = b.u32s();
    let out = two(|i| from_integer::<F32>(env, b[i] as i32 as i64) as u32);
    u64::gen32(|i| out[i])
}
/// CVTPS2PI, CVTTPS2PI: two integers from two singles.
pub fn cvtps2pi(env: &mut Env, b: u64, truncate: bool) -> u64 {
    let b = b.u32s();
    let out = two(|i| to_integer::<F32>(env, b[i] as u64, 32, truncate) as u32);
    u64::gen32(|i| out[i])
}
