//! The x87 against the host's: a state is loaded with FRSTOR, one instruction runs, FNSAVE takes the state, and our
//! method on the same state must give the same image. FNSAVE doesn't wait, so unmasked exceptions can be looked at too.

use super::Random;
use crate::engine::float::Format;
use crate::engine::x87::arith::Arith;
use crate::engine::x87::environment::Layout;
use crate::engine::x87::load_store::Constant;
use crate::engine::x87::state::{Source, fsw};
use crate::engine::x87::trigonometric::Trigonometric;

use crate::regs::X87;

const ROUNDS: usize = 20_000;
const LAYOUT: Layout = Layout {
    wide: true,
    protected: true,
};
type Image = [u8; 108];

/// Runs an instruction on a state; RAX points to 16 bytes for a memory operand.
macro_rules! native_x87 {
    ($text:expr, $image:expr, $memory:expr) => {{
        let mut image: Image = $image;
        let mut memory: [u8; 16] = $memory;
        let mut flags: u64 = 0;
        // SAFETY: all x87 registers are declared clobbered, FNSAVE leaves the FPU as FNINIT does; the pointers are to
        // locals of the right size.
        unsafe {
            core::arch::asm!(
                "frstor [{i}]", "push {f}", "popfq", $text, "fnsave [{i}]", "pushfq", "pop {f}",
                i = in(reg) &raw mut image, f = inout(reg) flags, inout("rax") &raw mut memory => _,
                out("mm0") _, out("mm1") _, out("mm2") _, out("mm3") _, out("mm4") _, out("mm5") _, out("mm6") _,
                out("mm7") _, out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _, out("st(4)") _,
                out("st(5)") _, out("st(6)") _, out("st(7)") _,
            );
        }
        (image, memory, flags & crate::regs::rflags::STATUS)
    }};
}

impl Random {
    /// An 80-bit value of any sort, unsupported ones included.
    fn f80(&mut self) -> u128 {
        let sign = ((self.next() & 1) as u128) << 79;
        let random = self.next();
        let sig = match self.below(5) {
            0 => 1 << 63,
            1 => u64::MAX,
            2 => random & 0xff00_0000_0000_0000 | 1 << 63,
            3 => 1 << 63 | 1 << self.below(64),
            _ => random | 1 << 63,
        };
        let exp = match self.below(8) {
            0 => self.pick(&[0, 1, 2, 0x7ffe, 0x7fff]),
            1 => self.below(0x8000),
            2 => 0x3fff + self.below(160) - 80,
            3 => self.pick(&[
                0x3fff, 0x3ffe, 0x4000, 0x403d, 0x403e, 0x403f, 0x401d, 0x401e, 0x400d, 0x400e,
            ]),
            4 => 0x3f81 + self.below(5),
            5 => self.pick(&[0x3c00, 0x3c01, 0x43fe, 0x43ff, 0x407e, 0x407f, 0x3f80, 0x3f81]),
            _ => 0x3fff + self.below(8) - 4,
        };
        match self.below(24) {
            0 => sign,
            1 => sign | 0x7fff << 64 | 1 << 63,
            2 => sign | 0x7fff << 64 | (random | 1 << 63) as u128,
            3 => sign | (random >> self.below(64)) as u128,
            4 => sign | (exp as u128) << 64 | (random >> 1) as u128,
            5 => {
                self.pick(&[
                    1,
                    1 << 63,
                    (1 << 63) - 1,
                    0x7fff << 64 | 3 << 62,
                    0x7fff << 64 | 1 << 63 | 1,
                ]) | sign
            }
            _ => sign | (exp as u128) << 64 | sig as u128,
        }
    }

    /// A state: control word, condition codes, TOP, some empty registers, no pending exception.
    fn state(&mut self, masked: bool) -> X87 {
        let mut fpu = X87::default();
        let random = self.next() as u16;
        let masks = if masked || random & 0x8000 != 0 {
            0x3f
        } else {
            self.next() as u16 & 0x3f
        };
        fpu.set_fcw(random & 0x0f00 | masks);
        let flags = if random & 0x4000 != 0 {
            masks & self.next() as u16
        } else {
            0
        };
        fpu.set_fsw(self.next() as u16 & (fsw::CC | 7 << 11) | flags);
        let empty = match self.below(4) {
            0 => self.next() as u8,
            1 => 1 << self.below(8),
            2 => 0x80u8.rotate_left(fpu.top() as u32),
            _ => 0xf0u8.rotate_left(fpu.top() as u32),
        };
        for r in &mut fpu.r {
            *r = self.f80();
        }
        fpu.retag(|at| empty >> at & 1 != 0);
        fpu
    }
}

