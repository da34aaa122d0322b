//! An execution breakpoint where the page isn't executable comes before the fault of the fetch.

use crate::bench::*;
use hv_core::GuestVirtAddr;
use hv_core::introspect::{Breakpoint, BreakpointId, BreakpointKind, Place, StopReason};
use hv_core::machine::RunExit;
use hv_core::regs::{efer, gpr};

/// A call to a function whose return address is in a page of data.
fn returning_to_data() -> Bench {
    let mut b = Bench::long();
    b.set(|r| {
        r.efer |= efer::NXE;
        r.gpr[gpr::RDX] = DATA + 8;
    });
    b.map(DATA, DATA | page::P | page::W | page::NX);
    b.code(|a| {
        a.push(rdx)?;
        a.ret()
    });
    b
}

fn place_breakpoint(b: &mut Bench) {
    let place = Place::Virtual(GuestVirtAddr(DATA + 8));
    b.m.insert_breakpoint(
        BreakpointId(1),
        Breakpoint {
            place,
            kind: BreakpointKind::Execute,
            condition: None,
        },
    );
}

#[test]
fn a_breakpoint_in_a_page_of_data_stops_before_the_fault() {
    let mut b = returning_to_data();
    b.set(|r| r.cr2 = 0x1234);
    place_breakpoint(&mut b);
    let address = GuestVirtAddr(DATA + 8);
    let reason = StopReason::Breakpoint {
        ids: vec![BreakpointId(1)],
        address,
    };
    assert_eq!(b.go(), RunExit::Stopped { vcpu: CPU0, reason });
    assert_eq!((b.regs().rip, b.regs().cr2), (DATA + 8, 0x1234));
}

#[test]
fn the_fault_comes_when_the_guest_goes_on_and_at_the_same_time_as_ever() {
    let mut b = returning_to_data();
    place_breakpoint(&mut b);
    b.go();
    let frame = b.fault(vector::PF);
    assert_eq!(
        (frame.rip, frame.error, b.regs().cr2),
        (DATA + 8, Some(0x11), DATA + 8)
    );
    let mut undebugged = returning_to_data();
    undebugged.fault(vector::PF);
    assert_eq!(b.m.now(), undebugged.m.now());
    assert_eq!(b.regs(), undebugged.regs());
}
