//! Whole sessions of Microsoft's engine, recorded once, replayed against the KD session without a socket or a clock.
//!
//! `golden/NAME.kd` is what passed over the wire, `golden/NAME.tape` the guest as it was seen meanwhile. They are made by
//!
//! ```text
//! cargo test --release -p tests --test nt -- --ignored replay::makes_the_recordings
//! ```
//! and must be made again where the stub rightly answers something else, or looks at memory that nobody looked at.

use hv_core::Hypervisor;
use hv_core::introspect::{ControlRun, DomainState, Events, Introspect};
use introspect::Target;
use kdd::kd::{kernel, server};
use kdd::parse::{KdAddress, ListenAddress};
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use symbols::SymbolPath;
use tests::kd::packet::{self, Decoder, Incoming, Packet, kind};
use tests::kd::{Capture, Random, Relay};
use tests::tape::{Driven, Player, Recorder, Tape};
use tests::{Engine, EngineOptions, has_engine, nt_guest, until};

/// A recorded session.
struct Session {
    name: &'static str,
    profile: &'static str,
    cpus: u32,
    commands: &'static [&'static str],
}

/// Before the last `g` of the commands that are marked with it, this is typed at the guest's console.
const BUGCHECK: &str = "bugcheck deadbeef 11 22 33 44\r";

/// From attach through a breakpoint, steps and a bugcheck to detach.
const SHORT: &[&str] = &[
    "r",
    "k",
    "lm",
    "bp nt!KiSwapContext",
    "g",
    "t",
    "p",
    "bc *",
    BUGCHECK,
    ".bugcheck",
    "k",
    "qd",
];

const SESSIONS: &[Session] = &[
    Session {
        name: "win10-19041-x64",
        profile: "win10-19041-x64",
        cpus: 2,
        commands: &[
            "r",
            "k",
            "lm",
            "~1s",
            "r",
            "~0s",
            "rdmsr c0000082",
            "bp nt!KiSwapContext",
            "g",
            "t",
            "t",
            "p",
            "bc *",
            "u nt!NtQuerySystemTime",
            "db nt",
            "ed @rsp-20 12345678",
            "dd @rsp-20 L1",
            "dt nt!_EPROCESS @$proc",
            "ba w4 nt!KiBugCheckData",
            BUGCHECK,
            "k",
            "bc *",
            "g",
            ".bugcheck",
            "r",
            "k",
            "qd",
        ],
    },
    Session {
        name: "win7-x86",
        profile: "win7-x86",
        cpus: 1,
        commands: SHORT,
    },
    Session {
        name: "win7-x64",
        profile: "win7-x64",
        cpus: 2,
        commands: SHORT,
    },
    Session {
        name: "win11-22621-x64",
        profile: "win11-22621-x64",
        cpus: 1,
        commands: SHORT,
    },
];

fn golden(name: &str, extension: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nt/golden");
    PathBuf::from(folder).join(format!("{name}.{extension}"))
}

#[test]
#[ignore = "makes the files in golden/"]
fn makes_the_recordings() {
    if has_engine() {
        SESSIONS.iter().for_each(record);
    }
}

fn record(session: &Session) {
    let guest = nt_guest(session.profile, session.cpus).expect("a guest");
    let hypervisor = Hypervisor::new();
    let mut file = BufReader::new(File::open(guest.saved()).expect("the saved guest"));
    let domain = hypervisor.restore(&mut file, None, true).expect("the guest");
    let recorder = Recorder::new(domain.clone());
    let target = Target::new(recorder.clone());
    target.wait_for_debugger().expect("a domain that can be paused");
    domain.unpause().expect("it is paused");

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let address = KdAddress::Listen(ListenAddress::Tcp("127.0.0.1:0".parse().expect("an address")));
    let recogniser = kernel::windows(SymbolPath::default());
    let endpoint = runtime.block_on(server::listen(target.clone(), address, recogniser));
    let endpoint = endpoint.expect("a port");
    let KdAddress::Listen(ListenAddress::Tcp(address)) = endpoint.address else {
        panic!("{}", endpoint.address)
    };
    let relay = Relay::recording(&address.to_string());
    let options = EngineOptions {
        symbols: vec![guest.folder.clone()],
        images: vec![guest.folder.clone()],
        ..EngineOptions::default()
    };
    let mut engine = Engine::attached(relay.address(), &options);
    for command in session.commands {
        if *command == BUGCHECK {
            engine.begin("g");
            until("the guest to run", || {
                !target.sessions().iter().any(|it| it.holds)
            });
            domain.console_input(0, command.as_bytes());
            engine.end();
        } else {
            engine.run(command);
        }
    }
    assert_eq!(engine.ended(), 6, "{}", engine.log());
    print!("{}", engine.log());
    until("the end of the session", || target.sessions().is_empty());
    let tape = recorder.tape();
    let capture = relay.captures().remove(0);
    let comment = format!(
        "A session of Microsoft's engine 10.0.15063.400 with the NT-shaped guest {}, {} CPUs:\n{}",
        session.profile,
        session.cpus,
        session.commands.join("; ").replace('\r', "")
    );
    std::fs::write(golden(session.name, "kd"), capture.text(&comment)).expect("written");
    let file = File::create(golden(session.name, "tape")).expect("a file");
    tape.save(file).expect("written");
    println!("{}: {} moments", session.name, tape.length());
}

