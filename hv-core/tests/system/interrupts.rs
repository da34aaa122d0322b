//! When interrupts are taken: shadows, HLT, NMI, and timers at their exact tick (SDM vol. 3A, 6.7, 6.8 and 11.5.4).

use crate::bench::*;
use hv_core::introspect::CrashReason;
use hv_core::machine::RunExit;
use hv_core::regs::{Activity, gpr, rflags};

const IA32_APIC_BASE: u32 = 0x1b;
const X2APIC_EOI: u32 = 0x80b;
const X2APIC_SPURIOUS: u32 = 0x80f;
const X2APIC_ICR: u32 = 0x830;
const X2APIC_TIMER: u32 = 0x832;
const X2APIC_INITIAL_COUNT: u32 = 0x838;
const X2APIC_DIVIDE: u32 = 0x83e;
const X2APIC_SELF_IPI: u32 = 0x83f;
const TIMER: u8 = 0x40;
const NMI_TO_SELF: u64 = 0x4400;

/// 64-bit ring 0 with its local APIC on, in x2APIC mode.
fn bench() -> Bench {
    let mut b = Bench::long();
    for (msr, value) in [
        (IA32_APIC_BASE, 0xfee0_0d00),
        (X2APIC_SPURIOUS, 0x1ff),
        (X2APIC_TIMER, TIMER as u64),
        (X2APIC_DIVIDE, 0xb),
    ] {
        assert!(b.m.write_msr(CPU0, msr, value), "{msr:#x}");
    }
    b
}

/// Starts the one-shot timer to expire this many ticks from now.
fn timer(b: &mut Bench, ticks: u64) {
    assert!(b.m.write_msr(CPU0, X2APIC_INITIAL_COUNT, 10 * ticks));
}

fn self_ipi(b: &mut Bench, vector: u8) {
    assert!(b.m.write_msr(CPU0, X2APIC_SELF_IPI, vector as u64));
}

#[test]
fn a_timer_interrupt_comes_after_exactly_that_many_instructions() {
    for ticks in 1..20 {
        let mut b = bench();
        b.set(|r| r.rflags |= rflags::IF);
        b.code(|a| {
            for _ in 0..40 {
                a.nop()?;
            }
            a.hlt()
        });
        timer(&mut b, ticks);
        let f = b.fault(TIMER);
        assert_eq!(f.rip, CODE + ticks);
        assert_eq!(b.m.now().0, ticks + 1, "the handler's OUT is the next tick");
    }
}

#[test]
fn hlt_wakes_at_the_exact_tick_and_pushes_the_address_behind() {
    for ticks in [1, 2, 7, 1000] {
        let mut b = bench();
        b.code(|a| {
            a.sti()?;
            a.hlt()
        });
        timer(&mut b, ticks);
        let f = b.fault(TIMER);
        assert_eq!(f.rip, CODE + 2);
        assert_eq!(b.m.now().0, ticks.max(2) + 1);
        assert_eq!(b.m.retired(), 3, "idle time retires nothing");
    }
}

#[test]
fn an_interrupt_that_arrives_right_after_sti_waits_for_the_hlt() {
    // Whatever tick the timer fires at, the HLT is reached first, and then woken: no wakeup is lost.
    for nops in 0..6u64 {
        for ticks in 1..12 {
            let mut b = bench();
            b.code(|a| {
                for _ in 0..nops {
                    a.nop()?;
                }
                a.sti()?;
                a.hlt()?;
                a.nop()
            });
            timer(&mut b, ticks);
            let f = b.fault(TIMER);
            assert_eq!(f.rip, CODE + nops + 2, "{nops} nops, tick {ticks}");
        }
    }
}

