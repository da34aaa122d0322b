//! Watchpoints of the debugger's side: any length, any access, wherever it comes from.

use crate::bench::*;
use hv_core::introspect::{
    AccessKind, Breakpoint, BreakpointId, BreakpointKind, Condition, Place, StepMode, StopContext, StopReason,
};
use hv_core::machine::{RunExit, RunLimit};
use hv_core::regs::{gpr, rflags};
use hv_core::{GuestPhysAddr, GuestVirtAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const ID: BreakpointId = BreakpointId(9);

fn watch(b: &mut Bench, address: u64, length: u64, access: AccessKind) {
    let place = Place::Virtual(GuestVirtAddr(address));
    b.m.insert_breakpoint(
        ID,
        Breakpoint {
            place,
            kind: BreakpointKind::Watch { length, access },
            condition: None,
        },
    );
}

fn hit(address: u64, access: AccessKind) -> RunExit {
    RunExit::Stopped {
        vcpu: CPU0,
        reason: StopReason::Watchpoint {
            id: ID,
            address,
            access,
        },
    }
}

/// Code that reads at `DATA` (8 bytes), then writes there.
fn code(a: &mut CodeAssembler) -> Result<(), iced_x86::IcedError> {
    a.mov(rdx, qword_ptr(DATA))?; // 8
    a.mov(qword_ptr(DATA), rdx)?; // 8
    a.nop()?;
    a.out(EXIT_PORT as i32, al)
}

#[test]
fn reads_and_writes_stop_after_the_instruction_and_name_the_first_watched_byte() {
    use AccessKind::*;
    for (offset, length, access, stops) in [
        (0, 8, Read, vec![(8, 0, Read)]),
        (0, 8, Write, vec![(16, 0, Write)]),
        (0, 8, ReadWrite, vec![(8, 0, Read), (16, 0, Write)]),
        (3, 1, Write, vec![(16, 3, Write)]),
        (7, 100, Read, vec![(8, 7, Read)]),
        (8, 8, ReadWrite, vec![]),
    ] {
        let mut b = Bench::long();
        b.code(code);
        watch(&mut b, DATA + offset, length, access);
        for (rip, at, kind) in stops {
            assert_eq!(
                b.run_for(100),
                hit(DATA + at, kind),
                "{offset} {length} {access:?}"
            );
            assert_eq!(b.regs().rip, CODE + rip);
        }
        b.finish();
        assert_eq!(b.m.now().0, 4);
    }
    let mut b = Bench::long();
    b.code(code);
    watch(&mut b, DATA - 8, 8, ReadWrite);
    b.finish();
}

#[test]
fn a_watch_is_seen_by_code_that_already_ran_and_gone_when_removed() {
    let mut b = Bench::long();
    b.code(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(qword_ptr(DATA), rdx)?; // 8
        a.inc(rax)?; // 3
        a.jmp(again)
    });
    b.run_for(1000);
    watch(&mut b, DATA + 4, 2, AccessKind::Write);
    assert_eq!(b.run_for(1000), hit(DATA + 4, AccessKind::Write));
    assert_eq!(b.regs().rip, CODE + 8);
    assert_eq!(
        b.run_for(1000),
        hit(DATA + 4, AccessKind::Write),
        "the next round"
    );
    assert!(b.m.remove_breakpoint(ID));
    assert_eq!(b.run_for(1000), RunExit::Limit);
}

#[test]
fn read_modify_write_counts_as_its_read_or_its_write() {
    for access in [AccessKind::Read, AccessKind::Write] {
        let mut b = Bench::long();
        b.code(|a| {
            a.add(qword_ptr(DATA), 1)?;
            a.out(EXIT_PORT as i32, al)
        });
        watch(&mut b, DATA, 1, access);
        assert_eq!(b.run_for(100), hit(DATA, access));
        assert_eq!(b.u64(DATA), 1, "the instruction is complete");
        b.finish();
    }
}

#[test]
fn an_access_across_pages_and_a_watch_across_pages() {
    let edge = DATA + 0x1000;
    for (at, length, address) in [
        (edge, 1, edge),
        (edge - 1, 1, edge - 1),
        (edge + 3, 5, edge + 3),
        (edge - 0x800, 0x1000, edge - 4),
    ] {
        let mut b = Bench::long();
        b.code(|a| {
            a.mov(rbx, edge - 4)?;
            a.mov(ptr(rbx), rax)?;
            a.out(EXIT_PORT as i32, al)
        });
        watch(&mut b, at, length, AccessKind::Write);
        assert_eq!(
            b.run_for(100),
            hit(address, AccessKind::Write),
            "{at:#x}+{length:#x}"
        );
        b.finish();
    }
}

