//! What a debugger makes the NT-shaped guest do, and what the guest says to it: `.crash`, ports, prints.

use super::windows::{PROFILE, lives};
use std::time::Duration;
use tests::kd::packet::{long, quad, word};
use tests::kd::requests::selector;
use tests::kd::{BREAKPOINT, KdClient, StateChange};
use tests::{LIMIT, Service, nt_guest};

/// Where system calls enter the kernel: MSRs.
const LSTAR: u32 = 0xc000_0082;
const SYSENTER_EIP: u32 = 0x176;

/// After `.crash`: the bugcheck is reported where KeBugCheckEx begins; the guest then carries it out.
#[track_caller]
fn ends_in_a_bugcheck(service: &mut Service, client: &mut KdClient, wide: bool) -> StateChange {
    let stop = client.stopped();
    assert_eq!((stop.state, stop.code), (0x3030, BREAKPOINT));
    let printed = client.prints.concat();
    assert!(
        printed.contains("*** Fatal System Error: 0x000000e2\n"),
        "{printed}"
    );
    client.go();
    service.console().shows("*** STOP: 0x000000E2 (0x", LIMIT);
    // It has halted for good: a crash of the machine, which is reported too.
    client.stopped();
    let list = client.version().debugger_data_list;
    let block = client.read_all(list, 8).expect("the list's head");
    let block = if wide {
        quad(&block, 0)
    } else {
        sign_extended(long(&block, 0))
    };
    // KDDEBUGGER_DATA64.KiBugcheckData.
    let data = client.read_quad(block + 0x88).expect("the block");
    let size = if wide { 8 } else { 4 };
    let words = client.read_all(data, 5 * size).expect("KiBugCheckData");
    assert_eq!(long(&words, 0), 0xe2);
    assert_eq!(words[size..], vec![0; 4 * size]);
    stop
}

fn sign_extended(address: u32) -> u64 {
    i64::from(address.cast_signed()).cast_unsigned()
}

#[test]
fn a_crash_is_the_guests_own_bugcheck() {
    for (profile, wide) in [(PROFILE, true), ("win7-x86", false)] {
        let Some(guest) = nt_guest(profile, 2) else { return };
        let mut service = guest.service();
        let (mut client, _) = KdClient::attach(&service.kd_address());
        client.bug_check();
        let stop = ends_in_a_bugcheck(&mut service, &mut client, wide);
        if wide {
            assert_eq!(stop.pc, guest.symbol("KeBugCheckEx"));
        }
    }
}

/// At the kernel's first instruction of a system call.
#[track_caller]
fn in_a_system_call(entry: u32, service: &mut Service, client: &mut KdClient) -> StateChange {
    let entry = client.read_msr(0, entry).expect("the entry of system calls");
    let handle = client.write_breakpoint(entry).expect("a handle");
    client.go();
    service.console().types("user\r");
    let stop = client.stopped();
    let _ = client.restore_breakpoint(handle);
    stop
}

#[track_caller]
fn code_selector(client: &mut KdClient, stop: &StateChange, wide: bool) -> u16 {
    let context = client.context(stop.processor).expect("a context");
    if wide {
        selector(&context, "cs")
    } else {
        word(&context, 0xbc)
    }
}

/// From the first instruction in the kernel, with the program's stack and page tables, to the program.
#[test]
fn a_crash_anywhere_in_a_system_call_is_one_too() {
    for (profile, wide, entry) in [(PROFILE, true, LSTAR), ("win7-x86", false, SYSENTER_EIP)] {
        let Some(guest) = nt_guest(profile, 1) else { return };
        let mut steps = 0;
        loop {
            let mut service = guest.service();
            let (mut client, _) = KdClient::attach(&service.kd_address());
            let mut stop = in_a_system_call(entry, &mut service, &mut client);
            for _ in 0..steps {
                stop = client.step();
            }
            let code = code_selector(&mut client, &stop, wide);
            client.bug_check();
            ends_in_a_bugcheck(&mut service, &mut client, wide);
            if steps > 16 && code & 3 == 3 {
                break;
            }
            steps += if steps < 16 { 1 } else { 32 };
            assert!(steps < 2000, "{profile}: the call doesn't end");
        }
    }
}