/// What was recorded: the guest, and what passed.
fn recorded(session: &Session) -> (Arc<Tape>, Capture) {
    let file = File::open(golden(session.name, "tape")).expect("a tape");
    let tape = Tape::load(file).expect("a tape");
    (Arc::new(tape), Capture::read(&golden(session.name, "kd")))
}

fn packets(bytes: &[u8]) -> Vec<Incoming> {
    let mut decoder = Decoder::default();
    decoder.push(bytes);
    let packets = std::iter::from_fn(|| decoder.take()).collect();
    assert_eq!(decoder.garbage, 0);
    packets
}

/// What the kernel says, each packet once, whether acknowledged or sent again; control packets left out.
fn said(bytes: &[u8]) -> Vec<Incoming> {
    let mut said: Vec<Incoming> = packets(bytes)
        .into_iter()
        .filter(|packet| matches!(packet, Incoming::Data { .. }))
        .collect();
    said.dedup();
    said
}

/// A packet of the host's, as bytes again.
fn bytes_of(packet: &Incoming) -> Vec<u8> {
    match packet {
        Incoming::Data { kind, id, payload } => Packet::new(*kind, *id, payload).bytes(),
        Incoming::Control { kind, id } => packet::control(*kind, *id),
        Incoming::BreakIn => vec![packet::BREAK_IN],
        Incoming::Damaged => panic!("damage in the recording"),
    }
}

#[track_caller]
fn nothing_strayed(name: &str, player: &Player) {
    let strayed = player.strayed();
    assert!(
        strayed.is_empty(),
        "{name}: {strayed:#?}\nthe module says how to record it again"
    );
}

/// The end of a session: the guest is left as the recorded host left it.
#[track_caller]
fn ends_alike(name: &str, driven: Driven, expected: &Player) {
    nothing_strayed(name, &driven.player);
    assert_eq!(driven.player.at(), expected.at(), "{name}: stops");
    let player = driven.leave();
    assert_eq!(player.breakpoint_count(), 0, "{name}");
    assert!(
        player.contents() == expected.contents(),
        "{name}: registers and memory"
    );
}

/// Replays a recording as it was.
fn replay(session: &Session) -> (Arc<Tape>, Capture, Arc<Player>) {
    let (tape, capture) = recorded(session);
    let name = session.name;
    let mut driven = Driven::new(&tape);
    let mut answer = Vec::new();
    for piece in capture.0.iter().filter(|piece| piece.to_target) {
        answer.extend(driven.give(&piece.bytes));
    }
    let (now, then) = (packets(&answer), packets(&capture.direction(false)));
    for (n, (now, then)) in now.iter().zip(&then).enumerate() {
        assert_eq!(now, then, "{name}: packet {n}; {:?}", driven.player.strayed());
    }
    assert_eq!(now.len(), then.len(), "{name}");
    assert!(then.len() > 100, "{name}");
    assert_eq!(
        driven.player.at() + 1,
        tape.length(),
        "{name}: all of the tape is played"
    );
    nothing_strayed(name, &driven.player);
    (tape, capture, driven.leave())
}

#[test]
fn the_kernels_side_is_as_it_was() {
    for session in SESSIONS {
        replay(session);
    }
}