fn image(fpu: &X87) -> Image {
    let mut image = [0; 108];
    image[..28].copy_from_slice(&fpu.environment(LAYOUT));
    image[28..].copy_from_slice(&fpu.registers());
    image
}

/// The state of an image, but for the instruction and data pointers.
fn parse(image: &Image) -> X87 {
    let mut fpu = X87::default();
    fpu.load_environment(LAYOUT, &image[..28]);
    fpu.load_registers(&image[28..]);
    X87 {
        fip: 0,
        fcs: 0,
        fdp: 0,
        fds: 0,
        fop: 0,
        ..fpu
    }
}

/// What differs, but for status bits in `ignore`.
fn difference(ours: &X87, host: &X87, ignore: u16) -> Option<String> {
    let mut ours = ours.clone();
    ours.fsw = ours.fsw & !ignore | host.fsw & ignore;
    (ours != *host).then(|| {
        let show = |f: &X87| {
            format!(
                "fcw {:04x} fsw {:04x} ftw {:04x} r {:020x?}",
                f.fcw, f.fsw, f.ftw, f.r
            )
        };
        format!("\n ours {}\n host {}", show(&ours), show(host))
    })
}

macro_rules! check {
    ($random:ident, $masked:literal, $ignore:expr, $text:expr, |$fpu:ident| $ours:expr) => {
        for _ in 0..ROUNDS {
            let before = $random.state($masked);
            let (host, ..) = native_x87!($text, image(&before), [0; 16]);
            let mut after = before.clone();
            {
                let $fpu = &mut after;
                $ours;
            }
            if let Some(difference) = difference(&after, &parse(&host), $ignore) {
                panic!(
                    "{}: from fcw {:04x} fsw {:04x} ftw {:04x} st {:020x?}{difference}",
                    $text,
                    before.fcw,
                    before.fsw,
                    before.ftw,
                    [before.st(0), before.st(1), before.st(2)]
                );
            }
        }
    };
}

/// As `check`, with an operand that is loaded from memory.
macro_rules! check_load {
    ($random:ident, $text:expr, $operand:expr, |$fpu:ident, $value:ident| $ours:expr) => {
        for _ in 0..ROUNDS {
            let before = $random.state(false);
            let $value = $operand;
            let mut memory = [0; 16];
            memory[..size_of_val(&$value)].copy_from_slice(&$value.to_le_bytes());
            let (host, ..) = native_x87!($text, image(&before), memory);
            let mut after = before.clone();
            {
                let $fpu = &mut after;
                $ours;
            }
            if let Some(difference) = difference(&after, &parse(&host), 0) {
                panic!(
                    "{}: {:x} from fcw {:04x} fsw {:04x} ftw {:04x} st {:020x?}{difference}",
                    $text,
                    $value,
                    before.fcw,
                    before.fsw,
                    before.ftw,
                    [before.st(0), before.st(1)]
                );
            }
        }
    };
}

/// As `check`, with a result that is stored to memory.
macro_rules! check_store {
    ($random:ident, $text:expr, $bytes:literal, |$fpu:ident| $ours:expr) => {
        for _ in 0..ROUNDS {
            let before = $random.state(false);
            let (host, stored, _) = native_x87!($text, image(&before), [0x55; 16]);
            let mut after = before.clone();
            let mut memory = [0x55; 16];
            {
                let $fpu = &mut after;
                if let Some(value) = $ours {
                    memory[..$bytes].copy_from_slice(&value.to_le_bytes()[..$bytes]);
                }
            }
            let difference = difference(&after, &parse(&host), 0);
            if difference.is_some() || memory != stored {
                panic!(
                    "{}: from fcw {:04x} fsw {:04x} ftw {:04x} st {:020x}\n {memory:02x?}\n {stored:02x?}{}",
                    $text,
                    before.fcw,
                    before.fsw,
                    before.ftw,
                    before.st(0),
                    difference.unwrap_or_default()
                );
            }
        }
    };
}

