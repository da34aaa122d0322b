//! What kernel code says to its debugger by `int 2d`.

use crate::guest::{BASE, CELL, FIRST_MODULE, LOOP, NOP, SERVICE, TEXT, TestGuest};
use crate::host::Host;
use hv_core::introspect::{DomainState, Introspect};
use hv_core::regs::gpr;
use introspect::TargetEvent;
use protocol::debug_io::DebugIo;
use protocol::status::NtStatus;
use std::sync::{Arc, Mutex};
use zerocopy::FromBytes;

const QUESTION: &[u8] = b"Break, Ignore (bi)? ";
const AT: u64 = CELL + 0x100;
const BUFFER: u64 = CELL + 0x200;

/// Goes on at the service with these arguments.
fn ask_for(host: &mut Host, service: u64, arguments: [u64; 4]) {
    let mut context = host.context(0);
    context.rip = SERVICE.into();
    context.gpr[0] = service.into();
    for (register, argument) in [1, 2, 8, 9].into_iter().zip(arguments) {
        context.gpr[register] = argument.into();
    }
    assert_eq!(host.set_context(0, &context), NtStatus::SUCCESS);
    host.go();
}

fn asked(guest: &TestGuest, host: &mut Host) {
    guest.write(AT, QUESTION);
    guest.write(BUFFER, &[0x55; 16]);
    assert!(host.breakpoint(NOP).is_some());
    ask_for(host, 2, [AT, QUESTION.len() as u64, BUFFER, 8]);
    let question = host.question();
    let (header, text) = DebugIo::read_from_prefix(&question).unwrap();
    assert_eq!((header.api.get(), header.length.get()), (0x3231, 20));
    assert_eq!((header.answer_length.get(), text), (8, QUESTION));
}

#[test]
fn a_question_is_answered_into_the_guests_buffer() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    asked(&guest, &mut host);
    // It waits, and hears no requests; a break-in is no answer.
    host.raw(b"b");
    assert!(!host.has_packet());
    let stack = guest.registers(0).gpr[gpr::RSP];
    host.answer(b"i, and far too much");
    let stop = host.stop();
    assert_eq!(stop.pc(), NOP, "behind the INT3, and on");
    let registers = guest.registers(0);
    assert_eq!(guest.read(BUFFER, 16), *b"i, and fUUUUUUUU");
    // The loop added one to the length of the answer.
    assert_eq!(registers.gpr[gpr::RAX], 8 + 1);
    assert!(registers.gpr[gpr::RSP] > stack, "the interrupt's frame is gone");
}

#[test]
fn a_question_is_repeated_for_a_host_that_begins_anew() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    asked(&guest, &mut host);
    host.reset();
    assert!(host.question().ends_with(QUESTION));
    host.answer(b"");
    assert_eq!(host.stop().pc(), NOP);
    assert_eq!(guest.registers(0).gpr[gpr::RAX], 1);
    assert_eq!(guest.read(BUFFER, 8), [0x55; 8]);
}

#[test]
fn a_host_that_leaves_a_question_unanswered_leaves_the_guest_as_without_a_debugger() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    asked(&guest, &mut host);
    drop(host);
    assert_eq!(guest.domain.state(), DomainState::Running);
    let mut host = Host::attach(&guest);
    host.go_to(LOOP);
    assert_eq!(guest.read(BUFFER, 8), [0x55; 8]);
}

