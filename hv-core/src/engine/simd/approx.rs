//! RCPPS and RSQRTPS. The manual only bounds their relative error by 1.5 * 2^-12, and processors differ; here they
//! are the true values rounded to nearest at 12 bits, so that every host gives the same. Neither raises a flag or
//! reads MXCSR: denormal operands count as zeros, tiny results become zeros.

use crate::engine::float::round::Range;
use crate::engine::float::{Class, Format, Rounding, Unpacked, Wide, arith};

/// Single precision range with 12 significand bits.
const SHORT: Format = Format {
    precision: 12,
    bias: 127,
};
const ONE: Unpacked = Unpacked {
    class: Class::Normal,
    sign: false,
    exp: 0,
    sig: 1 << 63,
};
const SIGN: u32 = 1 << 31;
const INFINITY: u32 = 0x7f80_0000;
const INDEFINITE: u32 = 0xffc0_0000;

fn pack(wide: Wide) -> u32 {
    let range = Range {
        flush: true,
        ..Range::MASKED
    };
    let rounded = wide.round(SHORT, Rounding::Nearest, range);
    rounded.to_ieee(Format::F32) as u32
}

/// RCPSS on one lane.
pub fn reciprocal(bits: u32) -> u32 {
    let a = Unpacked::from_ieee(Format::F32, bits as u64);
    match a.class {
        Class::Zero | Class::Denormal => bits & SIGN | INFINITY,
        Class::Infinity => bits & SIGN,
        Class::Normal => pack(arith::div(ONE, a)),
        _ => a.special_to_ieee(Format::F32) as u32,
    }
}

/// RSQRTSS on one lane.
pub fn reciprocal_sqrt(bits: u32) -> u32 {
    let a = Unpacked::from_ieee(Format::F32, bits as u64);
    match a.class {
        Class::Zero | Class::Denormal => bits & SIGN | INFINITY,
        Class::Infinity if !a.sign => 0,
        Class::Normal if !a.sign => {
            let root = arith::sqrt(a);
            let root = Unpacked {
                exp: root.exp,
                sig: (root.sig >> 64) as u64,
                ..ONE
            };
            pack(arith::div(ONE, root))
        }
        Class::QuietNan | Class::SignalingNan => a.special_to_ieee(Format::F32) as u32,
        _ => INDEFINITE,
    }
}
