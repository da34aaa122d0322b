//! Breaking, stepping, going.

use super::{attached, lives, nothing_wrong, tick};
use tests::LIMIT;

#[test]
fn a_breakpoint_in_a_system_call_is_hit_and_left() {
    let Some((guest, mut service, mut engine)) = attached() else {
        return;
    };
    engine.run("bp nt!NtQuerySystemTime");
    engine.begin("g");
    service.console().types("user\r");
    let hit = engine.end();
    // The program prints before that.
    assert!(hit.contains("Breakpoint 0 hit\nnt!NtQuerySystemTime"), "{hit}");
    let stack = engine.run("k");
    assert!(stack.contains("nt!NtQuerySystemTime"), "{stack}");
    assert!(stack.contains("nt!KiSystemServiceCopyEnd+"), "{stack}");

    // Steps follow the instructions that the engine itself disassembles.
    for _ in 0..5 {
        let next = engine.run("u rip L2");
        let next = next
            .lines()
            .last()
            .unwrap_or_default()
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_owned();
        let stop = engine.run("p");
        assert!(stop.contains(&next), "{next}: {stop}");
    }
    let back = engine.run("gu");
    assert!(back.contains("nt!Ki"), "{back}");
    engine.run("bc *");
    nothing_wrong(&engine);
    engine.detach();
    service.console().shows(" system calls, ", LIMIT);
    lives(&mut service);
    // The guest sums its own code up again and again.
    let mut console = service.console().from_now();
    console.types("sum\r");
    console.shows("changes 0", LIMIT);
    assert!(guest.base() > 0);
}

#[test]
fn a_write_to_watched_memory_stops_behind_it() {
    let Some((_guest, mut service, mut engine)) = attached() else {
        return;
    };
    let before = engine.run("dd nt!KiSystemCalls L1");
    engine.run("ba w4 nt!KiSystemCalls");
    engine.begin("g");
    service.console().types("user\r");
    let hit = engine.end();
    assert!(hit.contains("Breakpoint 0 hit\nnt!"), "{hit}");
    let after = engine.run("dd nt!KiSystemCalls L1");
    let count = |text: &str| {
        let digits = text.split_whitespace().last().unwrap_or_default().to_owned();
        u32::from_str_radix(&digits, 16).unwrap_or_else(|_| panic!("{text}"))
    };
    assert_eq!(count(&after), count(&before) + 1);
    engine.run("bc *");
    nothing_wrong(&engine);
    engine.detach();
    lives(&mut service);
}

#[test]
fn a_step_into_a_call_is_in_the_function() {
    let Some((_guest, mut service, mut engine)) = attached() else {
        return;
    };
    engine.run("bp nt!NtQuerySystemTime");
    engine.begin("g");
    service.console().types("user\r");
    assert!(engine.end().contains("Breakpoint 0 hit\n"));
    engine.run("bc *");
    let mut place = engine.run("r rip");
    for _ in 0..10 {
        engine.run("t");
        let next = engine.run("r rip");
        assert_ne!(next, place, "each step is one instruction further");
        place = next;
    }
    nothing_wrong(&engine);
    engine.detach();
    lives(&mut service);
}

#[test]
fn a_break_in_stops_it_and_it_goes_on() {
    let Some((guest, mut service, mut engine)) = attached() else {
        return;
    };
    // The engine itself takes seconds to send a break-in.
    for _ in 0..2 {
        engine.begin("g");
        lives(&mut service);
        engine.interrupt();
        let stop = engine.end();
        assert!(
            stop.starts_with("Break instruction exception - code 80000003 (first chance)\n"),
            "{stop}"
        );
    }
    assert!(engine.run("lm").contains(&tick(guest.base())));
    nothing_wrong(&engine);
    engine.detach();
    lives(&mut service);
}