#[test]
fn sti_holds_a_waiting_interrupt_back_for_one_instruction() {
    let mut b = bench();
    self_ipi(&mut b, 0x50);
    b.code(|a| {
        a.sti()?;
        a.nop()?;
        a.nop()
    });
    assert_eq!(b.fault(0x50).rip, CODE + 2);
    // An STI with IF set casts none.
    let mut b = bench();
    b.set(|r| r.rflags |= rflags::IF);
    b.code(|a| {
        a.sti()?;
        a.nop()?;
        a.nop()
    });
    timer(&mut b, 1);
    assert_eq!(b.fault(TIMER).rip, CODE + 1);
    // CLI right behind STI: nothing is let in.
    let mut b = bench();
    self_ipi(&mut b, 0x50);
    b.runs(|a| {
        a.sti()?;
        a.cli()
    });
}

#[test]
fn popf_and_iret_cast_no_shadow() {
    let mut b = bench();
    self_ipi(&mut b, 0x50);
    b.code(|a| {
        a.push(0x202)?;
        a.popfq()?;
        a.nop()
    });
    assert_eq!(b.fault(0x50).rip, CODE + 6);
}

#[test]
fn mov_ss_and_pop_ss_hold_interrupts_and_nmi_back() {
    for pop in [false, true] {
        let mut b = bench();
        b.set(|r| r.gpr[gpr::RAX] = selector::DATA as u64);
        if pop {
            b = Bench::protected();
            b.m.write_msr(CPU0, IA32_APIC_BASE, 0xfee0_0d00);
            b.m.write_msr(CPU0, X2APIC_SPURIOUS, 0x1ff);
        }
        b.set(|r| r.rflags |= rflags::IF);
        let at = b.code(|a| {
            if pop {
                a.push(ss)?;
                a.pop(ss)?;
            } else {
                a.mov(ss, eax)?;
            }
            a.nop()?;
            a.nop()
        });
        if pop {
            b.run_for(1);
        }
        b.m.write_msr(CPU0, X2APIC_ICR, NMI_TO_SELF);
        // The NMI would come before the stack load: let it be loaded first.
        b.set(|r| r.nmi_blocked = true);
        b.run_for(1);
        assert!(b.regs().interrupt_shadow);
        b.set(|r| r.nmi_blocked = false);
        b.run_for(1);
        assert_eq!(b.regs().rip, at + 3, "one more instruction");
        let f = b.fault(vector::NMI);
        assert_eq!(f.rip, at + 3);
    }
}

#[test]
fn an_nmi_comes_whatever_if_and_blocks_others_until_iret() {
    let mut b = bench();
    b.code(|a| {
        a.mov(ecx, X2APIC_ICR)?;
        a.mov(eax, NMI_TO_SELF as u32)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.nop()?;
        a.int3()
    });
    let f = b.fault(vector::NMI);
    assert_eq!(f.rip, CODE + 14);
    assert!(b.regs().nmi_blocked);
    // Another one waits in the handler.
    assert!(b.m.write_msr(CPU0, X2APIC_ICR, NMI_TO_SELF));
    let rip = b.regs().rip;
    assert_eq!(b.run_for(0), RunExit::Limit);
    assert_eq!(b.regs().rip, rip);
    // After IRETQ it comes at once.
    let f = b.fault(vector::NMI);
    assert_eq!(f.rip, CODE + 14);
    assert_eq!(b.fault(vector::BP).rip, CODE + 16);
    assert!(!b.regs().nmi_blocked);
}

#[test]
fn an_nmi_wakes_a_halt() {
    let mut b = bench();
    b.code(|a| {
        a.sti()?;
        a.hlt()
    });
    assert!(matches!(b.run_for(100), RunExit::Idle { .. }));
    assert_eq!(b.regs().activity, Activity::Halted);
    assert!(b.m.write_msr(CPU0, X2APIC_ICR, NMI_TO_SELF));
    assert_eq!(b.fault(vector::NMI).rip, CODE + 2);
    assert_eq!(b.regs().activity, Activity::Running);
}

#[test]
fn hlt_with_interrupts_off_is_the_end() {
    let mut b = bench();
    b.code(|a| a.hlt());
    assert_eq!(b.go(), RunExit::Crashed(CrashReason::HaltedForever));
    assert_eq!(b.regs().rip, CODE + 1);
    assert_eq!(b.go(), RunExit::Crashed(CrashReason::HaltedForever));
}

