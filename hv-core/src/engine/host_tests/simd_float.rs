//! SSE floating point with MXCSR.

use super::{Random, host_can, native, native_mmx};
use crate::engine::simd::packed::{self, LaneOp, Shape};
use crate::engine::simd::scalar::{self, F32, F64, Op};
use crate::engine::simd::{Env, convert, env};

const ROUNDS: usize = 20_000;

/// Runs ours as the host macro does: value and MXCSR.
fn ours<T>(mut mxcsr: u32, f: impl FnOnce(&mut Env) -> T) -> (T, u32) {
    let before = mxcsr;
    match env::run(&mut mxcsr, f) {
        Ok(value) => (value, mxcsr),
        Err(_) => panic!("unmasked exception with MXCSR {before:x}"),
    }
}

macro_rules! check {
    ($random:ident, $text:expr, $lanes:ident, |$env:ident, $a:ident, $b:ident| $ours:expr) => {
        for _ in 0..ROUNDS {
            let ($a, $b, mxcsr) = ($random.$lanes(), $random.$lanes(), $random.mxcsr());
            let host = native!($text, $a, $b, mxcsr);
            let mine = ours(mxcsr, |$env| $ours);
            assert_eq!(
                mine, host,
                "{}: {:032x} {:032x} mxcsr {mxcsr:x}\n ours {:032x} {:x} host {:032x} {:x}",
                $text, $a, $b, mine.0, mine.1, host.0, host.1
            );
        }
    };
}

macro_rules! arithmetic {
    ($random:ident, $($op:ident $ps:literal $pd:literal $ss:literal $sd:literal;)*) => {$(
        check!($random, $ps, f32s, |e, a, b| packed::apply(e, Shape::Ps, LaneOp::Arithmetic(Op::$op), a, b));
        check!($random, $pd, f64s, |e, a, b| packed::apply(e, Shape::Pd, LaneOp::Arithmetic(Op::$op), a, b));
        check!($random, $ss, f32s, |e, a, b| packed::apply(e, Shape::Ss, LaneOp::Arithmetic(Op::$op), a, b));
        check!($random, $sd, f64s, |e, a, b| packed::apply(e, Shape::Sd, LaneOp::Arithmetic(Op::$op), a, b));
    )*};
}

#[test]
fn arithmetic_agrees_bit_by_bit_with_flags() {
    if !host_can() {
        return;
    }
    let mut random = Random(10);
    arithmetic!(random,
        Add "addps xmm0, xmm1" "addpd xmm0, xmm1" "addss xmm0, xmm1" "addsd xmm0, xmm1";
        Sub "subps xmm0, xmm1" "subpd xmm0, xmm1" "subss xmm0, xmm1" "subsd xmm0, xmm1";
        Mul "mulps xmm0, xmm1" "mulpd xmm0, xmm1" "mulss xmm0, xmm1" "mulsd xmm0, xmm1";
        Div "divps xmm0, xmm1" "divpd xmm0, xmm1" "divss xmm0, xmm1" "divsd xmm0, xmm1";
    );
    check!(random, "sqrtps xmm0, xmm1", f32s, |e, a, b| packed::apply(
        e,
        Shape::Ps,
        LaneOp::Sqrt,
        a,
        b
    ));
    check!(random, "sqrtpd xmm0, xmm1", f64s, |e, a, b| packed::apply(
        e,
        Shape::Pd,
        LaneOp::Sqrt,
        a,
        b
    ));
    check!(random, "sqrtss xmm0, xmm1", f32s, |e, a, b| packed::apply(
        e,
        Shape::Ss,
        LaneOp::Sqrt,
        a,
        b
    ));
    check!(random, "sqrtsd xmm0, xmm1", f64s, |e, a, b| packed::apply(
        e,
        Shape::Sd,
        LaneOp::Sqrt,
        a,
        b
    ));
    check!(
        random,
        "haddps xmm0, xmm1",
        f32s,
        |e, a, b| packed::horizontal_ps(e, Op::Add, a, b)
    );
    check!(
        random,
        "hsubps xmm0, xmm1",
        f32s,
        |e, a, b| packed::horizontal_ps(e, Op::Sub, a, b)
    );
    check!(
        random,
        "haddpd xmm0, xmm1",
        f64s,
        |e, a, b| packed::horizontal_pd(e, Op::Add, a, b)
    );
    check!(
        random,
        "hsubpd xmm0, xmm1",
        f64s,
        |e, a, b| packed::horizontal_pd(e, Op::Sub, a, b)
    );
    check!(random, "addsubps xmm0, xmm1", f32s, |e, a, b| packed::addsubps(
        e, a, b
    ));
    check!(random, "addsubpd xmm0, xmm1", f64s, |e, a, b| packed::addsubpd(
        e, a, b
    ));
}

