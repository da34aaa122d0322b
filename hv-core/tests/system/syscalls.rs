//! SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS and the segment-base instructions (SDM vol. 2).

use crate::bench::*;
use hv_core::regs::{cr4, efer, gpr, rflags, seg};

const ENTRY: u64 = CODE + 0x8000;

fn bench() -> Bench {
    let mut b = Bench::long();
    b.set(|r| {
        r.msrs.star = (selector::CODE64 as u64) << 32 | (selector::USER_CODE32 as u64) << 48;
        r.msrs.lstar = ENTRY;
        r.msrs.cstar = ENTRY + 0x100;
        r.msrs.sfmask = rflags::IF | rflags::DF | rflags::AC;
        r.msrs.sysenter_cs = selector::CODE64 as u64;
        r.msrs.sysenter_esp = STACK - 0x100;
        r.msrs.sysenter_eip = ENTRY;
    });
    b.code_at(64, ENTRY, |a| a.out(EXIT_PORT as i32, al));
    b
}

#[test]
fn syscall_saves_rip_and_rflags_masks_and_switches_no_stack() {
    let mut b = bench();
    b.user();
    b.set(|r| r.rflags |= rflags::IF | rflags::DF | rflags::CF);
    b.code(|a| a.syscall());
    b.finish();
    let r = b.regs();
    assert_eq!(
        (r.gpr[gpr::RCX], r.gpr[11]),
        (CODE + 2, 2 | rflags::IF | rflags::DF | rflags::CF)
    );
    assert_eq!((r.rip, r.rflags), (ENTRY + 2, 2 | rflags::CF));
    assert_eq!(r.gpr[gpr::RSP], STACK - 0x800);
    let (code, stack) = (r.segments[seg::CS], r.segments[seg::SS]);
    assert_eq!(
        (code.selector, stack.selector, r.cpl()),
        (selector::CODE64, selector::DATA, 0)
    );
    assert_eq!((code.base, code.limit, code.attributes), (0, u32::MAX, 0xa09b));
    assert_eq!((stack.base, stack.limit, stack.attributes), (0, u32::MAX, 0xc093));
}

#[test]
fn syscall_without_sce_is_ud_and_sysret_too() {
    let mut b = bench();
    b.set(|r| r.efer &= !efer::SCE);
    b.raises(vector::UD, |a| a.syscall());
    b.raises(vector::UD, |a| a.sysretq());
}

#[test]
fn syscall_in_compatibility_mode_is_ud() {
    let mut b = bench();
    b.set(|r| {
        r.segments[seg::CS].attributes = 0xc09b;
        r.segments[seg::CS].selector = selector::CODE32;
    });
    b.raises(vector::UD, |a| a.syscall());
}

#[test]
fn sysretq_returns_to_64_bit_ring_3_with_r11_as_rflags() {
    let mut b = bench();
    b.code_at(64, CODE + 0x4000, |a| a.int3());
    b.set(|r| r.gpr[gpr::RSP] = STACK - 0x333);
    b.code(|a| {
        a.mov(rcx, CODE + 0x4000)?;
        a.mov(r11, !rflags::TF)?;
        a.sysretq()
    });
    let f = b.fault(vector::BP);
    assert_eq!(
        (f.rip, f.cs, f.ss),
        (CODE + 0x4001, selector::USER_CODE64, selector::USER_DATA)
    );
    assert_eq!(f.rsp, STACK - 0x333);
    assert_eq!(f.rflags, 0x3c_7fd7 & !rflags::TF & !rflags::RF & !rflags::VM);
}

#[test]
fn sysretl_returns_to_compatibility_mode() {
    let mut b = bench();
    b.code_at(32, CODE + 0x4000, |a| {
        a.db(&[0x40])?; // inc eax
        a.int3()
    });
    b.code(|a| {
        a.mov(rcx, 0xffff_ffff_0000_0000u64 | (CODE + 0x4000))?;
        a.mov(r11d, 2)?;
        a.xor(eax, eax)?;
        a.sysret()
    });
    let f = b.fault(vector::BP);
    assert_eq!(
        (f.rip, f.cs, f.ss),
        (CODE + 0x4002, selector::USER_CODE32, selector::USER_DATA)
    );
    assert_eq!(b.gpr(0), 1);
}

#[test]
fn sysret_to_a_non_canonical_address_faults_in_ring_0() {
    let f = bench().raises(vector::GP, |a| {
        a.mov(rcx, 1u64 << 47)?;
        a.sysretq()
    });
    assert_eq!((f.error, f.cs, f.rip), (Some(0), selector::CODE64, CODE + 10));
    let mut b = bench();
    b.user();
    assert_eq!(
        b.raises(vector::GP, |a| a.sysretq()).error,
        Some(0),
        "not from ring 3"
    );
}

#[test]
fn sysret_that_sets_if_lets_a_waiting_interrupt_in_first() {
    let mut b = bench();
    for (msr, value) in [(0x1b, 0xfee0_0d00), (0x80f, 0x1ff), (0x83f, 0x50)] {
        assert!(b.m.write_msr(CPU0, msr, value));
    }
    b.code(|a| {
        a.mov(rcx, CODE + 0x4000)?;
        a.mov(r11d, 0x202)?;
        a.sysretq()
    });
    let f = b.fault(0x50);
    assert_eq!((f.rip, f.cs), (CODE + 0x4000, selector::USER_CODE64));
}

