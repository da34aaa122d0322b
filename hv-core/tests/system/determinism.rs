//! The same ticks give the same state, however a run is cut up, stepped, broken into, forked or saved.

use crate::bench::*;
use hv_core::introspect::{
    AccessKind, Breakpoint, BreakpointId, BreakpointKind, Condition, Place, StepMode, StopContext,
};
use hv_core::machine::{Machine, RunExit, RunLimit};
use hv_core::regs::gpr;
use hv_core::{GuestPhysAddr, GuestVirtAddr, Ticks, VcpuId};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const HANDLER: u64 = CODE + 0x6000;
const FAULTS: u64 = CODE + 0x6100;
const FUNCTION: u64 = CODE + 0x7000;
const BYTES: u64 = DATA + 0x2000;
const HOLE: u64 = 0x70_0000;

/// Interrupts, page faults, string instructions, code that changes, HLT, PAUSE and RDTSC, on each vCPU.
fn busy(vcpus: u32) -> Bench {
    let mut b = Bench::long_smp(vcpus);
    b.interrupt_gate(0x40, 0x8e, 0, HANDLER);
    b.interrupt_gate(vector::PF, 0x8e, 0, FAULTS);
    b.map(HOLE, 0);
    b.code_at(64, HANDLER, |a| {
        a.push(rax)?;
        a.push(rcx)?;
        a.push(rdx)?;
        a.inc(qword_ptr(DATA + 0x10))?;
        a.rdtsc()?;
        a.xor(dword_ptr(DATA + 0x18), eax)?;
        a.mov(ecx, 0x80b)?;
        a.xor(eax, eax)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.pop(rdx)?;
        a.pop(rcx)?;
        a.pop(rax)?;
        a.iretq()
    });
    let pte = b.pte(HOLE);
    b.code_at(64, FAULTS, |a| {
        a.inc(qword_ptr(DATA + 0x20))?;
        a.mov(dword_ptr(pte), HOLE as u32 | 7)?;
        a.add(rsp, 8)?;
        a.iretq()
    });
    b.code_at(64, FUNCTION, |a| {
        a.mov(eax, 1)?;
        a.ret()
    });
    let start = b.code(|a| {
        let mut again = a.create_label();
        let mut inner = a.create_label();
        let mut sleep = a.create_label();
        let mut awake = a.create_label();
        a.set_label(&mut again)?;
        a.mov(ecx, 37)?;
        a.set_label(&mut inner)?;
        a.add(r8, rcx)?;
        a.rol(r8, 5)?;
        a.xor(r9, r8)?;
        a.mov(qword_ptr(r15 + 0x100), r9)?;
        a.dec(ecx)?;
        a.jne(inner)?;
        // A string instruction across pages.
        a.lea(rdi, ptr(r15 + 0x1e80))?;
        a.lea(rsi, ptr(r15 + 0xf00))?;
        a.mov(ecx, 70)?;
        a.rep().movsq()?;
        // Patch the function, call it.
        a.lock().inc(byte_ptr(FUNCTION + 1))?;
        a.call(FUNCTION)?;
        a.add(r10, rax)?;
        // Unmap a page and touch it.
        a.mov(dword_ptr(pte), 0)?;
        a.invlpg(byte_ptr(HOLE))?;
        a.mov(qword_ptr(HOLE + 8), r10)?;
        a.pause()?;
        a.cpuid()?;
        a.rdtsc()?;
        a.add(r11, rax)?;
        a.sti()?;
        a.test(r10b, 7)?;
        a.je(sleep)?;
        a.nop()?;
        a.jmp(awake)?;
        a.set_label(&mut sleep)?;
        a.sti()?;
        a.hlt()?;
        a.set_label(&mut awake)?;
        a.jmp(again)
    });
    let registers = b.long_registers();
    for n in 0..vcpus {
        b.set_of(VcpuId(n), |r| {
            let apic = r.apic_base;
            *r = registers.clone();
            r.apic_base = apic;
            r.rip = start;
            r.gpr[15] = BYTES + 0x8000 * n as u64;
            r.gpr[gpr::RSP] = STACK + 0x2_0000 * (n as u64 + 1);
        });
        for (msr, value) in [
            (0x1b, 0xfee0_0c00 | if n == 0 { 0x100 } else { 0 }),
            (0x80f, 0x1ff),
            (0x832, 0x2_0040),
            (0x83e, 0xb),
            (0x838, 2370 + 410 * n as u64),
        ] {
            assert!(b.m.write_msr(VcpuId(n), msr, value), "{msr:#x}");
        }
    }
    b
}

