//! Integer SIMD, AES, PCLMULQDQ, CRC32 and the string comparisons.

use super::{Random, each_immediate, host_can, native, native_mmx};
use crate::engine::simd::{aes, clmul, crc32, integer, pcmpstr, shift, shuffle};

const ROUNDS: usize = 400;

macro_rules! check_both {
    ($random:ident, $($module:ident::$name:ident)*) => {$(
        for _ in 0..ROUNDS {
            let (a, b) = ($random.vector(), $random.vector());
            let name = stringify!($name);
            let text = concat!(stringify!($name), " xmm0, xmm1");
            let _ = text;
            assert_eq!(
                $module::$name(a, b), native!(concat!(stringify!($name), " xmm0, xmm1"), a, b), "{name} {a:x} {b:x}");
            let (a, b) = (a as u64, b as u64);
            assert_eq!(
                $module::$name(a, b), native_mmx!(concat!(stringify!($name), " mm0, mm1"), a, b),
                "mmx {name} {a:x} {b:x}");
        }
    )*};
}

macro_rules! check_sse {
    ($random:ident, $($module:ident::$name:ident)*) => {$(
        for _ in 0..ROUNDS {
            let (a, b) = ($random.vector(), $random.vector());
            let name = stringify!($name);
            assert_eq!(
                $module::$name(a, b), native!(concat!(stringify!($name), " xmm0, xmm1"), a, b), "{name} {a:x} {b:x}");
        }
    )*};
}

macro_rules! check_one {
    ($random:ident, $($module:ident::$name:ident)*) => {$(
        for _ in 0..ROUNDS {
            let (a, b) = ($random.vector(), $random.vector());
            let name = stringify!($name);
            assert_eq!($module::$name(b), native!(concat!(stringify!($name), " xmm0, xmm1"), a, b), "{name} {b:x}");
        }
    )*};
}

#[test]
fn lanewise_operations_agree_at_both_widths() {
    if !host_can() {
        return;
    }
    let mut random = Random(1);
    check_both!(random,
        integer::paddb integer::paddw integer::paddd integer::paddq integer::psubb integer::psubw integer::psubd
        integer::psubq integer::paddsb integer::paddsw integer::paddusb integer::paddusw integer::psubsb
        integer::psubsw integer::psubusb integer::psubusw integer::pcmpeqb integer::pcmpeqw integer::pcmpeqd
        integer::pcmpgtb integer::pcmpgtw integer::pcmpgtd integer::pavgb integer::pavgw integer::pminub
        integer::pminsw integer::pmaxub integer::pmaxsw integer::psignb integer::psignw integer::psignd
        integer::pmullw integer::pmulhw integer::pmulhuw integer::pmulhrsw integer::pmuludq integer::pabsb
        integer::pabsw integer::pabsd integer::pand integer::pandn integer::por integer::pxor integer::pmaddwd
        integer::pmaddubsw integer::psadbw integer::phaddw integer::phaddd integer::phaddsw integer::phsubw
        integer::phsubd integer::phsubsw
        shuffle::punpcklbw shuffle::punpcklwd shuffle::punpckldq shuffle::punpckhbw shuffle::punpckhwd
        shuffle::punpckhdq shuffle::packsswb shuffle::packuswb shuffle::packssdw shuffle::pshufb);
    check_sse!(random,
        integer::pcmpeqq integer::pcmpgtq integer::pminuw integer::pminud integer::pminsb integer::pminsd
        integer::pmaxuw integer::pmaxud integer::pmaxsb integer::pmaxsd integer::pmulld integer::pmuldq
        shuffle::punpcklqdq shuffle::punpckhqdq shuffle::packusdw
        aes::aesenc aes::aesenclast aes::aesdec aes::aesdeclast);
    check_one!(random,
        integer::phminposuw aes::aesimc shuffle::movddup shuffle::movsldup shuffle::movshdup
        shuffle::pmovsxbw shuffle::pmovsxbd shuffle::pmovsxbq shuffle::pmovsxwd shuffle::pmovsxwq shuffle::pmovsxdq
        shuffle::pmovzxbw shuffle::pmovzxbd shuffle::pmovzxbq shuffle::pmovzxwd shuffle::pmovzxwq shuffle::pmovzxdq);
}

#[test]
fn shifts_agree_with_any_count() {
    if !host_can() {
        return;
    }
    let mut random = Random(2);
    macro_rules! check {
        ($($name:ident)*) => {$(
            for round in 0..ROUNDS {
                let a = random.vector();
                let b = if round % 4 == 0 { random.vector() } else { random.below(70) as u128 };
                let name = stringify!($name);
                assert_eq!(shift::$name(a, b as u64), native!(concat!(stringify!($name), " xmm0, xmm1"), a, b),
                    "{name} {a:x} {b:x}");
                assert_eq!(shift::$name(a as u64, b as u64),
                    native_mmx!(concat!(stringify!($name), " mm0, mm1"), a as u64, b as u64), "mmx {name}");
            }
        )*};
    }
    check!(psllw pslld psllq psrlw psrld psrlq psraw psrad);
}