#[test]
fn sysenter_and_sysexit() {
    for user in [false, true] {
        let mut b = bench();
        if user {
            b.user();
        }
        b.set(|r| r.rflags |= rflags::IF | rflags::CF);
        b.code(|a| a.sysenter());
        b.finish();
        let r = b.regs();
        assert_eq!(
            (r.rip, r.gpr[gpr::RSP], r.rflags),
            (ENTRY + 2, STACK - 0x100, 2 | rflags::CF)
        );
        assert_eq!(
            (r.segments[seg::CS].selector, r.segments[seg::SS].selector),
            (selector::CODE64, selector::DATA)
        );
        assert_eq!(r.cpl(), 0);
    }
    // SYSEXIT: CS + 16 and + 24, in 64-bit form + 32 and + 40.
    let mut b = bench();
    b.code_at(64, CODE + 0x4000, |a| a.int3());
    b.code(|a| {
        a.mov(rdx, CODE + 0x4000)?;
        a.mov(rcx, STACK - 0x200)?;
        a.sysexitq()
    });
    let f = b.fault(vector::BP);
    assert_eq!((f.rip, f.rsp), (CODE + 0x4001, STACK - 0x200));
    assert_eq!(
        (f.cs, f.ss),
        ((selector::CODE64 + 32) | 3, (selector::CODE64 + 40) | 3)
    );
    let mut b = bench();
    b.set(|r| r.msrs.sysenter_cs = 3);
    b.raises(vector::GP, |a| a.sysenter());
    b.raises(vector::GP, |a| a.sysexit());
    let mut b = bench();
    b.raises(vector::GP, |a| {
        a.mov(rcx, 1u64 << 47)?;
        a.sysexitq()
    });
}

#[test]
fn sysenter_in_32_bit_protected_mode() {
    let mut b = Bench::protected();
    b.user();
    b.code_at(32, ENTRY, |a| a.out(EXIT_PORT as i32, al));
    b.set(|r| {
        r.msrs.sysenter_cs = selector::CODE32 as u64;
        r.msrs.sysenter_esp = STACK - 0x100;
        r.msrs.sysenter_eip = ENTRY;
    });
    b.code(|a| a.sysenter());
    b.finish();
    let r = b.regs();
    assert_eq!((r.gpr[gpr::RSP], r.cpl()), (STACK - 0x100, 0));
    assert_eq!(r.segments[seg::CS].attributes, 0xc09b);
    assert_eq!(r.segments[seg::SS].selector, selector::CODE32 + 8);
}

#[test]
fn swapgs_exchanges_the_base_and_is_undefined_outside_64_bit_mode() {
    let mut b = Bench::long();
    b.write_u64(DATA + 0x10, 0xaa);
    b.set(|r| {
        r.segments[seg::GS].base = 0x1234;
        r.msrs.kernel_gs_base = DATA;
    });
    b.runs(|a| {
        a.swapgs()?;
        a.mov(rcx, qword_ptr(0x10).gs())
    });
    assert_eq!(
        (
            b.gpr(1),
            b.regs().segments[seg::GS].base,
            b.regs().msrs.kernel_gs_base
        ),
        (0xaa, DATA, 0x1234)
    );
    Bench::protected().raises(vector::UD, |a| a.db(&[0x0f, 0x01, 0xf8]));
}

#[test]
fn the_segment_base_instructions_need_cr4_fsgsbase() {
    let mut b = Bench::long();
    b.raises(vector::UD, |a| a.rdfsbase(rax));
    let mut b = Bench::long();
    b.user();
    b.set(|r| {
        r.cr4 |= cr4::FSGSBASE;
        r.rflags |= rflags::IOPL;
    });
    b.write_u64(DATA + 8, 0x77);
    b.runs(|a| {
        a.mov(rbx, DATA)?;
        a.wrfsbase(rbx)?;
        a.mov(rcx, qword_ptr(8).fs())?;
        a.mov(rbx, 0xffff_8000_1234_5678u64)?;
        a.wrgsbase(rbx)?;
        a.rdgsbase(rdx)?;
        a.rdgsbase(esi)
    });
    assert_eq!(
        (b.gpr(1), b.gpr(2), b.gpr(6)),
        (0x77, 0xffff_8000_1234_5678, 0x1234_5678)
    );
    let f = b.raises(vector::GP, |a| {
        a.mov(rbx, 1u64 << 47)?;
        a.wrfsbase(rbx)
    });
    assert_eq!(f.error, Some(0));
}

#[test]
fn loading_a_null_selector_clears_the_base_of_fs() {
    let mut b = Bench::long();
    b.set(|r| r.segments[seg::FS].base = 0x1234);
    b.runs(|a| {
        a.xor(eax, eax)?;
        a.mov(fs, eax)
    });
    assert_eq!(b.regs().segments[seg::FS].base, 0);
}
