//! Steps of all kinds.

use super::attached;
use tests::{Gdb, Service, Snapshot};

/// Stopped at the beginning of `do_sys_openat2`, called from the guest's shell.
fn at_open() -> Option<(&'static Snapshot, Service, Gdb)> {
    let (snapshot, mut service, mut gdb) = attached()?;
    gdb.run(&format!("tbreak *{:#x}", snapshot.symbol("do_sys_openat2")));
    gdb.begin("continue");
    service.console().types("cat /proc/uptime\r");
    gdb.end();
    assert_eq!(gdb.value("$rip"), snapshot.symbol("do_sys_openat2"));
    Some((snapshot, service, gdb))
}

/// The instruction at RIP, and the address of the next one.
#[track_caller]
fn instruction(gdb: &mut Gdb) -> (String, u64) {
    let text = gdb.run("x/2i $rip");
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default().to_owned();
    let next = lines
        .next()
        .and_then(|line| line.trim().strip_prefix("0x")?.split([':', ' ']).next());
    let next = next.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    (first, next.unwrap_or_else(|| panic!("{text}")))
}

/// Steps up to a call.
#[track_caller]
fn step_to_a_call(gdb: &mut Gdb) -> u64 {
    for _ in 0..300 {
        let (text, next) = instruction(gdb);
        if text.contains("call ") {
            return next;
        }
        gdb.run("stepi");
    }
    panic!("no call in sight");
}

#[test]
fn stepi_executes_one_instruction() {
    let Some((_, service, mut gdb)) = at_open() else {
        return;
    };
    let time = service.state("vm").1;
    let (text, next) = instruction(&mut gdb);
    gdb.run("stepi");
    assert!(!text.contains("call") && !text.contains("j"), "{text}");
    assert_eq!(gdb.value("$rip"), next);
    assert_eq!(service.state("vm").1, time + 1);
    gdb.run("stepi 1000");
    // Interrupts may come in between; they are no instructions.
    let passed = service.state("vm").1 - time;
    assert!((1001..1100).contains(&passed), "{passed}");
}

#[test]
fn nexti_passes_over_a_call_and_stepi_goes_into_it() {
    let Some((_, _service, mut gdb)) = at_open() else {
        return;
    };
    let next = step_to_a_call(&mut gdb);
    let stack = gdb.value("$rsp");
    gdb.run("nexti");
    assert_eq!((gdb.value("$rip"), gdb.value("$rsp")), (next, stack));
    let next = step_to_a_call(&mut gdb);
    let stack = gdb.value("$rsp");
    gdb.run("stepi");
    assert_eq!(gdb.value("$rsp"), stack - 8);
    assert_eq!(gdb.value("*(unsigned long*)$rsp"), next);
}

#[test]
fn finish_goes_back_to_the_caller() {
    let Some((_, _service, mut gdb)) = at_open() else {
        return;
    };
    let (caller, stack) = (gdb.value("*(unsigned long*)$rsp"), gdb.value("$rsp"));
    let answer = gdb.run("finish");
    assert!(answer.contains("Run till exit"), "{answer}");
    assert_eq!((gdb.value("$rip"), gdb.value("$rsp")), (caller, stack + 8));
    // A file descriptor.
    assert!((3..100).contains(&gdb.value("$rax")));
}

#[test]
fn until_and_advance_run_to_a_place() {
    let Some((_, _service, mut gdb)) = at_open() else {
        return;
    };
    let next = step_to_a_call(&mut gdb);
    gdb.run(&format!("advance *{next:#x}"));
    assert_eq!(gdb.value("$rip"), next);
    let next = step_to_a_call(&mut gdb);
    gdb.run(&format!("until *{next:#x}"));
    assert_eq!(gdb.value("$rip"), next);
}

#[test]
fn a_step_over_a_breakpoint_does_not_miss_the_next_one() {
    let Some((snapshot, mut service, mut gdb)) = at_open() else {
        return;
    };
    let function = snapshot.symbol("do_sys_openat2");
    let (_, second) = instruction(&mut gdb);
    gdb.run(&format!("break *{function:#x}"));
    gdb.run(&format!("break *{second:#x}"));
    let stop = gdb.resume();
    assert!(stop.contains("Breakpoint 3, "), "{stop}");
    assert_eq!(gdb.value("$rip"), second);
    gdb.detach();
    service.console().answers();
}

#[test]
fn ctrl_c_stops_a_guest_that_runs() {
    let Some((_, mut service, mut gdb)) = attached() else {
        return;
    };
    gdb.begin("continue");
    service.console().answers();
    gdb.interrupt();
    let stop = gdb.end();
    assert!(stop.contains("SIGINT"), "{stop}");
    assert_eq!(service.state("vm").0, "paused");
    // An idle one and a busy one.
    gdb.begin("continue");
    service.console().types("echo run''ning; while :; do :; done\r");
    service.console().shows("\nrunning", tests::LIMIT);
    gdb.interrupt();
    assert!(gdb.end().contains("SIGINT"));
    gdb.detach();
    service.console().types("\x03");
    service.console().answers();
}

#[test]
fn ctrl_c_ends_a_long_step() {
    let Some((_, mut service, mut gdb)) = attached() else {
        return;
    };
    gdb.run("display/i $pc");
    gdb.begin("stepi 100000000");
    let before = service.state("vm").1;
    tests::until("a step", || service.state("vm").1 > before + 10);
    gdb.interrupt();
    gdb.end();
    gdb.detach();
    service.console().answers();
}
