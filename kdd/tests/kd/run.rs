//! Steps, continues, other processors, other debuggers, and what a debug-enabled kernel would tell.

use crate::guest::{
    BASE, BUGCHECK, BUGCHECK_DATA, CRASH, DIVIDE, HALT, HANDLER, INT3, LOAD, LOOP, NOP, PRINT, PRINT_CODE,
    SPEAK, TEXT, TestGuest, UNLOAD,
};
use crate::host::Host;
use hv_core::GuestVirtAddr;
use hv_core::introspect::{Breakpoint, BreakpointKind, ControlRun, DomainState, Introspect, Place};
use protocol::api::Api;
use protocol::manipulate::{Continue, Manipulate};
use protocol::status::NtStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[test]
fn a_step_is_one_instruction() {
    let guest = TestGuest::running(2);
    let mut host = Host::attach(&guest);
    host.go_to(LOOP);
    for expected in [LOOP + 3, LOOP + 6, NOP, NOP + 1, LOOP] {
        let stop = host.step();
        assert_eq!((stop.code(), stop.pc()), (NtStatus::SINGLE_STEP, expected));
        assert_eq!(stop.report().dr6.get(), 0xffff_4ff0);
        assert_eq!(stop.exception().address.get(), expected);
    }
}

#[test]
fn a_step_is_over_a_fault_that_the_guest_handles() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    let mut context = host.context(0);
    context.rip = DIVIDE.into();
    // RCX, RDX: a division by zero.
    context.gpr[1] = 0.into();
    context.gpr[2] = 0.into();
    assert_eq!(host.set_context(0, &context), NtStatus::SUCCESS);
    let stop = host.step();
    assert_eq!((stop.code(), stop.pc()), (NtStatus::SINGLE_STEP, DIVIDE + 2));
    assert_eq!(guest.registers(0).gpr[1], 1, "the guest's handler ran");
    assert_eq!(guest.registers(0).rflags & 0x100, 0);
}

#[test]
fn both_continues_let_the_guest_run_and_a_break_in_stops_it_again() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    let mut header = Manipulate::request(Api::Continue, 0);
    header.set(&Continue {
        status: NtStatus::DBG_CONTINUE.0.into(),
    });
    host.send(&header, &[]);
    assert_eq!(guest.domain.state(), DomainState::Running);
    host.raw(b"bbbb");
    assert_eq!(host.stop().code(), NtStatus::BREAKPOINT);
    host.go();
    assert_eq!(guest.domain.state(), DomainState::Running);
}

#[test]
fn a_break_in_from_before_a_continue_is_not_one_after_it() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    host.read(BASE, 2);
    host.raw(b"b");
    host.go();
    assert_eq!(guest.domain.state(), DomainState::Running);
    assert!(!host.has_packet());
}

#[test]
fn requests_of_a_running_guest_are_dropped() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    host.go();
    host.send(&Manipulate::request(Api::GetVersion, 0), &[]);
    assert!(!host.has_packet());
    assert_eq!(guest.domain.state(), DomainState::Running);
}

#[test]
fn another_processor_reports_when_it_is_switched_to() {
    let guest = TestGuest::running(2);
    let mut host = Host::attach(&guest);
    host.send(&Manipulate::request(Api::SwitchProcessor, 1), &[]);
    let stop = host.stop();
    assert_eq!(stop.code(), NtStatus::WAKE_SYSTEM_DEBUGGER);
    assert_eq!(stop.change.processor.get(), 1);
    assert_eq!(stop.pc(), guest.registers(1).rip);
    // One that isn't there: the same again.
    host.send(&Manipulate::request(Api::SwitchProcessor, 9), &[]);
    assert_eq!(host.stop().change.processor.get(), 1);
    host.send(&Manipulate::request(Api::SwitchProcessor, 0), &[]);
    assert_eq!(host.stop().change.processor.get(), 0);
    host.go();
    assert_eq!(guest.domain.state(), DomainState::Running);
}

#[test]
fn a_step_of_a_halted_processor_waits_and_can_be_broken_into() {
    let guest = TestGuest::running(2);
    let mut host = Host::attach(&guest);
    host.go_to(HALT);
    host.step();
    host.step();
    host.continue2(true, 0x400);
    for _ in 0..3 {
        host.turn();
    }
    assert!(!host.has_packet());
    host.raw(b"b");
    let stop = host.stop();
    assert_eq!((stop.code(), stop.pc()), (NtStatus::BREAKPOINT, HALT + 2));
}

#[test]
fn a_bugcheck_is_printed_and_stops_the_guest() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    host.go_to(CRASH);
    host.go();
    let stop = host.stop();
    assert_eq!((stop.code(), stop.pc()), (NtStatus::BREAKPOINT, BUGCHECK));
    let text = "*** Fatal System Error: 0x000000e2\n                       \
                (0x0000000000000001,0x0000000000000002,0x0000000000000003,0x0000000000000004)";
    assert!(host.printed.contains(text), "{}", host.printed);
    assert_eq!(host.breakpoint(BUGCHECK), Some(1), "it is in nobody's table");
    // What the kernel is about to write is there for the host.
    let data: Vec<u8> = [0xe2u64, 1, 2, 3, 4]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    assert_eq!(host.read(BUGCHECK_DATA, 40), data);
    assert_eq!(guest.read(BUGCHECK_DATA, 40), [0; 40]);
}

