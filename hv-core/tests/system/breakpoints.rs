//! Execution breakpoints of the debugger's side, and restricted pages.

use crate::bench::*;
use hv_core::introspect::{
    AccessKind, Breakpoint, BreakpointId, BreakpointKind, Condition, PageRights, Place, StepMode,
    StopContext, StopReason,
};
use hv_core::machine::{RunExit, RunLimit};
use hv_core::regs::gpr;
use hv_core::{GuestPhysAddr, GuestVirtAddr, VcpuId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn execute(place: Place) -> Breakpoint {
    Breakpoint {
        place,
        kind: BreakpointKind::Execute,
        condition: None,
    }
}

fn at(address: u64) -> Place {
    Place::Virtual(GuestVirtAddr(address))
}

fn stop(ids: &[u64], address: u64) -> RunExit {
    let ids = ids.iter().map(|id| BreakpointId(*id)).collect();
    RunExit::Stopped {
        vcpu: CPU0,
        reason: StopReason::Breakpoint {
            ids,
            address: GuestVirtAddr(address),
        },
    }
}

/// A loop of five instructions: `again: inc rax; inc rbx; dec ecx; jnz again`, then the exit.
fn looping(b: &mut Bench, count: u32) -> u64 {
    b.set(|r| r.gpr[gpr::RCX] = count as u64);
    b.code(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.inc(rax)?; // 3
        a.inc(rbx)?; // 3
        a.dec(ecx)?; // 2
        a.jne(again)?; // 2
        a.out(EXIT_PORT as i32, al)
    })
}

#[test]
fn a_breakpoint_stops_before_its_instruction_each_time_and_is_passed_once() {
    let mut b = Bench::long();
    let code = looping(&mut b, 3);
    b.m.insert_breakpoint(BreakpointId(1), execute(at(code + 3)));
    for n in 1..=3 {
        assert_eq!(b.run_for(1000), stop(&[1], code + 3));
        assert_eq!((b.gpr(0), b.gpr(3)), (n, n - 1));
    }
    b.finish();
    assert_eq!(b.m.now().0, 13);
}

#[test]
fn a_breakpoint_is_invisible_to_the_guest() {
    let mut b = Bench::long();
    b.m.insert_breakpoint(BreakpointId(1), execute(at(CODE + 8)));
    b.code(|a| {
        a.mov(rdx, qword_ptr(CODE + 8))?; // 8
        a.mov(rcx, qword_ptr(CODE + 8))?;
        a.out(EXIT_PORT as i32, al)
    });
    let bytes = b.u64(CODE + 8);
    assert_eq!(b.run_for(100), stop(&[1], CODE + 8));
    b.finish();
    assert_eq!((b.gpr(2), b.gpr(1)), (bytes, bytes));
    assert_eq!(b.u64(CODE + 8), bytes);
}

#[test]
fn several_at_one_place_are_all_named_and_removal_works_in_the_middle_of_a_run() {
    let mut b = Bench::long();
    let code = looping(&mut b, 100);
    for id in 1..=3 {
        b.m.insert_breakpoint(BreakpointId(id), execute(at(code)));
    }
    assert_eq!(b.run_for(1000), stop(&[1, 2, 3], code));
    assert!(b.m.remove_breakpoint(BreakpointId(2)));
    assert!(!b.m.remove_breakpoint(BreakpointId(2)));
    assert_eq!(b.run_for(1000), stop(&[1, 3], code));
    b.m.remove_breakpoint(BreakpointId(1));
    b.m.remove_breakpoint(BreakpointId(3));
    b.finish();
}

#[test]
fn a_breakpoint_inserted_into_code_that_already_ran_is_met() {
    let mut b = Bench::long();
    let code = looping(&mut b, 1000);
    assert_eq!(b.run_for(101), RunExit::Limit);
    for offset in [0, 3, 6, 8] {
        b.m.insert_breakpoint(BreakpointId(1), execute(at(code + offset)));
        assert_eq!(b.run_for(1000), stop(&[1], code + offset));
        b.m.remove_breakpoint(BreakpointId(1));
    }
    // In the middle of an instruction there is nothing to stop at.
    b.m.insert_breakpoint(BreakpointId(1), execute(at(code + 1)));
    b.finish();
}

#[test]
fn a_breakpoint_on_the_instruction_about_to_run_stops_at_once() {
    let mut b = Bench::long();
    let code = looping(&mut b, 2);
    b.m.insert_breakpoint(BreakpointId(1), execute(at(code)));
    assert_eq!(b.run_for(100), stop(&[1], code));
    assert_eq!(b.m.now().0, 0);
    // Two runs without time stay there; moving RIP away and back meets it again.
    assert_eq!(b.run_for(0), RunExit::Limit);
}

