//! A session's first packets, byte for byte: break-in, stop, RESET, GetVersion, two reads of memory, and go.
//! The bytes are computed from the description of the protocol, not by this crate.

use protocol::api::Api;
use protocol::debug_io;
use protocol::link::{Event, Link, Patience};
use protocol::manipulate::{Continue2Amd64, Manipulate, Memory};
use protocol::packet::{PacketType, checksum};
use protocol::state_change::{self, Amd64Report, Exception, StateChange};
use protocol::status::NtStatus;
use protocol::version::{MACHINE_AMD64, MAX_MANIPULATE, Version};
use std::time::Instant;
use zerocopy::{FromZeros, IntoBytes};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

const THREAD: u64 = 0xffff_f803_12aa_9400;
const PC: u64 = 0xffff_f803_1234_5678;

fn stop() -> StateChange {
    let mut change = StateChange::new(state_change::EXCEPTION);
    change.processor_level = 6.into();
    change.processor_count = 2.into();
    change.thread = THREAD.into();
    change.program_counter = PC.into();
    change.set_exception(&Exception::new(NtStatus::BREAKPOINT, PC).with_parameters(&[0]));
    let mut report = Amd64Report::new_zeroed();
    report.dr6 = 0xffff_0ff0.into();
    report.dr7 = 0x400.into();
    report.eflags = 0x246.into();
    report.instruction_count = 16.into();
    report.flags = 3.into();
    report
        .stream
        .copy_from_slice(&hex("c3 90 90 90 90 90 90 90 0f 1f 84 00 00 00 00 00"));
    report.cs = 0x10.into();
    report.ds = 0x2b.into();
    report.es = 0x2b.into();
    report.fs = 0x53.into();
    change.set_amd64_report(&report);
    change
}

/// Gives the link what the host sends and returns the request that came.
fn request(link: &mut Link, bytes: &[u8]) -> (Manipulate, Vec<u8>) {
    let mut rest = bytes;
    match link.receive(&mut rest, Instant::now()) {
        Some(Event::Data {
            packet_type: PacketType::StateManipulate,
            payload,
        }) => {
            let (request, data) = Manipulate::split(&payload).unwrap();
            (request, data.to_vec())
        }
        other => panic!("no request: {other:?}"),
    }
}