#[test]
fn bytes_may_come_in_any_pieces() {
    for session in SESSIONS {
        let (tape, capture, expected) = replay(session);
        let mut random = Random(1);
        for most in [1, 7, 100] {
            let mut driven = Driven::new(&tape);
            let mut answer = Vec::new();
            for piece in capture.0.iter().filter(|piece| piece.to_target) {
                let mut rest = &piece.bytes[..];
                while !rest.is_empty() {
                    let length = 1 + random.below(most) as usize;
                    let (part, others) = rest.split_at(length.min(rest.len()));
                    answer.extend(driven.give(part));
                    rest = others;
                }
            }
            assert!(
                answer == capture.direction(false),
                "{}: pieces up to {most}",
                session.name
            );
            ends_alike(session.name, driven, &expected);
        }
    }
}

#[test]
fn every_packet_may_come_twice() {
    for session in SESSIONS {
        let (tape, capture, expected) = replay(session);
        let mut driven = Driven::new(&tape);
        let mut answer = Vec::new();
        for packet in packets(&capture.direction(true)) {
            let bytes = bytes_of(&packet);
            answer.extend(driven.give(&bytes));
            answer.extend(driven.give(&bytes));
        }
        assert_eq!(said(&answer), said(&capture.direction(false)), "{}", session.name);
        ends_alike(session.name, driven, &expected);
    }
}

/// Each acknowledgement is lost once: the kernel sends its packet again, and that is acknowledged.
#[test]
fn acknowledgements_may_be_lost() {
    let limit = Duration::from_secs(20);
    for session in SESSIONS {
        let (tape, capture, expected) = replay(session);
        let mut driven = Driven::new(&tape);
        let mut answer = Vec::new();
        let mut repeated = 0;
        for packet in packets(&capture.direction(true)) {
            if let Incoming::Control {
                kind: kind::ACKNOWLEDGE,
                ..
            } = packet
            {
                let again = driven.wait(limit).unwrap_or_default();
                repeated += usize::from(!again.is_empty());
                answer.extend(again);
            }
            answer.extend(driven.give(&bytes_of(&packet)));
        }
        assert!(repeated > 50, "{}: {repeated}", session.name);
        assert_eq!(said(&answer), said(&capture.direction(false)), "{}", session.name);
        ends_alike(session.name, driven, &expected);
    }
}

/// None of an answer or a report ever arrives: the next request says that those did. What the kernel prints is
/// followed by no request.
#[test]
fn acknowledgements_may_all_be_lost() {
    let limit = Duration::from_secs(20);
    for session in SESSIONS {
        let (tape, capture, expected) = replay(session);
        let mut driven = Driven::new(&tape);
        let mut answer = Vec::new();
        let mut lost = 0;
        for packet in packets(&capture.direction(true)) {
            let is_acknowledgement = matches!(
                packet,
                Incoming::Control {
                    kind: kind::ACKNOWLEDGE,
                    ..
                }
            );
            let printed = matches!(
                said(&answer).last(),
                Some(Incoming::Data {
                    kind: kind::DEBUG_IO,
                    ..
                })
            );
            if is_acknowledgement && !printed {
                lost += 1;
                answer.extend(driven.wait(limit).unwrap_or_default());
            } else {
                answer.extend(driven.give(&bytes_of(&packet)));
            }
        }
        assert!(lost > 50, "{}: {lost}", session.name);
        assert_eq!(said(&answer), said(&capture.direction(false)), "{}", session.name);
        ends_alike(session.name, driven, &expected);
    }
}

/// A host that is gone at any packet leaves no breakpoint and a guest that runs.
#[test]
fn the_end_may_come_anywhere() {
    for session in SESSIONS {
        let (tape, capture, _) = replay(session);
        let packets = packets(&capture.direction(true));
        for end in (0..packets.len()).step_by(23) {
            let mut driven = Driven::new(&tape);
            for packet in &packets[..end] {
                driven.give(&bytes_of(packet));
            }
            let player = driven.leave();
            assert_eq!(player.breakpoint_count(), 0, "{}: after {end}", session.name);
            let state = player.state();
            assert!(
                !matches!(state, DomainState::Paused(_)),
                "{}: after {end}",
                session.name
            );
        }
    }
}