#[test]
fn instructions_with_an_immediate_agree() {
    if !host_can() {
        return;
    }
    let mut random = Random(3);
    macro_rules! both {
        ($name:literal, $imm:literal, $a:ident, $b:ident, $ours:expr) => {
            assert_eq!(
                $ours,
                native!(concat!($name, " xmm0, xmm1, ", $imm), $a, $b),
                "{} {} {:x} {:x}",
                $name,
                $imm,
                $a,
                $b
            );
        };
    }
    macro_rules! check {
        ($imm:literal) => {
            for _ in 0..40 {
                let (a, b) = (random.vector(), random.vector());
                both!("pshufd", $imm, a, b, shuffle::pshufd(b, $imm));
                both!("pshuflw", $imm, a, b, shuffle::pshuflw(b, $imm));
                both!("pshufhw", $imm, a, b, shuffle::pshufhw(b, $imm));
                both!("shufps", $imm, a, b, shuffle::shufps(a, b, $imm));
                both!("shufpd", $imm, a, b, shuffle::shufpd(a, b, $imm));
                both!("palignr", $imm, a, b, shuffle::palignr(a, b, $imm));
                both!("pblendw", $imm, a, b, shuffle::pblendw(a, b, $imm));
                both!("blendps", $imm, a, b, shuffle::blendps(a, b, $imm));
                both!("blendpd", $imm, a, b, shuffle::blendpd(a, b, $imm));
                both!("mpsadbw", $imm, a, b, integer::mpsadbw(a, b, $imm));
                both!("pclmulqdq", $imm, a, b, clmul::pclmulqdq(a, b, $imm));
                both!("aeskeygenassist", $imm, a, b, aes::aeskeygenassist(b, $imm));
                let lane = (b >> (32 * ($imm as u32 >> 6))) as u32;
                both!("insertps", $imm, a, b, shuffle::insertps(a, lane, $imm));
                assert_eq!(
                    shift::pslldq(a, $imm),
                    native!(concat!("pslldq xmm0, ", $imm), a, b)
                );
                assert_eq!(
                    shift::psrldq(a, $imm),
                    native!(concat!("psrldq xmm0, ", $imm), a, b)
                );
                let (c, d) = (a as u64, b as u64);
                assert_eq!(
                    shuffle::pshuflw(d, $imm),
                    native_mmx!(concat!("pshufw mm0, mm1, ", $imm), c, d)
                );
                assert_eq!(
                    shuffle::palignr(c, d, $imm),
                    native_mmx!(concat!("palignr mm0, mm1, ", $imm), c, d)
                );
                let value = native!(concat!("movd eax, xmm1\npinsrb xmm0, eax, ", $imm), a, b);
                assert_eq!(shuffle::pinsrb(a, b as u32, $imm), value);
                let value = native!(concat!("movd eax, xmm1\npinsrw xmm0, eax, ", $imm), a, b);
                assert_eq!(shuffle::pinsrw(a, b as u32, $imm), value);
                let value = native!(concat!("movd eax, xmm1\npinsrd xmm0, eax, ", $imm), a, b);
                assert_eq!(shuffle::pinsrd(a, b as u32, $imm), value);
                let value = native!(concat!("movq rax, xmm1\npinsrq xmm0, rax, ", $imm), a, b);
                assert_eq!(shuffle::pinsrq(a, b as u64, $imm), value);
                let value = native!(
                    concat!("pextrb eax, xmm1, ", $imm, "\nmovd xmm0, eax"),
                    a,
                    b
                );
                assert_eq!(shuffle::pextrb(b, $imm), value as u32);
                let value = native!(
                    concat!("pextrw eax, xmm1, ", $imm, "\nmovd xmm0, eax"),
                    a,
                    b
                );
                assert_eq!(shuffle::pextrw(b, $imm), value as u32);
                let value = native!(
                    concat!("pextrd eax, xmm1, ", $imm, "\nmovd xmm0, eax"),
                    a,
                    b
                );
                assert_eq!(shuffle::pextrd(b, $imm), value as u32);
                let value = native!(
                    concat!("pextrq rax, xmm1, ", $imm, "\nmovq xmm0, rax"),
                    a,
                    b
                );
                assert_eq!(shuffle::pextrq(b, $imm), value as u64);
            }
        };
    }
    each_immediate!(check);
}

#[test]
fn blends_by_register_agree() {
    if !host_can() {
        return;
    }
    let mut random = Random(4);
    for _ in 0..ROUNDS {
        // XMM0 is both the mask and, here, the destination's copy: xmm2 takes the destination.
        let (mask, b) = (random.vector(), random.vector());
        macro_rules! check {
            ($name:ident) => {
                let host = native!(
                    concat!(
                        "pshufd xmm2, xmm0, 27\n",
                        stringify!($name),
                        " xmm2, xmm1, xmm0\nmovdqa xmm0, xmm2"
                    ),
                    mask,
                    b
                );
                assert_eq!(shuffle::$name(shuffle::pshufd(mask, 27), b, mask), host);
            };
        }
        check!(pblendvb);
        check!(blendvps);
        check!(blendvpd);
        let host = |text: u128| text as u32;
        assert_eq!(
            integer::pmovmskb(b),
            host(native!("pmovmskb eax, xmm1\nmovd xmm0, eax", mask, b))
        );
        assert_eq!(
            integer::movmskps(b),
            host(native!("movmskps eax, xmm1\nmovd xmm0, eax", mask, b))
        );
        assert_eq!(
            integer::movmskpd(b),
            host(native!("movmskpd eax, xmm1\nmovd xmm0, eax", mask, b))
        );
    }
}