#[test]
fn a_crash_in_the_last_instructions_for_a_program_is_one_too() {
    let Some(guest) = nt_guest(PROFILE, 1) else { return };
    let mut service = guest.service();
    let (mut client, _) = KdClient::attach(&service.kd_address());
    in_a_system_call(LSTAR, &mut service, &mut client);
    // Past the way in, to where kernel code has the program's GS.
    for step in 0.. {
        let stop = client.step();
        let special = client
            .read_control_space(stop.processor, 2, 0xe0)
            .expect("special registers");
        if step > 20 && quad(&special, 0xa8) >> 63 == 0 {
            assert_eq!(code_selector(&mut client, &stop, true), 0x10);
            break;
        }
    }
    client.bug_check();
    ends_in_a_bugcheck(&mut service, &mut client, true);
}

#[test]
fn ports_reach_the_guests_devices() {
    let Some(guest) = nt_guest(PROFILE, 1) else { return };
    let mut service = guest.service();
    let (mut client, _) = KdClient::attach(&service.kd_address());
    // COM1: ready to send, and a line of text that no code of the guest's wrote.
    assert_eq!(client.read_io(0x3fd, 1).map(|status| status & 0x20), Ok(0x20));
    for byte in b"by hand\r\n" {
        assert_eq!(client.write_io_extended(0x3f8, 1, u32::from(*byte)), Ok(()));
    }
    assert_eq!(client.read_io(0x3f8, 3), Err(0xc000_000d));
    assert_eq!(client.read_io(0x3f9, 2), Err(0x8000_0002));
    assert_eq!(client.bus_data(4, 0, 0, 0, 64), Err(0xc000_0001));
    client.go();
    service.console().shows("by hand", LIMIT);
    lives(&mut service);
}

#[test]
fn prints_are_shown_once_without_a_pdb() {
    for profile in [PROFILE, "win7-x86"] {
        let Some(guest) = nt_guest(profile, 1) else { return };
        let mut service = guest.service();
        let (mut client, _) = KdClient::attach(&service.kd_address());
        client.go();
        service.console().types("print one and only\r");
        let mut printed = String::new();
        while !printed.contains("one and only\n") {
            // Nothing but prints comes.
            assert_eq!(client.quiet(Duration::from_millis(50)), Ok(()));
            printed = client.prints.concat();
        }
        lives(&mut service);
        assert_eq!(client.quiet(Duration::from_millis(100)), Ok(()));
        assert_eq!(client.prints.concat().matches("one and only").count(), 1);
    }
}

#[test]
fn what_lies_behind_a_context_is_told_where_the_guest_uses_it() {
    let Some(guest) = nt_guest(PROFILE, 1) else { return };
    let service = guest.service();
    let (mut client, stop) = KdClient::attach(&service.kd_address());
    let whole = client.context_ex(stop.processor, 0, 0x1000).expect("a context");
    let special = client.read_control_space(stop.processor, 2, 0xe0).expect("CR4");
    if quad(&special, 0x18) & 1 << 18 != 0 {
        assert_eq!(whole.len(), 0x540);
        assert_eq!(long(&whole, 0x30), 0x10_005f);
        assert_eq!(quad(&whole, 0x500), 3, "x87 and SSE");
        assert_eq!(client.set_context_ex(stop.processor, 0, &whole, 0x540), Ok(0x540));
    } else {
        assert_eq!(whole.len(), 1232);
    }
    assert_eq!(
        client.context_ex(stop.processor, 0, 1232).map(|it| it.len()),
        Ok(1232)
    );
}
