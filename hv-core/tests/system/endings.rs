//! How a guest ends or says that it crashed: the Microsoft interface's crash registers, pvpanic, reset ports, halts.

use crate::bench::*;
use hv_core::introspect::{CrashReason, GuestCrash, PortWidth, ResetCause};
use hv_core::machine::{Machine, RunExit};
use hv_core::regs::{Activity, gpr, rflags};
use hv_core::{Ticks, VcpuId};

const CPU1: VcpuId = VcpuId(1);
const GUEST_OS_ID: u32 = 0x4000_0000;
const HYPERCALL: u32 = 0x4000_0001;
const VP_INDEX: u32 = 0x4000_0002;
const CRASH_P0: u32 = 0x4000_0100;
const CRASH_CTL: u32 = 0x4000_0105;
const CRASH_NOTIFY: u64 = 1 << 63;
const CRASH_MESSAGE: u64 = 1 << 62;

/// 64-bit ring 0 under the Microsoft interface.
fn under_hyperv() -> Bench {
    let mut config = config(1);
    config.cpu_model = "kdd64-hv".into();
    Bench::long_of(&config)
}

fn set_parameters(b: &mut Bench, parameters: [u64; 5]) {
    for (msr, value) in (CRASH_P0..).zip(parameters) {
        assert!(b.m.write_msr(CPU0, msr, value));
    }
}

fn reported(parameters: [u64; 5], message: Option<&str>) -> Vec<GuestCrash> {
    vec![GuestCrash::Reported {
        vcpu: CPU0,
        parameters,
        message: message.map(str::to_owned),
    }]
}

#[test]
fn a_guest_reports_its_crash_and_runs_on() {
    let mut b = under_hyperv();
    b.code(|a| {
        // What Windows does: it looks whether the interface is offered, then tells the bugcheck.
        a.mov(eax, 0x4000_0003u32)?;
        a.cpuid()?;
        a.mov(r8d, edx)?;
        a.mov(ecx, CRASH_CTL)?;
        a.rdmsr()?;
        a.mov(r9d, edx)?;
        for n in 0..5 {
            a.mov(ecx, CRASH_P0 + n)?;
            a.mov(eax, 0xe2 + n)?;
            a.xor(edx, edx)?;
            a.wrmsr()?;
        }
        a.mov(ecx, CRASH_CTL)?;
        a.xor(eax, eax)?;
        a.mov(edx, 0x8000_0000u32)?;
        a.wrmsr()?;
        a.mov(r10d, 1)?;
        a.out(EXIT_PORT as i32, al)
    });
    assert_eq!(b.go(), RunExit::Interrupted, "the run ends to tell it");
    assert_eq!(b.regs().gpr[10], 0, "at the very instruction");
    assert_eq!(
        b.m.take_guest_crashes(),
        reported([0xe2, 0xe3, 0xe4, 0xe5, 0xe6], None)
    );
    b.finish();
    let gpr = b.regs().gpr;
    assert_eq!((gpr[8] >> 10 & 1, gpr[9] >> 31, gpr[10]), (1, 1, 1));
    assert!(b.m.take_guest_crashes().is_empty());
}

#[test]
fn a_message_is_read_where_the_parameters_say_and_no_further_than_a_page() {
    let mut b = under_hyperv();
    b.code(|a| a.nop());
    b.write(DATA, b"<0>Kernel panic\n\0rest");
    for (parameters, message) in [
        ([0, 0, 0, DATA, 21], "<0>Kernel panic\n"),
        ([0, 0, 0, DATA, 5], "<0>Ke"),
        ([0, 0, 0, DATA, u64::MAX], "<0>Kernel panic\n"),
        ([0, 0, 0, config(1).memory_bytes - 2, 4096], ""),
        ([0, 0, 0, u64::MAX, u64::MAX], ""),
    ] {
        set_parameters(&mut b, parameters);
        assert!(b.m.write_msr(CPU0, CRASH_CTL, CRASH_NOTIFY | CRASH_MESSAGE));
        assert_eq!(b.run_for(1), RunExit::Interrupted);
        assert_eq!(b.m.take_guest_crashes(), reported(parameters, Some(message)));
    }
    assert!(
        b.m.write_msr(CPU0, CRASH_CTL, CRASH_MESSAGE),
        "no notice is asked for"
    );
    assert_eq!(b.run_for(0), RunExit::Limit);
}

#[test]
fn the_interface_keeps_what_it_promises() {
    let mut b = under_hyperv();
    assert_eq!(b.m.read_msr(CPU0, VP_INDEX), Some(0));
    assert!(!b.m.write_msr(CPU0, VP_INDEX, 1), "it is read-only");
    assert!(b.m.write_msr(CPU0, HYPERCALL, DATA | 1));
    assert_eq!(
        b.m.read_msr(CPU0, HYPERCALL),
        Some(DATA),
        "no page without an identity"
    );
    assert!(b.m.write_msr(CPU0, GUEST_OS_ID, 0x8100_0000_0000_0000));
    assert!(!b.m.write_msr(CPU0, HYPERCALL, 1 << 40 | 1), "no memory there");
    b.code(|a| {
        a.mov(ecx, HYPERCALL)?;
        a.mov(eax, DATA as u32 | 1)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.mov(eax, DATA as u32)?;
        a.call(rax)?;
        a.mov(rbx, rax)?;
        a.out(EXIT_PORT as i32, al)
    });
    b.finish();
    assert_eq!(b.regs().gpr[gpr::RBX], 2, "HV_STATUS_INVALID_HYPERCALL_CODE");
}

