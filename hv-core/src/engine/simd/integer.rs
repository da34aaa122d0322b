//! Packed integer arithmetic, comparison, averages, minima, multiplication and sums.
//!
//! Each function is the instruction of its name (SDM vol. 2); `V` is `u64` for MMX and `u128` for SSE.

#![allow(missing_docs)] // The names are the instructions'.

use super::Vector;
pub use super::bytes::{paddb, pcmpeqb, pcmpgtb, pmaxub, pminub, pmovmskb, psubb};

macro_rules! lanewise {
    ($($name:ident $read:ident $write:ident |$a:ident, $b:ident| $value:expr;)*) => {$(
        #[inline]
        pub fn $name<V: Vector>(a: V, b: V) -> V {
            let (a, b) = (a.$read(), b.$read());
            V::$write(|i| { let ($a, $b) = (a[i], b[i]); $value })
        }
    )*};
}

lanewise! {
    paddw u16s gen16 |a, b| a.wrapping_add(b);
    paddd u32s gen32 |a, b| a.wrapping_add(b);
    paddq u64s gen64 |a, b| a.wrapping_add(b);
    psubw u16s gen16 |a, b| a.wrapping_sub(b);
    psubd u32s gen32 |a, b| a.wrapping_sub(b);
    psubq u64s gen64 |a, b| a.wrapping_sub(b);

    paddsb u8s gen8 |a, b| (a as i8).saturating_add(b as i8) as u8;
    paddsw u16s gen16 |a, b| (a as i16).saturating_add(b as i16) as u16;
    paddusb u8s gen8 |a, b| a.saturating_add(b);
    paddusw u16s gen16 |a, b| a.saturating_add(b);
    psubsb u8s gen8 |a, b| (a as i8).saturating_sub(b as i8) as u8;
    psubsw u16s gen16 |a, b| (a as i16).saturating_sub(b as i16) as u16;
    psubusb u8s gen8 |a, b| a.saturating_sub(b);
    psubusw u16s gen16 |a, b| a.saturating_sub(b);

    pcmpeqw u16s gen16 |a, b| if a == b { !0 } else { 0 };
    pcmpeqd u32s gen32 |a, b| if a == b { !0 } else { 0 };
    pcmpeqq u64s gen64 |a, b| if a == b { !0 } else { 0 };
    pcmpgtw u16s gen16 |a, b| if a as i16 > b as i16 { !0 } else { 0 };
    pcmpgtd u32s gen32 |a, b| if a as i32 > b as i32 { !0 } else { 0 };
    pcmpgtq u64s gen64 |a, b| if a as i64 > b as i64 { !0 } else { 0 };

    pavgb u8s gen8 |a, b| ((a as u16 + b as u16 + 1) >> 1) as u8;
    pavgw u16s gen16 |a, b| ((a as u32 + b as u32 + 1) >> 1) as u16;

    pminuw u16s gen16 |a, b| a.min(b);
    pminud u32s gen32 |a, b| a.min(b);
    pminsb u8s gen8 |a, b| (a as i8).min(b as i8) as u8;
    pminsw u16s gen16 |a, b| (a as i16).min(b as i16) as u16;
    pminsd u32s gen32 |a, b| (a as i32).min(b as i32) as u32;
    pmaxuw u16s gen16 |a, b| a.max(b);
    pmaxud u32s gen32 |a, b| a.max(b);
    pmaxsb u8s gen8 |a, b| (a as i8).max(b as i8) as u8;
    pmaxsw u16s gen16 |a, b| (a as i16).max(b as i16) as u16;
    pmaxsd u32s gen32 |a, b| (a as i32).max(b as i32) as u32;

    psignb u8s gen8 |a, b| { let s = (b as i8).signum(); (a as i8).wrapping_mul(s) as u8 };
    psignw u16s gen16 |a, b| { let s = (b as i16).signum(); (a as i16).wrapping_mul(s) as u16 };
    psignd u32s gen32 |a, b| { let s = (b as i32).signum(); (a as i32).wrapping_mul(s) as u32 };

    pmullw u16s gen16 |a, b| a.wrapping_mul(b);
    pmulld u32s gen32 |a, b| a.wrapping_mul(b);
    pmulhw u16s gen16 |a, b| ((a as i16 as i32 * b as i16 as i32) >> 16) as u16;
    pmulhuw u16s gen16 |a, b| ((a as u32 * b as u32) >> 16) as u16;
    pmulhrsw u16s gen16 |a, b| ((((a as i16 as i32 * b as i16 as i32) >> 14) + 1) >> 1) as u16;
    pmuludq u64s gen64 |a, b| (a as u32 as u64) * (b as u32 as u64);
    pmuldq u64s gen64 |a, b| (a as i32 as i64 * b as i32 as i64) as u64;
}

