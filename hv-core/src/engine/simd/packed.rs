//! Packed and scalar SSE arithmetic: lanes of [`scalar`](super::scalar) put together.

use super::scalar::{self, F32, F64, Op};
use super::{Env, Vector};
use core::cmp::Ordering;

/// How an instruction's suffix arranges lanes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Four singles.
    Ps,
    /// Two doubles.
    Pd,
    /// The low single; the rest of the first operand stays.
    Ss,
    /// The low double; the rest of the first operand stays.
    Sd,
}

/// What is done in each lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum LaneOp {
    Arithmetic(Op),
    Min,
    Max,
    Sqrt,
    /// With the predicate.
    Compare(u8),
    /// With the immediate.
    Round(u8),
    /// The approximation of RCPPS and RCPSS.
    Reciprocal,
    /// The approximation of RSQRTPS and RSQRTSS.
    ReciprocalSqrt,
}

#[inline(always)]
fn lane<P: scalar::Precision>(env: &mut Env, op: LaneOp, a: u64, b: u64) -> u64 {
    match op {
        LaneOp::Arithmetic(op) => scalar::arithmetic::<P>(env, op, a, b),
        LaneOp::Min => scalar::min_max::<P>(env, Ordering::Less, a, b),
        LaneOp::Max => scalar::min_max::<P>(env, Ordering::Greater, a, b),
        LaneOp::Sqrt => scalar::sqrt::<P>(env, b),
        LaneOp::Compare(imm) => scalar::compare_mask::<P>(env, imm, a, b),
        LaneOp::Round(imm) => scalar::round::<P>(env, imm, b),
        LaneOp::Reciprocal => super::approx::reciprocal(b as u32) as u64,
        LaneOp::ReciprocalSqrt => super::approx::reciprocal_sqrt(b as u32) as u64,
    }
}

/// Applies `op` to the lanes of `a` (destination) and `b` (source); one-operand operations read `b`.
pub fn apply(env: &mut Env, shape: Shape, op: LaneOp, a: u128, b: u128) -> u128 {
    match shape {
        Shape::Ps => {
            let (x, y) = (a.u32s(), b.u32s());
            let out: [u32; 4] =
                core::array::from_fn(|i| lane::<F32>(env, op, x[i] as u64, y[i] as u64) as u32);
            u128::gen32(|i| out[i])
        }
        Shape::Pd => {
            let low = lane::<F64>(env, op, a as u64, b as u64);
            let high = lane::<F64>(env, op, (a >> 64) as u64, (b >> 64) as u64);
            low as u128 | (high as u128) << 64
        }
        Shape::Ss => {
            let low = lane::<F32>(env, op, a as u32 as u64, b as u32 as u64) as u32;
            a >> 32 << 32 | low as u128
        }
        Shape::Sd => a >> 64 << 64 | lane::<F64>(env, op, a as u64, b as u64) as u128,
    }
}

/// HADDPS, HSUBPS.
pub fn horizontal_ps(env: &mut Env, op: Op, a: u128, b: u128) -> u128 {
    let even = super::shuffle::shufps(a, b, 0b10_00_10_00);
    let odd = super::shuffle::shufps(a, b, 0b11_01_11_01);
    apply(env, Shape::Ps, LaneOp::Arithmetic(op), even, odd)
}

/// HADDPD, HSUBPD.
pub fn horizontal_pd(env: &mut Env, op: Op, a: u128, b: u128) -> u128 {
    let even = super::shuffle::shufpd(a, b, 0b00);
    let odd = super::shuffle::shufpd(a, b, 0b11);
    apply(env, Shape::Pd, LaneOp::Arithmetic(op), even, odd)
}

/// ADDSUBPS: subtracts in even lanes, adds in odd ones.
pub fn addsubps(env: &mut Env, a: u128, b: u128) -> u128 {
    let (x, y) = (a.u32s(), b.u32s());
    let out: [u32; 4] = core::array::from_fn(|i| {
        let op = if i % 2 == 0 { Op::Sub } else { Op::Add };
        scalar::arithmetic::<F32>(env, op, x[i] as u64, y[i] as u64) as u32
    });
    u128::gen32(|i| out[i])
}

/// ADDSUBPD.
pub fn addsubpd(env: &mut Env, a: u128, b: u128) -> u128 {
    let low = scalar::arithmetic::<F64>(env, Op::Sub, a as u64, b as u64);
    let high = scalar::arithmetic::<F64>(env, Op::Add, (a >> 64) as u64, (b >> 64) as u64);
    low as u128 | (high as u128) << 64
}

/// DPPS: `((a0 b0 + a1 b1) + (a2 b2 + a3 b3))`; the exceptions of each step are those of the whole.
pub fn dpps(env: &mut Env, a: u128, b: u128, imm: u8) -> u128 {
    let (x, y) = (a.u32s(), b.u32s());
    let product: [u64; 4] = core::array::from_fn(|i| match imm >> (4 + i) & 1 {
        0 => 0,
        _ => scalar::arithmetic::<F32>(env, Op::Mul, x[i] as u64, y[i] as u64),
    });
    let low = scalar::arithmetic::<F32>(env, Op::Add, product[0], product[1]);
    let high = scalar::arithmetic::<F32>(env, Op::Add, product[2], product[3]);
    let sum = scalar::arithmetic::<F32>(env, Op::Add, low, high) as u32;
    u128::gen32(|i| if imm >> i & 1 != 0 { sum } else { 0 })
}

/// DPPD.
pub fn dppd(env: &mut Env, a: u128, b: u128, imm: u8) -> u128 {
    let (x, y) = (a.u64s(), b.u64s());
    let product: [u64; 2] = core::array::from_fn(|i| match imm >> (4 + i) & 1 {
        0 => 0,
        _ => scalar::arithmetic::<F64>(env, Op::Mul, x[i], y[i]),
    });
    let sum = scalar::arithmetic::<F64>(env, Op::Add, product[0], product[1]);
    u128::gen64(|i| if imm >> i & 1 != 0 { sum } else { 0 })
}
