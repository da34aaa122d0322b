//! Microsoft's engine where there is nothing to debug: what it sends, what it says, and how it ends.

use super::{VERSION, hex, report};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;
use tests::kd::packet::{Decoder, Incoming, kind};
use tests::kd::{FakeMachine, FakeTarget, api};
use tests::{Engine, EngineOptions, LIMIT, has_engine, until};

/// The driver's exit statuses.
const REFUSED: i32 = 4;
const NO_EVENT: i32 = 5;
const DEADLINE: i32 = 124;

fn impatient() -> EngineOptions {
    EngineOptions {
        wait: Duration::from_secs(3),
        ..EngineOptions::default()
    }
}

/// A listener that says something, and nothing more: its address, and what it hears until the debugger goes.
fn listener(says: Vec<u8>) -> (String, std::thread::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let hears = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a debugger");
        stream.write_all(&says).expect("sent");
        let mut heard = Vec::new();
        // A debugger that is killed may reset the connection.
        let _ = stream.read_to_end(&mut heard);
        heard
    });
    (address, hears)
}

#[test]
fn where_nobody_listens_it_is_refused() {
    if !has_engine() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let mut engine = Engine::start(&address, &impatient());
    assert_eq!(engine.ended(), REFUSED);
    assert_eq!(engine.complaints()[0], "Failed to open 127.0.0.1");
}

#[test]
fn it_resets_and_breaks_in_and_gives_up_a_target_that_never_answers() {
    if !has_engine() {
        return;
    }
    let (address, hears) = listener(Vec::new());
    let mut engine = Engine::start(&address, &impatient());
    assert_eq!(engine.ended(), NO_EVENT);
    assert!(
        engine.log().ends_with("Waiting to reconnect...\n"),
        "{}",
        engine.log()
    );
    assert_eq!(engine.complaints(), [""; 0]);
    let mut decoder = Decoder::default();
    decoder.push(&hears.join().expect("the listener"));
    let reset = Incoming::Control {
        kind: kind::RESET,
        id: 0,
    };
    assert_eq!(decoder.take(), Some(reset));
    assert_eq!(decoder.take(), Some(Incoming::BreakIn));
    assert_eq!(decoder.garbage, 0);
}

#[test]
fn it_gives_up_a_target_that_says_garbage() {
    if !has_engine() {
        return;
    }
    let garbage = (0..5000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8);
    let (address, hears) = listener(garbage.collect());
    let mut engine = Engine::start(&address, &impatient());
    assert_eq!(engine.ended(), NO_EVENT);
    assert!(!hears.join().expect("the listener").is_empty());
}

#[test]
fn its_deadline_ends_it_whatever_it_does() {
    if !has_engine() {
        return;
    }
    let (address, hears) = listener(Vec::new());
    let options = EngineOptions {
        deadline: Duration::from_secs(2),
        ..EngineOptions::default()
    };
    assert_eq!(Engine::start(&address, &options).ended(), DEADLINE);
    hears.join().expect("the listener");
}

#[test]
fn a_killed_one_is_gone_from_the_target_at_once() {
    if !has_engine() {
        return;
    }
    let (address, hears) = listener(Vec::new());
    let engine = Engine::start(&address, &EngineOptions::default());
    let opened = engine.transcript().find(0, "Waiting to reconnect...", LIMIT);
    opened.expect("it has connected");
    engine.kill();
    until("the end of the connection", || hears.is_finished());
}

/// A target that stops, and has no memory.
fn hollow(version: &str, print: &str) -> FakeTarget {
    FakeTarget::start(FakeMachine {
        memory: Vec::new(),
        version: hex(version).try_into().expect("40 bytes"),
        report: report(),
        prints: vec![print.to_owned()],
        cpu: None,
    })
}

#[test]
fn it_gives_up_a_kernel_for_an_unknown_processor() {
    if !has_engine() {
        return;
    }
    let target = hollow(&VERSION.replace("64 86", "99 99"), "hello\n");
    let mut engine = Engine::start(target.address(), &EngineOptions::default());
    assert_eq!(engine.ended(), NO_EVENT);
    let complaints = engine.complaints();
    assert_eq!(complaints[0], "KD version has unknown processor architecture");
    assert_eq!(
        complaints.last().map(String::as_str),
        Some("DbgKdWaitStateChange failed: c0000001")
    );
    assert!(
        engine.log().contains("hello\n"),
        "what the target prints is shown: {}",
        engine.log()
    );
}

#[test]
fn it_gives_up_a_kernel_whose_debugger_data_cannot_be_read() {
    if !has_engine() {
        return;
    }
    let target = hollow(VERSION, "");
    let mut engine = Engine::start(target.address(), &EngineOptions::default());
    assert_eq!(engine.ended(), NO_EVENT);
    let complaint = "Unable to read head of debugger data list, Win32 error 0n30";
    assert_eq!(engine.complaints()[0], complaint);
    let requests: Vec<u32> = target.requests().iter().map(|request| request.api).collect();
    assert_eq!(requests[..2], [api::GET_VERSION.number, api::READ_VIRTUAL.number]);
}

#[test]
fn many_at_once_share_one_wine_and_keep_apart() {
    if !has_engine() {
        return;
    }
    let targets: Vec<FakeTarget> = (0..6)
        .map(|n| hollow(VERSION, &format!("target {n}\n")))
        .collect();
    let start = |target: &FakeTarget| Engine::start(target.address(), &EngineOptions::default());
    let engines: Vec<Engine> = targets.iter().map(start).collect();
    for (n, mut engine) in engines.into_iter().enumerate() {
        assert_eq!(engine.ended(), NO_EVENT);
        let log = engine.log();
        assert_eq!(log.matches("target ").count(), 1, "{log}");
        assert!(log.contains(&format!("target {n}\n")), "{log}");
    }
}