#[test]
fn a_huge_watch() {
    let mut b = Bench::long();
    b.code(code);
    watch(&mut b, DATA - 0x10_0000, 1 << 40, AccessKind::Write);
    assert_eq!(b.run_for(100), hit(DATA, AccessKind::Write));
    b.finish();
}

#[test]
fn pushes_calls_and_interrupt_frames() {
    let mut b = Bench::long();
    b.code(|a| {
        let mut next = a.create_label();
        a.push(rax)?; // 1
        a.pop(rax)?; // 1
        a.call(next)?; // 5
        a.set_label(&mut next)?;
        a.pop(rax)?;
        a.int(0x80)
    });
    watch(&mut b, STACK - 8, 8, AccessKind::Write);
    assert_eq!(b.run_for(100), hit(STACK - 8, AccessKind::Write));
    assert_eq!(b.regs().rip, CODE + 1);
    assert_eq!(b.run_for(100), hit(STACK - 8, AccessKind::Write));
    assert_eq!(b.regs().rip, CODE + 7);
    assert_eq!(b.run_for(100), hit(STACK - 8, AccessKind::Write));
    assert_eq!(b.regs().rip, handler(0x80));
    // A fault's frame.
    let mut b = Bench::long();
    b.code(|a| a.ud2());
    watch(&mut b, STACK - 40, 1, AccessKind::Write);
    assert_eq!(b.run_for(100), hit(STACK - 40, AccessKind::Write));
    assert_eq!(b.regs().rip, handler(vector::UD));
    assert_eq!(b.fault(vector::UD).rip, CODE);
    // An interrupt's.
    let mut b = Bench::long();
    for (msr, value) in [(0x1b, 0xfee0_0d00), (0x80f, 0x1ff), (0x83f, 0x50)] {
        assert!(b.m.write_msr(CPU0, msr, value));
    }
    b.set(|r| r.rflags |= rflags::IF);
    b.code(|a| a.nop());
    watch(&mut b, STACK - 40, 1, AccessKind::Write);
    assert_eq!(b.run_for(100), hit(STACK - 40, AccessKind::Write));
    assert_eq!(b.regs().rip, handler(0x50));
    assert_eq!(b.fault(0x50).rip, CODE);
}

#[test]
fn string_instructions_stop_after_the_iteration_that_touched() {
    let mut b = Bench::long();
    b.set(|r| {
        (r.gpr[gpr::RCX], r.gpr[gpr::RDI], r.gpr[gpr::RSI]) = (100, DATA, DATA + 0x1000);
    });
    b.code(|a| {
        a.rep().movsq()?;
        a.out(EXIT_PORT as i32, al)
    });
    watch(&mut b, DATA + 0x52, 1, AccessKind::Write);
    assert_eq!(b.run_for(1000), hit(DATA + 0x52, AccessKind::Write));
    assert_eq!((b.gpr(gpr::RCX), b.regs().rip), (89, CODE));
    b.finish();
    assert_eq!((b.gpr(gpr::RCX), b.m.now().0), (0, 101));
}

#[test]
fn page_walks_and_descriptor_loads_are_no_accesses() {
    let mut b = Bench::long();
    b.code(code);
    watch(&mut b, TABLES, 0x1_0000, AccessKind::ReadWrite);
    b.finish();
    let mut b = Bench::long();
    b.code(|a| {
        a.mov(eax, selector::DATA as u32)?;
        a.mov(ds, eax)?;
        a.int3()
    });
    watch(&mut b, GDT, 0x2000, AccessKind::ReadWrite);
    b.fault(vector::BP);
}

