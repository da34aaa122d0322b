//! Lazy status flags: two words that every ALU operation stores, from which a flag is computed when it is read.
//!
//! `result` is the sign-extended result. `aux` carries, after the scheme of Bochs' lazy flags (bochs
//! `cpu/lazy_flags.h`, described in its documentation): bit 63 the carry out, bit 62 the carry into the top bit, bit 3
//! the carry out of bit 3, bit 0 inverts SF, and bits 8..16 are xored with the low byte before its parity is taken.
//! So ZF, SF and PF can be set to any values, also to those that no result has.

use crate::regs::rflags;

/// The six status flags in lazy form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) result: u64,
    pub(crate) aux: u64,
}

const CARRY_BITS: u64 = (3 << 62) | (1 << 3);

/// A width of an operation: 1, 2, 4 or 8 bytes, as an unsigned integer type.
pub(crate) trait Width: Copy + Eq {
    const BYTES: usize;
    const BITS: u32 = Self::BYTES as u32 * 8;
    fn from_u64(value: u64) -> Self;
    fn to_u64(self) -> u64;
    fn sign_extend(self) -> u64;
}

macro_rules! width {
    ($unsigned:ty, $signed:ty) => {
        impl Width for $unsigned {
            const BYTES: usize = size_of::<$unsigned>();
            #[inline(always)]
            fn from_u64(value: u64) -> Self {
                value as $unsigned
            }
            #[inline(always)]
            fn to_u64(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn sign_extend(self) -> u64 {
                self as $signed as i64 as u64
            }
        }
    };
}
width!(u8, i8);
width!(u16, i16);
width!(u32, i32);
width!(u64, i64);

impl Flags {
    /// Keeps the carries of an addition or subtraction: `carries` has the carry out of every bit.
    #[inline(always)]
    fn pack<T: Width>(carries: u64) -> u64 {
        if T::BYTES == 8 {
            carries & CARRY_BITS
        } else {
            (carries & 8) | ((carries << (64 - T::BITS)) & (3 << 62))
        }
    }

    /// After `result = a + b (+ carry)`.
    #[inline(always)]
    pub(crate) fn set_add<T: Width>(&mut self, a: T, b: T, result: T) {
        let (a, b, r) = (a.to_u64(), b.to_u64(), result.to_u64());
        self.result = result.sign_extend();
        self.aux = Self::pack::<T>((a & b) | ((a | b) & !r));
    }

    /// After `result = a - b (- borrow)`.
    #[inline(always)]
    pub(crate) fn set_sub<T: Width>(&mut self, a: T, b: T, result: T) {
        let (a, b, r) = (a.to_u64(), b.to_u64(), result.to_u64());
        self.result = result.sign_extend();
        self.aux = Self::pack::<T>((!a & b) | ((!a | b) & r));
    }

    /// After AND, OR, XOR, TEST: CF, OF and AF are clear.
    #[inline(always)]
    pub(crate) fn set_logic<T: Width>(&mut self, result: T) {
        self.result = result.sign_extend();
        self.aux = 0;
    }

    /// ZF, SF and PF from a result; CF and OF as given; AF clear.
    #[inline(always)]
    pub(crate) fn set_result<T: Width>(&mut self, result: T, cf: bool, of: bool) {
        self.result = result.sign_extend();
        self.aux = ((cf as u64) << 63) | (((cf ^ of) as u64) << 62);
    }

    /// Replaces CF and OF only.
    #[inline(always)]
    pub(crate) fn set_cf_of(&mut self, cf: bool, of: bool) {
        self.aux = (self.aux & !(3 << 62)) | ((cf as u64) << 63) | (((cf ^ of) as u64) << 62);
    }

    /// Replaces CF only.
    #[inline(always)]
    pub(crate) fn set_cf(&mut self, cf: bool) {
        self.set_cf_of(cf, self.of());
    }

    #[inline(always)]
    pub(crate) fn cf(self) -> bool {
        self.aux >> 63 != 0
    }
    #[inline(always)]
    pub(crate) fn zf(self) -> bool {
        self.result == 0
    }
    #[inline(always)]
    pub(crate) fn sf(self) -> bool {
        ((self.result >> 63) ^ (self.aux & 1)) != 0
    }
    #[inline(always)]
    pub(crate) fn of(self) -> bool {
        (self.aux ^ (self.aux << 1)) >> 63 != 0
    }
    #[inline(always)]
    pub(crate) fn pf(self) -> bool {
        ((self.result ^ (self.aux >> 8)) as u8).count_ones() & 1 == 0
    }
    #[inline(always)]
    pub(crate) fn af(self) -> bool {
        self.aux & 8 != 0
    }

    /// The flags in their RFLAGS places.
    pub(crate) fn to_rflags(self) -> u64 {
        (self.cf() as u64)
            | (self.pf() as u64) << 2
            | (self.af() as u64) << 4
            | (self.zf() as u64) << 6
            | (self.sf() as u64) << 7
            | (self.of() as u64) << 11
    }

    /// From RFLAGS.
    pub(crate) fn from_rflags(value: u64) -> Flags {
        let (zf, sf) = (value & rflags::ZF != 0, value & rflags::SF != 0);
        let (cf, of) = (value & rflags::CF != 0, value & rflags::OF != 0);
        let result: u64 = if zf { 0 } else { 1 };
        let parity_is_even = result == 0;
        let pf = value & rflags::PF != 0;
        let aux = ((cf as u64) << 63)
            | (((cf ^ of) as u64) << 62)
            | if value & rflags::AF != 0 { 8 } else { 0 }
            | (sf as u64)
            | if pf == parity_is_even { 0 } else { 1 << 8 };
        Flags { result, aux }
    }

    /// The condition of Jcc, SETcc and CMOVcc by its 4-bit code.
    #[inline(always)]
    pub(crate) fn condition(self, code: u8) -> bool {
        let value = match code >> 1 {
            0 => self.of(),
            1 => self.cf(),
            2 => self.zf(),
            3 => self.cf() || self.zf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.sf() != self.of(),
            _ => self.zf() || self.sf() != self.of(),
        };
        value != (code & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_flags_survives_the_lazy_form() {
        for bits in 0..64u64 {
            let mut value = 0;
            for (i, flag) in [
                rflags::CF,
                rflags::PF,
                rflags::AF,
                rflags::ZF,
                rflags::SF,
                rflags::OF,
            ]
            .iter()
            .enumerate()
            {
                if bits & (1 << i) != 0 {
                    value |= flag;
                }
            }
            assert_eq!(Flags::from_rflags(value).to_rflags(), value);
        }
    }

    #[test]
    fn eight_bit_sums_and_differences_set_the_flags_of_the_manual() {
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                let mut flags = Flags::default();
                let (sum, carry) = a.overflowing_add(b);
                flags.set_add(a, b, sum);
                assert_eq!(flags.cf(), carry);
                assert_eq!(flags.of(), (a as i8).overflowing_add(b as i8).1);
                assert_eq!(flags.af(), (a & 15) + (b & 15) > 15);
                assert_eq!(flags.sf(), (sum as i8) < 0);
                let (difference, borrow) = a.overflowing_sub(b);
                flags.set_sub(a, b, difference);
                assert_eq!(flags.cf(), borrow);
                assert_eq!(flags.of(), (a as i8).overflowing_sub(b as i8).1);
                assert_eq!(flags.af(), (a & 15) < (b & 15));
                assert_eq!(flags.zf(), a == b);
            }
        }
    }
}