#[test]
fn arithmetic_agrees_in_every_mode() {
    let mut r = Random(20);
    check!(r, false, 0, "fadd st, st(1)", |f| f.arith_stack(
        Arith::Add,
        0,
        1,
        false
    ));
    check!(r, false, 0, "fmul st, st(1)", |f| f.arith_stack(
        Arith::Mul,
        0,
        1,
        false
    ));
    check!(r, false, 0, "fsub st, st(1)", |f| f.arith_stack(
        Arith::Sub,
        0,
        1,
        false
    ));
    check!(r, false, 0, "fsubr st, st(2)", |f| f.arith_stack(
        Arith::SubR,
        0,
        2,
        false
    ));
    check!(r, false, 0, "fdiv st, st(1)", |f| f.arith_stack(
        Arith::Div,
        0,
        1,
        false
    ));
    check!(r, false, 0, "fdivr st, st(1)", |f| f.arith_stack(
        Arith::DivR,
        0,
        1,
        false
    ));
    check!(r, false, 0, "faddp st(1), st", |f| f.arith_stack(
        Arith::Add,
        1,
        0,
        true
    ));
    check!(r, false, 0, "fmulp st(2), st", |f| f.arith_stack(
        Arith::Mul,
        2,
        0,
        true
    ));
    check!(r, false, 0, ".byte 0xde, 0xe9", |f| f.arith_stack(
        Arith::Sub,
        1,
        0,
        true
    ));
    check!(r, false, 0, ".byte 0xde, 0xe1", |f| f.arith_stack(
        Arith::SubR,
        1,
        0,
        true
    ));
    check!(r, false, 0, ".byte 0xde, 0xf9", |f| f.arith_stack(
        Arith::Div,
        1,
        0,
        true
    ));
    check!(r, false, 0, ".byte 0xde, 0xf1", |f| f.arith_stack(
        Arith::DivR,
        1,
        0,
        true
    ));
    check!(r, false, 0, "fsqrt", |f| f.sqrt());
    check!(r, false, 0, "fchs", |f| f.change_sign(true));
    check!(r, false, 0, "fabs", |f| f.change_sign(false));
    check_load!(r, "fadd dword ptr [rax]", r.f32(), |f, v| f
        .arith_memory(Arith::Add, Source::f32(v)));
    check_load!(r, "fdivr qword ptr [rax]", r.f64(), |f, v| f
        .arith_memory(Arith::DivR, Source::f64(v)));
    check_load!(r, "fisub word ptr [rax]", r.next() as i16, |f, v| f
        .arith_memory(Arith::Sub, Source::integer(v.into())));
    check_load!(r, "fidiv dword ptr [rax]", r.f32() as i32, |f, v| {
        f.arith_memory(Arith::Div, Source::integer(v.into()))
    });
}

#[test]
fn scaling_rounding_and_extraction_agree() {
    let mut r = Random(21);
    check!(r, false, 0, "frndint", |f| f.round_to_integer());
    check!(r, false, 0, "fxtract", |f| f.extract());
    check!(r, false, 0, "fscale", |f| f.scale());
}

#[test]
fn remainders_agree() {
    let mut r = Random(22);
    check!(r, false, 0, "fprem", |f| f.remainder(false));
    check!(r, false, 0, "fprem1", |f| f.remainder(true));
}

#[test]
fn comparisons_agree() {
    let mut r = Random(23);
    check!(r, false, 0, "fcom st(1)", |f| f.compare_stack(1, false, 0));
    check!(r, false, 0, "fucomp st(2)", |f| f.compare_stack(2, true, 1));
    check!(r, false, 0, "fcompp", |f| f.compare_stack(1, false, 2));
    check!(r, false, 0, "fucompp", |f| f.compare_stack(1, true, 2));
    check!(r, false, 0, "ftst", |f| f.test());
    check!(r, false, 0, "fxam", |f| f.examine());
    check_load!(r, "fcom dword ptr [rax]", r.f32(), |f, v| f
        .compare_memory(Source::f32(v), false));
    check_load!(r, "fcomp qword ptr [rax]", r.f64(), |f, v| f
        .compare_memory(Source::f64(v), true));
    check_load!(r, "ficomp word ptr [rax]", r.next() as i16, |f, v| f
        .compare_memory(Source::integer(v.into()), true));
    for (i, quiet) in [(1, false), (1, true)] {
        for _ in 0..ROUNDS {
            let before = r.state(false);
            let (host, _, flags) = if quiet {
                native_x87!("fucomip st, st(1)", image(&before), [0; 16])
            } else {
                native_x87!("fcomip st, st(1)", image(&before), [0; 16])
            };
            let mut after = before.clone();
            let ours = after.compare_flags(i, quiet, true);
            // AMD leaves C1 alone; the SDM has it cleared.
            assert_eq!(
                (difference(&after, &parse(&host), fsw::C1), ours),
                (None, flags),
                "{before:x?}"
            );
        }
    }
    check!(r, false, 0, "fcmovnb st, st(1)", |f| f.conditional_move(true, 1));
    check!(r, false, 0, "fcmovb st, st(1)", |f| f.conditional_move(false, 1));
}

