//! The formats, and values taken apart.

/// A binary floating-point format, or the x87's with a reduced precision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Format {
    /// Significand bits with the integer bit.
    pub precision: u32,
    /// The bias, which is also the largest exponent of a finite number.
    pub bias: i32,
}

impl Format {
    /// IEEE single precision.
    pub const F32: Format = Format {
        precision: 24,
        bias: 127,
    };
    /// IEEE double precision.
    pub const F64: Format = Format {
        precision: 53,
        bias: 1023,
    };
    /// The x87's 80 bits at full precision.
    pub const F80: Format = Format {
        precision: 64,
        bias: 16383,
    };

    /// The exponent of the smallest normal number.
    pub const fn min_exp(&self) -> i32 {
        1 - self.bias
    }
    /// The biased exponent of infinities and NaNs.
    pub const fn top_biased(&self) -> u32 {
        (2 * self.bias + 1) as u32
    }
}

/// What sort of value a bit pattern is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Plus or minus zero.
    Zero,
    /// A normal number.
    Normal,
    /// A denormal number (or x87 pseudo-denormal).
    Denormal,
    /// Plus or minus infinity.
    Infinity,
    /// A NaN that passes silently.
    QuietNan,
    /// A NaN that raises invalid.
    SignalingNan,
    /// An x87 encoding the 387 and later reject: unnormals, pseudo-NaNs, pseudo-infinities.
    Unsupported,
}

/// A value taken apart: `(-1)^sign * sig / 2^63 * 2^exp`, with bit 63 of `sig` set when finite and not zero.
///
/// For NaNs `sig` is the payload as the 80-bit format holds it: bit 63 set, bit 62 quiet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unpacked {
    /// What it is.
    pub class: Class,
    /// Negative.
    pub sign: bool,
    /// Unbiased exponent.
    pub exp: i32,
    /// Left-aligned significand.
    pub sig: u64,
}

impl Unpacked {
    /// A zero.
    pub const fn zero(sign: bool) -> Unpacked {
        Unpacked {
            class: Class::Zero,
            sign,
            exp: 0,
            sig: 0,
        }
    }

    /// A finite number from an exponent and a significand that need not be normalised yet.
    pub const fn normalised(class: Class, sign: bool, exp: i32, sig: u64) -> Unpacked {
        if sig == 0 {
            return Unpacked::zero(sign);
        }
        let shift = sig.leading_zeros();
        Unpacked {
            class,
            sign,
            exp: exp - shift as i32,
            sig: sig << shift,
        }
    }

    /// Takes a single (`F32`) or double (`F64`) apart; the bits are in the low end of `bits`.
    pub const fn from_ieee(format: Format, bits: u64) -> Unpacked {
        let fraction_bits = format.precision - 1;
        let width = 64 - fraction_bits;
        let fraction = if fraction_bits == 23 {
            bits & 0x7f_ffff
        } else {
            bits & 0xf_ffff_ffff_ffff
        };
        let biased = (bits >> fraction_bits) as u32 & format.top_biased();
        let sign = if fraction_bits == 23 {
            bits >> 31 & 1
        } else {
            bits >> 63
        } != 0;
        let aligned = fraction << (width - 1);
        if biased == format.top_biased() {
            let sig = aligned | 1 << 63;
            let class = if fraction == 0 {
                Class::Infinity
            } else if sig & 1 << 62 != 0 {
                Class::QuietNan
            } else {
                Class::SignalingNan
            };
            return Unpacked {
                class,
                sign,
                exp: 0,
                sig,
            };
        }
        if biased == 0 {
            return Unpacked::normalised(Class::Denormal, sign, format.min_exp(), aligned);
        }
        Unpacked {
            class: Class::Normal,
            sign,
            exp: biased as i32 - format.bias,
            sig: aligned | 1 << 63,
        }
    }