#[test]
fn hlt_without_a_timer_is_idle_for_ever_and_tells_so() {
    let mut b = bench();
    b.code(|a| {
        a.sti()?;
        a.hlt()
    });
    assert_eq!(
        b.go(),
        RunExit::Idle {
            until: hv_core::Ticks::NEVER
        }
    );
}

#[test]
fn higher_vectors_first_and_the_task_priority_holds_lower_ones_back() {
    let mut b = bench();
    for v in [0x51, 0x91, 0x71] {
        self_ipi(&mut b, v);
    }
    b.code(|a| {
        a.mov(eax, 6)?;
        a.mov(cr8, rax)?;
        a.sti()?;
        a.nop()?;
        a.nop()
    });
    b.fault(0x91);
    for next in [0x71, 0x51] {
        assert!(b.m.write_msr(CPU0, X2APIC_EOI, 0));
        if next == 0x51 {
            b.set(|r| {
                assert_eq!(r.cr8, 6);
                r.cr8 = 0;
            });
        }
        b.fault(next);
    }
}

#[test]
fn lowering_cr8_lets_an_interrupt_in_at_once() {
    let mut b = bench();
    b.set(|r| (r.cr8, r.rflags) = (15, 0x202));
    self_ipi(&mut b, 0x91);
    b.code(|a| {
        a.xor(eax, eax)?;
        a.nop()?;
        a.mov(cr8, rax)?;
        a.nop()
    });
    assert_eq!(b.fault(0x91).rip, CODE + 7);
}

#[test]
fn rep_instructions_are_interrupted_between_iterations_and_restart() {
    let mut b = bench();
    b.set(|r| r.rflags |= rflags::IF);
    b.code(|a| {
        a.mov(edi, DATA as u32)?;
        a.mov(ecx, 1000)?;
        a.rep().stosq()?;
        a.int3()
    });
    timer(&mut b, 102);
    let f = b.fault(TIMER);
    assert_eq!((f.rip, f.rflags & rflags::RF), (CODE + 10, 0));
    assert_eq!((b.gpr(gpr::RCX), b.gpr(gpr::RDI)), (900, DATA + 800));
    let f = b.fault(vector::BP);
    assert_eq!(
        (f.rip, b.gpr(gpr::RCX), b.m.retired()),
        (CODE + 14, 0, 2 + 1000 + 1 + 2 + 1)
    );
}

#[test]
fn a_restricted_stack_page_does_not_lose_an_interrupt() {
    use hv_core::GuestPhysAddr;
    use hv_core::introspect::PageRights;
    let mut b = bench();
    let page = GuestPhysAddr(STACK - 0x1000);
    assert!(b.m.set_page_access(
        page,
        PageRights {
            write: false,
            ..PageRights::ALL
        }
    ));
    self_ipi(&mut b, 0x50);
    b.code(|a| {
        a.sti()?;
        a.hlt()
    });
    for _ in 0..3 {
        assert!(matches!(b.run_for(100), RunExit::Stopped { .. }));
        assert_eq!((b.regs().rip, b.regs().rflags), (CODE + 2, 0x202));
    }
    assert!(b.m.set_page_access(page, PageRights::ALL));
    assert_eq!(b.fault(0x50).rip, CODE + 2);
}

#[test]
fn rf_lasts_for_one_instruction_after_iret() {
    let mut b = bench();
    b.code(|a| {
        a.push(selector::DATA as i32)?;
        a.push(STACK as i32)?;
        a.push(0x1_0202)?;
        a.push(selector::CODE64 as i32)?;
        a.push((CODE + 0x80) as i32)?;
        a.iretq()
    });
    b.code_at(64, CODE + 0x80, |a| {
        for _ in 0..8 {
            a.nop()?;
        }
        a.hlt()
    });
    timer(&mut b, 9);
    let f = b.fault(TIMER);
    assert_eq!((f.rip, f.rflags), (CODE + 0x83, 0x202));
}