#[test]
fn an_address_space_and_a_physical_place() {
    // The same linear page under two roots, the same physical page under two linear addresses.
    let mut b = Bench::long();
    let other_root = 0x60_0000;
    let tables = b.read::<4096>(TABLES);
    b.write(other_root, &tables);
    let target = CODE + 0x8000;
    b.code_at(64, target, |a| a.ret());
    b.map(0x70_0000, target | 7);
    b.code(|a| {
        a.mov(rbx, other_root)?;
        a.mov(rdx, TABLES)?;
        a.call(target)?;
        a.mov(cr3, rbx)?;
        a.call(target)?;
        a.mov(cr3, rdx)?;
        a.mov(rsi, 0x70_0000u64)?;
        a.call(rsi)?;
        a.out(EXIT_PORT as i32, al)
    });
    let mut child = b.m.fork();
    b.m.insert_breakpoint(
        BreakpointId(1),
        execute(Place::InAddressSpace(
            GuestVirtAddr(target),
            GuestPhysAddr(other_root),
        )),
    );
    assert_eq!(b.run_for(100), stop(&[1], target));
    assert_eq!(b.regs().cr3, other_root);
    b.finish();
    child.insert_breakpoint(BreakpointId(1), execute(Place::Physical(GuestPhysAddr(target))));
    let limit = RunLimit {
        ticks: 100,
        step: None,
    };
    let never = AtomicBool::new(false);
    for linear in [target, target, 0x70_0000] {
        assert_eq!(child.run(&limit, &never), stop(&[1], linear));
    }
    assert!(exited(&child.run(&limit, &never)));
}

#[test]
fn a_breakpoint_at_an_address_that_is_mapped_later() {
    let mut b = Bench::long();
    let target = CODE + 0x8000;
    b.code_at(64, target, |a| a.ret());
    b.map(target, 0);
    let pte = b.pte(target);
    b.m.insert_breakpoint(BreakpointId(1), execute(at(target)));
    b.code(|a| {
        a.mov(qword_ptr(pte), target as i32 | 7)?;
        a.call(target)?;
        a.out(EXIT_PORT as i32, al)
    });
    assert_eq!(b.run_for(100), stop(&[1], target));
    b.finish();
}

#[test]
fn a_breakpoint_on_the_second_page_of_straight_code_and_on_a_crossing_instruction() {
    let mut b = Bench::long();
    let edge = CODE + 0x9000;
    b.code_at(64, edge - 4, |a| {
        a.nop()?;
        a.mov(rax, rbx)?; // ends at the page's end
        a.nop()?;
        a.out(EXIT_PORT as i32, al)
    });
    b.m.insert_breakpoint(BreakpointId(1), execute(at(edge)));
    b.set(|r| r.rip = edge - 4);
    assert_eq!(b.run_for(100), stop(&[1], edge));
    b.finish();
    let mut b = Bench::long();
    b.code_at(64, edge - 2, |a| {
        a.mov(eax, 5)?;
        a.out(EXIT_PORT as i32, al)
    });
    b.m.insert_breakpoint(BreakpointId(1), execute(at(edge - 2)));
    b.set(|r| r.rip = edge - 2);
    assert_eq!(b.run_for(100), stop(&[1], edge - 2));
    b.finish();
    b.m.remove_breakpoint(BreakpointId(1));
    b.m.insert_breakpoint(BreakpointId(2), execute(at(edge)));
    b.set(|r| r.rip = edge - 2);
    b.finish();
}

struct Counting {
    stop_at: u64,
    count: AtomicU64,
}

impl Condition for Counting {
    fn should_stop(&self, context: &mut dyn StopContext) -> bool {
        assert_eq!(context.vcpu(), CPU0);
        assert_eq!(context.registers().rip, context.rip());
        let mut bytes = [0; 3];
        assert!(context.read_virtual(GuestVirtAddr(context.rip()), &mut bytes));
        assert!(!context.read_virtual(GuestVirtAddr(1 << 62), &mut bytes));
        self.count.fetch_add(1, Ordering::Relaxed) + 1 == self.stop_at
    }
}

#[test]
fn a_condition_is_asked_once_a_hit_and_decides() {
    let mut b = Bench::long();
    let code = looping(&mut b, 1000);
    let condition = Arc::new(Counting {
        stop_at: 500,
        count: AtomicU64::new(0),
    });
    b.m.insert_breakpoint(
        BreakpointId(4),
        Breakpoint {
            condition: Some(condition.clone()),
            ..execute(at(code))
        },
    );
    assert_eq!(b.run_for(100_000), stop(&[4], code));
    assert_eq!(b.gpr(0), 499);
    b.finish();
    assert_eq!(condition.count.load(Ordering::Relaxed), 1000);
    assert_eq!(b.m.now().0, 4001, "conditions cost no guest time");
}

