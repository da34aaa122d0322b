//! Breakpoints, software and hardware.

use crate::guest::{CELL, LOOP, NOP, TestGuest};
use crate::host::{Host, Stop};
use protocol::api::Api;
use protocol::context::amd64::SpecialRegisters;
use protocol::manipulate::{BreakPointEntry, BreakPointEx, Manipulate, Memory, RestoreBreakPoint};
use protocol::status::NtStatus;
use zerocopy::{FromBytes, IntoBytes};

fn restore(host: &mut Host, handle: u32) -> NtStatus {
    let mut header = Manipulate::request(Api::RestoreBreakPoint, 0);
    header.set(&RestoreBreakPoint {
        handle: handle.into(),
    });
    host.ask(&header, &[]).status()
}

/// Sets DR0 and DR7 as a host does, and lets the guest run.
fn watch(host: &mut Host, address: u64, dr7: u64) -> Stop {
    let mut header = Manipulate::request(Api::ReadControlSpace, 0);
    header.set(&Memory {
        address: 2.into(),
        count: 0xf0.into(),
        actual: 0.into(),
    });
    let mut special = SpecialRegisters::read_from_bytes(&host.ask(&header, &[]).data).unwrap();
    special.dr[0] = address.into();
    special.dr7 = dr7.into();
    header.api = Api::WriteControlSpace.number().into();
    assert_eq!(host.ask(&header, special.as_bytes()).status(), NtStatus::SUCCESS);
    host.continue2(false, dr7);
    host.stop()
}

#[test]
fn the_guest_stops_at_a_breakpoint_and_memory_shows_none() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    // Away from where the guest stands: a stop takes out what is in its own code bytes.
    host.go_to(LOOP);
    let code = host.read(LOOP, 16);
    assert_eq!(host.breakpoint(NOP), Some(1));
    assert_eq!(host.breakpoint(NOP), None, "twice the same");
    assert_eq!(host.breakpoint(NOP + 1), Some(2));
    assert_eq!(restore(&mut host, 2), NtStatus::SUCCESS);
    host.go();
    let stop = host.stop();
    assert_eq!((stop.code(), stop.pc()), (NtStatus::BREAKPOINT, NOP));
    assert_eq!(stop.exception().parameter_count.get(), 1);
    assert_eq!(stop.report().stream[..3], [0x90, 0xeb, 0xf4]);
    assert_eq!(host.read(LOOP, 16), code);
    // The report took it out.
    assert_eq!(restore(&mut host, 1), NtStatus::UNSUCCESSFUL);
    assert_eq!(host.breakpoint(NOP), Some(1));
}

#[test]
fn a_breakpoint_is_passed_as_hosts_do_it() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    host.go_to(LOOP);
    let mut rax = None;
    for _ in 0..5 {
        assert_eq!(host.breakpoint(NOP), Some(1));
        host.go();
        assert_eq!(host.stop().pc(), NOP);
        let now = host.context(0).gpr[0].get();
        if let Some(before) = rax.replace(now) {
            assert_eq!(now, before + 1, "once round the loop");
        }
        assert_eq!(host.step().pc(), NOP + 1);
    }
}

#[test]
fn removing_is_idempotent_and_handles_are_small() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    for handle in 0..=32 {
        assert_eq!(restore(&mut host, handle), NtStatus::UNSUCCESSFUL);
    }
    for n in 0..40 {
        assert_eq!(host.breakpoint(LOOP + 0x400 + 32 * n), Some(n as u32 + 1));
    }
    assert_eq!(restore(&mut host, 7), NtStatus::SUCCESS);
    assert_eq!(restore(&mut host, 7), NtStatus::UNSUCCESSFUL);
    assert_eq!(host.breakpoint(LOOP + 0x300), Some(7));
}

#[test]
fn several_are_set_and_removed_at_once() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    let entry = |address: u64| BreakPointEntry {
        address: address.into(),
        handle: 0.into(),
        padding: 0.into(),
    };
    let entries = [entry(LOOP + 0x800), entry(LOOP + 0x900), entry(LOOP + 0x800)];
    let mut header = Manipulate::request(Api::WriteBreakPointEx, 0);
    header.set(&BreakPointEx {
        count: 3.into(),
        status: 0.into(),
    });
    let answer = host.ask(&header, entries.as_bytes());
    let handles: Vec<u32> = answer
        .data
        .chunks(16)
        .map(|bytes| BreakPointEntry::read_from_bytes(bytes).unwrap().handle.get())
        .collect();
    assert_eq!(
        (answer.status(), handles),
        (NtStatus::UNSUCCESSFUL, vec![1, 2, 0])
    );
    header.api = Api::RestoreBreakPointEx.number().into();
    header.set(&BreakPointEx {
        count: 2.into(),
        status: 0.into(),
    });
    let answer = host.ask(&header, &[1, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(answer.status(), NtStatus::SUCCESS);
    // A count that isn't there is no reason to look behind the data.
    header.set(&BreakPointEx {
        count: u32::MAX.into(),
        status: 0.into(),
    });
    assert_eq!(host.ask(&header, &[1, 0, 0, 0]).status(), NtStatus::UNSUCCESSFUL);
}

#[test]
fn a_write_watchpoint_stops_behind_the_write_and_says_which_register() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    host.go_to(LOOP);
    // DR0: writes of 8 bytes.
    let stop = watch(&mut host, CELL, 0x400 | 1 | 0x9 << 16);
    assert_eq!((stop.code(), stop.pc()), (NtStatus::SINGLE_STEP, LOOP + 6));
    assert_eq!(stop.report().dr6.get() & 0xf, 1);
    assert_eq!(stop.report().dr7.get(), 0x400 | 1 | 0x9 << 16);
    // Reads too: the next stop is at the load.
    let stop = watch(&mut host, CELL, 0x400 | 1 | 0xb << 16);
    assert_eq!(stop.pc(), NOP);
    // DR7 of a continue is what counts.
    host.go();
    host.raw(b"b");
    assert_eq!(host.stop().code(), NtStatus::BREAKPOINT);
}

#[test]
fn an_execution_breakpoint_register_stops_before_the_instruction() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    host.go_to(LOOP);
    for _ in 0..3 {
        let stop = watch(&mut host, NOP, 0x401);
        assert_eq!((stop.code(), stop.pc()), (NtStatus::SINGLE_STEP, NOP));
        assert_eq!(stop.report().dr6.get() & 0xf, 1);
    }
}
