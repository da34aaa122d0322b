//! Packing, unpacking, shuffling, blending, widening, inserting.

#![allow(missing_docs)] // The names are the instructions'.

use super::Vector;

macro_rules! unpack {
    ($($low:ident $high:ident $read:ident $write:ident $size:expr;)*) => {$(
        #[inline]
        pub fn $low<V: Vector>(a: V, b: V) -> V {
            let (a, b) = (a.$read(), b.$read());
            V::$write(|i| if i % 2 == 0 { a[i / 2] } else { b[i / 2] })
        }
        #[inline]
        pub fn $high<V: Vector>(a: V, b: V) -> V {
            let half = V::BYTES / $size / 2;
            let (a, b) = (a.$read(), b.$read());
            V::$write(|i| if i % 2 == 0 { a[half + i / 2] } else { b[half + i / 2] })
        }
    )*};
}

unpack! {
    punpcklbw punpckhbw u8s gen8 1;
    punpcklwd punpckhwd u16s gen16 2;
    punpckldq punpckhdq u32s gen32 4;
}

#[inline]
pub fn punpcklqdq(a: u128, b: u128) -> u128 {
    a as u64 as u128 | b << 64
}
#[inline]
pub fn punpckhqdq(a: u128, b: u128) -> u128 {
    a >> 64 | b >> 64 << 64
}

macro_rules! pack {
    ($($name:ident $read:ident $write:ident $size:expr, $wide:ty, $narrow:ty, $bits:ty;)*) => {$(
        #[inline]
        pub fn $name<V: Vector>(a: V, b: V) -> V {
            let half = V::BYTES / $size;
            let (a, b) = (a.$read(), b.$read());
            V::$write(|i| {
                let wide = if i < half { a[i] } else { b[i - half] } as $wide;
                wide.clamp(<$narrow>::MIN as $wide, <$narrow>::MAX as $wide) as $bits
            })
        }
    )*};
}

pack! {
    packsswb u16s gen8 2, i16, i8, u8;
    packuswb u16s gen8 2, i16, u8, u8;
    packssdw u32s gen16 4, i32, i16, u16;
    packusdw u32s gen16 4, i32, u16, u16;
}

/// PSHUFB; the index wraps at the register's width.
#[inline]
pub fn pshufb<V: Vector>(a: V, b: V) -> V {
    let (a, b) = (a.u8s(), b.u8s());
    V::gen8(|i| {
        if b[i] & 0x80 != 0 {
            0
        } else {
            a[b[i] as usize & (V::BYTES - 1)]
        }
    })
}

/// PALIGNR: `a` above `b`, shifted right by bytes.
#[inline]
pub fn palignr<V: Vector>(a: V, b: V, shift: u8) -> V {
    let (a, b) = (a.u8s(), b.u8s());
    V::gen8(|i| match i + shift as usize {
        j if j < V::BYTES => b[j],
        j if j < 2 * V::BYTES => a[j - V::BYTES],
        _ => 0,
    })
}

fn pick(imm: u8, i: usize) -> usize {
    (imm >> (2 * i)) as usize & 3
}

#[inline]
pub fn pshufd(b: u128, imm: u8) -> u128 {
    let b = b.u32s();
    u128::gen32(|i| b[pick(imm, i)])
}
/// PSHUFLW; on a `u64` it is MMX's PSHUFW.
#[inline]
pub fn pshuflw<V: Vector>(b: V, imm: u8) -> V {
    let b = b.u16s();
    V::gen16(|i| if i < 4 { b[pick(imm, i)] } else { b[i] })
}
#[inline]
pub fn pshufhw(b: u128, imm: u8) -> u128 {
    let b = b.u16s();
    u128::gen16(|i| if i < 4 { b[i] } else { b[4 + pick(imm, i - 4)] })
}
#[inline]
pub fn shufps(a: u128, b: u128, imm: u8) -> u128 {
    let (a, b) = (a.u32s(), b.u32s());
    u128::gen32(|i| if i < 2 { a[pick(imm, i)] } else { b[pick(imm, i)] })
}
#[inline]
pub fn shufpd(a: u128, b: u128, imm: u8) -> u128 {
    let (a, b) = (a.u64s(), b.u64s());
    u128::gen64(|i| {
        if i == 0 {
            a[imm as usize & 1]
        } else {
            b[imm as usize >> 1 & 1]
        }
    })
}

#[inline]
pub fn movddup(b: u128) -> u128 {
    punpcklqdq(b, b)
}
#[inline]
pub fn movsldup(b: u128) -> u128 {
    pshufd(b, 0b10_10_00_00)
}
#[inline]
pub fn movshdup(b: u128) -> u128 {
    pshufd(b, 0b11_11_01_01)
}

// Blends: a lane of `b` where the control says so.