macro_rules! absolute {
    ($($name:ident $read:ident $write:ident $lane:ty;)*) => {$(
        /// The destination's old value doesn't count.
        #[inline]
        pub fn $name<V: Vector>(_: V, b: V) -> V {
            let b = b.$read();
            V::$write(|i| (b[i] as $lane).unsigned_abs())
        }
    )*};
}

absolute! {
    pabsb u8s gen8 i8;
    pabsw u16s gen16 i16;
    pabsd u32s gen32 i32;
}

#[inline]
pub fn pand<V: Vector>(a: V, b: V) -> V {
    a & b
}
#[inline]
pub fn pandn<V: Vector>(a: V, b: V) -> V {
    !a & b
}
#[inline]
pub fn por<V: Vector>(a: V, b: V) -> V {
    a | b
}
#[inline]
pub fn pxor<V: Vector>(a: V, b: V) -> V {
    a ^ b
}

#[inline]
pub fn pmaddwd<V: Vector>(a: V, b: V) -> V {
    let (a, b) = (a.u16s(), b.u16s());
    let product = |i: usize| a[i] as i16 as i32 * b[i] as i16 as i32;
    V::gen32(|i| product(2 * i).wrapping_add(product(2 * i + 1)) as u32)
}

#[inline]
pub fn pmaddubsw<V: Vector>(a: V, b: V) -> V {
    let (a, b) = (a.u8s(), b.u8s());
    let product = |i: usize| a[i] as i32 * b[i] as i8 as i32;
    V::gen16(|i| saturate_i16(product(2 * i) + product(2 * i + 1)))
}

#[inline]
pub fn psadbw<V: Vector>(a: V, b: V) -> V {
    let (a, b) = (a.u8s(), b.u8s());
    V::gen64(|i| (8 * i..8 * i + 8).map(|j| a[j].abs_diff(b[j]) as u64).sum())
}

fn saturate_i16(x: i32) -> u16 {
    x.clamp(i16::MIN.into(), i16::MAX.into()) as i16 as u16
}

/// Lane `i` of the horizontal operations: the pair that makes it, from `a` below and from `b` above.
macro_rules! horizontal {
    ($($name:ident $read:ident $write:ident $size:expr, |$x:ident, $y:ident| $value:expr;)*) => {$(
        #[inline]
        pub fn $name<V: Vector>(a: V, b: V) -> V {
            let half = V::BYTES / $size / 2;
            let (a, b) = (a.$read(), b.$read());
            V::$write(|i| {
                let ($x, $y) = if i < half { (a[2 * i], a[2 * i + 1]) }
                    else { (b[2 * (i - half)], b[2 * (i - half) + 1]) };
                $value
            })
        }
    )*};
}

horizontal! {
    phaddw u16s gen16 2, |x, y| x.wrapping_add(y);
    phaddd u32s gen32 4, |x, y| x.wrapping_add(y);
    phaddsw u16s gen16 2, |x, y| (x as i16).saturating_add(y as i16) as u16;
    phsubw u16s gen16 2, |x, y| x.wrapping_sub(y);
    phsubd u32s gen32 4, |x, y| x.wrapping_sub(y);
    phsubsw u16s gen16 2, |x, y| (x as i16).saturating_sub(y as i16) as u16;
}

/// PHMINPOSUW: the smallest word and its index.
pub fn phminposuw(b: u128) -> u128 {
    let lanes = b.u16s();
    let mut best = 0;
    for i in 1..8 {
        if lanes[i] < lanes[best] {
            best = i;
        }
    }
    lanes[best] as u128 | (best as u128) << 16
}

/// MPSADBW: eight sums of absolute differences of four bytes.
pub fn mpsadbw(a: u128, b: u128, imm: u8) -> u128 {
    let (a, b) = (a.u8s(), b.u8s());
    let from_a = if imm & 4 != 0 { 4 } else { 0 };
    let from_b = (imm & 3) as usize * 4;
    u128::gen16(|i| {
        (0..4)
            .map(|j| a[from_a + i + j].abs_diff(b[from_b + j]) as u16)
            .sum()
    })
}

/// MOVMSKPS.
pub fn movmskps(a: u128) -> u32 {
    let a = a.u32s();
    (0..4).fold(0, |mask, i| mask | (a[i] >> 31) << i)
}

/// MOVMSKPD.
pub fn movmskpd(a: u128) -> u32 {
    (a >> 63) as u32 & 1 | ((a >> 127) as u32) << 1
}
