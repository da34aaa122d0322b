//! The tests' own debugger: its bytes are those of the protocol's description, and it gets on over a bad link.

use super::{VERSION, hex, report};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;
use tests::kd::packet::{Decoder, Incoming, Packet, kind};
use tests::kd::requests::{Continue, DBG_CONTINUE};
use tests::kd::{
    BREAKPOINT, Capture, FakeMachine, FakeTarget, Faults, KdClient, Manipulate, Relay, Trouble, UNSUCCESSFUL,
    api,
};
use tests::until;

const DATA_LIST: u64 = 0xffff_f803_12c0_0b20;

/// The other side of a worked example: bytes must come, and bytes go.
struct Script(TcpStream);

impl Script {
    fn comes(&mut self, bytes: &[u8]) {
        let mut came = vec![0; bytes.len()];
        self.0.read_exact(&mut came).expect("bytes");
        assert_eq!(came, bytes);
    }

    fn goes(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("sent");
    }
}

#[test]
fn its_bytes_are_those_of_the_worked_example() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let target = std::thread::spawn(move || {
        let mut script = Script(listener.accept().expect("a debugger").0);
        let limit = Some(Duration::from_secs(20));
        script.0.set_read_timeout(limit).expect("a limit");
        script.comes(&[0x62]);
        let mut first = hex("30 30 30 30 07 00 f0 00 00 08 80 80 ca 16 00 00");
        first.extend(report());
        first.push(0xaa);
        script.goes(&first);

        let reset = hex("69 69 69 69 06 00 00 00 00 00 00 00 00 00 00 00");
        script.comes(&reset);
        script.goes(&reset);
        let mut again = hex("30 30 30 30 07 00 f0 00 00 00 80 80 ca 16 00 00");
        again.extend(report());
        again.push(0xaa);
        script.goes(&again);
        script.comes(&hex("69 69 69 69 04 00 00 00 00 00 80 80 00 00 00 00"));

        let mut version = hex("30 30 30 30 02 00 38 00 00 00 80 80 77 00 00 00 46 31 00 00");
        version.extend_from_slice(&[0; 52]);
        version.push(0xaa);
        script.comes(&version);
        script.goes(&hex("69 69 69 69 04 00 00 00 00 00 80 80 00 00 00 00"));
        script.goes(&hex("30 30 30 30 02 00 38 00 01 00 80 80 aa 0e 00 00
            46 31 00 00 00 00 00 00 00 00 00 00 00 00 00 00"));
        script.goes(&hex(VERSION));
        script.goes(&[0xaa]);
        script.comes(&hex("69 69 69 69 04 00 00 00 01 00 80 80 00 00 00 00"));

        let mut read = hex("30 30 30 30 02 00 38 00 01 00 80 80 5f 04 00 00
            30 31 00 00 00 00 00 00 00 00 00 00 00 00 00 00
            20 0b c0 12 03 f8 ff ff 08 00 00 00 00 00 00 00");
        read.extend_from_slice(&[0; 24]);
        read.push(0xaa);
        script.comes(&read);
        script.goes(&hex("69 69 69 69 04 00 00 00 01 00 80 80 00 00 00 00"));
        script.goes(&hex("30 30 30 30 02 00 40 00 00 00 80 80 f6 09 00 00
            30 31 00 00 00 00 00 00 00 00 00 00 00 00 00 00
            20 0b c0 12 03 f8 ff ff 08 00 00 00 08 00 00 00"));
        script.goes(&[0; 24]);
        script.goes(&hex("e0 e5 bf 12 03 f8 ff ff aa"));
        script.comes(&hex("69 69 69 69 04 00 00 00 00 00 80 80 00 00 00 00"));

        let mut go = hex("30 30 30 30 02 00 38 00 00 00 80 80 75 00 00 00
            3c 31 00 00 00 00 00 00 00 00 00 00 00 00 00 00
            02 00 01 00 00 00 00 00 00 04 00 00 00 00 00 00 01");
        go.extend_from_slice(&[0; 23]);
        go.push(0xaa);
        script.comes(&go);
        script.goes(&hex("69 69 69 69 04 00 00 00 00 00 80 80 00 00 00 00"));
        script.goes(&hex("30 30 30 30 03 00 16 00 01 00 80 80 38 02 00 00
            30 32 00 00 06 00 00 00 06 00 00 00 00 00 00 00 68 69 20 6b 64 0a aa"));
        script.comes(&hex("69 69 69 69 04 00 00 00 01 00 80 80 00 00 00 00"));
    });

    let mut client = KdClient::connect(&address);
    client.write(&[0x62]).expect("a break-in");
    let first = client.receive(Duration::from_secs(20)).expect("a report");
    assert_eq!(
        first,
        Incoming::Data {
            kind: kind::STATE_CHANGE,
            id: 0x8080_0800,
            payload: report()
        }
    );
    let stop = client.reset().expect("a report");
    assert_eq!(
        (stop.code, stop.pc, stop.address),
        (BREAKPOINT, 0xffff_f803_1234_5678, stop.pc)
    );
    assert_eq!((stop.processor, stop.processors, stop.level), (0, 2, 6));
    assert_eq!(
        (stop.thread, stop.parameters.as_slice()),
        (0xffff_f803_12aa_9400, &[0][..])
    );
    assert_eq!(
        (stop.dr6(), stop.dr7(), stop.flags()),
        (0xffff_0ff0, 0x400, 0x246)
    );
    assert_eq!(stop.code_bytes()[..3], [0xc3, 0x90, 0x90]);

    let version = client.version();
    assert_eq!((version.major, version.minor, version.protocol), (0xf, 19041, 6));
    assert_eq!(
        (version.flags, version.machine, version.max_manipulate),
        (0x47, 0x8664, 0x31)
    );
    assert_eq!(version.kernel_base, 0xffff_f803_1200_0000);
    assert_eq!(version.module_list, 0xffff_f803_12c2_a290);
    assert_eq!(version.debugger_data_list, DATA_LIST);
    assert_eq!(client.read_quad(DATA_LIST), Ok(0xffff_f803_12bf_e5e0));
    client.go_with(Continue {
        status: DBG_CONTINUE,
        trace: false,
        dr7: 0x400,
    });
    assert_eq!(client.quiet(Duration::from_millis(300)), Ok(()));
    assert_eq!(client.prints, ["hi kd\n"]);
    assert_eq!((client.repeats, client.damaged, client.duplicates), (0, 0, 0));
    target.join().expect("the script");
}

/// A target with some memory.
fn machine() -> FakeMachine {
    FakeMachine {
        memory: vec![(0x1000, (0..=255).cycle().take(8192).collect())],
        version: hex(VERSION).try_into().expect("40 bytes"),
        report: report(),
        prints: Vec::new(),
        cpu: None,
    }
}

/// Reads what the target has at many places.
fn reads(client: &mut KdClient, count: u64) {
    for n in 0..count {
        let address = 0x1000 + n * 37 % 8000;
        let bytes = client.read_virtual(address, 16).expect("memory");
        let expected: Vec<u8> = (0..16).map(|byte| (address + byte) as u8).collect();
        assert_eq!(bytes, expected, "at {address:#x}");
    }
}

#[test]
fn it_speaks_with_a_target() {
    let target = FakeTarget::start(FakeMachine {
        prints: vec!["one\n".into(), "two\n".into()],
        ..machine()
    });
    let (mut client, stop) = KdClient::attach(target.address());
    assert_eq!(stop.bytes, report());
    assert_eq!(client.version().minor, 19041);
    reads(&mut client, 100);
    assert_eq!(client.read_virtual(0x3000, 8), Err(UNSUCCESSFUL));
    assert_eq!(client.read_virtual(0x2ffc, 8).map(|bytes| bytes.len()), Ok(4));
    assert_eq!(client.prints, ["one\n", "two\n"]);
    assert_eq!(client.switch_processor(1), stop);
    client.clear_internal_breakpoints();
    client.go();
    assert_eq!(client.quiet(Duration::from_millis(200)), Ok(()));
    assert_eq!(client.break_in(), Ok(stop));
    assert_eq!((client.repeats, client.damaged, client.duplicates), (0, 0, 0));
    let requests = target.requests();
    assert_eq!(requests.len(), 1 + 100 + 2 + 3);
    assert_eq!(requests[0], Manipulate::new(api::GET_VERSION));
}

/// A debugger over a link with faults, attached.
fn over(faults: Faults, back: Faults) -> (FakeTarget, Relay, KdClient) {
    let target = FakeTarget::start(machine());
    let relay = Relay::to(target.address(), faults, back);
    let mut client = KdClient::connect(relay.address());
    client.patience = Duration::from_millis(150);
    let stop = client.reset().expect("a report");
    assert_eq!(stop.bytes, report());
    (target, relay, client)
}

#[test]
fn it_gets_on_over_a_link_that_loses_doubles_and_flips() {
    for seed in 1..=3 {
        let faults = Faults {
            seed,
            lose: 400,
            double: 400,
            flip: 400,
            ..Faults::default()
        };
        let (target, relay, mut client) = over(
            faults,
            Faults {
                seed: seed + 100,
                ..faults
            },
        );
        reads(&mut client, 60);
        client.go();
        assert!(relay.spoilt() > 3, "seed {seed}: only {} faults", relay.spoilt());
        assert!(client.repeats + client.damaged + client.duplicates > 0);
        // A request without an answer is acknowledged before it is carried out.
        until("the last request", || target.requests().len() > 60);
    }
}

#[test]
fn it_gets_on_with_bytes_that_travel_alone_and_late() {
    let faults = Faults {
        alone: true,
        late: 2000,
        delay: Duration::from_millis(30),
        ..Faults::default()
    };
    let (target, relay, mut client) = over(faults, faults);
    reads(&mut client, 60);
    assert!(relay.spoilt() > 0);
    assert_eq!(client.damaged, 0, "late isn't lost");
    assert!(target.requests().len() >= 60);
}

#[test]
fn a_connection_that_is_cut_ends_it_and_another_begins() {
    let target = FakeTarget::start(machine());
    for cut in [0, 1, 15, 16, 17, 31, 32, 40, 104, 105, 130] {
        let faults = Faults {
            cut: Some(cut),
            ..Faults::default()
        };
        let relay = Relay::to(target.address(), faults, Faults::default());
        let mut client = KdClient::connect(relay.address());
        let mut end = client.reset().map(|_| ());
        while end.is_ok() {
            end = client.ask(&Manipulate::new(api::GET_VERSION)).map(|_| ());
        }
        assert_eq!(end, Err(Trouble::Closed), "after {cut} bytes");
    }
    let (mut client, _) = KdClient::attach(target.address());
    reads(&mut client, 3);
}

#[test]
fn what_it_spoils_on_purpose_is_refused_by_a_target() {
    let target = FakeTarget::start(machine());
    let (mut client, _) = KdClient::attach(target.address());
    let request = Manipulate::new(api::GET_VERSION);
    let good = client.packet(&request);
    let limit = Duration::from_secs(5);
    let resend = Incoming::Control {
        kind: kind::RESEND,
        id: 0,
    };
    for bad in [
        Packet {
            checksum: good.checksum + 1,
            ..good.clone()
        },
        Packet {
            trailer: 0xab,
            ..good.clone()
        },
        Packet {
            length: 4001,
            ..good.clone()
        },
        Packet {
            length: good.length + 1,
            ..good.clone()
        },
    ] {
        client.write(&bad.bytes()).expect("sent");
        assert_eq!(client.receive(limit), Ok(resend.clone()), "{bad:?}");
        // What a wrong length leaves over.
        while client.receive(Duration::from_millis(250)).is_ok() {}
    }
    assert_eq!(target.requests(), []);
    assert_eq!(client.ask(&request).map(|answer| answer.status), Ok(0));
    // An id that isn't its turn is acknowledged, and not carried out.
    let mut stale = client.packet(&request);
    stale.id ^= 1;
    client.write(&stale.bytes()).expect("sent");
    let acknowledged = Incoming::Control {
        kind: kind::ACKNOWLEDGE,
        id: stale.id,
    };
    assert_eq!(client.receive(limit), Ok(acknowledged));
    assert_eq!(target.requests().len(), 1);
}

#[test]
fn a_recording_has_every_byte_of_both_sides() {
    let target = FakeTarget::start(machine());
    let relay = Relay::recording(target.address());
    let (mut client, _) = KdClient::attach(relay.address());
    reads(&mut client, 5);
    let captures = relay.captures();
    assert_eq!(captures.len(), 1);
    let text = captures[0].text("five reads\nand a reset");
    assert!(
        text.starts_with("# five reads\n# and a reset\n> 69696969"),
        "{text}"
    );
    assert_eq!(Capture::parse(&text), captures[0]);
    let packets = |to_target| {
        let mut decoder = Decoder::default();
        decoder.push(&captures[0].direction(to_target));
        let packets: Vec<Incoming> = std::iter::from_fn(|| decoder.take()).collect();
        packets
            .iter()
            .filter(|packet| matches!(packet, Incoming::Data { .. }))
            .count()
    };
    assert_eq!((packets(true), packets(false)), (5, 6));
}

#[test]
fn packets_are_found_among_garbage() {
    let packet = Packet::new(kind::DEBUG_IO, 5, b"b0iab").bytes();
    for garbage in [
        "",
        "30 31",
        "30 30 30 00",
        "69 69 30 31",
        "aa 00 ff 31",
        "69 69 69 00",
    ] {
        let mut decoder = Decoder::default();
        let mut bytes = hex(garbage);
        bytes.extend_from_slice(&packet);
        for byte in &bytes {
            assert!(
                !matches!(decoder.take(), Some(Incoming::Data { .. })),
                "too early"
            );
            decoder.push(&[*byte]);
        }
        let found = decoder.take();
        assert!(
            matches!(&found, Some(Incoming::Data { payload, .. }) if payload == b"b0iab"),
            "{garbage}: {found:?}"
        );
    }
}
