//! Packed shifts. A count past the lane's width gives zeros (or sign bits).

#![allow(missing_docs)] // The names are the instructions'.

use super::Vector;

macro_rules! shifts {
    ($($name:ident $read:ident $write:ident |$x:ident, $n:ident| $bits:expr, $within:expr, $past:expr;)*) => {$(
        #[inline]
        pub fn $name<V: Vector>(a: V, count: u64) -> V {
            let a = a.$read();
            if count < $bits {
                let $n = count as u32;
                V::$write(|i| { let $x = a[i]; $within })
            } else {
                V::$write(|i| { let $x = a[i]; let _ = $x; $past })
            }
        }
    )*};
}

shifts! {
    psllw u16s gen16 |x, n| 16, x << n, 0;
    pslld u32s gen32 |x, n| 32, x << n, 0;
    psllq u64s gen64 |x, n| 64, x << n, 0;
    psrlw u16s gen16 |x, n| 16, x >> n, 0;
    psrld u32s gen32 |x, n| 32, x >> n, 0;
    psrlq u64s gen64 |x, n| 64, x >> n, 0;
    psraw u16s gen16 |x, n| 16, (x as i16 >> n) as u16, (x as i16 >> 15) as u16;
    psrad u32s gen32 |x, n| 32, (x as i32 >> n) as u32, (x as i32 >> 31) as u32;
}

/// PSLLDQ.
#[inline]
pub fn pslldq(a: u128, bytes: u8) -> u128 {
    if bytes < 16 { a << (8 * bytes as u32) } else { 0 }
}

/// PSRLDQ.
#[inline]
pub fn psrldq(a: u128, bytes: u8) -> u128 {
    if bytes < 16 { a >> (8 * bytes as u32) } else { 0 }
}