#[test]
fn minima_and_comparisons_agree() {
    if !host_can() {
        return;
    }
    let mut random = Random(11);
    check!(random, "minps xmm0, xmm1", f32s, |e, a, b| packed::apply(
        e,
        Shape::Ps,
        LaneOp::Min,
        a,
        b
    ));
    check!(random, "minsd xmm0, xmm1", f64s, |e, a, b| packed::apply(
        e,
        Shape::Sd,
        LaneOp::Min,
        a,
        b
    ));
    check!(random, "maxss xmm0, xmm1", f32s, |e, a, b| packed::apply(
        e,
        Shape::Ss,
        LaneOp::Max,
        a,
        b
    ));
    check!(random, "maxpd xmm0, xmm1", f64s, |e, a, b| packed::apply(
        e,
        Shape::Pd,
        LaneOp::Max,
        a,
        b
    ));
    macro_rules! predicate {
        ($imm:literal) => {
            check!(
                random,
                concat!("cmpps xmm0, xmm1, ", $imm),
                f32s,
                |e, a, b| { packed::apply(e, Shape::Ps, LaneOp::Compare($imm), a, b) }
            );
            check!(
                random,
                concat!("cmpsd xmm0, xmm1, ", $imm),
                f64s,
                |e, a, b| { packed::apply(e, Shape::Sd, LaneOp::Compare($imm), a, b) }
            );
        };
    }
    super::each_immediate!(predicate: 0 1 2 3 4 5 6 7);
    macro_rules! flags {
        ($text:literal, $lanes:ident, $p:ident, $bits:ty, $quiet:literal) => {
            check!(
                random,
                concat!($text, " xmm0, xmm1\npushfq\npop rax\nmovq xmm0, rax"),
                $lanes,
                |e, a, b| {
                    // Only the six status flags are ours.
                    let rest = native!("pushfq\npop rax\nmovq xmm0, rax", a, b)
                        & !(crate::regs::rflags::STATUS as u128);
                    rest | scalar::compare_flags::<$p>(e, a as $bits as u64, b as $bits as u64, $quiet)
                        as u128
                }
            );
        };
    }
    flags!("comiss", f32s, F32, u32, false);
    flags!("ucomiss", f32s, F32, u32, true);
    flags!("comisd", f64s, F64, u64, false);
    flags!("ucomisd", f64s, F64, u64, true);
}

#[test]
fn rounding_and_dot_products_agree() {
    if !host_can() {
        return;
    }
    let mut random = Random(12);
    macro_rules! rounding {
        ($imm:literal) => {
            check!(
                random,
                concat!("roundps xmm0, xmm1, ", $imm),
                f32s,
                |e, a, b| { packed::apply(e, Shape::Ps, LaneOp::Round($imm), a, b) }
            );
            check!(
                random,
                concat!("roundsd xmm0, xmm1, ", $imm),
                f64s,
                |e, a, b| { packed::apply(e, Shape::Sd, LaneOp::Round($imm), a, b) }
            );
        };
    }
    super::each_immediate!(rounding: 0 1 2 3 4 8 9 10 11 12);
    macro_rules! dot {
        ($imm:literal) => {
            check!(
                random,
                concat!("dpps xmm0, xmm1, ", $imm),
                f32s,
                |e, a, b| packed::dpps(e, a, b, $imm)
            );
            check!(
                random,
                concat!("dppd xmm0, xmm1, ", $imm),
                f64s,
                |e, a, b| packed::dppd(e, a, b, $imm)
            );
        };
    }
    super::each_immediate!(dot: 0 255 113 49 161 210 95);
}