#[test]
fn crc32_agrees() {
    if !host_can() {
        return;
    }
    let mut random = Random(5);
    for _ in 0..ROUNDS {
        let (crc, data) = (random.next() as u32, random.next());
        macro_rules! check {
            ($bytes:literal, $source:literal) => {
                let host = native!(
                    concat!(
                        "movd eax, xmm0\nmovq rdx, xmm1\ncrc32 eax, ",
                        $source,
                        "\nmovd xmm0, eax"
                    ),
                    crc as u128,
                    data as u128
                );
                assert_eq!(crc32::crc32(crc, data, $bytes), host as u32);
            };
        }
        check!(1, "dl");
        check!(2, "dx");
        check!(4, "edx");
        let host = native!(
            "movd eax, xmm0\nmovq rdx, xmm1\ncrc32 rax, rdx\nmovd xmm0, eax",
            crc as u128,
            data as u128
        );
        assert_eq!(crc32::crc32(crc, data, 8), host as u32);
    }
}

/// Strings of few different characters with an occasional zero, so that comparisons hit.
fn string(random: &mut Random) -> u128 {
    let zeros = random.below(3) == 0;
    u128::from_le_bytes(core::array::from_fn(|i| match random.below(12) {
        0 if zeros => 0,
        1 => random.next() as u8,
        2 => 0x80,
        _ if i % 2 == 1 && zeros => 0,
        n => b'a' + (n % 3) as u8,
    }))
}

#[test]
fn string_comparisons_agree_with_every_immediate() {
    if !host_can() {
        return;
    }
    let mut random = Random(6);
    macro_rules! check {
        ($imm:literal) => {
            for _ in 0..60 {
                let (a, b) = (string(&mut random), string(&mut random));
                let (la, lb) = (random.below(40) as i64 - 20, random.below(40) as i64 - 20);
                let run = |text_index: bool| {
                    let (mut index, mut flags, mut mask): (u64, u64, u128) = (0, 0, 0);
                    // SAFETY: register operands only, declared clobbered; pointers are to locals.
                    unsafe {
                        if text_index {
                            core::arch::asm!(
                                "movdqu xmm1, [{a}]", "movdqu xmm2, [{b}]",
                                concat!("pcmpistri xmm1, xmm2, ", $imm), "pushfq", "pop {f}", "mov {i}, rcx",
                                concat!("pcmpistrm xmm1, xmm2, ", $imm), "movdqu [{m}], xmm0",
                                a = in(reg) &raw const a, b = in(reg) &raw const b, m = in(reg) &raw mut mask,
                                f = out(reg) flags, i = out(reg) index, out("rcx") _, out("xmm0") _, out("xmm1") _,
                                out("xmm2") _);
                        } else {
                            core::arch::asm!(
                                "movdqu xmm1, [{a}]", "movdqu xmm2, [{b}]",
                                concat!("pcmpestri xmm1, xmm2, ", $imm), "pushfq", "pop {f}", "mov {i}, rcx",
                                concat!("pcmpestrm xmm1, xmm2, ", $imm), "movdqu [{m}], xmm0",
                                a = in(reg) &raw const a, b = in(reg) &raw const b, m = in(reg) &raw mut mask,
                                f = out(reg) flags, i = out(reg) index, in("rax") la, in("rdx") lb, out("rcx") _,
                                out("xmm0") _, out("xmm1") _, out("xmm2") _);
                        }
                    }
                    (index as u32, mask, flags & crate::regs::rflags::STATUS)
                };
                let ours = |la, lb| {
                    let c = pcmpstr::compare(a, b, la, lb, $imm);
                    (c.index(), c.mask(), c.flags)
                };
                let implicit = ours(pcmpstr::implicit_length(a, $imm), pcmpstr::implicit_length(b, $imm));
                assert_eq!(implicit, run(true), "istr {} {a:032x} {b:032x}", $imm);
                // The assembler's form takes EAX and EDX.
                let length = |l: i64| pcmpstr::explicit_length(l as i32 as i64, $imm);
                assert_eq!(ours(length(la), length(lb)), run(false), "estr {} {a:032x} {b:032x} {la} {lb}", $imm);
            }
        };
    }
    each_immediate!(check: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 36 41
        46 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83
        84 85 86 87 88 89 90 91 92 93 94 95 96 101 106 111 112 113 114 115 116 117 118 119 120 121 122 123 124 125 126
        127 128 200);
}
