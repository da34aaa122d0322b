//! A vector register's contents as lanes.

use core::ops::{BitAnd, BitOr, BitXor, Index, Not};

/// A 64-bit (MMX) or 128-bit (SSE) vector seen as little-endian lanes.
pub trait Vector:
    Copy + Eq + BitAnd<Output = Self> + BitOr<Output = Self> + BitXor<Output = Self> + Not<Output = Self>
{
    /// Its size in bytes.
    const BYTES: usize;
    /// Lanes of 8 bits.
    type U8: Index<usize, Output = u8> + Copy;
    /// Lanes of 16 bits.
    type U16: Index<usize, Output = u16> + Copy;
    /// Lanes of 32 bits.
    type U32: Index<usize, Output = u32> + Copy;
    /// Lanes of 64 bits.
    type U64: Index<usize, Output = u64> + Copy;

    /// The 8-bit lanes.
    fn u8s(self) -> Self::U8;
    /// The 16-bit lanes.
    fn u16s(self) -> Self::U16;
    /// The 32-bit lanes.
    fn u32s(self) -> Self::U32;
    /// The 64-bit lanes.
    fn u64s(self) -> Self::U64;
    /// A vector from 8-bit lanes by index.
    fn gen8(lane: impl Fn(usize) -> u8) -> Self;
    /// A vector from 16-bit lanes by index.
    fn gen16(lane: impl Fn(usize) -> u16) -> Self;
    /// A vector from 32-bit lanes by index.
    fn gen32(lane: impl Fn(usize) -> u32) -> Self;
    /// A vector from 64-bit lanes by index.
    fn gen64(lane: impl Fn(usize) -> u64) -> Self;
}

macro_rules! lanes {
    ($read:ident, $write:ident, $assoc:ident, $lane:ty, $count:expr) => {
        #[inline(always)]
        fn $read(self) -> Self::$assoc {
            const SIZE: usize = size_of::<$lane>();
            let bytes = self.to_le_bytes();
            core::array::from_fn(|i| {
                let mut lane = [0; SIZE];
                lane.copy_from_slice(&bytes[i * SIZE..(i + 1) * SIZE]);
                <$lane>::from_le_bytes(lane)
            })
        }
        #[inline(always)]
        fn $write(lane: impl Fn(usize) -> $lane) -> Self {
            const SIZE: usize = size_of::<$lane>();
            let mut bytes = [0; size_of::<Self>()];
            for i in 0..$count {
                bytes[i * SIZE..(i + 1) * SIZE].copy_from_slice(&lane(i).to_le_bytes());
            }
            Self::from_le_bytes(bytes)
        }
    };
}

macro_rules! vector {
    ($vector:ty, $bytes:expr) => {
        impl Vector for $vector {
            const BYTES: usize = $bytes;
            type U8 = [u8; $bytes];
            type U16 = [u16; $bytes / 2];
            type U32 = [u32; $bytes / 4];
            type U64 = [u64; $bytes / 8];
            lanes!(u8s, gen8, U8, u8, $bytes);
            lanes!(u16s, gen16, U16, u16, $bytes / 2);
            lanes!(u32s, gen32, U32, u32, $bytes / 4);
            lanes!(u64s, gen64, U64, u64, $bytes / 8);
        }
    };
}

vector!(u64, 8);
vector!(u128, 16);