#[test]
fn loads_agree() {
    let mut r = Random(24);
    check_load!(r, "fld dword ptr [rax]", r.f32(), |f, v| f
        .load_converted(Source::f32(v)));
    check_load!(r, "fld qword ptr [rax]", r.f64(), |f, v| f
        .load_converted(Source::f64(v)));
    check_load!(r, "fld tbyte ptr [rax]", r.f80(), |f, v| f
        .load(v & ((1 << 80) - 1)));
    check_load!(r, "fild word ptr [rax]", r.next() as i16, |f, v| f
        .load_converted(Source::integer(v.into())));
    check_load!(r, "fild dword ptr [rax]", r.next() as i32, |f, v| f
        .load_converted(Source::integer(v.into())));
    check_load!(
        r,
        "fild qword ptr [rax]",
        r.next() as i64 >> r.below(64),
        |f, v| { f.load_converted(Source::integer(v)) }
    );
    let mut digits =
        |_| (0..19).fold(0u128, |n, _| n << 4 | r.below(10) as u128) | (r.next() as u128 & 0xff) << 72;
    let values: Vec<u128> = (0..50).map(&mut digits).collect();
    check_load!(r, "fbld tbyte ptr [rax]", r.pick(&values), |f, v| f.load_bcd(v));
    check!(r, false, 0, "fld st(3)", |f| f.load_stack(3));
    check!(r, false, 0, "fld1", |f| f.load_constant(Constant::One));
    check!(r, false, 0, "fldl2t", |f| f.load_constant(Constant::Log2Ten));
    check!(r, false, 0, "fldl2e", |f| f.load_constant(Constant::Log2E));
    check!(r, false, 0, "fldpi", |f| f.load_constant(Constant::Pi));
    check!(r, false, 0, "fldlg2", |f| f.load_constant(Constant::Log10Two));
    check!(r, false, 0, "fldln2", |f| f.load_constant(Constant::LnTwo));
    check!(r, false, 0, "fldz", |f| f.load_constant(Constant::Zero));
}

#[test]
fn stores_agree() {
    let mut r = Random(25);
    check_store!(r, "fst dword ptr [rax]", 4, |f| f.store_float(Format::F32, false));
    check_store!(r, "fstp dword ptr [rax]", 4, |f| f.store_float(Format::F32, true));
    check_store!(r, "fstp qword ptr [rax]", 8, |f| f.store_float(Format::F64, true));
    check_store!(r, "fstp tbyte ptr [rax]", 10, |f| f.store_f80());
    check_store!(r, "fist word ptr [rax]", 2, |f| f.store_integer(16, false, false));
    check_store!(r, "fistp dword ptr [rax]", 4, |f| f
        .store_integer(32, false, true));
    check_store!(r, "fistp qword ptr [rax]", 8, |f| f
        .store_integer(64, false, true));
    check_store!(r, "fisttp word ptr [rax]", 2, |f| f.store_integer(16, true, true));
    check_store!(r, "fisttp dword ptr [rax]", 4, |f| f
        .store_integer(32, true, true));
    check_store!(r, "fisttp qword ptr [rax]", 8, |f| f
        .store_integer(64, true, true));
    check_store!(r, "fbstp tbyte ptr [rax]", 10, |f| f.store_bcd());
    check!(r, false, 0, "fst st(2)", |f| f.store_stack(2, false));
    check!(r, false, 0, "fstp st(1)", |f| f.store_stack(1, true));
    check!(r, false, 0, "fxch st(2)", |f| f.exchange(2));
}

