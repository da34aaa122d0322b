//! Debuggers come and go, and get along.

use super::{attached, attached_four, sessions_become};
use tests::{Gdb, LIMIT, has_tool, one_vcpu};

#[test]
fn a_detach_leaves_no_breakpoint_and_a_guest_that_runs() {
    let Some((snapshot, mut service, mut gdb)) = attached() else {
        return;
    };
    gdb.run(&format!("break *{:#x}", snapshot.symbol("do_sys_openat2")));
    gdb.run(&format!("watch *(long*){:#x}", snapshot.symbol("jiffies_64")));
    gdb.resume();
    gdb.run("stepi");
    gdb.detach();
    sessions_become(&service, 0);
    service.console().answers();
    service.console().command("cat /proc/uptime");
    assert_eq!(service.state("vm").0, "running");
}

/// Kills gdb when it has printed so many lines of what it does for ever.
#[track_caller]
fn killed_while(begin: &[&str], forever: &str, lines: usize) {
    let Some((_, mut service, mut gdb)) = attached_four() else {
        return;
    };
    gdb.run_all(begin);
    let start = gdb.transcript().len();
    gdb.begin(forever);
    let mut at = start;
    for _ in 0..lines {
        at = gdb.transcript().find(at, "\n", LIMIT).expect("a line");
    }
    gdb.kill();
    sessions_become(&service, 0);
    service.console().answers();
    service.console().command("cat /proc/uptime");
    assert_eq!(service.state("vm").0, "running");
}

#[test]
fn gdb_killed_while_it_steps_leaves_the_guest_running() {
    for lines in [1, 7, 40] {
        killed_while(&[], "while 1\nstepi\nend", lines);
    }
}

#[test]
fn gdb_killed_in_a_long_step_leaves_the_guest_running() {
    killed_while(&[], "echo now\\n\nstepi 100000000", 1);
    killed_while(&["set scheduler-locking on"], "echo now\\n\nstepi 100000000", 1);
}

#[test]
fn gdb_killed_while_the_guest_runs_leaves_it_running() {
    killed_while(&[], "continue", 1);
}

#[test]
fn gdb_killed_at_breakpoints_leaves_the_guest_running() {
    let Some(snapshot) = tests::four_vcpus() else {
        return;
    };
    let often = format!("break *{:#x}", snapshot.symbol("schedule"));
    for lines in [1, 4, 20] {
        killed_while(&[&often], "while 1\ncontinue\nend", lines);
    }
    let watch = format!("watch *(long*){:#x}", snapshot.symbol("jiffies_64"));
    killed_while(&[&watch], "while 1\ncontinue\nend", 12);
    killed_while(&[&often, "stepi", &watch, "stepi"], "info registers", 5);
}

#[test]
fn two_debuggers_have_their_own_breakpoints_and_see_each_others_stops() {
    let Some((snapshot, mut service, mut first)) = attached() else {
        return;
    };
    let (set, open) = (
        snapshot.symbol("__x64_sys_sethostname"),
        snapshot.symbol("vfs_write"),
    );
    let mut second = Gdb::attached(&service.gdb_address());
    first.run(&format!("break *{set:#x}"));
    second.run(&format!("break *{open:#x} if 0"));
    assert!(!first.run("info breakpoints").contains(&format!("{open:#x}")));
    let sessions = first.run("monitor info sessions");
    assert_eq!(
        sessions.matches("1 breakpoints").count() + sessions.matches("0 breakpoints").count(),
        2,
        "{sessions}"
    );

    first.begin("continue");
    second.begin("continue");
    let begun = service.console().begin("hostname one");
    let stop = first.end();
    assert!(stop.contains("Breakpoint 1, "), "{stop}");
    let stop = second.end();
    assert!(
        stop.contains("SIGTRAP") && stop.contains(&format!("{set:#x}")),
        "{stop}"
    );

    // It runs again when both let it.
    first.begin("continue");
    assert_eq!(service.state("vm").0, "paused");
    second.begin("continue");
    assert_eq!(service.console().result(begun, LIMIT).1, 0);

    // The one's end isn't the other's.
    second.interrupt();
    second.end();
    second.detach();
    let begun = service.console().begin("hostname two");
    let stop = first.end();
    assert!(stop.contains("Breakpoint 1, "), "{stop}");
    first.detach();
    assert_eq!(service.console().result(begun, LIMIT).1, 0);
}

#[test]
fn the_guest_stays_stopped_while_anybody_holds_it() {
    let Some((_, mut service, first)) = attached() else {
        return;
    };
    let mut second = Gdb::attached(&service.gdb_address());
    first.detach();
    let (state, time) = service.state("vm");
    assert_eq!(state, "paused");
    assert_ne!(second.value("$rip"), 0);
    service.kdd(&["pause", "vm"]).done();
    second.detach();
    assert_eq!(service.state("vm"), ("paused".into(), time));
    service.kdd(&["unpause", "vm"]).done();
    service.console().answers();
}

#[test]
fn a_debugger_may_come_again_and_again() {
    let Some(snapshot) = one_vcpu().filter(|_| has_tool("gdb")) else {
        return;
    };
    let mut service = snapshot.service();
    for n in 0..10 {
        let mut gdb = Gdb::attached(&service.gdb_address());
        gdb.run(&format!("break *{:#x}", snapshot.symbol("schedule")));
        if n % 2 == 0 {
            gdb.resume();
            gdb.detach();
        } else {
            gdb.kill();
        }
    }
    sessions_become(&service, 0);
    service.console().answers();
}

#[test]
fn extended_remote_can_restart_the_guest() {
    let Some(snapshot) = one_vcpu().filter(|_| has_tool("gdb")) else {
        return;
    };
    let mut service = snapshot.service();
    let mut gdb = Gdb::start();
    let answer = gdb.run(&format!("target extended-remote {}", service.gdb_address()));
    assert!(answer.contains("Remote debugging using"), "{answer}");
    gdb.run("kill");
    sessions_become(&service, 1);
    service.console().answers();
}

#[test]
fn a_guest_that_powers_off_has_exited() {
    let Some((_, mut service, mut gdb)) = attached() else {
        return;
    };
    gdb.begin("continue");
    service.console().types("exit\r");
    let end = gdb.end();
    assert!(end.contains("exited normally"), "{end}");
    assert_eq!(service.ended(LIMIT).code(), Some(0));
}
