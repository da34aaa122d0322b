//! The arithmetic of [`simd`](super::simd) and [`x87`](super::x87) against the host's own processor: the same
//! instruction runs natively, in inline assembly, on random and on directed operands, and results and flags must
//! agree bit by bit. On hosts that can't, the tests say SKIPPED.
#![cfg(target_arch = "x86_64")]

mod exec;
mod simd_float;
mod simd_integer;
mod x87;

/// Whether the host has all that these tests use; prints SKIPPED if not.
fn host_can() -> bool {
    let can = is_x86_feature_detected!("sse4.2")
        && is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("pclmulqdq");
    if !can {
        println!("SKIPPED: the host lacks SSE4.2, AES or PCLMULQDQ");
    }
    can
}

/// A small generator of pseudo-random numbers (xorshift64*), so that runs repeat.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 20) % n
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Integer lanes: random bits, often with lanes at the limits or equal to each other.
    fn vector(&mut self) -> u128 {
        let random = (self.next() as u128) << 64 | self.next() as u128;
        match self.below(4) {
            0 => random,
            1 => random & ((self.next() as u128) << 64 | self.next() as u128),
            _ => {
                let edges = [0, 0x7f, 0x80, 0xff, 1, 0x55];
                u128::from_le_bytes(core::array::from_fn(|_| self.pick(&edges)))
            }
        }
    }

    /// A single of any sort.
    fn f32(&mut self) -> u32 {
        let edges = [
            0,
            1,
            2,
            0x7f_ffff,
            0x80_0000,
            0x80_0001,
            0x100_0000,
            0x3f80_0000,
            0x3f80_0001,
            0x3f7f_ffff,
            0x4b00_0000,
            0x4b7f_ffff,
            0x4f00_0000,
            0x4eff_ffff,
            0x5f00_0000,
            0x7f7f_ffff,
            0x7f80_0000,
            0x7f80_0001,
            0x7fc0_0000,
            0x7fc1_2345,
            0x7fbf_ffff,
            0x3f00_0000,
            0x3fc0_0000,
            0x4020_0000,
            0x7e80_0000,
            0x0100_0001,
        ];
        let sign = (self.next() as u32 & 1) << 31;
        let random = self.next() as u32;
        match self.below(6) {
            0 => self.pick(&edges) | sign,
            1 => random,
            2 => random & 0x007f_ffff | sign,
            // Around one, with few bits: exact results, ties.
            3 => (0x3f80_0000 + ((self.below(8) as u32) << 23) - (4 << 23)) | random & 0x0070_0000 | sign,
            4 => (random & 0x007f_ffff) | (self.below(64) as u32 + 96) << 23 | sign,
            _ => (random & 0x7f_ffff) | self.pick(&[0, 1, 2, 24, 253, 254, 255, 127]) << 23 | sign,
        }
    }

    /// A double of any sort.
    fn f64(&mut self) -> u64 {
        let edges = [
            0,
            1,
            2,
            0xf_ffff_ffff_ffff,
            0x10_0000_0000_0000,
            0x10_0000_0000_0001,
            0x20_0000_0000_0000,
            0x3ff0_0000_0000_0000,
            0x3ff0_0000_0000_0001,
            0x3fef_ffff_ffff_ffff,
            0x7fef_ffff_ffff_ffff,
            0x7ff0_0000_0000_0000,
            0x7ff0_0000_0000_0001,
            0x7ff8_0000_0000_0000,
            0x7ff8_1234_5678_9abc,
            0x7ff7_ffff_ffff_ffff,
            0x41df_ffff_ffc0_0000,
            0x41e0_0000_0000_0000,
            0x41df_ffff_ffe0_0000,
            0x43e0_0000_0000_0000,
            0x43df_ffff_ffff_ffff,
            0x3fe0_0000_0000_0000,
            0x3ff8_0000_0000_0000,
            0x4004_0000_0000_0000,
            0x36a0_0000_0000_0000,
            0x380f_ffff_e000_0000,
            0x380f_ffff_f000_0000,
            0x47ef_ffff_e000_0000,
            0x47ef_ffff_f000_0000,
            0x3690_0000_0000_0000,
        ];
        let sign = self.next() << 63;
        let random = self.next();
        let fraction = random & 0xf_ffff_ffff_ffff;
        match self.below(7) {
            0 => self.pick(&edges) | sign,
            1 => random,
            2 => fraction | sign,
            3 => (0x3ff0 + self.below(8) * 16 - 64) << 48 | random & 0xf_0000_0000_0000 | sign,
            4 => fraction | (self.below(128) + 960) << 52 | sign,
            // About the range of singles.
            5 => fraction | (self.below(300) + 870) << 52 | sign,
            _ => fraction | self.pick(&[0, 1, 2, 53, 2045, 2046, 2047, 1023]) << 52 | sign,
        }
    }

    fn f32s(&mut self) -> u128 {
        (0..4).fold(0, |v, _| v << 32 | self.f32() as u128)
    }
    fn f64s(&mut self) -> u128 {
        (self.f64() as u128) << 64 | self.f64() as u128
    }
    /// An MXCSR with all exceptions masked.
    fn mxcsr(&mut self) -> u32 {
        let random = self.next() as u32;
        let flags = if random & 0x100_0000 != 0 {
            random & 0x3f
        } else {
            0
        };
        0x1f80 | random & 0xe040 | flags
    }
}

