//! Coming and going.

use super::{PROFILE, attached, guest, lives, nothing_wrong, options, tick};
use std::time::Duration;
use tests::kd::packet::{Decoder, Incoming};
use tests::kd::{Capture, Faults, Relay};
use tests::{Engine, nt_guest, until};

#[test]
fn it_detaches_and_attaches_again() {
    let Some((guest, mut service)) = guest() else {
        return;
    };
    for _ in 0..3 {
        let mut engine = Engine::attached(&service.kd_address(), &options(guest));
        engine.run("bp nt!KeBugCheckEx");
        nothing_wrong(&engine);
        engine.detach();
        until("the guest to run", || service.state("vm").0 == "running");
        lives(&mut service);
    }
    let mut engine = Engine::attached(&service.kd_address(), &options(guest));
    engine.run("qd");
    assert_eq!(engine.ended(), 6, "no debuggee any more");
    lives(&mut service);
    let mut engine = Engine::attached(&service.kd_address(), &options(guest));
    engine.run("q");
    assert_eq!(engine.ended(), 6);
    until("the guest to run", || service.state("vm").0 == "running");
    lives(&mut service);
}

#[test]
fn a_killed_one_leaves_no_breakpoint_and_a_running_guest() {
    let Some((_guest, mut service, mut engine)) = attached() else {
        return;
    };
    engine.run("bp nt!NtQuerySystemTime");
    engine.begin("g");
    lives(&mut service);
    engine.kill();
    let mut console = service.console().from_now();
    console.types("user\r");
    console.shows("system calls", tests::LIMIT);
    lives(&mut service);
    until("the guest to run", || service.state("vm").0 == "running");
}

#[test]
fn a_link_that_is_slow_and_byte_by_byte_is_good_enough() {
    let Some((guest, service)) = guest() else {
        return;
    };
    let faults = Faults {
        alone: true,
        late: 200,
        delay: Duration::from_millis(20),
        ..Faults::default()
    };
    let relay = Relay::to(&service.kd_address(), faults, faults);
    let mut engine = Engine::attached(relay.address(), &options(guest));
    assert!(engine.run("lm").contains("   nt "));
    nothing_wrong(&engine);
    engine.detach();
}

/// What gets lost, doubled or changed is sent again: the user sees nothing of it.
#[test]
fn a_link_that_spoils_bytes_is_good_enough() {
    let Some((guest, mut service)) = guest() else {
        return;
    };
    let faults = |seed| Faults {
        seed,
        lose: 40,
        double: 40,
        flip: 40,
        ..Faults::default()
    };
    let relay = Relay::to(&service.kd_address(), faults(1), faults(2));
    let mut engine = Engine::attached(relay.address(), &options(guest));
    engine.run(".reload");
    let modules = engine.run("lm");
    for module in guest.modules() {
        let range = format!("{} {}", tick(module.base), tick(module.end));
        assert!(modules.contains(&range), "{module:?}:\n{modules}");
    }
    engine.run("bp nt!KeClockInterruptNotify");
    for _ in 0..3 {
        let hit = engine.run("g");
        assert!(
            hit.contains("Breakpoint 0 hit\nnt!KeClockInterruptNotify:\n"),
            "{hit}"
        );
        let stack = engine.run("k");
        assert!(stack.contains("nt!KiClockInterrupt"), "{stack}");
        assert!(engine.run("t").contains("nt!KeClockInterruptNotify+0x1:\n"));
    }
    engine.run("bc *");
    assert!(relay.spoilt() > 0);
    nothing_wrong(&engine);
    engine.detach();
    lives(&mut service);
}

/// A whole session, byte by byte. With `KDD_RECORD=FILE` it is kept, to be replayed against the stub's session.
#[test]
fn a_session_can_be_recorded() {
    let Some((guest, service)) = guest() else {
        return;
    };
    let relay = Relay::recording(&service.kd_address());
    let mut engine = Engine::attached(relay.address(), &options(guest));
    engine.run_all(&[
        "r",
        "k",
        "lm",
        "bp nt!KeClockInterruptNotify",
        "g",
        "t",
        "p",
        "bc *",
        "qd",
    ]);
    assert_eq!(engine.ended(), 6);
    let capture = relay.captures().remove(0);
    let packets = |to_target| {
        let mut decoder = Decoder::default();
        decoder.push(&capture.direction(to_target));
        let packets: Vec<Incoming> = std::iter::from_fn(|| decoder.take()).collect();
        assert_eq!(decoder.garbage, 0);
        assert!(!packets.contains(&Incoming::Damaged));
        packets.len()
    };
    assert!(packets(true) > 100 && packets(false) > 100);
    let comment = format!(
        "Microsoft's engine 10.0.15063.400 attaches to an NT-shaped guest ({PROFILE}, two CPUs), looks, breaks, steps and \
         detaches.\nMade by: KDD_RECORD=FILE cargo test --release -p tests --test nt -- a_session_can_be_recorded"
    );
    let text = capture.text(&comment);
    assert_eq!(Capture::parse(&text), capture);
    if let Some(path) = std::env::var_os("KDD_RECORD") {
        std::fs::write(path, text).expect("written");
    }
}

/// Attaches, looks, sets breakpoints, goes and leaves: the guest is as if nobody had been there.
#[test]
fn the_guest_is_as_if_nobody_had_been_there() {
    if !tests::has_engine() {
        return;
    }
    for (profile, cpus) in [(PROFILE, 1), (PROFILE, 4), ("win7-x86", 1), ("win10-x86", 4)] {
        let Some(guest) = nt_guest(profile, cpus) else {
            return;
        };
        let service = guest.service();
        let mut engine = Engine::attached(&service.kd_address(), &options(guest));
        engine.run_all(&[
            "r",
            "k",
            "lm",
            "dt nt!_EPROCESS poi(nt!PsInitialSystemProcess)",
            "db nt L200",
        ]);
        // The clock comes there without anybody's doing.
        engine.run("bp nt!KeClockInterruptNotify");
        for _ in 0..3 {
            let hit = engine.run("g");
            assert!(hit.contains("Breakpoint 0 hit"), "{hit}");
        }
        engine.run_all(&["t", "p", "gu", "~0s", "bc *", "ba w4 nt!KiTickCount", "g", "bc *"]);
        engine.detach();
        service.kdd(&["pause", "vm"]).done();
        let info = service.kdd(&["info", "vm", "--hash", "--json"]).done().json();
        let time = info["uptime_instructions"].as_u64().expect("a time");
        let hash = info["state_hash"].as_str().expect("a hash");
        assert_eq!(hash, guest.undisturbed(time), "{profile}, {cpus} CPUs at {time}");
    }
}
