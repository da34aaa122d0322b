//! What CR0, CR4, EFER, XCR0 and MSRs accept, and CPUID (SDM vol. 3A, 2.5; vol. 4).

use crate::bench::*;
use hv_core::machine::Machine;
use hv_core::regs::{Registers, cr0, cr4, efer, gpr, rflags, seg};

fn write_cr0(value: u64) -> Option<u64> {
    let mut b = Bench::long();
    b.code(|a| {
        a.mov(rax, value)?;
        a.mov(cr0, rax)?;
        a.mov(rcx, cr0)?;
        a.out(EXIT_PORT as i32, al)
    });
    outcome(&mut b)
}

/// RCX, or none if it was #GP(0).
fn outcome(b: &mut Bench) -> Option<u64> {
    assert!(exited(&b.go()));
    match vector_at(b.regs().rip) {
        None => Some(b.gpr(gpr::RCX)),
        Some(vector) => {
            assert_eq!((vector, b.frame().error), (vector::GP, Some(0)));
            None
        }
    }
}

#[test]
fn cr0_refuses_what_makes_no_sense_and_ignores_reserved_bits() {
    let base = cr0::PG | cr0::PE | cr0::ET | cr0::NE | cr0::WP;
    assert_eq!(write_cr0(base), Some(base));
    assert_eq!(write_cr0(base & !cr0::ET), Some(base), "ET is always set");
    assert_eq!(write_cr0(base | 1 << 10), Some(base), "reserved");
    assert_eq!(write_cr0(base | cr0::CD), Some(base | cr0::CD));
    assert_eq!(write_cr0(base | cr0::NW), None, "NW without CD");
    assert_eq!(write_cr0(base & !cr0::PE), None, "PG without PE");
    assert_eq!(write_cr0(base | 1 << 32), None);
    assert_eq!(
        write_cr0(base | cr0::TS | cr0::MP | cr0::EM),
        Some(base | cr0::TS | cr0::MP | cr0::EM)
    );
}

#[test]
fn cr4_refuses_every_bit_that_cpuid_does_not_tell() {
    let allowed = cr4::TSD
        | cr4::DE
        | cr4::PSE
        | cr4::PAE
        | cr4::MCE
        | cr4::PGE
        | cr4::PCE
        | cr4::OSFXSR
        | cr4::OSXMMEXCPT
        | cr4::UMIP
        | cr4::FSGSBASE
        | cr4::OSXSAVE
        | cr4::SMEP
        | cr4::SMAP
        | cr4::PCIDE;
    for bit in 0..64u32 {
        let mut b = Bench::long();
        for page in [CODE, HANDLERS] {
            b.map(page, page | 3); // SMEP and SMAP look at them
        }
        let value = cr4::PAE | 1 << bit;
        b.code(|a| {
            a.mov(rax, value)?;
            a.mov(cr4, rax)?;
            a.mov(rcx, cr4)?;
            a.out(EXIT_PORT as i32, al)
        });
        b.map(STACK - 0x1000, (STACK - 0x1000) | 3);
        let expected = (allowed >> bit & 1 != 0).then_some(value);
        assert_eq!(outcome(&mut b), expected, "bit {bit}");
    }
}

#[test]
fn cr8_takes_four_bits() {
    for (value, expected) in [(15u64, Some(15)), (16, None), (1 << 32, None)] {
        let mut b = Bench::long();
        b.code(|a| {
            a.mov(rax, value)?;
            a.mov(cr8, rax)?;
            a.mov(rcx, cr8)?;
            a.out(EXIT_PORT as i32, al)
        });
        assert_eq!(outcome(&mut b), expected);
    }
}

#[test]
fn lmsw_sets_pe_but_never_clears_it_and_clts_clears_ts() {
    let mut b = Bench::protected();
    b.runs(|a| {
        a.mov(eax, 0xe)?; // MP, EM, TS without PE
        a.lmsw(ax)?;
        a.smsw(ecx)?;
        a.clts()?;
        a.smsw(edx)
    });
    let base = cr0::ET | cr0::NE | cr0::PE;
    assert_eq!(b.gpr(1), base | 0xe);
    assert_eq!(b.gpr(2), base | 6);
}

/// WRMSR then RDMSR, or none if it was #GP(0).
fn msr(b: &mut Bench, number: u32, value: u64) -> Option<u64> {
    b.code(|a| {
        a.mov(ecx, number)?;
        a.mov(eax, value as u32)?;
        a.mov(edx, (value >> 32) as u32)?;
        a.wrmsr()?;
        a.rdmsr()?;
        a.shl(rdx, 32)?;
        a.lea(rcx, ptr(rax + rdx))?;
        a.out(EXIT_PORT as i32, al)
    });
    outcome(b)
}