    /// Takes an 80-bit value apart (SDM vol. 1, table 4-3 and 8.2.2).
    pub const fn from_f80(bits: u128) -> Unpacked {
        let sig = bits as u64;
        let biased = (bits >> 64) as i32 & 0x7fff;
        let sign = bits >> 79 & 1 != 0;
        let integer = sig >> 63 != 0;
        if biased == 0x7fff {
            let class = if !integer {
                Class::Unsupported
            } else if sig << 1 == 0 {
                Class::Infinity
            } else if sig & 1 << 62 != 0 {
                Class::QuietNan
            } else {
                Class::SignalingNan
            };
            return Unpacked {
                class,
                sign,
                exp: 0,
                sig,
            };
        }
        if biased == 0 {
            return Unpacked::normalised(Class::Denormal, sign, Format::F80.min_exp(), sig);
        }
        if !integer {
            return Unpacked {
                class: Class::Unsupported,
                sign,
                exp: 0,
                sig,
            };
        }
        Unpacked {
            class: Class::Normal,
            sign,
            exp: biased - 16383,
            sig,
        }
    }

    /// A NaN of either kind.
    pub const fn is_nan(&self) -> bool {
        matches!(self.class, Class::QuietNan | Class::SignalingNan)
    }
    /// A NaN that raises invalid.
    pub const fn is_signaling(&self) -> bool {
        matches!(self.class, Class::SignalingNan)
    }
    /// Plus or minus zero.
    pub const fn is_zero(&self) -> bool {
        matches!(self.class, Class::Zero)
    }
    /// Plus or minus infinity.
    pub const fn is_infinite(&self) -> bool {
        matches!(self.class, Class::Infinity)
    }
    /// Finite and not zero.
    pub const fn is_number(&self) -> bool {
        matches!(self.class, Class::Normal | Class::Denormal)
    }
    /// A denormal number.
    pub const fn is_denormal(&self) -> bool {
        matches!(self.class, Class::Denormal)
    }

    /// Compares values; `None` when either is a NaN or unsupported. Zeros are equal whatever their signs.
    pub fn compare(&self, other: &Unpacked) -> Option<core::cmp::Ordering> {
        use core::cmp::Ordering;
        let bad = |u: &Unpacked| u.is_nan() || u.class == Class::Unsupported;
        if bad(self) || bad(other) {
            return None;
        }
        if self.is_zero() && other.is_zero() {
            return Some(Ordering::Equal);
        }
        if self.is_zero() {
            return Some(if other.sign {
                Ordering::Greater
            } else {
                Ordering::Less
            });
        }
        if other.is_zero() || self.sign != other.sign {
            return Some(if self.sign {
                Ordering::Less
            } else {
                Ordering::Greater
            });
        }
        let key = |u: &Unpacked| (u.is_infinite(), u.exp, u.sig);
        let magnitude = key(self).cmp(&key(other));
        Some(if self.sign { magnitude.reverse() } else { magnitude })
    }

    /// The bits of a NaN or infinity in a single or double; NaNs come out quiet, their payload cut on the right.
    pub const fn special_to_ieee(&self, format: Format) -> u64 {
        let quiet = if self.is_nan() {
            self.sig | 1 << 62
        } else {
            1 << 63
        };
        pack_ieee(format, self.sign, format.top_biased(), quiet)
    }
}

/// Puts a single or double together from its biased exponent and left-aligned significand.
pub const fn pack_ieee(format: Format, sign: bool, biased: u32, sig: u64) -> u64 {
    let fraction_bits = format.precision - 1;
    let sign_at = if fraction_bits == 23 { 31 } else { 63 };
    (sign as u64) << sign_at | (biased as u64) << fraction_bits | sig << 1 >> (64 - fraction_bits)
}

/// Puts an 80-bit value together.
pub const fn pack_f80(sign: bool, biased: u32, sig: u64) -> u128 {
    (sign as u128) << 79 | (biased as u128) << 64 | sig as u128
}