fn run(m: &mut Machine, ticks: u64, step: Option<(VcpuId, StepMode)>) -> RunExit {
    m.run(&RunLimit { ticks, step }, &AtomicBool::new(false))
}

/// Runs to an exact tick, by pieces that `next` gives; idle time passes.
pub fn run_to(m: &mut Machine, end: u64, mut next: impl FnMut() -> (u64, Option<(VcpuId, StepMode)>)) {
    let mut rounds = 0;
    while m.now().0 < end {
        rounds += 1;
        assert!(rounds < 4 * end, "no progress");
        let (ticks, step) = next();
        match run(m, ticks.min(end - m.now().0), step) {
            RunExit::Limit | RunExit::Stepped | RunExit::Stopped { .. } => {}
            RunExit::Idle { until } => m.advance_idle(until.min(Ticks(end))),
            other => panic!("{other:?} at {:#x}", m.registers(CPU0).rip),
        }
    }
    assert_eq!(m.now().0, end);
}

pub fn straight(m: &mut Machine, end: u64) {
    run_to(m, end, || (u64::MAX, None));
}

/// Xorshift.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Tells the first register or memory difference, if the hashes differ.
pub fn same(a: &Machine, b: &Machine, what: &str) {
    if a.state_hash() == b.state_hash() {
        return;
    }
    for n in 0..a.vcpu_count() {
        assert_eq!(a.registers(VcpuId(n)), b.registers(VcpuId(n)), "{what}, vCPU {n}");
    }
    for page in 0..0x800u64 {
        let (mut x, mut y) = ([0; 4096], [0; 4096]);
        a.read_physical(GuestPhysAddr(page << 12), &mut x);
        b.read_physical(GuestPhysAddr(page << 12), &mut y);
        if let Some(at) = (0..4096).find(|n| x[*n] != y[*n]) {
            panic!(
                "{what}: memory differs at {:#x}: {:#x} and {:#x}",
                (page << 12) + at as u64,
                x[at],
                y[at]
            );
        }
    }
    panic!(
        "{what}: devices or the schedule differ\n{}\n{}",
        a.describe_devices(),
        b.describe_devices()
    );
}

const END: u64 = 60_000;

#[test]
fn the_test_program_does_what_it_is_meant_to() {
    let mut b = busy(2);
    straight(&mut b.m, END);
    assert!(b.u64(DATA + 0x10) > 20, "interrupts");
    assert!(b.u64(DATA + 0x20) > 20, "page faults");
    assert!(b.m.retired() < END, "idle time");
    assert!(b.m.registers(VcpuId(1)).gpr[10] > 0);
}

#[test]
fn random_run_limits_change_nothing() {
    for vcpus in [1, 2, 3] {
        let mut whole = busy(vcpus);
        straight(&mut whole.m, END);
        for seed in 1..4 {
            let mut random = Random(seed);
            let mut cut = busy(vcpus);
            run_to(&mut cut.m, END, || (1 + random.below(300), None));
            same(&whole.m, &cut.m, &format!("{vcpus} vCPUs, seed {seed}"));
        }
    }
}

#[test]
fn single_steps_change_nothing() {
    for vcpus in [1, 2] {
        let mut whole = busy(vcpus);
        let mut stepped = busy(vcpus);
        for end in (1000..=20_000).step_by(1000) {
            straight(&mut whole.m, end);
            run_to(&mut stepped.m, end, || {
                (u64::MAX, Some((CPU0, StepMode::Schedule)))
            });
            same(&whole.m, &stepped.m, &format!("{vcpus} vCPUs at {end}"));
        }
    }
}

#[test]
fn every_tick_looks_the_same_from_a_step_and_from_a_run() {
    let mut stepped = busy(1);
    for end in 1..1500 {
        run_to(&mut stepped.m, end, || (1, None));
        let mut whole = busy(1);
        straight(&mut whole.m, end);
        same(&whole.m, &stepped.m, &format!("tick {end}"));
    }
}

pub struct Never;

impl Condition for Never {
    fn should_stop(&self, context: &mut dyn StopContext) -> bool {
        let mut bytes = [0; 16];
        let _ = context.read_virtual(GuestVirtAddr(context.gpr(gpr::RDI)), &mut bytes);
        false
    }
}

