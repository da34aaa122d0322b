//! Single steps of the debugger's side.

use crate::bench::*;
use hv_core::VcpuId;
use hv_core::introspect::StepMode;
use hv_core::machine::{RunExit, RunLimit};
use hv_core::regs::{Activity, gpr, rflags};
use std::sync::atomic::AtomicBool;

fn step_of(b: &mut Bench, vcpu: u32, mode: StepMode) -> RunExit {
    b.m.run(
        &RunLimit {
            ticks: 1_000_000,
            step: Some((VcpuId(vcpu), mode)),
        },
        &AtomicBool::new(false),
    )
}

fn step(b: &mut Bench) {
    assert_eq!(step_of(b, 0, StepMode::Schedule), RunExit::Stepped);
}

#[test]
fn a_step_is_one_instruction_and_one_tick() {
    let mut b = Bench::long();
    b.code(|a| {
        a.nop()?;
        a.mov(rdx, qword_ptr(DATA))?;
        a.jmp(CODE)
    });
    for (n, next) in [1, 9, 0, 1].into_iter().enumerate() {
        step(&mut b);
        assert_eq!((b.regs().rip, b.m.now().0), (CODE + next, n as u64 + 1));
    }
}

#[test]
fn a_rep_instruction_steps_by_iterations() {
    let mut b = Bench::long();
    b.set(|r| (r.gpr[gpr::RCX], r.gpr[gpr::RDI]) = (3, DATA));
    b.code(|a| {
        a.rep().stosb()?;
        a.rep().stosb()?;
        a.nop()
    });
    for (count, next) in [(2, 0), (1, 0), (0, 2), (0, 4), (0, 5)] {
        step(&mut b);
        assert_eq!((b.gpr(gpr::RCX), b.regs().rip), (count, CODE + next));
    }
    assert_eq!(b.m.now().0, 5);
}

#[test]
fn a_fault_is_a_step_into_its_handler_without_time() {
    let mut b = Bench::long();
    b.code(|a| a.ud2());
    step(&mut b);
    assert_eq!((b.regs().rip, b.m.now().0), (handler(vector::UD), 0));
}

#[test]
fn an_interrupt_is_a_step_of_its_own() {
    let mut b = Bench::long();
    for (msr, value) in [
        (0x1b, 0xfee0_0d00),
        (0x80f, 0x1ff),
        (0x832, 0x40),
        (0x83e, 0xb),
        (0x838, 20),
    ] {
        assert!(b.m.write_msr(CPU0, msr, value), "{msr:#x}");
    }
    b.set(|r| r.rflags |= rflags::IF);
    b.code(|a| {
        a.nop()?;
        a.nop()?;
        a.nop()
    });
    for rip in [CODE + 1, CODE + 2, handler(0x40)] {
        step(&mut b);
        assert_eq!(b.regs().rip, rip);
    }
    assert_eq!(b.m.now().0, 2);
}

#[test]
fn hlt_steps_and_then_waits_for_its_interrupt() {
    let mut b = Bench::long();
    for (msr, value) in [
        (0x1b, 0xfee0_0d00),
        (0x80f, 0x1ff),
        (0x832, 0x40),
        (0x83e, 0xb),
        (0x838, 1000),
    ] {
        assert!(b.m.write_msr(CPU0, msr, value), "{msr:#x}");
    }
    b.code(|a| {
        a.sti()?;
        a.hlt()
    });
    step(&mut b);
    step(&mut b);
    assert_eq!((b.regs().rip, b.regs().activity), (CODE + 2, Activity::Halted));
    let exit = step_of(&mut b, 0, StepMode::Schedule);
    let RunExit::Idle { until } = exit else {
        panic!("{exit:?}")
    };
    assert_eq!(until.0, 100);
    b.m.advance_idle(until);
    step(&mut b);
    assert_eq!(b.regs().rip, handler(0x40));
}

/// Two vCPUs, each counting in a register of its own.
fn two() -> Bench {
    let mut b = Bench::long_smp(2);
    let registers = b.long_registers();
    let code = b.code(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.inc(rax)?;
        a.jmp(again)
    });
    b.set_of(VcpuId(1), |r| {
        let apic = r.apic_base;
        *r = registers;
        r.apic_base = apic;
        r.rip = code;
    });
    b
}

#[test]
fn alone_only_the_stepped_vcpu_moves() {
    let mut b = two();
    for n in 1..10 {
        assert_eq!(step_of(&mut b, 1, StepMode::Alone), RunExit::Stepped);
        assert_eq!(b.m.registers(VcpuId(0)).gpr[0], 0);
        assert_eq!(b.m.now().0, n);
    }
    assert_eq!(b.m.registers(VcpuId(1)).gpr[0], 5);
}

#[test]
fn with_the_schedule_the_others_have_their_turns() {
    let mut b = two();
    let mut other = b.m.fork();
    for _ in 0..5 {
        assert_eq!(step_of(&mut b, 1, StepMode::Schedule), RunExit::Stepped);
    }
    assert_eq!(b.m.registers(VcpuId(1)).gpr[0], 3);
    assert!(b.m.registers(VcpuId(0)).gpr[0] > 100);
    // The guest can't tell: the same ticks without steps give the same state.
    let limit = RunLimit {
        ticks: b.m.now().0,
        step: None,
    };
    assert_eq!(other.run(&limit, &AtomicBool::new(false)), RunExit::Limit);
    assert_eq!(other.state_hash(), b.m.state_hash());
}

#[test]
fn stepping_a_vcpu_that_waits_does_not_end_the_machine() {
    let mut b = Bench::long_smp(2);
    b.code(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.jmp(again)
    });
    let exit = step_of(&mut b, 1, StepMode::Alone);
    assert!(matches!(exit, RunExit::Idle { .. }), "{exit:?}");
    assert_eq!(b.run_for(100), RunExit::Limit);
    // Halted with interrupts off, while the other runs.
    b.set_of(VcpuId(1), |r| r.activity = Activity::Halted);
    let exit = step_of(&mut b, 1, StepMode::Alone);
    assert!(matches!(exit, RunExit::Idle { .. }), "{exit:?}");
    assert_eq!(b.run_for(100), RunExit::Limit);
}
