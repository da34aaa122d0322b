//! Memory, virtual and physical; search and fill; ports.

use crate::guest::{BASE, CELL, DATA, DATA_LIST, DATA_SIZE, PHYS, SIZE, TestGuest, USER, data_block};
use crate::host::Host;
use hv_core::introspect::{DomainState, Introspect};
use protocol::api::Api;
use protocol::manipulate::{BusData, Fill, Io, IoExtended, Manipulate, Memory, QueryMemory, Search};
use protocol::status::NtStatus;

#[test]
fn a_read_gives_what_is_there_up_to_the_first_hole() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    assert_eq!(host.read(BASE, 2), b"MZ");
    assert_eq!(host.read(BASE + SIZE - 8, 32).len(), 8);
    let nothing = host.memory(Api::ReadVirtualMemory, BASE + SIZE, 16, &[]);
    assert_eq!(nothing.status(), NtStatus::UNSUCCESSFUL);
    assert_eq!(nothing.header.get::<Memory>().actual.get(), 0);
    assert!(nothing.data.is_empty());
    // The packet's size is the limit of a read.
    assert_eq!(host.read(BASE, 0x5000).len(), 3944);
}

#[test]
fn the_debugger_data_is_served_decoded_and_the_guest_keeps_its_own() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    let pointer = host.read(DATA_LIST, 8);
    assert_eq!(pointer, DATA.to_le_bytes());
    assert_eq!(host.read(DATA, 0x18)[16..20], *b"KDBG");
    assert_eq!(
        host.read(DATA + 0x18, DATA_SIZE as u32 - 0x18),
        data_block()[0x18..]
    );
    let around = host.read(DATA - 4, DATA_SIZE as u32 + 8);
    assert_eq!(around[4..4 + DATA_SIZE], data_block());
    assert_eq!(guest.read(DATA + 16, 4), b"KDBG".map(|byte| !byte));
    // Physical memory is as it is.
    let raw = host.memory(Api::ReadPhysicalMemory, DATA - BASE + PHYS + 16, 4, &[]);
    assert_eq!(raw.data, b"KDBG".map(|byte| !byte));
    let write = host.memory(Api::WriteVirtualMemory, DATA + 0x20, 4, b"abcd");
    assert_eq!(write.status(), NtStatus::UNSUCCESSFUL);
}

#[test]
fn a_write_is_as_long_as_the_shorter_of_its_lengths() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    for (count, data, done) in [(4, &b"abcd"[..], 4), (2, b"xyzw", 2), (8, b"12", 2)] {
        let answer = host.memory(Api::WriteVirtualMemory, CELL + 0x100, count, data);
        let actual = answer.header.get::<Memory>().actual.get();
        assert_eq!(actual, done);
        assert_eq!(answer.status() == NtStatus::SUCCESS, actual == count);
        assert_eq!(guest.read(CELL + 0x100, done as usize), data[..done as usize]);
    }
    let answer = host.memory(Api::WritePhysicalMemory, CELL + 0x100 - BASE + PHYS, 2, b"PQ");
    assert_eq!(answer.status(), NtStatus::SUCCESS);
    assert_eq!(host.read(CELL + 0x100, 2), b"PQ");
    let off = host.memory(Api::WritePhysicalMemory, 1 << 40, 2, b"PQ");
    assert_eq!(off.status(), NtStatus::UNSUCCESSFUL);
}

#[test]
fn a_search_finds_across_pages_and_holes() {
    let guest = TestGuest::running(1);
    guest.write(BASE + 0x2ffe, b"needle");
    let mut host = Host::attach(&guest);
    let mut search = |start: u64, length: u64, pattern: &[u8]| {
        let mut header = Manipulate::request(Api::SearchMemory, 32);
        header.set(&Search {
            address: start.into(),
            length: length.into(),
            pattern_length: (pattern.len() as u32).into(),
        });
        let answer = host.ask(&header, pattern);
        (answer.status(), answer.header.get::<Search>().address.get())
    };
    let found = (NtStatus::SUCCESS, BASE + 0x2ffe);
    assert_eq!(search(BASE, SIZE, b"needle"), found);
    assert_eq!(search(BASE - 0x10_0000, 1 << 30, b"needle"), found);
    assert_eq!(search(0, u64::MAX, b"needle"), found);
    assert_eq!(search(BASE, 0x3003, b"needle").0, NtStatus::NOT_FOUND);
    assert_eq!(search(BASE, 0x3004, b"needle"), found);
    assert_eq!(search(BASE, 2, b"needle").0, NtStatus::INVALID_PARAMETER);
    assert_eq!(search(BASE, 100, b"").0, NtStatus::INVALID_PARAMETER);
}