#[test]
fn a_breakpoint_instruction_of_the_kernel_stops_at_itself() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    host.go_to(INT3);
    let before = guest.registers(0);
    for _ in 0..3 {
        host.go();
        let stop = host.stop();
        assert_eq!((stop.code(), stop.pc()), (NtStatus::BREAKPOINT, INT3));
        assert_eq!(stop.report().stream[0], 0xcc);
        let now = guest.registers(0);
        assert_eq!((now.gpr, now.rflags), (before.gpr, before.rflags));
    }
    // As WinDbg goes on: behind the instruction.
    host.go_to(INT3 + 1);
    host.go();
    assert_eq!(guest.domain.state(), DomainState::Running);
}

#[test]
fn a_breakpoint_instruction_that_the_host_gives_back_is_the_guests() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    host.go_to(INT3);
    host.go();
    assert_eq!(host.stop().pc(), INT3);
    assert_eq!(host.breakpoint(NOP), Some(1));
    let mut header = Manipulate::request(Api::Continue, 0);
    header.set(&Continue {
        status: NtStatus::DBG_EXCEPTION_NOT_HANDLED.0.into(),
    });
    host.send(&header, &[]);
    // Its handler returned.
    assert_eq!(host.stop().pc(), NOP);
    host.go_to(INT3);
    host.go();
    assert_eq!(host.stop().pc(), INT3, "the next one is the host's again");
    assert_eq!(guest.read(HANDLER, 2), [0x48, 0xcf]);
}

#[test]
fn what_the_guest_prints_is_shown_without_a_stop() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    host.go_to(SPEAK);
    host.go();
    host.until(|host| !host.printed.is_empty());
    assert_eq!(guest.domain.state(), DomainState::Running);
    // The interrupt that DebugPrint hands it to is no second text.
    host.raw(b"b");
    host.stop();
    assert_eq!(host.printed.as_bytes(), TEXT);
    assert_eq!(guest.read(PRINT, PRINT_CODE.len()), PRINT_CODE);
}

#[test]
fn modules_that_come_and_go_are_told() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    for (code, unload) in [(LOAD, 0), (UNLOAD, 1), (LOAD, 0)] {
        host.go_to(code);
        host.go();
        let stop = host.stop();
        let module = stop.module();
        assert_eq!(
            (module.base.get(), module.size.get()),
            (0xffff_f803_1000_0000, 0x6000)
        );
        assert_eq!((module.unload, module.checksum.get()), (unload, 0x1234));
        assert_eq!(module.path_length.get() as usize, stop.tail.len());
        assert_eq!(stop.tail, b"\\SystemRoot\\system32\\drivers\\new.sys\0");
        host.read(BASE, 2);
    }
    host.go();
    assert_eq!(guest.domain.state(), DomainState::Running);
}

#[test]
fn a_reset_of_the_guest_unloads_everything_and_the_next_kernel_is_greeted() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    host.go();
    guest.visible.store(false, Ordering::SeqCst);
    guest.domain.reset().unwrap();
    let stop = host.stop();
    let module = stop.module();
    assert_eq!(
        (module.base.get(), module.unload, module.path_length.get()),
        (u64::MAX, 1, 0)
    );
    host.go();
    assert_eq!(guest.domain.state(), DomainState::Running);
    // A kernel comes up again.
    guest.domain.pause().unwrap();
    guest.build();
    guest.domain.unpause().unwrap();
    guest.visible.store(true, Ordering::SeqCst);
    let stop = host.stop();
    assert_eq!(host.syncs, 2);
    assert_eq!((stop.module().base.get(), stop.module().unload), (BASE, 0));
    assert!(stop.tail.starts_with(b"\\SystemRoot\\system32\\ntoskrnl.exe"));
}

#[test]
fn a_reboot_resets_the_machine_and_has_no_reply() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    guest.visible.store(false, Ordering::SeqCst);
    host.send(&Manipulate::request(Api::Reboot, 0), &[]);
    assert!(!host.has_packet());
    assert_eq!(guest.domain.state(), DomainState::Running);
    assert_ne!(guest.registers(0).cr3, crate::guest::registers().cr3);
    for _ in 0..3 {
        host.turn();
    }
    assert!(!host.has_packet());
}

#[test]
fn a_crash_is_told_and_cannot_be_continued() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    // No IDT: a fault is the end.
    host.go_to(0x50_0000);
    host.go();
    let stop = host.stop();
    assert_eq!(stop.code(), NtStatus::BREAKPOINT);
    assert!(host.printed.contains("triple fault"), "{}", host.printed);
    assert_eq!(stop.report().instruction_count.get(), 0);
    host.go();
    host.stop();
    assert_eq!(host.printed.matches("triple fault").count(), 2);
}

#[test]
fn another_debugger_is_told_of_stops_and_tells_of_its_own() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    host.go();
    let events = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = events.clone();
    let other = guest.target.attach(
        "another",
        Box::new(move |event: &introspect::TargetEvent| seen.lock().unwrap().push(event.clone())),
    );
    // Its pause is a note; the guest isn't this host's.
    other.stop().unwrap();
    host.until(|host| host.printed.contains("another debugger stopped the guest"));
    assert!(!host.has_packet());
    other.resume().unwrap();
    // Its breakpoint stops both.
    other
        .insert_breakpoint(Breakpoint {
            place: Place::Virtual(GuestVirtAddr(NOP)),
            kind: BreakpointKind::Execute,
            condition: None,
        })
        .unwrap();
    let stop = host.stop();
    assert_eq!((stop.code(), stop.pc()), (NtStatus::BREAKPOINT, NOP));
    assert!(host.printed.contains("breakpoint of another debugger"));
    host.until(|_| !events.lock().unwrap().is_empty());
    drop(other);
    host.go();
    assert_eq!(guest.domain.state(), DomainState::Running);
}