#[test]
fn a_physical_watch_sees_every_mapping_and_reports_physical_addresses() {
    let mut b = Bench::long();
    b.map(0x70_0000, DATA | 7);
    b.code(|a| {
        a.mov(rax, qword_ptr(0x70_0008u64))?;
        a.mov(qword_ptr(DATA + 8), rax)?;
        a.out(EXIT_PORT as i32, al)
    });
    b.m.insert_breakpoint(
        ID,
        Breakpoint {
            place: Place::Physical(GuestPhysAddr(DATA + 10)),
            kind: BreakpointKind::Watch {
                length: 4,
                access: AccessKind::ReadWrite,
            },
            condition: None,
        },
    );
    assert_eq!(b.run_for(100), hit(DATA + 10, AccessKind::Read));
    assert_eq!(b.run_for(100), hit(DATA + 10, AccessKind::Write));
    b.finish();
}

#[test]
fn a_watch_in_one_address_space_only() {
    let mut b = Bench::long();
    let tables = b.read::<4096>(TABLES);
    b.write(0x60_0000, &tables);
    b.m.insert_breakpoint(
        ID,
        Breakpoint {
            place: Place::InAddressSpace(GuestVirtAddr(DATA), GuestPhysAddr(0x60_0000)),
            kind: BreakpointKind::Watch {
                length: 4,
                access: AccessKind::Write,
            },
            condition: None,
        },
    );
    b.code(|a| {
        a.mov(rbx, 0x60_0000u64)?; // 10
        a.mov(qword_ptr(DATA), rdx)?; // 8
        a.mov(cr3, rbx)?; // 3
        a.mov(qword_ptr(DATA), rdx)?; // 8
        a.out(EXIT_PORT as i32, al)
    });
    assert_eq!(b.run_for(100), hit(DATA, AccessKind::Write));
    assert_eq!(b.regs().rip, CODE + 29);
    b.finish();
}

struct WhenRaxIs(u64, AtomicU64);

impl Condition for WhenRaxIs {
    fn should_stop(&self, context: &mut dyn StopContext) -> bool {
        self.1.fetch_add(1, Ordering::Relaxed);
        context.gpr(gpr::RAX) == self.0
    }
}

#[test]
fn a_condition_is_asked_after_the_instruction() {
    let mut b = Bench::long();
    b.code(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.inc(rax)?;
        a.xadd(qword_ptr(DATA), rbx)?;
        a.cmp(rax, 100)?;
        a.jne(again)?;
        a.out(EXIT_PORT as i32, al)
    });
    let condition = Arc::new(WhenRaxIs(42, AtomicU64::new(0)));
    b.m.insert_breakpoint(
        ID,
        Breakpoint {
            place: Place::Virtual(GuestVirtAddr(DATA)),
            kind: BreakpointKind::Watch {
                length: 8,
                access: AccessKind::Write,
            },
            condition: Some(condition.clone()),
        },
    );
    assert_eq!(b.run_for(10_000), hit(DATA, AccessKind::Write));
    assert_eq!(b.gpr(gpr::RAX), 42);
    b.finish();
    assert_eq!(condition.1.load(Ordering::Relaxed), 100);
}

#[test]
fn a_step_that_touches_a_watch_reports_the_watch() {
    let mut b = Bench::long();
    b.code(code);
    watch(&mut b, DATA, 1, AccessKind::Write);
    let never = AtomicBool::new(false);
    let step = RunLimit {
        ticks: 100,
        step: Some((CPU0, StepMode::Alone)),
    };
    assert_eq!(b.m.run(&step, &never), RunExit::Stepped);
    assert_eq!(b.m.run(&step, &never), hit(DATA, AccessKind::Write));
    assert_eq!(b.m.run(&step, &never), RunExit::Stepped);
}

#[test]
fn a_watch_on_a_page_of_code_and_on_memory_that_faults() {
    let mut b = Bench::long();
    b.code(|a| {
        a.mov(al, byte_ptr(CODE + 0x800))?;
        a.mov(byte_ptr(CODE + 0x801), 1)?;
        a.out(EXIT_PORT as i32, al)
    });
    watch(&mut b, CODE + 0x800, 2, AccessKind::ReadWrite);
    assert_eq!(b.run_for(100), hit(CODE + 0x800, AccessKind::Read));
    assert_eq!(b.run_for(100), hit(CODE + 0x801, AccessKind::Write));
    b.finish();
    // An access that faults is none.
    let mut b = Bench::long();
    b.map(DATA, 0);
    b.code(code);
    watch(&mut b, DATA, 8, AccessKind::ReadWrite);
    b.fault(vector::PF);
}
