//! Virtual-8086 mode (SDM vol. 3A, 20.2 and 20.3), without VME.

use crate::bench::*;
use hv_core::regs::{Segment, gpr, rflags, seg};

fn segment(selector: u16) -> Segment {
    Segment {
        selector,
        base: (selector as u64) << 4,
        limit: 0xffff,
        attributes: 0xf3,
    }
}

/// A task in V86 mode at 1000:0000 with its stack at 2000:1000.
fn bench(iopl: u64) -> Bench {
    let mut b = Bench::protected();
    b.set(|r| {
        r.rflags = 2 | rflags::VM | iopl << 12;
        for (s, value) in [0x3000, 0x1000, 0x2000, 0x3100, 0x3200, 0x3300]
            .into_iter()
            .enumerate()
        {
            r.segments[s] = segment(value);
        }
        r.gpr[gpr::RSP] = 0x1000;
        r.rip = 0;
    });
    b
}

/// Puts 16-bit code at 1000:0000.
fn code(b: &mut Bench, code: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) {
    let bytes = assemble(16, 0, code);
    b.write(0x1_0000, &bytes);
}

/// The nine words on the ring-0 stack, from EIP up to GS; behind the error code if there is one.
fn pushed(b: &Bench) -> Vec<u32> {
    let skip = vector_at(b.regs().rip).is_some_and(has_error_code) as u64;
    (0..9).map(|n| b.u32(b.gpr(gpr::RSP) + 4 * (n + skip))).collect()
}

#[test]
fn a_fault_goes_to_ring_0_with_all_segments_saved_and_nulled() {
    let mut b = bench(0);
    code(&mut b, |a| {
        a.nop()?;
        a.hlt()
    });
    let f = b.fault(vector::GP);
    let r = b.regs();
    assert_eq!(f.error, Some(0));
    let flags = 2 | (rflags::VM | rflags::RF) as u32;
    assert_eq!(
        pushed(&b),
        [1, 0x1000, flags, 0x1000, 0x2000, 0x3000, 0x3100, 0x3200, 0x3300]
    );
    assert_eq!(r.gpr[gpr::RSP], STACK + 0x1000 - 40);
    assert_eq!(r.rflags & rflags::VM, 0);
    assert_eq!(r.cpl(), 0);
    for s in [seg::ES, seg::DS, seg::FS, seg::GS] {
        assert!(r.segments[s].unusable() && r.segments[s].selector == 0);
    }
}

#[test]
fn iret_from_ring_0_enters_it_with_all_segments() {
    let mut b = Bench::protected();
    b.write(0x1_0005, &[0xcc]);
    b.code(|a| {
        for value in [
            0x3300, 0x3200, 0x3100, 0x3000, 0x2000, 0x1000, 0x2_3202, 0x1000, 5,
        ] {
            a.push(value)?;
        }
        a.iretd()
    });
    b.fault(vector::BP);
    assert_eq!(
        pushed(&b),
        [
            6, 0x1000, 0x2_3202, 0x1000, 0x2000, 0x3000, 0x3100, 0x3200, 0x3300
        ]
    );
}

#[test]
fn iopl_3_lets_the_sensitive_instructions_run() {
    let mut b = bench(3);
    b.interrupt_gate(0x21, 0xee, 0, handler(0x21));
    code(&mut b, |a| {
        a.sti()?;
        a.pushf()?;
        a.pop(cx)?;
        a.cli()?;
        a.push(0x3002)?;
        a.popf()?;
        a.int(0x21)
    });
    b.fault(0x21);
    assert_eq!(b.gpr(gpr::RCX), 0x3202);
}

#[test]
fn iopl_below_3_makes_them_gp_0() {
    type Code = fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>;
    let all: [(&str, Code); 6] = [
        ("cli", |a| a.cli()),
        ("sti", |a| a.sti()),
        ("pushf", |a| a.pushf()),
        ("popf", |a| a.popf()),
        ("int", |a| a.int(0x21)),
        ("iret", |a| a.iret()),
    ];
    for (name, instruction) in all {
        let mut b = bench(2);
        b.interrupt_gate(0x21, 0xee, 0, handler(0x21));
        code(&mut b, instruction);
        let f = b.fault(vector::GP);
        assert_eq!((f.error, pushed(&b)[0]), (Some(0), 0), "{name}");
    }
    // INT3 and INTO aren't sensitive.
    let mut b = bench(0);
    code(&mut b, |a| a.int3());
    b.fault(vector::BP);
}

