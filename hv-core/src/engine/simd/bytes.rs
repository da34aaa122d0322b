//! The byte operations that string functions live on, eight bytes at a time in a general register: the compiler
//! doesn't turn the lane by lane form into vector code, as the registers are integers here.

#![allow(missing_docs)] // The names are the instructions'.

use super::Vector;

const HIGH: u64 = 0x8080_8080_8080_8080;
const LOW: u64 = !HIGH;

fn halves<V: Vector>(a: V, b: V, f: impl Fn(u64, u64) -> u64) -> V {
    let (a, b) = (a.u64s(), b.u64s());
    V::gen64(|i| f(a[i], b[i]))
}

/// Whole bytes of ones where the top bit of a byte is set; the other bits of `tops` are zero.
fn fill(tops: u64) -> u64 {
    (tops >> 7).wrapping_mul(0xff)
}

fn add(a: u64, b: u64) -> u64 {
    // Without their top bits the sums carry into nobody else's byte.
    ((a & LOW) + (b & LOW)) ^ ((a ^ b) & HIGH)
}

fn sub(a: u64, b: u64) -> u64 {
    ((a | HIGH) - (b & LOW)) ^ ((a ^ !b) & HIGH)
}

/// The borrows out of each byte of `a - b`: where `a` is below `b`, unsigned.
fn below(a: u64, b: u64) -> u64 {
    fill(((!a & b) | (!(a ^ b) & sub(a, b))) & HIGH)
}

#[inline]
pub fn paddb<V: Vector>(a: V, b: V) -> V {
    halves(a, b, add)
}
#[inline]
pub fn psubb<V: Vector>(a: V, b: V) -> V {
    halves(a, b, sub)
}
#[inline]
pub fn pcmpeqb<V: Vector>(a: V, b: V) -> V {
    halves(a, b, |a, b| {
        let x = a ^ b;
        // The top bit of a byte is set unless all of its bits are zero.
        fill(!(((x & LOW) + LOW) | x) & HIGH)
    })
}
#[inline]
pub fn pcmpgtb<V: Vector>(a: V, b: V) -> V {
    halves(a, b, |a, b| below(b ^ HIGH, a ^ HIGH))
}
#[inline]
pub fn pminub<V: Vector>(a: V, b: V) -> V {
    halves(a, b, |a, b| b ^ ((a ^ b) & below(a, b)))
}
#[inline]
pub fn pmaxub<V: Vector>(a: V, b: V) -> V {
    halves(a, b, |a, b| a ^ ((a ^ b) & below(a, b)))
}

/// PMOVMSKB: the sign bits of all bytes.
#[inline]
pub fn pmovmskb<V: Vector>(a: V) -> u32 {
    let a = a.u64s();
    // The product brings bit 7 of byte n to bit 56 + n, and nothing else there.
    (0..V::BYTES / 8).fold(0, |mask, i| {
        let bits = ((a[i] & HIGH) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        mask | (bits as u32) << (8 * i)
    })
}
