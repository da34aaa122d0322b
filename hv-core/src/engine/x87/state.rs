//! The register stack, tags, the control and the status word.

use crate::engine::float::round::Range;
use crate::engine::float::{Class, Format, Rounded, Rounding, Unpacked, flag};
use crate::regs::X87;

/// The real indefinite: what a masked invalid operation gives.
pub const INDEFINITE: u128 = 0xffff_c000_0000_0000_0000;
/// Plus one.
pub const ONE: u128 = 0x3fff_8000_0000_0000_0000;
/// The sign bit.
pub const SIGN: u128 = 1 << 79;
/// Plus infinity.
pub const INFINITY: u128 = 0x7fff_8000_0000_0000_0000;

/// Status word bits.
pub mod fsw {
    /// Stack fault.
    pub const SF: u16 = 1 << 6;
    /// Error summary.
    pub const ES: u16 = 1 << 7;
    /// Condition code 0.
    pub const C0: u16 = 1 << 8;
    /// Condition code 1.
    pub const C1: u16 = 1 << 9;
    /// Condition code 2.
    pub const C2: u16 = 1 << 10;
    /// Condition code 3.
    pub const C3: u16 = 1 << 14;
    /// Busy: a copy of ES.
    pub const B: u16 = 1 << 15;
    /// All four condition codes.
    pub const CC: u16 = C0 | C1 | C2 | C3;
}

/// Control word bits that can be set; bit 6 always reads as one.
const FCW_MASK: u16 = 0x1f7f;
const FCW_FIXED: u16 = 0x40;

/// A register's tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tag {
    /// A normal number.
    Valid,
    /// Zero.
    Zero,
    /// Denormal, infinity, NaN, unsupported.
    Special,
    /// Nothing.
    Empty,
}

impl Tag {
    fn of(bits: u128) -> Tag {
        match Unpacked::from_f80(bits).class {
            Class::Normal => Tag::Valid,
            Class::Zero => Tag::Zero,
            _ => Tag::Special,
        }
    }
}

/// A source operand in 80 bits. A single or double that is denormal becomes normal there, so that is kept aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source {
    /// The value.
    pub bits: u128,
    /// It was denormal in its own format.
    pub denormal: bool,
}

impl Source {
    /// An 80-bit value.
    pub fn f80(bits: u128) -> Source {
        Source {
            bits,
            denormal: Unpacked::from_f80(bits).is_denormal(),
        }
    }
    /// A single in memory.
    pub fn f32(bits: u32) -> Source {
        Source::ieee(Format::F32, bits as u64)
    }
    /// A double in memory.
    pub fn f64(bits: u64) -> Source {
        Source::ieee(Format::F64, bits)
    }
    fn ieee(format: Format, bits: u64) -> Source {
        let x = Unpacked::from_ieee(format, bits);
        Source {
            bits: widen(&x),
            denormal: x.is_denormal(),
        }
    }
    /// An integer in memory.
    pub fn integer(x: i64) -> Source {
        let u = Unpacked::normalised(Class::Normal, x < 0, 63, x.unsigned_abs());
        Source {
            bits: widen(&Unpacked { sign: x < 0, ..u }),
            denormal: false,
        }
    }
}

/// A value of a smaller format in 80 bits, signaling NaNs kept.
fn widen(x: &Unpacked) -> u128 {
    use crate::engine::float::format::pack_f80;
    match x.class {
        Class::Zero => pack_f80(x.sign, 0, 0),
        Class::Normal | Class::Denormal => pack_f80(x.sign, (x.exp + Format::F80.bias) as u32, x.sig),
        _ => pack_f80(x.sign, Format::F80.top_biased(), x.sig),
    }
}

impl X87 {
    /// Whether a waiting instruction must raise #MF now.
    pub const fn pending(&self) -> bool {
        self.fsw & fsw::ES != 0
    }

