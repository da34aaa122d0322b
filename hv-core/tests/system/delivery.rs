//! How exceptions and interrupts reach their handlers: stacks, bad gates, double and triple fault (SDM vol. 3A,
//! 6.12 to 6.15).

use crate::bench::*;
use hv_core::introspect::CrashReason;
use hv_core::machine::RunExit;
use hv_core::regs::{gpr, rflags, seg};

fn crash(b: &mut Bench) -> u64 {
    match b.go() {
        RunExit::Crashed(CrashReason::TripleFault { vcpu, rip }) if vcpu == CPU0 => rip,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_stack_is_aligned_to_16_bytes_before_the_frame() {
    for misalign in 0..16 {
        let mut b = Bench::long();
        b.set(|r| r.gpr[gpr::RSP] = STACK - misalign);
        let f = b.raises(vector::UD, |a| a.ud2());
        assert_eq!(f.rsp, STACK - misalign);
        assert_eq!(b.gpr(gpr::RSP), ((STACK - misalign) & !15) - 40);
    }
}

#[test]
fn an_inner_ring_takes_its_stack_from_the_tss_with_a_null_ss() {
    let mut b = Bench::long();
    b.user();
    let f = b.raises(vector::UD, |a| a.ud2());
    let r = b.regs();
    assert_eq!(
        (f.rsp, f.ss, f.cs),
        (STACK - 0x800, selector::USER_DATA, selector::USER_CODE64)
    );
    assert_eq!(r.gpr[gpr::RSP], STACK + 0x1000 - 40);
    assert_eq!(
        (r.segments[seg::SS].selector, r.segments[seg::CS].selector),
        (0, selector::CODE64)
    );
    assert_eq!(r.cpl(), 0);
    // Back again by IRETQ.
    b.write(CODE, &[0x90, 0x90, 0xcc]);
    b.leave_handler();
    let f = b.fault(vector::BP);
    assert_eq!(
        (f.rip, f.rsp, f.cs, f.ss),
        (
            CODE + 3,
            STACK - 0x800,
            selector::USER_CODE64,
            selector::USER_DATA
        )
    );
}

#[test]
fn an_ist_entry_switches_the_stack_whatever_the_ring() {
    for user in [false, true] {
        for ist in 1..=7 {
            let mut b = Bench::long();
            b.interrupt_gate(vector::UD, 0x8e, ist, handler(vector::UD));
            if user {
                b.user();
            }
            let f = b.raises(vector::UD, |a| a.ud2());
            assert_eq!(f.rsp, if user { STACK - 0x800 } else { STACK });
            assert_eq!(b.gpr(gpr::RSP), STACK + 0x1000 * (ist as u64 + 8) - 40);
            let stack = b.regs().segments[seg::SS].selector;
            assert_eq!(
                stack,
                if user { 0 } else { selector::DATA },
                "SS changes only with the ring"
            );
        }
    }
}

#[test]
fn bad_gates_are_gp_or_np_with_the_vector() {
    type Break = fn(&mut Bench);
    let cases: [(&str, Break, u8, u64); 7] = [
        (
            "beyond the limit",
            |b| b.set(|r| r.idtr.limit = 0x80 * 16 - 1),
            vector::GP,
            0x80 * 8 + 2,
        ),
        (
            "no gate",
            |b| b.write_u64(IDT + 0x800, 0),
            vector::GP,
            0x80 * 8 + 2,
        ),
        (
            "a call gate",
            |b| b.interrupt_gate(0x80, 0x8c, 0, 0),
            vector::GP,
            0x80 * 8 + 2,
        ),
        (
            "not present",
            |b| b.interrupt_gate(0x80, 0x0e, 0, 0),
            vector::NP,
            0x80 * 8 + 2,
        ),
        (
            "null code",
            |b| b.write_u64(IDT + 0x800, gate(0, 0, 0x8e, 0)),
            vector::GP,
            0,
        ),
        (
            "data as code",
            |b| b.write_u64(IDT + 0x800, gate(selector::DATA, 0, 0x8e, 0)),
            vector::GP,
            0x10,
        ),
        (
            "32-bit code",
            |b| b.write_u64(IDT + 0x800, gate(selector::CODE32, 0, 0x8e, 0)),
            vector::GP,
            0x40,
        ),
    ];
    for (name, make, vector, error) in cases {
        let mut b = Bench::long();
        make(&mut b);
        let f = b.raises(vector, |a| a.int(0x80));
        assert_eq!((f.error, f.rip), (Some(error), CODE), "{name}");
    }
    let mut b = Bench::long();
    b.define(selector::FREE, descriptor(0, 0, 0x1b, 0xa));
    b.write_u64(IDT + 0x800, gate(selector::FREE, 0, 0x8e, 0));
    assert_eq!(
        b.raises(vector::NP, |a| a.int(0x80)).error,
        Some(selector::FREE as u64)
    );
}

#[test]
fn a_fault_in_delivering_an_exception_has_ext_set() {
    let mut b = Bench::long();
    b.interrupt_gate(vector::UD, 0x0e, 0, 0);
    let f = b.raises(vector::NP, |a| a.ud2());
    assert_eq!(f.error, Some(6 * 8 + 3));
    assert_eq!(f.rip, CODE);
}

#[test]
fn a_stack_beyond_the_tss_is_ts() {
    let mut b = Bench::long();
    b.interrupt_gate(0x80, 0xee, 1, handler(0x80));
    b.set(|r| r.tr.limit = 0x23 + 7);
    assert_eq!(
        b.raises(vector::TS, |a| a.int(0x80)).error,
        Some(selector::TSS as u64)
    );
}

#[test]
fn a_non_canonical_handler_stack_is_ss() {
    let mut b = Bench::long();
    b.interrupt_gate(0x80, 0x8e, 1, handler(0x80));
    b.write_u64(TSS + 36, 1 << 60);
    assert_eq!(b.raises(vector::SS, |a| a.int(0x80)).error, Some(0));
}

/// Makes the delivery of a vector fail: with a contributory fault, or with a page fault.
#[derive(Clone, Copy, Debug)]
enum Breakage {
    NotPresent,
    PageFault,
}

fn breaks(b: &mut Bench, vector: u8, how: Breakage) {
    match how {
        Breakage::NotPresent => b.interrupt_gate(vector, 0x0e, 0, 0),
        Breakage::PageFault => {
            b.write_u64(TSS + 36, 0x70_0000);
            b.map(0x6f_f000, 0);
            b.interrupt_gate(vector, 0x8e, 1, handler(vector));
        }
    }
}

#[test]
fn two_faults_in_a_row_become_a_double_fault_by_table_6_5() {
    use Breakage::*;
    type Code = fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>;
    let ud: Code = |a| a.ud2();
    let gp: Code = |a| a.int(0x80); // made a bad gate below
    let pf: Code = |a| a.mov(rax, qword_ptr(0x7f_f000u64));
    for (name, code, first, how, expected) in [
        (
            "benign, then contributory",
            ud,
            vector::UD,
            NotPresent,
            vector::NP,
        ),
        ("benign, then page fault", ud, vector::UD, PageFault, vector::PF),
        (
            "contributory, then contributory",
            gp,
            vector::GP,
            NotPresent,
            vector::DF,
        ),
        (
            "contributory, then page fault",
            gp,
            vector::GP,
            PageFault,
            vector::PF,
        ),
        (
            "page fault, then contributory",
            pf,
            vector::PF,
            NotPresent,
            vector::DF,
        ),
        (
            "page fault, then page fault",
            pf,
            vector::PF,
            PageFault,
            vector::DF,
        ),
    ] {
        let mut b = Bench::long();
        b.map(0x7f_f000, 0);
        b.write_u64(IDT + 0x800, 0);
        breaks(&mut b, first, how);
        if expected == vector::PF && first != vector::PF {
            b.interrupt_gate(vector::PF, 0x8e, 0, handler(vector::PF));
        }
        let f = b.raises(expected, code);
        assert_eq!(f.rip, CODE, "{name}");
        if expected == vector::DF {
            assert_eq!(f.error, Some(0), "{name}");
        }
    }
}

#[test]
fn a_fault_in_delivering_a_double_fault_crashes_with_the_rip() {
    let mut b = Bench::long();
    b.interrupt_gate(vector::GP, 0x0e, 0, 0);
    b.interrupt_gate(vector::DF, 0x0e, 0, 0);
    b.write_u64(IDT + 0x800, 0);
    b.code(|a| {
        a.nop()?;
        a.nop()?;
        a.int(0x80)
    });
    assert_eq!(crash(&mut b), CODE + 2);
    let before = b.regs();
    assert_eq!(before.rip, CODE + 2, "its state is there to be looked at");
    assert!(matches!(b.run_for(10), RunExit::Crashed(_)), "for good");
    assert_eq!(b.regs(), before);
}

#[test]
fn an_empty_idt_crashes() {
    let mut b = Bench::long();
    b.set(|r| r.idtr.limit = 0);
    b.code(|a| a.int3());
    assert_eq!(crash(&mut b), CODE);
    let mut b = Bench::protected();
    b.set(|r| r.idtr.limit = 0);
    b.code(|a| a.ud2());
    assert_eq!(crash(&mut b), CODE);
}

#[test]
fn a_conforming_handler_keeps_the_ring() {
    let mut b = Bench::long();
    b.user();
    b.set(|r| r.rflags |= rflags::IOPL);
    b.define(selector::FREE, descriptor(0, u32::MAX, 0x9f, 0xa));
    b.write_u64(IDT + 0x800, gate(selector::FREE, handler(0x80) as u32, 0xee, 0));
    b.raises(0x80, |a| a.int(0x80));
    let r = b.regs();
    assert_eq!(r.segments[seg::CS].selector, selector::FREE | 3);
    assert_eq!(r.cpl(), 3);
    assert_eq!(r.gpr[gpr::RSP], STACK - 0x800 - 40);
}

#[test]
fn a_32_bit_handler_in_an_inner_ring_gets_ss_and_esp_from_the_tss() {
    let mut b = Bench::protected();
    b.user();
    let f = b.raises(vector::GP, |a| a.hlt());
    let r = b.regs();
    assert_eq!(f.error, Some(0));
    assert_eq!(
        (f.rip, f.cs, f.rsp, f.ss),
        (CODE, selector::USER_CODE32, STACK - 0x800, selector::USER_DATA)
    );
    assert_eq!(
        (r.gpr[gpr::RSP], r.segments[seg::SS].selector),
        (STACK + 0x1000 - 24, selector::DATA)
    );
    assert_eq!(
        r.segments[seg::DS].selector,
        selector::USER_DATA,
        "data segments stay"
    );
}

#[test]
fn bad_inner_stacks_are_ts_and_ss() {
    let cases = [
        ("null", 0u32, 0, vector::TS, 0),
        (
            "wrong RPL",
            selector::DATA as u32 | 1,
            0,
            vector::TS,
            selector::DATA,
        ),
        (
            "read-only",
            selector::FREE as u32,
            descriptor(0, u32::MAX, 0x91, 0xc),
            vector::TS,
            selector::FREE,
        ),
        (
            "not present",
            selector::FREE as u32,
            descriptor(0, u32::MAX, 0x13, 0xc),
            vector::SS,
            selector::FREE,
        ),
        (
            "too small",
            selector::FREE as u32,
            descriptor(0, 0xfff, 0x93, 4),
            vector::SS,
            0,
        ),
    ];
    for (name, stack, value, vector, error) in cases {
        let mut b = Bench::protected();
        b.define(selector::FREE, value);
        b.user();
        b.write_u32(TSS + 8, stack);
        // The resulting fault needs another stack: its handler runs by conforming code in ring 3.
        b.define(selector::FREE + 8, descriptor(0, u32::MAX, 0x9f, 0xc));
        b.set(|r| r.rflags |= rflags::IOPL);
        b.write_u64(
            IDT + 8 * vector as u64,
            gate(selector::FREE + 8, handler(vector) as u32, 0x8e, 0),
        );
        let f = b.raises(vector, |a| a.int3());
        assert_eq!(f.error, Some(error as u64), "{name}");
        assert_eq!(f.rip, CODE, "{name}");
    }
}

#[test]
fn a_16_bit_gate_pushes_words() {
    let mut b = Bench::protected();
    b.write_u64(IDT + 8 * 0x80, gate(selector::CODE16, 0x4000, 0x86, 0));
    b.write(0x4000, &[0xe6, EXIT_PORT as u8]);
    // A 16-bit gate takes 16 bits of EIP: the code must lie low.
    b.code_at(32, 0x5000, |a| a.int(0x80));
    b.set(|r| r.rip = 0x5000);
    assert!(exited(&b.go()));
    let r = b.regs();
    assert_eq!((r.segments[seg::CS].selector, r.rip), (selector::CODE16, 0x4002));
    assert_eq!(r.gpr[gpr::RSP], STACK - 6);
    let frame = [b.u16(STACK - 6), b.u16(STACK - 4), b.u16(STACK - 2)];
    assert_eq!(frame, [0x5002, selector::CODE32, 2]);
}

#[test]
fn iret_to_an_outer_ring_nulls_segments_that_it_may_not_have() {
    let mut b = Bench::long();
    b.define(selector::FREE, descriptor(0, u32::MAX, 0x9f, 0xa));
    b.code_at(64, CODE + 0x800, |a| a.int3());
    b.code(|a| {
        a.mov(eax, selector::DATA as u32)?;
        a.mov(ds, eax)?;
        a.mov(eax, selector::USER_DATA as u32)?;
        a.mov(es, eax)?;
        a.mov(eax, selector::FREE as u32)?;
        a.mov(fs, eax)?;
        a.push(selector::USER_DATA as i32)?;
        a.push((STACK - 0x800) as i32)?;
        a.push(2)?;
        a.push(selector::USER_CODE64 as i32)?;
        a.push((CODE + 0x800) as i32)?;
        a.iretq()
    });
    let f = b.fault(vector::BP);
    let s = b.regs().segments;
    assert_eq!(
        (f.rip, f.cs, f.rsp),
        (CODE + 0x801, selector::USER_CODE64, STACK - 0x800)
    );
    assert_eq!(s[seg::DS].selector, 0, "DPL 0");
    assert!(s[seg::DS].unusable());
    assert_eq!(s[seg::ES].selector, selector::USER_DATA, "DPL 3");
    assert_eq!(s[seg::FS].selector, selector::FREE, "conforming code");
}

/// IRETQ to a frame; gives the fault.
fn bad_iret(vector: u8, code: u16, stack: u16, target: u64) -> Frame {
    let mut b = Bench::long();
    b.define(selector::FREE, descriptor(0, u32::MAX, 0x1b, 0xa));
    b.raises(vector, |a| {
        a.push(stack as i32)?;
        a.push(STACK as i32)?;
        a.push(2)?;
        a.push(code as i32)?;
        a.mov(rax, target)?;
        a.push(rax)?;
        a.iretq()
    })
}

#[test]
fn iret_checks_what_it_returns_to() {
    assert_eq!(
        bad_iret(vector::GP, 0, selector::DATA, CODE).error,
        Some(0),
        "null CS"
    );
    assert_eq!(
        bad_iret(vector::GP, selector::DATA, selector::DATA, CODE).error,
        Some(0x10),
        "CS of data"
    );
    assert_eq!(
        bad_iret(vector::GP, 0x08 | 3, selector::USER_DATA, CODE).error,
        Some(0x08),
        "RPL isn't DPL"
    );
    assert_eq!(
        bad_iret(vector::NP, selector::FREE, selector::DATA, CODE).error,
        Some(selector::FREE as u64)
    );
    assert_eq!(
        bad_iret(vector::GP, selector::USER_CODE64, selector::DATA, CODE).error,
        Some(0x10),
        "SS of ring 0"
    );
    assert_eq!(
        bad_iret(vector::GP, selector::USER_CODE64, 3, CODE).error,
        Some(0),
        "null SS for ring 3"
    );
    assert_eq!(
        bad_iret(vector::GP, selector::CODE64, selector::DATA, 1 << 60).error,
        Some(0),
        "non-canonical"
    );
    assert_eq!(
        bad_iret(vector::GP, selector::USER_CODE32, selector::USER_DATA, 1 << 32).error,
        Some(0),
        "limit"
    );
    let f = bad_iret(vector::GP, selector::USER_CODE64, selector::DATA, CODE);
    assert_eq!(f.rsp, STACK - 40, "nothing was popped");
}

#[test]
fn iret_keeps_iopl_and_if_from_outer_rings() {
    let mut b = Bench::long();
    b.user();
    b.code(|a| {
        a.push(selector::USER_DATA as i32)?;
        a.push((STACK - 0x800) as i32)?;
        a.push((rflags::IOPL | rflags::IF | rflags::DF | rflags::CF | 2) as i32)?;
        a.push(selector::USER_CODE64 as i32)?;
        a.push((CODE + 0x800) as i32)?;
        a.iretq()
    });
    b.code_at(64, CODE + 0x800, |a| a.int3());
    let f = b.fault(vector::BP);
    assert_eq!(f.rflags, rflags::DF | rflags::CF | 2);
}

#[test]
fn iret_with_nt_in_64_bit_mode_is_gp() {
    let mut b = Bench::long();
    b.set(|r| r.rflags |= rflags::NT);
    assert_eq!(b.raises(vector::GP, |a| a.iretq()).error, Some(0));
}

#[test]
fn a_restricted_stack_page_stops_instead_of_hanging_and_the_exception_comes_after() {
    use hv_core::GuestPhysAddr;
    use hv_core::introspect::{AccessKind, PageRights, StopReason};
    let mut b = Bench::long();
    let page = GuestPhysAddr(STACK - 0x1000);
    let rights = PageRights {
        write: false,
        ..PageRights::ALL
    };
    assert!(b.m.set_page_access(page, rights));
    b.code(|a| a.ud2());
    let exit = b.run_for(100);
    let reason = StopReason::PageAccess {
        frame: page,
        access: Some(AccessKind::Write),
    };
    assert_eq!(exit, RunExit::Stopped { vcpu: CPU0, reason });
    assert_eq!((b.regs().rip, b.regs().rflags), (CODE, 2));
    assert!(b.m.set_page_access(page, PageRights::ALL));
    assert_eq!(b.fault(vector::UD).rip, CODE);
}