#[test]
fn stepping_goes_over_breakpoints() {
    let mut b = Bench::long();
    let code = looping(&mut b, 2);
    b.m.insert_breakpoint(BreakpointId(1), execute(at(code + 3)));
    let never = AtomicBool::new(false);
    let step = RunLimit {
        ticks: 100,
        step: Some((CPU0, StepMode::Schedule)),
    };
    for rip in [3, 6, 8, 0] {
        assert_eq!(b.m.run(&step, &never), RunExit::Stepped);
        assert_eq!(b.regs().rip, code + rip);
    }
    assert_eq!(b.run_for(100), stop(&[1], code + 3));
}

#[test]
fn both_vcpus_meet_a_breakpoint() {
    let mut b = Bench::long_smp(2);
    let code = looping(&mut b, 2);
    let registers = b.long_registers();
    b.set_of(VcpuId(1), |r| {
        let apic = r.apic_base;
        *r = registers;
        r.apic_base = apic;
        r.rip = code;
        r.gpr[gpr::RCX] = 2;
    });
    b.m.insert_breakpoint(BreakpointId(1), execute(at(code + 3)));
    let never = AtomicBool::new(false);
    let mut stops = [0; 2];
    for _ in 0..4 {
        match b.m.run(
            &RunLimit {
                ticks: 100_000,
                step: None,
            },
            &never,
        ) {
            RunExit::Stopped { vcpu, .. } => stops[vcpu.index()] += 1,
            RunExit::DebugExit(_) => {
                // Let the first one rest, so that the second gets its turn.
                let n = (0..2)
                    .find(|n| b.m.registers(VcpuId(*n)).rip == code + 12)
                    .expect("who exited");
                b.set_of(VcpuId(n), |r| {
                    (r.rflags = 0x202, r.activity = hv_core::regs::Activity::Halted).1
                });
            }
            other => panic!("{other:?}"),
        }
    }
    let exit = b.m.run(
        &RunLimit {
            ticks: 100_000,
            step: None,
        },
        &never,
    );
    if let RunExit::Stopped { vcpu, .. } = exit {
        stops[vcpu.index()] += 1;
    }
    assert_eq!(stops, [2, 2]);
}

#[test]
fn restricted_pages_stop_before_the_access_until_they_are_opened() {
    let page = GuestPhysAddr(DATA);
    for (rights, by, access) in [
        (
            PageRights {
                read: false,
                ..PageRights::ALL
            },
            0,
            Some(AccessKind::Read),
        ),
        (
            PageRights {
                write: false,
                ..PageRights::ALL
            },
            1,
            Some(AccessKind::Write),
        ),
        (
            PageRights {
                write: false,
                ..PageRights::ALL
            },
            2,
            Some(AccessKind::Write),
        ),
        (
            PageRights {
                execute: false,
                ..PageRights::ALL
            },
            3,
            None,
        ),
    ] {
        let mut b = Bench::long();
        b.write(DATA, &[0xe6, EXIT_PORT as u8]);
        assert!(b.m.set_page_access(page, rights));
        b.code(|a| {
            a.mov(ebx, DATA as u32)?; // 5
            match by {
                0 => a.mov(rcx, ptr(rbx))?,
                1 => a.mov(ptr(rbx), rax)?,
                2 => a.inc(qword_ptr(rbx + 8))?,
                _ => a.jmp(rbx)?,
            }
            a.out(EXIT_PORT as i32, al)
        });
        for _ in 0..2 {
            let reason = StopReason::PageAccess { frame: page, access };
            assert_eq!(b.run_for(100), RunExit::Stopped { vcpu: CPU0, reason });
            assert_eq!(b.regs().rip, if by == 3 { DATA } else { CODE + 5 });
            assert_eq!(b.u64(DATA + 8), 0);
        }
        assert_eq!(b.m.now().0, 1 + (by == 3) as u64);
        assert!(b.m.set_page_access(page, PageRights::ALL));
        b.finish();
    }
    assert!(
        !Bench::long()
            .m
            .set_page_access(GuestPhysAddr(1 << 36), PageRights::ALL)
    );
}

#[test]
fn breakpoints_stop_in_interrupt_shadows_and_while_the_guest_debugs_itself() {
    for with_tf in [false, true] {
        let mut b = Bench::long();
        b.code(|a| {
            a.sti()?;
            a.nop()?;
            a.nop()?;
            a.out(EXIT_PORT as i32, al)
        });
        if with_tf {
            // A handler that only returns.
            b.interrupt_gate(vector::DB, 0x8e, 0, handler(vector::DB) + 2);
            b.set(|r| r.rflags |= hv_core::regs::rflags::TF);
        }
        for (id, offset) in [(1, 1), (2, 2)] {
            b.m.insert_breakpoint(BreakpointId(id), execute(at(CODE + offset)));
        }
        assert_eq!(b.run_for(100), stop(&[1], CODE + 1), "TF {with_tf}");
        assert_eq!(b.run_for(100), stop(&[2], CODE + 2), "TF {with_tf}");
        assert!(exited(&b.go()), "TF {with_tf}");
    }
}