    /// The physical register of ST(i).
    pub const fn physical(&self, i: usize) -> usize {
        (self.top() + i) & 7
    }
    /// Whether ST(i) is empty.
    pub const fn is_empty(&self, i: usize) -> bool {
        self.ftw >> (2 * self.physical(i)) & 3 == 3
    }
    /// The bits of ST(i), whatever its tag.
    pub const fn st(&self, i: usize) -> u128 {
        self.r[self.physical(i)]
    }
    /// Writes ST(i) and its tag.
    pub fn set_st(&mut self, i: usize, bits: u128) {
        let at = self.physical(i);
        self.r[at] = bits;
        self.set_tag(at, Tag::of(bits));
    }
    fn set_tag(&mut self, physical: usize, tag: Tag) {
        self.ftw = self.ftw & !(3 << (2 * physical)) | (tag as u16) << (2 * physical);
    }
    /// FFREE, which also clears C1.
    pub fn free(&mut self, i: usize) {
        let at = self.physical(i);
        self.set_tag(at, Tag::Empty);
        self.set_c1(false);
    }
    fn set_top(&mut self, top: usize) {
        self.fsw = self.fsw & !(7 << 11) | (top as u16 & 7) << 11;
    }
    /// FINCSTP, which also clears C1.
    pub fn increment_top(&mut self) {
        self.set_top(self.top() + 1);
        self.set_c1(false);
    }
    /// FDECSTP, which also clears C1.
    pub fn decrement_top(&mut self) {
        self.set_top(self.top() + 7);
        self.set_c1(false);
    }
    /// Drops ST(0).
    pub fn pop(&mut self) {
        self.set_tag(self.top(), Tag::Empty);
        self.set_top(self.top() + 1);
    }
    /// Pushes without a check; see [`X87::room`].
    pub fn push(&mut self, bits: u128) {
        self.set_top(self.top() + 7);
        self.set_st(0, bits);
    }

    /// Brings every non-empty register's tag in line with its contents; `empty` has a bit for each physical register.
    pub fn retag(&mut self, empty: impl Fn(usize) -> bool) {
        for at in 0..8 {
            let tag = if empty(at) {
                Tag::Empty
            } else {
                Tag::of(self.r[at])
            };
            self.set_tag(at, tag);
        }
    }

    /// MMi.
    pub const fn mmx(&self, i: usize) -> u64 {
        self.r[i & 7] as u64
    }
    /// What every MMX instruction but EMMS does: TOP becomes 0 and no register is empty.
    pub fn enter_mmx(&mut self) {
        self.set_top(0);
        for at in 0..8 {
            if self.ftw >> (2 * at) & 3 == 3 {
                self.set_tag(at, Tag::of(self.r[at]));
            }
        }
    }
    /// Writes MMi: exponent and sign become ones.
    pub fn set_mmx(&mut self, i: usize, value: u64) {
        self.enter_mmx();
        self.r[i & 7] = 0xffff << 64 | value as u128;
        self.set_tag(i & 7, Tag::Special);
    }
    /// EMMS.
    pub fn emms(&mut self) {
        self.set_top(0);
        self.ftw = 0xffff;
    }

    /// FNINIT. Register contents stay; the tags say that they are empty.
    pub fn init(&mut self) {
        *self = X87 {
            r: self.r,
            ..X87::default()
        };
    }
    /// FNCLEX.
    pub fn clear_exceptions(&mut self) {
        self.fsw &= 0x7f00;
    }
    /// FLDCW.
    pub fn set_fcw(&mut self, value: u16) {
        self.fcw = value & FCW_MASK | FCW_FIXED;
        self.summarise();
    }
    /// Sets the status word, with ES and B following from its flags and the masks.
    pub fn set_fsw(&mut self, value: u16) {
        self.fsw = value;
        self.summarise();
    }
    fn summarise(&mut self) {
        let unmasked = self.fsw & !self.fcw & flag::ALL as u16 != 0;
        self.fsw = self.fsw & !(fsw::ES | fsw::B) | if unmasked { fsw::ES | fsw::B } else { 0 };
    }