#[test]
fn other_models_have_no_such_interface() {
    let mut b = Bench::long();
    for msr in [GUEST_OS_ID, HYPERCALL, VP_INDEX, CRASH_P0, CRASH_CTL] {
        assert_eq!(b.m.read_msr(CPU0, msr), None);
        assert!(!b.m.write_msr(CPU0, msr, CRASH_NOTIFY));
    }
    b.code(|a| {
        a.mov(eax, 0x4000_0000u32)?;
        a.cpuid()?;
        a.mov(r8d, ebx)?;
        a.mov(eax, 1)?;
        a.cpuid()?;
        a.mov(r9d, ecx)?;
        a.out(EXIT_PORT as i32, al)
    });
    b.finish();
    let gpr = b.regs().gpr;
    assert_ne!(gpr[8], u64::from(u32::from_le_bytes(*b"Micr")));
    assert_eq!(gpr[9] >> 31, 0, "no hypervisor");
}

#[test]
fn the_crash_registers_are_saved_hashed_and_forked_and_a_reset_clears_them() {
    let mut b = under_hyperv();
    let before = b.m.state_hash();
    set_parameters(&mut b, [1, 2, 3, 4, 5]);
    let hash = b.m.state_hash();
    assert_ne!(hash, before);
    let mut bytes = Vec::new();
    b.m.save(&mut bytes).expect("a vector takes all");
    let mut restored = Machine::restore(&mut &bytes[..]).expect("it is sound");
    assert_eq!(restored.state_hash(), hash);
    assert_eq!(restored.read_msr(CPU0, CRASH_P0 + 4), Some(5));
    let mut fork = b.m.fork();
    assert_eq!(fork.state_hash(), hash);
    fork.reset();
    assert_eq!(fork.read_msr(CPU0, CRASH_P0 + 4), Some(0));
}

#[test]
fn pvpanic_tells_of_a_crash_kernel_and_ends_the_machine_without_one() {
    let mut b = Bench::long();
    b.code(|a| {
        a.mov(dx, 0x505)?;
        a.in_(al, dx)?;
        a.mov(bl, al)?;
        a.mov(al, 2)?;
        a.out(dx, al)?;
        a.mov(cl, 1)?;
        a.mov(al, 1)?;
        a.out(dx, al)
    });
    assert_eq!(b.go(), RunExit::Interrupted);
    assert_eq!(b.m.take_guest_crashes(), [GuestCrash::CrashKernel]);
    assert_eq!(b.go(), RunExit::Crashed(CrashReason::Panic));
    let gpr = b.regs().gpr;
    assert_eq!((gpr[gpr::RBX] & 0xff, gpr[gpr::RCX] & 0xff), (3, 1));
}

#[test]
fn a_reset_says_through_which_port_it_came() {
    for (port, value) in [(0xcf9u16, 6u8), (0x64, 0xfe), (0x92, 1)] {
        let mut b = Bench::long();
        b.code(|a| {
            a.mov(dx, i32::from(port))?;
            a.mov(al, i32::from(value))?;
            a.out(dx, al)
        });
        assert_eq!(b.go(), RunExit::Reset(ResetCause::Port(port)));
    }
}

#[test]
fn all_vcpus_must_be_halted_with_interrupts_off_before_that_is_the_end() {
    let mut b = Bench::long_smp(2);
    b.code(|a| a.hlt());
    b.set_of(CPU1, |r| {
        r.activity = Activity::Halted;
        r.rflags |= rflags::IF;
    });
    assert_eq!(
        b.go(),
        RunExit::Idle { until: Ticks::NEVER },
        "vCPU 1 can be woken"
    );
    b.set_of(CPU1, |r| r.rflags &= !rflags::IF);
    assert_eq!(b.go(), RunExit::Crashed(CrashReason::HaltedForever));
}

#[test]
fn a_timer_that_is_wired_as_nmi_wakes_a_halt_with_interrupts_off() {
    let mut b = Bench::long();
    // The 8259 passes the PIT's interrupt to LINT0, which makes it an NMI: the oldest kind of NMI watchdog.
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 4),
        (0x21, 1),
        (0x21, 0xfe),
        (0x43, 0x30),
        (0x40, 0),
        (0x40, 0x10),
    ] {
        b.m.write_port(port, PortWidth::Byte, value);
    }
    for (msr, value) in [(0x1b, 0xfee0_0d00), (0x80f, 0x1ff), (0x835, 0x400)] {
        assert!(b.m.write_msr(CPU0, msr, value), "{msr:#x}");
    }
    b.code(|a| a.hlt());
    assert!(matches!(b.run_for(100), RunExit::Idle { until } if until != Ticks::NEVER));
    assert_eq!(b.fault(vector::NMI).rip, CODE + 1);
}