#[test]
fn msrs_hold_what_they_may() {
    let high = 0xffff_8000_0000_1234;
    for (number, value, expected) in [
        (0x174, 0x1_2345_6789, Some(0x2345_6789)), // SYSENTER_CS
        (0x175, high, Some(high)),
        (0x176, 1 << 47, None),
        (0x277, 0x0007_0406_0007_0406, Some(0x0007_0406_0007_0406)), // PAT
        (0x277, 2, None),
        (0x277, 3 << 56, None),
        (
            0xc000_0080,
            efer::LME | efer::NXE,
            Some(efer::LME | efer::LMA | efer::NXE),
        ),
        (0xc000_0080, efer::LME | 1 << 12, None), // SVME
        (0xc000_0080, efer::LME | 1 << 1, None),
        (0xc000_0081, u64::MAX, Some(u64::MAX)),
        (0xc000_0082, high, Some(high)),
        (0xc000_0082, 1 << 63, None),
        (0xc000_0083, 1 << 63, None),
        (0xc000_0084, 0x4_7700, Some(0x4_7700)),
        (0xc000_0100, high, Some(high)),
        (0xc000_0101, 1 << 47, None),
        (0xc000_0102, high, Some(high)),
        (0xc000_0103, 7, Some(7)),
        (0xda0, 0, Some(0)), // XSS
        (0xda0, 1 << 8, None),
        (0x1b, 1 << 60, None),
        (0x17b, 0, None), // no such
        (0xc000_0104, 0, None),
        (0xfe, 0, None),  // MTRRCAP is read-only
        (0x10a, 0, None), // and ARCH_CAPABILITIES
        (0x2ff, 0xc06, Some(0xc06)),
        (0x200, 0x1234_5006, Some(0x1234_5006)),
        (0x250, 0x0606_0606_0606_0606, Some(0x0606_0606_0606_0606)),
    ] {
        let found = msr(&mut Bench::long(), number, value);
        assert_eq!(found, expected, "MSR {number:#x} := {value:#x}");
    }
}

#[test]
fn fs_and_gs_base_msrs_are_the_segments_bases() {
    let mut b = Bench::long();
    b.write_u64(DATA + 0x20, 0x99);
    b.runs(|a| {
        a.mov(ecx, 0xc000_0100u32)?;
        a.mov(eax, DATA as u32)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.mov(rbx, qword_ptr(0x20).fs())
    });
    assert_eq!((b.gpr(3), b.regs().segments[seg::FS].base), (0x99, DATA));
}

fn cpuid(b: &mut Bench, leaf: u32, subleaf: u32) -> [u32; 4] {
    b.runs(|a| {
        a.mov(eax, leaf)?;
        a.mov(ecx, subleaf)?;
        a.cpuid()?;
        a.mov(dword_ptr(DATA + 4), ebx)?;
        a.mov(ebx, eax)?;
        a.mov(dword_ptr(DATA), ebx)?;
        a.mov(dword_ptr(DATA + 8), ecx)?;
        a.mov(dword_ptr(DATA + 12), edx)
    });
    [b.u32(DATA), b.u32(DATA + 4), b.u32(DATA + 8), b.u32(DATA + 12)]
}

#[test]
fn cpuid_reflects_osxsave_and_the_apic_and_clears_the_upper_halves() {
    let mut b = Bench::long();
    b.set(|r| (r.gpr[0], r.gpr[3]) = (u64::MAX << 32, u64::MAX));
    b.runs(|a| {
        a.mov(eax, 0)?;
        a.cpuid()
    });
    for n in 0..4 {
        assert_eq!(b.gpr(n) >> 32, 0);
    }
    assert_eq!(cpuid(&mut b, 1, 0)[2] & 1 << 27, 0);
    assert_ne!(cpuid(&mut b, 1, 0)[3] & 1 << 9, 0);
    b.set(|r| (r.cr4 |= cr4::OSXSAVE, r.apic_base &= !0x800).1);
    assert_ne!(cpuid(&mut b, 1, 0)[2] & 1 << 27, 0);
    assert_eq!(cpuid(&mut b, 1, 0)[3] & 1 << 9, 0, "the APIC is off");
    let highest = cpuid(&mut b, 0, 0)[0];
    assert_eq!(
        cpuid(&mut b, 0x4000_0000, 0),
        cpuid(&mut b, highest, 0),
        "beyond the last leaf"
    );
    assert_eq!(cpuid(&mut b, 0x8000_0008, 0)[0], 48 << 8 | 40);
}

