//! How a session begins, ends and begins again.

use crate::guest::{BASE, DATA_LIST, LOOP, MODULES, TestGuest};
use crate::host::Host;
use hv_core::introspect::{DomainState, Introspect};
use protocol::api::Api;
use protocol::manipulate::Manipulate;
use protocol::packet::{INITIAL_ID, PacketType, SYNC};
use protocol::status::NtStatus;
use protocol::version::Version;
use std::sync::atomic::Ordering;

#[test]
fn connecting_alone_leaves_the_guest_running() {
    let guest = TestGuest::running(1);
    let host = Host::connect(&guest);
    assert_eq!(guest.domain.state(), DomainState::Running);
    drop(host);
    assert_eq!(guest.domain.state(), DomainState::Running);
}

#[test]
fn a_break_in_stops_the_guest_and_the_first_report_begins_the_streams() {
    let guest = TestGuest::running(2);
    let mut host = Host::connect(&guest);
    host.raw(b"b");
    let stop = host.stop();
    assert_eq!(stop.id, INITIAL_ID | SYNC);
    assert_eq!(stop.code(), NtStatus::BREAKPOINT);
    assert_eq!(stop.change.processor_count.get(), 2);
    assert_eq!(stop.change.thread.get(), BASE + 0x9400);
    let report = stop.report();
    assert_eq!(
        (report.flags.get(), report.cs.get(), report.fs.get()),
        (3, 0x10, 0x53)
    );
    assert_eq!((report.dr6.get(), report.dr7.get()), (0xffff_0ff0, 0x400));
    let offset = (stop.pc() - LOOP) as usize;
    let count = usize::from(report.instruction_count.get());
    assert_eq!(count, 16);
    assert_eq!(report.stream[..], guest.read(LOOP + offset as u64, 16)[..]);
    assert_eq!(guest.domain.state(), DomainState::Paused(1));
}

#[test]
fn a_reset_is_answered_and_the_report_comes_again() {
    let guest = TestGuest::running(1);
    let mut host = Host::connect(&guest);
    for _ in 0..3 {
        host.reset();
        let stop = host.stop();
        assert_eq!((stop.id, stop.code()), (INITIAL_ID, NtStatus::BREAKPOINT));
    }
    assert_eq!(host.control, [PacketType::Reset; 3]);
}

#[test]
fn a_break_in_while_stopped_repeats_the_report_for_a_host_that_has_not_asked_yet() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    host.raw(b"b");
    host.stop();
    // One that has asked knows; for it the report comes only after silence.
    host.read(BASE, 2);
    host.raw(b"b");
    host.read(BASE, 2);
    assert!(!host.has_packet());
    host.raw(b"b");
    assert!(!host.has_packet());
    assert_eq!(host.stop().code(), NtStatus::BREAKPOINT);
}

#[test]
fn the_version_names_the_kernel() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    let mut header = Manipulate::request(Api::GetVersion, 0xffff);
    header.union = [0xcc; 40];
    let version: Version = host.ask(&header, &[]).header.get();
    assert_eq!((version.major.get(), version.minor.get()), (0xf, 19041));
    assert_eq!(
        (version.protocol, version.secondary, version.flags.get()),
        (6, 2, 0x47)
    );
    assert_eq!(version.machine.get(), 0x8664);
    assert_eq!(version.kernel_base.get(), BASE);
    assert_eq!(version.loaded_module_list.get(), MODULES);
    assert_eq!(version.debugger_data_list.get(), DATA_LIST);
    assert_eq!(
        (version.max_manipulate, version.simulation, version.unused.get()),
        (0x31, 0, 0)
    );
}

#[test]
fn a_session_that_ends_leaves_the_guest_as_it_was() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    host.breakpoint(LOOP).unwrap();
    drop(host);
    assert_eq!(guest.domain.state(), DomainState::Running);
    assert!(guest.target.sessions().is_empty());
    // A new one begins at once, and nothing of the old one is left.
    let mut host = Host::attach(&guest);
    assert!(host.breakpoint(LOOP).is_some());
}

#[test]
fn every_cut_of_the_stream_gives_the_same() {
    for chunk in [1, 2, 3, 7, 16, 17, 60] {
        let guest = TestGuest::running(1);
        let mut host = Host::connect(&guest);
        host.chunk = chunk;
        host.raw(b"b");
        host.stop();
        assert_eq!(host.read(BASE, 2), b"MZ", "chunks of {chunk}");
        host.go();
        assert_eq!(guest.domain.state(), DomainState::Running);
    }
}

#[test]
fn a_host_waits_for_a_kernel_and_may_break_in_before() {
    let guest = TestGuest::running(1);
    guest.visible.store(false, Ordering::SeqCst);
    let mut host = Host::connect(&guest);
    host.reset();
    host.until(|host| host.printed.contains("nothing there yet"));
    assert_eq!(guest.domain.state(), DomainState::Running);
    host.raw(b"b");
    assert_eq!(host.stop().code(), NtStatus::BREAKPOINT);
    let version: Version = host
        .ask(&Manipulate::request(Api::GetVersion, 0), &[])
        .header
        .get();
    assert_eq!((version.kernel_base.get(), version.machine.get()), (0, 0x8664));
    host.go();
    host.reset();
    assert_eq!(guest.domain.state(), DomainState::Running);
    guest.visible.store(true, Ordering::SeqCst);
    assert_eq!(host.stop().code(), NtStatus::BREAKPOINT);
    assert_eq!(host.printed.matches("nothing there yet").count(), 1);
    let version: Version = host
        .ask(&Manipulate::request(Api::GetVersion, 0), &[])
        .header
        .get();
    assert_eq!(version.kernel_base.get(), BASE);
}

#[test]
fn every_request_is_answered_or_known_to_be_silent() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    let not_here = [
        Api::Continue,
        Api::Continue2,
        Api::Reboot,
        Api::SwitchProcessor,
        Api::CauseBugCheck,
    ];
    let silent = [
        Api::SetSpecialCall,
        Api::ClearSpecialCalls,
        Api::SetInternalBreakPoint,
        Api::ClearAllInternalBreakpoints,
    ];
    for api in Api::ALL.iter().filter(|api| !not_here.contains(api)) {
        let mut header = Manipulate::request(*api, 0);
        header.union = [0x40; 40];
        if silent.contains(api) {
            host.send(&header, &[]);
        } else {
            host.ask(&header, &[]);
        }
    }
    assert!(!host.has_packet());
    // One that nobody knows fails as well.
    let mut header = Manipulate::request(Api::GetVersion, 0);
    header.api = 0x3199.into();
    assert_eq!(host.ask(&header, &[]).status(), NtStatus::UNSUCCESSFUL);
    assert_eq!(host.read(BASE, 2), b"MZ");
}