#[test]
fn int_n_needs_a_gate_of_dpl_3_to_ring_0() {
    let mut b = bench(3);
    code(&mut b, |a| a.int(0x21));
    assert_eq!(b.fault(vector::GP).error, Some(0x21 * 8 + 2));
    let mut b = bench(3);
    b.define(selector::FREE, descriptor(0, u32::MAX, 0x9f, 0xc));
    b.write_u64(
        IDT + 8 * 0x21,
        gate(selector::FREE, handler(0x21) as u32, 0xee, 0),
    );
    code(&mut b, |a| a.int(0x21));
    assert_eq!(
        b.fault(vector::GP).error,
        Some(selector::FREE as u64),
        "a conforming handler"
    );
}

#[test]
fn ports_go_by_the_bitmap_whatever_iopl() {
    for (allowed, iopl) in [(true, 0), (false, 3)] {
        let mut b = bench(iopl);
        b.write(TSS + 104, &[0xff; 0x42]);
        if allowed {
            b.write(TSS + 104 + EXIT_PORT as u64 / 8, &[!(1 << (EXIT_PORT % 8))]);
        }
        b.set(|r| r.tr.limit = 104 + 0x40);
        code(&mut b, |a| a.out(EXIT_PORT as i32, al));
        if allowed {
            b.finish();
            assert_eq!(b.regs().rip, 2);
        } else {
            assert_eq!(b.fault(vector::GP).error, Some(0));
        }
    }
}

#[test]
fn iret_within_it_keeps_vm_and_iopl() {
    let mut b = bench(3);
    code(&mut b, |a| {
        a.push(0x0203)?;
        a.push(0x1000)?;
        a.push(0x40)?;
        a.iret()
    });
    b.write(0x1_0040, &[0xcc]);
    b.fault(vector::BP);
    assert_eq!(pushed(&b)[..3], [0x41, 0x1000, 0x2_3203]);
}

#[test]
fn segment_loads_far_jumps_and_limits_are_those_of_real_mode() {
    let mut b = bench(3);
    b.write_u16(0x4_0010, 0x4321);
    code(&mut b, |a| {
        a.mov(ax, 0x4000)?;
        a.mov(ds, ax)?;
        a.mov(cx, word_ptr(0x10))?;
        a.db(&[0xea, 0x20, 0, 0, 0x50]) // jmp 5000:0020
    });
    b.write(0x5_0020, &[0xcc]);
    b.fault(vector::BP);
    assert_eq!(b.gpr(gpr::RCX), 0x4321);
    assert_eq!(pushed(&b)[..2], [0x21, 0x5000]);
    let mut b = bench(3);
    code(&mut b, |a| {
        a.mov(bx, -1)?;
        a.mov(ax, word_ptr(bx))
    });
    assert_eq!(b.fault(vector::GP).error, Some(0));
}

#[test]
fn protected_instructions_are_ud_and_privileged_ones_gp() {
    let mut b = bench(3);
    code(&mut b, |a| a.sldt(ax));
    b.fault(vector::UD);
    let mut b = bench(3);
    code(&mut b, |a| a.lar(ax, bx));
    b.fault(vector::UD);
    let mut b = bench(3);
    code(&mut b, |a| a.mov(eax, cr0));
    assert_eq!(b.fault(vector::GP).error, Some(0));
}

#[test]
fn iret_to_an_ip_beyond_64_kib_is_gp_in_ring_0() {
    let mut b = Bench::protected();
    let f = b.raises(vector::GP, |a| {
        for value in [0, 0, 0, 0, 0x2000, 0x1000, 0x2_0002, 0x1000, 0x1_0000] {
            a.push(value)?;
        }
        a.iretd()
    });
    assert_eq!((f.error, f.cs), (Some(0), selector::CODE32));
}