/// Runs one SSE instruction natively on XMM0 and XMM1 with a given MXCSR: the new XMM0 and MXCSR.
macro_rules! native {
    ($text:expr, $a:expr, $b:expr) => {
        native!($text, $a, $b, 0x1f80u32).0
    };
    ($text:expr, $a:expr, $b:expr, $mxcsr:expr) => {{
        let mut a: u128 = $a;
        let b: u128 = $b;
        let mut mxcsr: u32 = $mxcsr;
        let default: u32 = 0x1f80;
        // SAFETY: the instruction works on registers that are declared clobbered; the pointers are to locals, and
        // MXCSR is put back to its default.
        unsafe {
            core::arch::asm!(
                "movdqu xmm0, [{a}]", "movdqu xmm1, [{b}]", "ldmxcsr [{m}]",
                $text,
                "stmxcsr [{m}]", "ldmxcsr [{d}]", "movdqu [{a}], xmm0",
                a = in(reg) &raw mut a, b = in(reg) &raw const b, m = in(reg) &raw mut mxcsr,
                d = in(reg) &raw const default,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("rax") _, out("rdx") _,
            );
        }
        (a, mxcsr)
    }};
}

/// Runs one MMX instruction natively on MM0 and MM1: the new MM0.
macro_rules! native_mmx {
    ($text:expr, $a:expr, $b:expr) => {{
        let mut a: u64 = $a;
        let b: u64 = $b;
        // SAFETY: as above; EMMS leaves the x87 empty as the calling convention wants it.
        unsafe {
            core::arch::asm!(
                "movq mm0, [{a}]", "movq mm1, [{b}]", $text, "movq [{a}], mm0", "emms",
                a = in(reg) &raw mut a, b = in(reg) &raw const b,
                out("mm0") _, out("mm1") _, out("mm2") _, out("mm3") _, out("mm4") _, out("mm5") _, out("mm6") _,
                out("mm7") _, out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _, out("st(4)") _,
                out("st(5)") _, out("st(6)") _, out("st(7)") _,
            );
        }
        a
    }};
}

/// Calls `$check!(imm)` for a list of immediates that has all low nibbles, all high ones, and the limits.
macro_rules! each_immediate {
    ($check:ident) => {
        each_immediate!($check: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 20 24 27 31 32 33 36 40 48 49 56 63 64 65
            72 78 80 85 91 96 99 112 113 119 127 128 129 141 144 157 160 170 177 192 204 208 216 224 228 240 241 247
            250 254 255);
    };
    ($check:ident: $($imm:literal)*) => { $($check!($imm);)* };
}

use {each_immediate, native, native_mmx};