#[inline]
pub fn pblendw(a: u128, b: u128, imm: u8) -> u128 {
    let (a, b) = (a.u16s(), b.u16s());
    u128::gen16(|i| if imm >> i & 1 != 0 { b[i] } else { a[i] })
}
#[inline]
pub fn blendps(a: u128, b: u128, imm: u8) -> u128 {
    let (a, b) = (a.u32s(), b.u32s());
    u128::gen32(|i| if imm >> i & 1 != 0 { b[i] } else { a[i] })
}
#[inline]
pub fn blendpd(a: u128, b: u128, imm: u8) -> u128 {
    let (a, b) = (a.u64s(), b.u64s());
    u128::gen64(|i| if imm >> i & 1 != 0 { b[i] } else { a[i] })
}
#[inline]
pub fn pblendvb(a: u128, b: u128, mask: u128) -> u128 {
    let (a, b, mask) = (a.u8s(), b.u8s(), mask.u8s());
    u128::gen8(|i| if mask[i] >> 7 != 0 { b[i] } else { a[i] })
}
#[inline]
pub fn blendvps(a: u128, b: u128, mask: u128) -> u128 {
    let (a, b, mask) = (a.u32s(), b.u32s(), mask.u32s());
    u128::gen32(|i| if mask[i] >> 31 != 0 { b[i] } else { a[i] })
}
#[inline]
pub fn blendvpd(a: u128, b: u128, mask: u128) -> u128 {
    let (a, b, mask) = (a.u64s(), b.u64s(), mask.u64s());
    u128::gen64(|i| if mask[i] >> 63 != 0 { b[i] } else { a[i] })
}

macro_rules! widen {
    ($($name:ident $read:ident $write:ident $from:ty, $to:ty, $bits:ty;)*) => {$(
        #[inline]
        pub fn $name(b: u128) -> u128 {
            let b = b.$read();
            u128::$write(|i| b[i] as $from as $to as $bits)
        }
    )*};
}

widen! {
    pmovsxbw u8s gen16 i8, i16, u16;
    pmovsxbd u8s gen32 i8, i32, u32;
    pmovsxbq u8s gen64 i8, i64, u64;
    pmovsxwd u16s gen32 i16, i32, u32;
    pmovsxwq u16s gen64 i16, i64, u64;
    pmovsxdq u32s gen64 i32, i64, u64;
    pmovzxbw u8s gen16 u8, u16, u16;
    pmovzxbd u8s gen32 u8, u32, u32;
    pmovzxbq u8s gen64 u8, u64, u64;
    pmovzxwd u16s gen32 u16, u32, u32;
    pmovzxwq u16s gen64 u16, u64, u64;
    pmovzxdq u32s gen64 u32, u64, u64;
}

#[inline]
pub fn pinsrb(a: u128, value: u32, imm: u8) -> u128 {
    insert(a, value as u128 & 0xff, 8, imm & 15)
}
/// PINSRW; the index wraps at the register's width.
#[inline]
pub fn pinsrw<V: Vector>(a: V, value: u32, imm: u8) -> V {
    let a = a.u16s();
    let at = imm as usize & (V::BYTES / 2 - 1);
    V::gen16(|i| if i == at { value as u16 } else { a[i] })
}
#[inline]
pub fn pinsrd(a: u128, value: u32, imm: u8) -> u128 {
    insert(a, value as u128, 32, imm & 3)
}
#[inline]
pub fn pinsrq(a: u128, value: u64, imm: u8) -> u128 {
    insert(a, value as u128, 64, imm & 1)
}
fn insert(a: u128, value: u128, bits: u32, at: u8) -> u128 {
    let mask = (1u128 << bits) - 1;
    let shift = at as u32 * bits;
    a & !(mask << shift) | value << shift
}

#[inline]
pub fn pextrb(a: u128, imm: u8) -> u32 {
    (a >> (8 * (imm as u32 & 15))) as u8 as u32
}
/// PEXTRW; the index wraps at the register's width.
#[inline]
pub fn pextrw<V: Vector>(a: V, imm: u8) -> u32 {
    a.u16s()[imm as usize & (V::BYTES / 2 - 1)] as u32
}
#[inline]
pub fn pextrd(a: u128, imm: u8) -> u32 {
    (a >> (32 * (imm as u32 & 3))) as u32
}
#[inline]
pub fn pextrq(a: u128, imm: u8) -> u64 {
    (a >> (64 * (imm as u32 & 1))) as u64
}

/// INSERTPS with its source lane already chosen.
#[inline]
pub fn insertps(a: u128, lane: u32, imm: u8) -> u128 {
    let a = a.u32s();
    let at = imm as usize >> 4 & 3;
    u128::gen32(|i| match i {
        _ if imm >> i & 1 != 0 => 0,
        _ if i == at => lane,
        _ => a[i],
    })
}