fn breakpoints(m: &mut Machine, random: &mut Random, condition: Option<Arc<dyn Condition>>) {
    for id in 0..12 {
        let kind = match random.below(3) {
            0 => BreakpointKind::Watch {
                length: 1 + random.below(64),
                access: AccessKind::ReadWrite,
            },
            _ => BreakpointKind::Execute,
        };
        let address = match kind {
            BreakpointKind::Execute => {
                [CODE, HANDLER, FAULTS, FUNCTION][random.below(4) as usize] + random.below(120)
            }
            _ => [
                DATA,
                BYTES + 0x100,
                BYTES + 0x1f00,
                HOLE,
                CODE,
                STACK + 0x2_0000 - 64,
            ][random.below(6) as usize],
        };
        let place = match random.below(2) {
            0 => Place::Virtual(GuestVirtAddr(address)),
            _ => Place::Physical(GuestPhysAddr(address)),
        };
        m.insert_breakpoint(
            BreakpointId(id),
            Breakpoint {
                place,
                kind,
                condition: condition.clone(),
            },
        );
    }
}

#[test]
fn breakpoints_with_false_conditions_change_nothing() {
    for vcpus in [1, 2] {
        let mut whole = busy(vcpus);
        straight(&mut whole.m, END);
        for seed in 1..5 {
            let mut random = Random(0x1234 + seed);
            let mut broken = busy(vcpus);
            breakpoints(&mut broken.m, &mut random, Some(Arc::new(Never)));
            straight(&mut broken.m, END);
            same(&whole.m, &broken.m, &format!("{vcpus} vCPUs, seed {seed}"));
        }
    }
}

#[test]
fn stops_and_steps_and_breakpoints_that_come_and_go_change_nothing() {
    for vcpus in [1, 2] {
        let mut whole = busy(vcpus);
        straight(&mut whole.m, END);
        for seed in 1..5 {
            let mut random = Random(0x9999 + seed);
            let mut broken = busy(vcpus);
            for round in 1..=30 {
                breakpoints(&mut broken.m, &mut random, None);
                run_to(&mut broken.m, END * round / 30, || {
                    let step = (random.below(3) == 0)
                        .then(|| (VcpuId(random.below(vcpus as u64) as u32), StepMode::Schedule));
                    (1 + random.below(500), step)
                });
                for id in 0..12 {
                    broken.m.remove_breakpoint(BreakpointId(id));
                }
            }
            same(&whole.m, &broken.m, &format!("{vcpus} vCPUs, seed {seed}"));
        }
    }
}

#[test]
fn writing_back_registers_and_memory_changes_nothing() {
    let mut whole = busy(2);
    straight(&mut whole.m, END);
    let mut random = Random(77);
    let mut touched = busy(2);
    while touched.m.now().0 < END {
        let end = (touched.m.now().0 + 1 + random.below(400)).min(END);
        straight(&mut touched.m, end);
        let vcpu = VcpuId(random.below(2) as u32);
        let registers = touched.m.registers(vcpu);
        touched
            .m
            .set_registers(vcpu, &registers)
            .expect("its own registers");
        for address in [CODE, FUNCTION, DATA, TABLES + 0x3000] {
            let bytes = touched.read::<256>(address);
            touched.write(address, &bytes);
        }
    }
    same(&whole.m, &touched.m, "written back");
}

#[test]
fn a_fork_runs_as_its_parent_and_neither_disturbs_the_other() {
    for vcpus in [1, 2] {
        let mut whole = busy(vcpus);
        straight(&mut whole.m, END);
        let mut random = Random(3);
        let mut parent = busy(vcpus);
        let mut children = Vec::new();
        while parent.m.now().0 < END {
            let end = (parent.m.now().0 + 1 + random.below(END / 5)).min(END);
            straight(&mut parent.m, end);
            let child = parent.m.fork();
            same(&parent.m, &child, "a fresh fork");
            children.push(child);
        }
        same(&whole.m, &parent.m, "the parent");
        for (n, child) in children.iter_mut().enumerate() {
            straight(child, END);
            same(&whole.m, child, &format!("child {n}"));
        }
    }
}

#[test]
fn a_grandchild_and_a_child_that_writes() {
    let mut parent = busy(1);
    straight(&mut parent.m, 5000);
    let mut child = parent.m.fork();
    let mut grandchild = child.fork();
    let before = parent.m.state_hash();
    straight(&mut child, 9000);
    child.write_physical(GuestPhysAddr(FUNCTION + 1), &[99]);
    assert_eq!(parent.m.state_hash(), before);
    straight(&mut grandchild, 9000);
    straight(&mut parent.m, 9000);
    same(&parent.m, &grandchild, "the grandchild");
    assert_ne!(child.state_hash(), parent.m.state_hash());
}