#[test]
fn a_fill_repeats_its_pattern() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    let mut fill = |address: u64, length: u32, flags: u16, pattern: &[u8]| {
        let mut header = Manipulate::request(Api::FillMemory, 0);
        header.set(&Fill {
            address: address.into(),
            length: length.into(),
            flags: flags.into(),
            pattern_length: (pattern.len() as u16).into(),
        });
        let answer = host.ask(&header, pattern);
        (answer.status(), answer.header.get::<Fill>().length.get())
    };
    assert_eq!(fill(BASE + 0x2200, 7, 1, b"abc"), (NtStatus::SUCCESS, 7));
    assert_eq!(guest.read(BASE + 0x2200, 8), b"abcabca\0");
    assert_eq!(fill(PHYS + 0x2300, 4, 2, b"z"), (NtStatus::SUCCESS, 4));
    assert_eq!(guest.read(BASE + 0x2300, 4), b"zzzz");
    assert_eq!(fill(BASE + SIZE - 4, 8, 1, b"x"), (NtStatus::UNSUCCESSFUL, 4));
    assert_eq!(fill(BASE, 8, 3, b"x").0, NtStatus::INVALID_PARAMETER);
    assert_eq!(fill(BASE, 8, 1, b"").0, NtStatus::INVALID_PARAMETER);
}

#[test]
fn an_address_is_of_a_process_or_of_the_kernel() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    let mut query = |address: u64, space: u32| {
        let mut header = Manipulate::request(Api::QueryMemory, 0);
        header.set(&QueryMemory {
            address: address.into(),
            reserved: 9.into(),
            address_space: space.into(),
            flags: 0.into(),
        });
        let answer = host.ask(&header, &[]);
        let query: QueryMemory = answer.header.get();
        (answer.status(), query.address_space.get(), query.flags.get())
    };
    assert_eq!(query(BASE, 0), (NtStatus::SUCCESS, 2, 7));
    assert_eq!(query(USER, 0), (NtStatus::SUCCESS, 0, 7));
    assert_eq!(query(USER, 5).0, NtStatus::INVALID_PARAMETER);
}

/// ReadIoSpace or WriteIoSpace: the status, the size and the value of the reply.
fn port(host: &mut Host, api: Api, port: u64, size: u32, value: u32) -> (NtStatus, u32, u32) {
    let mut header = Manipulate::request(api, 0);
    header.set(&Io {
        port: port.into(),
        size: size.into(),
        value: value.into(),
    });
    let answer = host.ask(&header, &[]);
    let io: Io = answer.header.get();
    (answer.status(), io.size.get(), io.value.get())
}

#[test]
fn ports_are_the_machines_own() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    // A byte of the CMOS RAM: its number, then its value.
    for (at, size, value) in [(0x70, 1, 0x40), (0x71, 1, 0x5a), (0x70, 1, 0x40)] {
        let done = port(&mut host, Api::WriteIoSpace, at, size, value);
        assert_eq!(done, (NtStatus::SUCCESS, size, value));
    }
    let read = |host: &mut Host, at, size| port(host, Api::ReadIoSpace, at, size, 0xdead_beef);
    assert_eq!(read(&mut host, 0x71, 1), (NtStatus::SUCCESS, 1, 0x5a));
    assert_eq!(
        read(&mut host, 0x80, 2),
        (NtStatus::SUCCESS, 2, 0xffff),
        "nothing is there"
    );
    let mut header = Manipulate::request(Api::ReadIoSpaceExtended, 0);
    let io = IoExtended {
        size: 1.into(),
        interface: 1.into(),
        bus: 0.into(),
        address_space: 1.into(),
        port: 0x71.into(),
        value: 0xdead_beef.into(),
    };
    header.set(&io);
    let answer = host.ask(&header, &[]);
    let done: IoExtended = answer.header.get();
    assert_eq!(
        (answer.status(), done.size.get(), done.value.get()),
        (NtStatus::SUCCESS, 1, 0x5a)
    );
    header.set(&IoExtended {
        interface: 5.into(),
        ..io
    });
    assert_eq!(host.ask(&header, &[]).status(), NtStatus::INVALID_PARAMETER);
    // The mistakes, and nothing done.
    assert_eq!(read(&mut host, 0x3f9, 2), (NtStatus::DATATYPE_MISALIGNMENT, 0, 0));
    assert_eq!(read(&mut host, 0x3f8, 3), (NtStatus::INVALID_PARAMETER, 0, 0));
    assert_eq!(read(&mut host, 0x1_0000, 1), (NtStatus::INVALID_PARAMETER, 0, 0));
}

#[test]
fn what_a_port_asks_of_the_machine_happens_when_it_runs() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    let ends = port(&mut host, Api::WriteIoSpace, 0xf4, 1, 3);
    assert_eq!(ends.0, NtStatus::SUCCESS);
    assert_eq!(host.read(BASE, 2), b"MZ");
    host.go();
    assert_eq!(host.stop().module().base.get(), u64::MAX);
    assert_eq!(guest.domain.state(), DomainState::ShutDown);
    assert_eq!(
        port(&mut host, Api::ReadIoSpace, 0x71, 1, 0).0,
        NtStatus::UNSUCCESSFUL
    );
}

#[test]
fn there_is_no_bus() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    for (api, data) in [(Api::GetBusData, &[][..]), (Api::SetBusData, &[1, 2, 3, 4])] {
        let mut header = Manipulate::request(api, 0);
        header.set(&BusData {
            data_type: 4.into(),
            bus: 0.into(),
            slot: 0.into(),
            offset: 0.into(),
            length: 4.into(),
        });
        let answer = host.ask(&header, data);
        assert_eq!(answer.status(), NtStatus::UNSUCCESSFUL);
        assert_eq!(answer.header.get::<BusData>().length.get(), 0);
        assert!(answer.data.is_empty());
    }
}