#[test]
fn control_instructions_agree() {
    let mut r = Random(26);
    check!(r, false, 0, "fincstp", |f| f.increment_top());
    check!(r, false, 0, "fdecstp", |f| f.decrement_top());
    check!(r, false, 0, "ffree st(2)", |f| f.free(2));
    check!(r, false, 0, ".byte 0xdf, 0xc2", |f| {
        f.free(2);
        f.pop()
    });
    check!(r, false, 0, "fninit", |f| f.init());
    check!(r, false, 0, "fnclex", |f| f.clear_exceptions());
    check_load!(r, "fldcw word ptr [rax]", r.next() as u16 | 0x3f, |f, v| f
        .set_fcw(v));
    check!(r, false, 0, "fnstenv [rsp - 28]", |f| f.mask_all());
    check!(r, false, 0, "movq mm3, mm4", |f| f.set_mmx(3, f.mmx(4)));
    check!(r, false, 0, "movd eax, mm4", |f| f.enter_mmx());
    check!(r, false, 0, "emms", |f| f.emms());
}

/// The distance of two values in units in the last place, where they are comparable.
fn ulps(a: u128, b: u128) -> u128 {
    if a == b {
        return 0;
    }
    if a >> 79 != b >> 79 {
        return u128::MAX;
    }
    let linear = |x: u128| (x >> 64 & 0x7fff) * (1 << 63) + (x as u64 & (u64::MAX >> 1)) as u128;
    linear(a).abs_diff(linear(b))
}

macro_rules! check_close {
    ($random:ident, $name:literal, $text:expr, $ignore:expr, |$fpu:ident| $ours:expr, |$x:ident, $y:ident| $domain:expr) => {{
        let (mut exact, mut close, mut worst) = (0, 0, 0);
        for _ in 0..ROUNDS {
            let before = $random.state(true);
            let ($x, $y) = (before.st(0), before.st(1));
            let (_, _) = ($x, $y);
            if !$domain {
                continue;
            }
            let (host, ..) = native_x87!($text, image(&before), [0; 16]);
            let mut after = before.clone();
            {
                let $fpu = &mut after;
                $ours;
            }
            let mut host = parse(&host);
            let fail = |why: &str, after: &X87, host: &X87| {
                panic!(
                    "{}: {why}: from fcw {:04x} fsw {:04x} ftw {:04x} st0 {:020x} st1 {:020x}{}",
                    $name,
                    before.fcw,
                    before.fsw,
                    before.ftw,
                    $x,
                    $y,
                    difference(after, host, 0).unwrap_or_default()
                );
            };
            for i in 0..8 {
                let distance = ulps(after.r[i], host.r[i]);
                worst = worst.max(distance);
                if distance > 1 {
                    fail("value", &after, &host);
                }
                match distance {
                    0 => exact += 1,
                    _ => close += 1,
                }
                host.r[i] = after.r[i];
            }
            host.ftw = after.ftw;
            if difference(&after, &host, $ignore).is_some() {
                fail("status", &after, &host);
            }
        }
        println!(
            "{}: {exact} registers equal, {close} apart by at most {worst}",
            $name
        );
    }};
}

#[test]
fn transcendentals_are_within_one_unit_of_the_hosts() {
    let mut r = Random(27);
    // C1 tells the direction of the last rounding, which follows the value.
    let c1 = fsw::C1;
    let exponent = |x: u128| (x >> 64) as i32 & 0x7fff;
    check_close!(r, "f2xm1", "f2xm1", c1, |f| f.exp2_minus_1(), |x, _y| exponent(x)
        < 0x3fff);
    check_close!(r, "fyl2x", "fyl2x", c1, |f| f.y_log2(false), |_x, _y| true);
    check_close!(r, "fyl2xp1", "fyl2xp1", c1, |f| f.y_log2(true), |x, _y| exponent(
        x
    )
        < 0x3ffd);
    check_close!(r, "fpatan", "fpatan", c1, |f| f.arc_tangent(), |_x, _y| true);
    check_close!(
        r,
        "fsin",
        "fsin",
        c1,
        |f| f.trigonometric(Trigonometric::Sine),
        |_x, _y| true
    );
    check_close!(
        r,
        "fcos",
        "fcos",
        c1,
        |f| f.trigonometric(Trigonometric::Cosine),
        |_x, _y| true
    );
    check_close!(
        r,
        "fsincos",
        "fsincos",
        c1,
        |f| f.trigonometric(Trigonometric::SineCosine),
        |_x, _y| true
    );
    check_close!(
        r,
        "fptan",
        "fptan",
        c1,
        |f| f.trigonometric(Trigonometric::Tangent),
        |_x, _y| true
    );
}