#[test]
fn an_image_that_is_on_no_list_is_told_and_one_that_is_not() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    let name = b"\\SystemRoot\\user.exe";
    let mut string = (name.len() as u64).to_le_bytes().to_vec();
    string.extend((AT + 0x40).to_le_bytes());
    guest.write(AT, &string);
    guest.write(AT + 0x40, name);
    let info = |base: u64| {
        let mut info = base.to_le_bytes().to_vec();
        info.extend(0x1d4_u64.to_le_bytes());
        info.extend([0x11, 0x22, 0, 0, 0, 0x40, 0, 0]);
        info
    };
    for (service, unload) in [(3, 0), (4, 1)] {
        guest.write(BUFFER, &info(0x7ff6_0000_0000));
        ask_for(&mut host, service, [AT, BUFFER, 0, 0]);
        let stop = host.stop();
        let module = stop.module();
        assert_eq!((module.base.get(), module.unload), (0x7ff6_0000_0000, unload));
        assert_eq!((module.process_id.get(), module.checksum.get()), (0x1d4, 0x2211));
        assert_eq!(module.size.get(), 0x4000);
        assert_eq!(stop.tail, b"\\SystemRoot\\user.exe\0");
        assert_eq!(stop.pc(), SERVICE + 3);
        host.read(BASE, 2);
    }
    // The kernel itself: the list of modules is its news. And everything: a reset is.
    assert_eq!(guest.read(FIRST_MODULE + 0x30, 8), BASE.to_le_bytes());
    host.breakpoint(NOP);
    for base in [BASE, u64::MAX] {
        guest.write(BUFFER, &info(base));
        ask_for(&mut host, 4, [AT, BUFFER, 0, 0]);
        assert_eq!(host.stop().pc(), NOP);
        assert_eq!(guest.registers(0).gpr[gpr::RAX], 0xc000_009d + 1, "unserved");
        host.breakpoint(NOP);
    }
}

#[test]
fn a_command_for_the_host_is_shown_and_not_passed_on() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    let command = b".shell format";
    let mut string = (command.len() as u64).to_le_bytes().to_vec();
    string.extend((AT + 0x40).to_le_bytes());
    guest.write(AT, &string);
    guest.write(AT + 0x40, command);
    host.breakpoint(NOP);
    ask_for(&mut host, 5, [AT, AT, 0, 0]);
    assert_eq!(host.stop().pc(), NOP);
    assert!(
        host.printed.contains(".shell format (it isn't passed on)"),
        "{}",
        host.printed
    );
}

#[test]
fn a_text_is_shown_without_a_stop() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    guest.write(AT, TEXT);
    ask_for(&mut host, 1, [AT, TEXT.len() as u64, 101, 0]);
    host.until(|host| !host.printed.is_empty());
    assert_eq!(host.printed.as_bytes(), TEXT);
    assert_eq!(guest.domain.state(), DomainState::Running);
}

#[test]
fn arguments_that_make_no_sense_are_the_guests_own_affair() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    for service in [2, 3, 4, 5, 6, u64::MAX] {
        host.breakpoint(NOP);
        ask_for(&mut host, service, [u64::MAX - 3; 4]);
        assert_eq!(host.stop().pc(), NOP, "{service}");
        assert_eq!(guest.registers(0).gpr[gpr::RAX], 0xc000_009d + 1);
    }
}

#[test]
fn a_module_that_is_told_is_a_pause_to_other_debuggers_and_no_stop() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = events.clone();
    let other = guest.target.attach(
        "another",
        Box::new(move |event: &TargetEvent| seen.lock().unwrap().push(event.clone())),
    );
    host.go_to(crate::guest::LOAD);
    host.go();
    host.stop().module();
    assert!(!other.holds());
    host.go();
    assert_eq!(guest.domain.state(), DomainState::Running);
    // That the guest ran on after it was found paused may be told before.
    let paused_and_resumed = |events: &[TargetEvent]| {
        let paused = events
            .iter()
            .position(|event| *event == TargetEvent::OtherStopped);
        paused.is_some_and(|at| events[at..].contains(&TargetEvent::OtherResumed))
    };
    host.until(|_| paused_and_resumed(&events.lock().unwrap()));
    let events = events.lock().unwrap();
    let stopped = |event: &&TargetEvent| matches!(event, TargetEvent::Stopped { .. });
    assert_eq!(events.iter().find(stopped), None);
}