#[test]
fn a_session_goes_as_it_is_written_down() {
    let now = Instant::now();
    let mut link = Link::new();

    // 1, 2: break-in, and the first state change with the SYNC bit.
    assert_eq!(link.receive(&mut &b"b"[..], now), Some(Event::BreakIn));
    link.send(
        PacketType::StateChange64,
        stop().as_bytes(),
        Patience::Forever,
        now,
    );
    let mut body = hex("30 30 00 00 06 00 00 00 02 00 00 00 00 00 00 00
         00 94 aa 12 03 f8 ff ff 78 56 34 12 03 f8 ff ff
         03 00 00 80 00 00 00 00 00 00 00 00 00 00 00 00
         78 56 34 12 03 f8 ff ff 01 00 00 00 00 00 00 00");
    body.extend_from_slice(&[0; 120]);
    body.extend(hex("01 00 00 00 00 00 00 00
         f0 0f ff ff 00 00 00 00 00 04 00 00 00 00 00 00
         46 02 00 00 10 00 03 00 c3 90 90 90 90 90 90 90
         0f 1f 84 00 00 00 00 00 10 00 2b 00 2b 00 53 00"));
    assert_eq!(checksum(&body), 0x16ca);
    let first = [
        hex("30 30 30 30 07 00 f0 00 00 08 80 80 ca 16 00 00"),
        body.clone(),
        vec![0xaa],
    ];
    assert_eq!(link.take_output(), first.concat());

    // 3: RESET is answered with RESET, and the state change again with the initial id.
    let reset = hex("69 69 69 69 06 00 00 00 00 00 00 00 00 00 00 00");
    let event = link.receive(&mut &reset[..], now);
    assert_eq!(event, Some(Event::Reset { repeated: true }));
    let second = [
        reset.clone(),
        hex("30 30 30 30 07 00 f0 00 00 00 80 80 ca 16 00 00"),
        body,
        vec![0xaa],
    ];
    assert_eq!(link.take_output(), second.concat());

    // 4: the host's ACK.
    let ack_0 = hex("69 69 69 69 04 00 00 00 00 00 80 80 00 00 00 00");
    assert_eq!(link.receive(&mut &ack_0[..], now), None);
    assert!(link.is_idle());

    // 5, 6: GetVersion.
    let mut get_version = hex("30 30 30 30 02 00 38 00 00 00 80 80 77 00 00 00 46 31 00 00");
    get_version.extend_from_slice(&[0; 52]);
    get_version.push(0xaa);
    let (mut reply, _) = request(&mut link, &get_version);
    assert_eq!(reply.known_api(), Some(Api::GetVersion));
    reply.set(&Version {
        major: 0xf.into(),
        minor: 19041.into(),
        protocol: 6,
        secondary: 2,
        flags: 0x47.into(),
        machine: MACHINE_AMD64.into(),
        max_packet_type: 12,
        max_state_change: 3,
        max_manipulate: MAX_MANIPULATE,
        simulation: 0,
        unused: 0.into(),
        kernel_base: 0xffff_f803_1200_0000.into(),
        loaded_module_list: 0xffff_f803_12c2_a290.into(),
        debugger_data_list: 0xffff_f803_12c0_0b20.into(),
    });
    link.send(
        PacketType::StateManipulate,
        reply.as_bytes(),
        Patience::Forever,
        now,
    );
    let answered = [
        ack_0.clone(),
        hex("30 30 30 30 02 00 38 00 01 00 80 80 aa 0e 00 00
             46 31 00 00 00 00 00 00 00 00 00 00 00 00 00 00
             0f 00 61 4a 06 02 47 00 64 86 0c 03 31 00 00 00
             00 00 00 12 03 f8 ff ff 90 a2 c2 12 03 f8 ff ff
             20 0b c0 12 03 f8 ff ff aa"),
    ];
    assert_eq!(link.take_output(), answered.concat());

    // 7: its ACK.
    let ack_1 = hex("69 69 69 69 04 00 00 00 01 00 80 80 00 00 00 00");
    assert_eq!(link.receive(&mut &ack_1[..], now), None);
    assert!(link.is_idle());

    // 8, 9: eight bytes of memory.
    let mut read = hex("30 30 30 30 02 00 38 00 01 00 80 80 5f 04 00 00
         30 31 00 00 00 00 00 00 00 00 00 00 00 00 00 00
         20 0b c0 12 03 f8 ff ff 08 00 00 00 00 00 00 00");
    read.extend_from_slice(&[0; 24]);
    read.push(0xaa);
    let (mut reply, _) = request(&mut link, &read);
    let mut memory: Memory = reply.get();
    assert_eq!(
        (memory.address.get(), memory.count.get()),
        (0xffff_f803_12c0_0b20, 8)
    );
    memory.actual = 8.into();
    reply.set(&memory);
    let payload = [reply.as_bytes(), &hex("e0 e5 bf 12 03 f8 ff ff")].concat();
    link.send(PacketType::StateManipulate, &payload, Patience::Forever, now);
    let mut expected = ack_1;
    expected.extend(hex("30 30 30 30 02 00 40 00 00 00 80 80 f6 09 00 00
         30 31 00 00 00 00 00 00 00 00 00 00 00 00 00 00
         20 0b c0 12 03 f8 ff ff 08 00 00 00 08 00 00 00"));
    expected.extend_from_slice(&[0; 24]);
    expected.extend(hex("e0 e5 bf 12 03 f8 ff ff aa"));
    assert_eq!(link.take_output(), expected);
    assert_eq!(link.receive(&mut &ack_0[..], now), None);

    // 10: go.
    let mut go = hex("30 30 30 30 02 00 38 00 00 00 80 80 75 00 00 00
         3c 31 00 00 00 00 00 00 00 00 00 00 00 00 00 00
         02 00 01 00 00 00 00 00 00 04 00 00 00 00 00 00 01");
    go.extend_from_slice(&[0; 23]);
    go.push(0xaa);
    let (go, _) = request(&mut link, &go);
    let go: Continue2Amd64 = go.get();
    assert_eq!(NtStatus(go.status.get()), NtStatus::DBG_CONTINUE);
    assert_eq!(
        (go.trace_flag.get(), go.dr7.get(), go.symbol_start.get()),
        (0, 0x400, 1)
    );
    assert_eq!(link.take_output(), ack_0);

    // 11: a print, with the id that is due after step 9.
    link.send(
        PacketType::DebugIo,
        &debug_io::print(0, 6, b"hi kd\n"),
        Patience::Limited,
        now,
    );
    assert_eq!(
        link.take_output(),
        hex("30 30 30 30 03 00 16 00 01 00 80 80 38 02 00 00
             30 32 00 00 06 00 00 00 06 00 00 00 00 00 00 00 68 69 20 6b 64 0a aa")
    );
}