#[test]
fn models_without_a_feature_raise_ud_and_refuse_its_bits() {
    let mut config = config(1);
    config.cpu_model = "minimal".into();
    let mut b = Bench::long();
    let registers = b.long_registers();
    let full = b.m;
    b.m = Machine::new(&config).expect("a machine");
    for page in 0..0x40u64 {
        let mut bytes = [0; 4096];
        full.read_physical(hv_core::GuestPhysAddr(0x20_0000 + (page << 12)), &mut bytes);
        b.write(0x20_0000 + (page << 12), &bytes);
    }
    b.set(|r| *r = registers);
    for bytes in [
        &[0xf3, 0x0f, 0xb8, 0xc1][..],   // POPCNT
        &[0x0f, 0x38, 0xf0, 0x03],       // MOVBE
        &[0x0f, 0xc7, 0xf0],             // RDRAND
        &[0xc4, 0xe2, 0x78, 0xf2, 0xc1], // ANDN
        &[0x0f, 0x01, 0xf9],             // RDTSCP
        &[0x0f, 0x01, 0xd0],             // XGETBV
        &[0x0f, 0x01, 0xca],             // CLAC
        &[0x66, 0x0f, 0x38, 0x82, 0x03], // INVPCID
        &[0x0f, 0x34],                   // SYSENTER
        &[0x66, 0x0f, 0x38, 0xf6, 0xc1], // ADCX
        &[0x66, 0x0f, 0x38, 0x00, 0xc1], // PSHUFB
    ] {
        let f = b.raises(vector::UD, |a| a.db(bytes));
        assert_eq!(f.cs, selector::CODE64, "{bytes:x?}");
    }
    // F3 0F BC and BD are BSF and BSR there.
    b.runs(|a| {
        a.mov(ecx, 0x100)?;
        a.db(&[0xf3, 0x0f, 0xbd, 0xc1])?;
        a.db(&[0xf3, 0x0f, 0xbc, 0xd1])
    });
    assert_eq!((b.gpr(0), b.gpr(2)), (8, 8));
    for bit in [
        cr4::SMEP,
        cr4::SMAP,
        cr4::OSXSAVE,
        cr4::PCIDE,
        cr4::FSGSBASE,
        cr4::UMIP,
    ] {
        let f = b.raises(vector::GP, |a| {
            a.mov(rax, cr4)?;
            a.or(rax, bit as i32)?;
            a.mov(cr4, rax)
        });
        assert_eq!(f.error, Some(0));
    }
    // 1 GiB pages: the PS bit of a PDPT entry is reserved.
    b.write_u64(TABLES + 0x800, 0x60_0000 | 7);
    b.write_u64(0x60_0000, 0x87);
    let f = b.raises(vector::PF, |a| {
        a.mov(rbx, 0xffff_8000_0000_0000u64)?;
        a.mov(rcx, ptr(rbx))
    });
    assert_eq!(f.error, Some(9));
}

#[test]
fn popf_changes_what_the_ring_may() {
    let all = rflags::STATUS | rflags::IF | rflags::DF | rflags::IOPL | rflags::NT | rflags::AC | rflags::ID;
    for (user, iopl, kept_out) in [
        (false, 0, 0),
        (true, 0, rflags::IF | rflags::IOPL),
        (true, 3, rflags::IOPL),
    ] {
        let mut b = Bench::long();
        if user {
            b.user();
        }
        b.set(|r| r.rflags = 2 | iopl << 12);
        b.code(|a| {
            a.push((all | rflags::VM | rflags::RF | rflags::VIF | rflags::VIP | 0x8028) as i32)?;
            a.popfq()?;
            a.int3()
        });
        let f = b.fault(vector::BP);
        let expected = all & !kept_out | 2 | if user { iopl << 12 } else { 0 };
        assert_eq!(f.rflags, expected, "user {user}, IOPL {iopl}");
    }
}

#[test]
fn a_debugger_cannot_set_impossible_registers() {
    let b = Bench::long();
    let mut b = b;
    type Change = fn(&mut Registers);
    let bad: [(&str, Change); 12] = [
        ("CR0", |r| r.cr0 |= 1 << 33),
        ("CR0", |r| r.cr0 &= !cr0::PE),
        ("CR4", |r| r.cr4 |= cr4::LA57),
        ("CR4", |r| r.cr4 &= !cr4::PAE),
        ("CR3", |r| r.cr3 |= 1 << 50),
        ("CR8", |r| r.cr8 = 16),
        ("EFER", |r| r.efer &= !efer::LMA),
        ("RFLAGS", |r| r.rflags |= 1 << 40),
        ("RIP", |r| r.rip = 1 << 60),
        ("IA32_LSTAR", |r| r.msrs.lstar = 1 << 47),
        ("DR7", |r| r.dr7 |= 1 << 32),
        ("MXCSR", |r| r.mxcsr |= 1 << 20),
    ];
    for (name, change) in bad {
        let before = b.regs();
        let mut r = before.clone();
        change(&mut r);
        let error = b.m.set_registers(CPU0, &r).expect_err(name);
        assert_eq!(error.register, name);
        assert_eq!(b.regs(), before);
    }
}
