//! The guest debugs itself: TF, DR0 to DR7 (SDM vol. 3B, chapter 17), also while the debugger's side does.

use crate::bench::*;
use hv_core::GuestVirtAddr;
use hv_core::introspect::{AccessKind, Breakpoint, BreakpointId, BreakpointKind, Place};
use hv_core::machine::RunExit;
use hv_core::regs::{cr4, gpr, rflags};

const BS: u64 = 1 << 14;
const BD: u64 = 1 << 13;

/// DR7 for breakpoint `n`, locally enabled: R/W and LEN fields.
const fn watch(n: u32, rw: u64, len: u64) -> u64 {
    1 << (2 * n) | rw << (16 + 4 * n) | len << (18 + 4 * n)
}

fn code(a: &mut CodeAssembler) -> Result<(), iced_x86::IcedError> {
    a.nop()?; // 0
    a.mov(rdx, qword_ptr(DATA))?; // 1, 8 bytes
    a.mov(qword_ptr(DATA), rdx)?; // 9
    a.nop()?; // 17
    a.nop() // 18
}

#[test]
fn tf_traps_after_each_instruction_and_is_off_in_the_handler() {
    let mut b = Bench::long();
    b.code(code);
    b.set(|r| r.rflags |= rflags::TF);
    for next in [1, 9, 17, 18] {
        let f = b.fault(vector::DB);
        assert_eq!(f.rip, CODE + next);
        assert_eq!(f.rflags & (rflags::TF | rflags::RF), rflags::TF);
        assert_eq!(b.regs().rflags & rflags::TF, 0);
        assert_eq!(b.regs().dr6, 0xffff_0ff0 | BS);
    }
}

#[test]
fn popf_sets_tf_for_the_instruction_after_the_next() {
    let mut b = Bench::long();
    b.code(|a| {
        a.push(0x102)?; // 5
        a.popfq()?; // 1
        a.nop()?;
        a.nop()
    });
    assert_eq!(b.fault(vector::DB).rip, CODE + 7);
}

#[test]
fn int_n_and_syscall_with_a_mask_do_not_trap_in_the_handler() {
    let mut b = Bench::long();
    b.code(|a| a.int(0x80));
    b.set(|r| r.rflags |= rflags::TF);
    let f = b.fault(0x80);
    assert_ne!(f.rflags & rflags::TF, 0);
    for masked in [true, false] {
        let mut b = Bench::long();
        b.user();
        b.code(|a| a.syscall());
        b.code_at(64, CODE + 0x100, |a| {
            a.nop()?;
            a.out(EXIT_PORT as i32, al)
        });
        b.set(|r| {
            r.rflags |= rflags::TF;
            r.msrs.star = (selector::CODE64 as u64) << 32;
            r.msrs.lstar = CODE + 0x100;
            r.msrs.sfmask = if masked { rflags::TF } else { 0 };
        });
        if masked {
            b.finish();
        } else {
            assert_eq!(b.fault(vector::DB).rip, CODE + 0x100);
        }
    }
}

#[test]
fn each_iteration_of_a_rep_is_stepped() {
    let mut b = Bench::long();
    b.code(|a| {
        a.rep().stosb()?;
        a.nop()
    });
    b.set(|r| {
        r.rflags |= rflags::TF;
        (r.gpr[gpr::RCX], r.gpr[gpr::RDI]) = (3, DATA);
    });
    for (count, next) in [(2, 0), (1, 0), (0, 2)] {
        assert_eq!(b.fault(vector::DB).rip, CODE + next);
        assert_eq!(b.gpr(gpr::RCX), count);
    }
}

#[test]
fn mov_ss_holds_the_step_back_and_sti_does_not() {
    let mut b = Bench::long();
    b.set(|r| (r.gpr[0], r.rflags) = (selector::DATA as u64, 2 | rflags::TF));
    b.code(|a| {
        a.mov(ss, eax)?; // 2
        a.nop()?;
        a.nop()
    });
    assert_eq!(b.fault(vector::DB).rip, CODE + 3);
    let mut b = Bench::long();
    b.set(|r| r.rflags |= rflags::TF);
    b.code(|a| {
        a.sti()?;
        a.nop()
    });
    assert_eq!(b.fault(vector::DB).rip, CODE + 1);
}

#[test]
fn an_instruction_breakpoint_faults_before_and_rf_lets_it_pass() {
    for n in 0..4 {
        let mut b = Bench::long();
        b.code(|a| {
            code(a)?;
            a.out(EXIT_PORT as i32, al)
        });
        b.set(|r| (r.dr[n], r.dr7) = (CODE + 9, 0x400 | watch(n as u32, 0, 0)));
        let f = b.fault(vector::DB);
        assert_eq!((f.rip, b.regs().dr6), (CODE + 9, 0xffff_0ff0 | 1 << n));
        assert_eq!(f.rflags & rflags::RF, 0, "the handler must set it");
        let at = b.gpr(gpr::RSP) + 16;
        b.write_u64(at, f.rflags | rflags::RF);
        b.finish();
        assert_eq!(b.regs().rflags & rflags::RF, 0, "gone after one instruction");
        // Without RF it comes again and again.
        b.set(|r| r.rip = CODE + 9);
        assert_eq!(b.fault(vector::DB).rip, CODE + 9);
        assert_eq!(b.fault(vector::DB).rip, CODE + 9);
    }
}