    /// Rounding control.
    pub const fn rounding(&self) -> Rounding {
        Rounding::from_bits(self.fcw as u32 >> 10)
    }
    /// The format that precision control sets for add, subtract, multiply, divide and square root.
    pub const fn format(&self) -> Format {
        let precision = match self.fcw >> 8 & 3 {
            0 => 24,
            2 => 53,
            _ => 64,
        };
        Format {
            precision,
            ..Format::F80
        }
    }
    const fn masks(&self) -> u8 {
        self.fcw as u8 & flag::ALL
    }
    /// How a result for a register is treated beyond the exponent range.
    pub const fn register_range(&self) -> Range {
        Range {
            masks: self.masks(),
            flush: false,
            adjust: 24576,
        }
    }

    /// Raises exceptions; false when one of those found before computing is unmasked, so that the instruction has no
    /// other effect.
    pub fn raise(&mut self, flags: u8) -> bool {
        self.fsw |= flags as u16;
        self.summarise();
        flags & flag::BEFORE & !self.masks() == 0
    }
    /// Whether any of `flags` is unmasked.
    pub const fn traps(&self, flags: u8) -> bool {
        flags & !self.masks() != 0
    }
    /// Sets C1.
    pub const fn set_c1(&mut self, on: bool) {
        self.fsw = self.fsw & !fsw::C1 | if on { fsw::C1 } else { 0 };
    }
    /// Sets the condition codes in `mask` to those of `bits`.
    pub const fn set_cc(&mut self, mask: u16, bits: u16) {
        self.fsw = self.fsw & !mask | bits & mask;
    }

    /// A stack fault: underflow reads an empty register, overflow pushes onto a full one. True when masked.
    pub fn stack_fault(&mut self, overflow: bool) -> bool {
        self.fsw |= fsw::SF;
        self.set_c1(overflow);
        self.raise(flag::IE)
    }
    /// Checks that a push has room; after a masked overflow the indefinite is pushed instead.
    pub fn room(&mut self) -> bool {
        if self.is_empty(7) {
            return true;
        }
        if self.stack_fault(true) {
            self.push(INDEFINITE);
        }
        false
    }
    /// Checks that ST(0) is there; after a masked underflow the indefinite takes its place.
    pub fn needs_st0(&mut self) -> bool {
        if !self.is_empty(0) {
            return true;
        }
        if self.stack_fault(false) {
            self.set_st(0, INDEFINITE);
        }
        false
    }

    /// Takes a rounded result's exceptions over, with C1, and gives its bits.
    pub fn conclude(&mut self, rounded: Rounded) -> u128 {
        self.raise(rounded.flags);
        self.set_c1(rounded.up);
        rounded.to_f80()
    }
    /// An invalid operation: the indefinite, or nothing when invalid is unmasked.
    pub fn invalid(&mut self) -> Option<u128> {
        self.raise(flag::IE).then_some(INDEFINITE)
    }
    /// The NaN of an operation with a NaN operand (SDM vol. 1, table 4-7), or nothing when invalid is unmasked.
    pub fn propagate(&mut self, a: u128, b: u128) -> Option<u128> {
        let (x, y) = (Unpacked::from_f80(a), Unpacked::from_f80(b));
        if (x.is_signaling() || y.is_signaling()) && !self.raise(flag::IE) {
            return None;
        }
        let first = match (x.is_nan(), y.is_nan()) {
            (true, false) => true,
            (false, true) => false,
            _ => match (x.is_signaling(), y.is_signaling()) {
                (true, false) => false,
                (false, true) => true,
                _ if x.sig != y.sig => x.sig > y.sig,
                _ => !x.sign,
            },
        };
        Some(if first { a } else { b } | 1 << 62)
    }
}
