//! Microsoft's engine at work on a made-up machine: what a user at its prompt is told when a target does all right.

use std::time::Duration;
use tests::kd::{FakeMachine, FakeTarget, Relay, api};
use tests::{Engine, EngineOptions, has_engine, until};

/// An engine that is attached to a machine, with what passes between them.
fn attached() -> Option<(FakeTarget, Relay, Engine)> {
    if !has_engine() {
        return None;
    }
    let target = FakeTarget::start(FakeMachine::nt());
    let relay = Relay::recording(target.address());
    let engine = Engine::attached(relay.address(), &EngineOptions::default());
    Some((target, relay, engine))
}

#[test]
fn it_attaches_and_shows_the_machine() {
    let Some((_target, relay, mut engine)) = attached() else {
        return;
    };
    let log = engine.log();
    assert!(
        log.contains("Connected to Windows 10 19041 x64 target at "),
        "{log}"
    );
    assert!(log.contains("Kernel Debugger connection established.  (Initial Breakpoint requested)"));
    assert!(
        log.contains("Break instruction exception - code 80000003 (first chance)"),
        "{log}"
    );
    let version = engine.run("vertarget");
    assert!(
        version.starts_with("Windows 10 Kernel Version 19041 UP Free x64\n"),
        "{version}"
    );
    assert!(version.contains("Kernel base = 0xfffff803`12000000 PsLoadedModuleList = 0xfffff803`12c2a290"));
    let registers = engine.run("r");
    assert!(
        registers.starts_with("rax=1122334455667788 rbx=0000000000000000 "),
        "{registers}"
    );
    assert!(
        registers.contains("rip=fffff80312345100 rsp=fffff80311e00800 "),
        "{registers}"
    );
    assert!(
        registers.ends_with("nt+0x345100:\nfffff803`12345100 90              nop\n"),
        "{registers}"
    );
    let modules = engine.run("lm");
    assert!(
        modules.contains("fffff803`12000000 fffff803`13000000   nt "),
        "{modules}"
    );
    assert!(engine.run("dw nt L1").ends_with("  5a4d\n"));
    engine.detach();
    assert_eq!(relay.captures().len(), 1);
}

#[test]
fn it_breaks_steps_and_goes() {
    let Some((target, _relay, mut engine)) = attached() else {
        return;
    };
    engine.run("bp rip+40");
    let hit = "Breakpoint 0 hit\nnt+0x345140:\nfffff803`12345140 90              nop\n";
    assert_eq!(engine.run("g"), hit);
    assert!(engine.run("t").starts_with("nt+0x345141:\n"));
    assert!(engine.run("p").starts_with("nt+0x345142:\n"));
    assert_eq!(engine.run("r rip=fffff80312345120; g"), hit);
    assert!(engine.run("bl").starts_with(" 0 e fffff803`12345140 "));
    engine.run("bc *; eb rip 91");
    assert!(engine.run("db rip L2").contains("`12345140  91 90  "));
    assert_eq!(
        engine
            .complaints()
            .iter()
            .filter(|line| line.contains("0n998"))
            .count(),
        0
    );
    let told: Vec<u32> = target.requests().iter().map(|request| request.api).collect();
    for api in [
        api::WRITE_BREAKPOINT,
        api::RESTORE_BREAKPOINT,
        api::SET_CONTEXT,
        api::WRITE_VIRTUAL,
        api::CONTINUE2,
    ] {
        assert!(told.contains(&api.number), "{}", api.name);
    }
}

#[test]
fn a_break_in_stops_a_target_that_runs() {
    let Some((_target, _relay, mut engine)) = attached() else {
        return;
    };
    let stop = "Break instruction exception - code 80000003 (first chance)\nnt+0x345100:\n";
    engine.begin("g");
    engine
        .end_within(Duration::from_millis(500))
        .expect_err("it runs");
    engine.interrupt();
    let answer = engine.end();
    assert!(answer.starts_with(stop), "{answer}");
    engine.run("%interrupt-in 100");
    assert!(engine.run("g").starts_with(stop));
    engine.run("%limit 1");
    assert!(engine.run("g").starts_with(stop), "the limit breaks in");
    assert!(engine.transcript().text_from(0).contains("\x1elimit\n"));
}

#[test]
fn it_quits_with_a_word_to_the_target_or_without() {
    let Some((target, _relay, mut engine)) = attached() else {
        return;
    };
    let goes = |target: &FakeTarget| {
        let requests = target.requests();
        requests
            .iter()
            .filter(|request| request.api == api::CONTINUE2.number)
            .count()
    };
    engine.run("qd");
    assert_eq!(engine.ended(), 6, "no debuggee");
    assert_eq!(goes(&target), 1, "a detached target runs");

    let mut engine = Engine::attached(target.address(), &EngineOptions::default());
    engine.begin("%exit");
    assert_eq!(engine.ended(), 0);
    assert_eq!(goes(&target), 1);

    let mut engine = Engine::attached(target.address(), &EngineOptions::default());
    engine.run("%exit-in 300");
    engine.begin("g");
    assert_eq!(engine.ended(), 0);
    until("the last request", || goes(&target) == 2);
}