#[test]
fn a_page_fault_at_an_instruction_breakpoint_returns_without_hitting_it_again() {
    // The first run through stops at the breakpoint; with RF set the page fault's frame has RF too.
    let mut b = Bench::long();
    b.map(DATA, 0);
    b.code(|a| {
        code(a)?;
        a.out(EXIT_PORT as i32, al)
    });
    b.set(|r| {
        (r.dr[0], r.dr7) = (CODE + 1, 0x400 | watch(0, 0, 0));
        r.rip = CODE + 1;
        r.rflags |= rflags::RF;
    });
    let f = b.fault(vector::PF);
    assert_ne!(f.rflags & rflags::RF, 0);
    b.map(DATA, DATA | 7);
    b.leave_handler();
    b.finish();
}

#[test]
fn data_breakpoints_trap_after_the_instruction() {
    for (rw, len, offset, next) in [
        (1, 3, 0, Some(17)), // write of DATA..DATA+4
        (3, 3, 0, Some(9)),  // read or write
        (1, 0, 7, Some(17)), // the last byte
        (1, 0, 8, None),
        (3, 2, 8, None), // 8 bytes behind
        (3, 1, 6, Some(9)),
        (1, 3, 4, Some(17)),
    ] {
        let mut b = Bench::long();
        b.code(|a| {
            code(a)?;
            a.out(EXIT_PORT as i32, al)
        });
        b.set(|r| (r.dr[2], r.dr7) = (DATA + offset, 0x400 | watch(2, rw, len)));
        match next {
            Some(next) => {
                let f = b.fault(vector::DB);
                assert_eq!(
                    (f.rip, b.regs().dr6),
                    (CODE + next, 0xffff_0ff4),
                    "{rw} {len} {offset}"
                );
                assert_eq!(f.rflags & rflags::RF, 0);
            }
            None => b.finish(),
        }
    }
}

#[test]
fn data_breakpoints_see_pushes_string_elements_and_both_pages_of_a_crossing_access() {
    let mut b = Bench::long();
    b.set(|r| (r.dr[0], r.dr7) = (STACK - 8, 0x400 | watch(0, 1, 2)));
    b.code(|a| {
        a.push(rax)?;
        a.nop()
    });
    assert_eq!(b.fault(vector::DB).rip, CODE + 1);
    let mut b = Bench::long();
    b.set(|r| {
        (r.dr[0], r.dr7) = (DATA + 5, 0x400 | watch(0, 1, 0));
        (r.gpr[gpr::RCX], r.gpr[gpr::RDI]) = (10, DATA);
    });
    b.code(|a| {
        a.rep().stosb()?;
        a.nop()
    });
    assert_eq!(
        (b.fault(vector::DB).rip, b.gpr(gpr::RCX)),
        (CODE, 4),
        "after the iteration"
    );
    let mut b = Bench::long();
    b.set(|r| (r.dr[0], r.dr7) = (DATA + 0x1000, 0x400 | watch(0, 1, 0)));
    b.code(|a| {
        a.mov(rbx, DATA + 0xffc)?;
        a.mov(ptr(rbx), rax)?;
        a.nop()
    });
    assert_eq!(b.fault(vector::DB).rip, CODE + 13);
}

#[test]
fn a_data_breakpoint_at_mov_ss_comes_one_instruction_later() {
    let mut b = Bench::long();
    b.write_u16(DATA, selector::DATA);
    b.set(|r| (r.dr[0], r.dr7) = (DATA, 0x400 | watch(0, 3, 1)));
    b.code(|a| {
        a.mov(ss, word_ptr(DATA))?; // 7
        a.nop()?;
        a.nop()
    });
    assert_eq!((b.fault(vector::DB).rip, b.regs().dr6), (CODE + 8, 0xffff_0ff1));
}

#[test]
fn io_breakpoints_trap_after_in_and_out_where_cr4_de_allows() {
    for de in [true, false] {
        let mut b = Bench::long();
        b.set(|r| {
            r.cr4 = r.cr4 & !cr4::DE | if de { cr4::DE } else { 0 };
            (r.dr[0], r.dr7) = (0x80, 0x400 | watch(0, 2, 0));
        });
        b.code(|a| {
            a.out(0x80, al)?;
            a.nop()?;
            a.out(EXIT_PORT as i32, al)
        });
        if de {
            assert_eq!(b.fault(vector::DB).rip, CODE + 2);
        } else {
            b.finish();
        }
    }
}