#[test]
fn conversions_agree() {
    if !host_can() {
        return;
    }
    let mut random = Random(13);
    check!(random, "cvtps2pd xmm0, xmm1", f32s, |e, _a, b| convert::cvtps2pd(
        e, b
    ));
    check!(random, "cvtpd2ps xmm0, xmm1", f64s, |e, _a, b| convert::cvtpd2ps(
        e, b
    ));
    check!(random, "cvtps2dq xmm0, xmm1", f32s, |e, _a, b| convert::cvtps2dq(
        e, b, false
    ));
    check!(
        random,
        "cvttps2dq xmm0, xmm1",
        f32s,
        |e, _a, b| convert::cvtps2dq(e, b, true)
    );
    check!(
        random,
        "cvtpd2dq xmm0, xmm1",
        f64s,
        |e, _a, b| convert::cvtpd2dq(e, b, false) as u128
    );
    check!(
        random,
        "cvttpd2dq xmm0, xmm1",
        f64s,
        |e, _a, b| convert::cvtpd2dq(e, b, true) as u128
    );
    check!(random, "cvtdq2ps xmm0, xmm1", vector, |e, _a, b| {
        convert::cvtdq2ps(e, b)
    });
    check!(random, "cvtdq2pd xmm0, xmm1", vector, |e, _a, b| {
        convert::cvtdq2pd(e, b as u64)
    });
    check!(random, "cvtss2si rax, xmm1\nmovq xmm0, rax", f32s, |e, _a, b| {
        convert::to_integer::<F32>(e, b as u32 as u64, 64, false) as u64 as u128
    });
    check!(random, "cvttss2si eax, xmm1\nmovd xmm0, eax", f32s, |e, _a, b| {
        convert::to_integer::<F32>(e, b as u32 as u64, 32, true) as u32 as u128
    });
    check!(random, "cvtsd2si eax, xmm1\nmovd xmm0, eax", f64s, |e, _a, b| {
        convert::to_integer::<F64>(e, b as u64, 32, false) as u32 as u128
    });
    check!(random, "cvttsd2si rax, xmm1\nmovq xmm0, rax", f64s, |e, _a, b| {
        convert::to_integer::<F64>(e, b as u64, 64, true) as u64 as u128
    });
    check!(
        random,
        "pxor xmm0, xmm0\nmovq rax, xmm1\ncvtsi2ss xmm0, rax",
        vector,
        |e, _a, b| { convert::from_integer::<F32>(e, b as i64) as u128 }
    );
    check!(
        random,
        "pxor xmm0, xmm0\nmovq rax, xmm1\ncvtsi2sd xmm0, rax",
        vector,
        |e, _a, b| { convert::from_integer::<F64>(e, b as i64) as u128 }
    );
    check!(
        random,
        "pxor xmm0, xmm0\ncvtss2sd xmm0, xmm1",
        f32s,
        |e, _a, b| convert::f32_to_f64(e, b as u32) as u128
    );
    check!(
        random,
        "pxor xmm0, xmm0\ncvtsd2ss xmm0, xmm1",
        f64s,
        |e, _a, b| convert::f64_to_f32(e, b as u64) as u128
    );
}

#[test]
fn mmx_conversions_agree() {
    if !host_can() {
        return;
    }
    let mut random = Random(14);
    for _ in 0..ROUNDS {
        let (a, b) = (random.f32s() as u64, random.vector() as u64);
        let host = native_mmx!("movq2dq xmm1, mm1\ncvtps2pi mm0, xmm1", 0, a);
        assert_eq!(ours(0x1fa0, |e| convert::cvtps2pi(e, a, false)).0, host);
        let host = native_mmx!("movq2dq xmm1, mm1\ncvttps2pi mm0, xmm1", 0, a);
        assert_eq!(ours(0x1fa0, |e| convert::cvtps2pi(e, a, true)).0, host);
        let host = native_mmx!("pxor xmm1, xmm1\ncvtpi2ps xmm1, mm1\nmovdq2q mm0, xmm1", 0, b);
        assert_eq!(ours(0x1fa0, |e| convert::cvtpi2ps(e, b)).0, host);
    }
}

#[test]
fn approximations_keep_the_manuals_bound() {
    let mut random = Random(15);
    for _ in 0..ROUNDS {
        let bits = random.f32();
        let x = f32::from_bits(bits) as f64;
        let r = f32::from_bits(crate::engine::simd::approx::reciprocal(bits)) as f64;
        if f32::from_bits(bits).is_normal() && r != 0.0 {
            assert!((r * x - 1.0).abs() <= 1.5 / 4096.0, "1 / {x} = {r}");
        }
        let s = f32::from_bits(crate::engine::simd::approx::reciprocal_sqrt(bits)) as f64;
        if f32::from_bits(bits).is_normal() && x > 0.0 {
            assert!((s * x.sqrt() - 1.0).abs() <= 1.5 / 4096.0, "1 / sqrt {x} = {s}");
        }
    }
}

#[test]
fn an_unmasked_invalid_keeps_later_exceptions_out_of_mxcsr() {
    // Lane 0 is invalid, lane 1 inexact; invalid is unmasked.
    let a = 0x7f80_0001 | 0x3f80_0000u128 << 32;
    let b = 0x3f80_0000 | 0x4040_0000u128 << 32;
    let mut mxcsr = 0x1f00;
    let got = env::run(&mut mxcsr, |e| {
        packed::apply(e, Shape::Ps, LaneOp::Arithmetic(Op::Div), a, b)
    });
    assert!(got.is_err());
    assert_eq!(mxcsr, 0x1f01);
}