#[test]
fn general_detect_faults_and_goes_off() {
    let mut b = Bench::long();
    b.set(|r| r.dr7 = 0x400 | 1 << 13);
    let f = b.raises(vector::DB, |a| a.mov(rax, dr0));
    assert_eq!(
        (f.rip, b.regs().dr6, b.regs().dr7),
        (CODE, 0xffff_0ff0 | BD, 0x400)
    );
    b.finish();
    // Any #DB clears GD.
    let mut b = Bench::long();
    b.set(|r| (r.dr7, r.rflags) = (0x400 | 1 << 13, 2 | rflags::TF));
    b.raises(vector::DB, |a| a.nop());
    assert_eq!(b.regs().dr7, 0x400);
}

#[test]
fn debug_registers_have_fixed_bits_and_aliases() {
    let mut b = Bench::long();
    b.runs(|a| {
        a.xor(eax, eax)?;
        a.mov(dr6, rax)?;
        a.mov(dr7, rax)?;
        a.mov(rcx, dr6)?;
        a.mov(rdx, dr7)?;
        a.mov(eax, u32::MAX)?;
        a.mov(dr6, rax)?;
        a.mov(rsi, dr6)?;
        a.mov(rax, -1i64 as u64)?;
        a.mov(dr3, rax)?;
        a.mov(rdi, dr3)
    });
    let r = b.regs();
    assert_eq!((r.gpr[1], r.gpr[2]), (0xffff_0ff0, 0x400));
    assert_eq!(r.gpr[6], 0xffff_efff);
    assert_eq!(r.gpr[7], u64::MAX);
    b.raises(vector::GP, |a| {
        a.mov(rax, 1u64 << 32)?;
        a.mov(dr7, rax)
    });
    Bench::long().raises(vector::UD, |a| a.mov(rax, dr4));
    let mut b = Bench::long();
    b.set(|r| (r.cr4 &= !cr4::DE, r.dr6 = 0xffff_0ff1).1);
    b.runs(|a| a.mov(rcx, dr4));
    assert_eq!(b.gpr(1), 0xffff_0ff1);
}

#[test]
fn the_guests_breakpoints_and_the_debuggers_coexist() {
    let mut b = Bench::long();
    b.code(|a| {
        code(a)?;
        a.out(EXIT_PORT as i32, al)
    });
    b.set(|r| (r.dr[0], r.dr7) = (CODE + 9, 0x400 | watch(0, 0, 0)));
    let at = |address| Place::Virtual(GuestVirtAddr(address));
    let execute = |address| Breakpoint {
        place: at(address),
        kind: BreakpointKind::Execute,
        condition: None,
    };
    b.m.insert_breakpoint(BreakpointId(1), execute(CODE + 9));
    b.m.insert_breakpoint(
        BreakpointId(2),
        Breakpoint {
            place: at(DATA),
            kind: BreakpointKind::Watch {
                length: 8,
                access: AccessKind::Write,
            },
            condition: None,
        },
    );
    // The debugger's side stops first, then the guest's own breakpoint faults.
    assert!(matches!(b.run_for(100), RunExit::Stopped { .. }));
    assert_eq!(b.regs().rip, CODE + 9);
    let f = b.fault(vector::DB);
    assert_eq!(f.rip, CODE + 9);
    let flags = b.gpr(gpr::RSP) + 16;
    b.write_u64(flags, 2 | rflags::RF);
    // The handler returns to the breakpoint: the debugger's stops again, the guest's is held off by RF.
    assert!(matches!(b.run_for(100), RunExit::Stopped { .. }));
    assert_eq!(b.regs().rip, CODE + 9);
    assert!(
        matches!(b.run_for(100), RunExit::Stopped { .. }),
        "the watchpoint"
    );
    assert_eq!(b.regs().rip, CODE + 17);
    b.finish();
}

#[test]
fn the_debuggers_steps_are_invisible_to_the_guests() {
    use hv_core::introspect::StepMode;
    use hv_core::machine::RunLimit;
    let mut b = Bench::long();
    b.code(code);
    b.set(|r| r.rflags |= rflags::TF);
    let step = RunLimit {
        ticks: 100,
        step: Some((CPU0, StepMode::Alone)),
    };
    let never = std::sync::atomic::AtomicBool::new(false);
    assert_eq!(b.m.run(&step, &never), RunExit::Stepped);
    // The instruction and its trap are one step.
    assert_eq!(b.regs().rip, handler(vector::DB));
    assert_eq!(b.u64(b.gpr(gpr::RSP)), CODE + 1);
    let mut b = Bench::long();
    b.code(|a| {
        a.pushfq()?;
        a.pop(rax)
    });
    assert_eq!(b.m.run(&step, &never), RunExit::Stepped);
    assert_eq!(b.m.run(&step, &never), RunExit::Stepped);
    assert_eq!(b.gpr(0), 2, "no TF");
}
