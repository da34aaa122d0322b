//! Watchpoints.

use super::{attached, host_name};
use tests::LIMIT;

#[test]
fn a_write_is_seen_with_old_and_new_value() {
    let Some((snapshot, mut service, mut gdb)) = attached() else {
        return;
    };
    let name = host_name(snapshot, &service);
    gdb.run(&format!("watch *(char*){name:#x}"));
    gdb.begin("continue");
    let begun = service.console().begin("hostname Zebra");
    let stop = gdb.end();
    assert!(stop.contains("Hardware watchpoint 1: "), "{stop}");
    assert!(
        stop.contains("Old value = 107 'k'") && stop.contains("New value = 90 'Z'"),
        "{stop}"
    );
    gdb.run("delete");
    gdb.begin("continue");
    assert_eq!(service.console().result(begun, LIMIT).1, 0);
    gdb.interrupt();
    gdb.end();
}

#[test]
fn of_two_watchpoints_the_one_that_was_hit_is_named() {
    let Some((snapshot, mut service, mut gdb)) = attached() else {
        return;
    };
    let name = host_name(snapshot, &service);
    gdb.run(&format!("awatch *(char*){:#x}", snapshot.symbol("linux_banner")));
    gdb.run(&format!("watch *(char*){:#x}", name + 3));
    gdb.begin("continue");
    service.console().types("hostname ABCDEF\r");
    let stop = gdb.end();
    assert!(
        stop.contains("Hardware watchpoint 2: ") && stop.contains("'D'"),
        "{stop}"
    );
}

#[test]
fn a_read_is_seen_and_a_write_is_not_a_read() {
    let Some((snapshot, mut service, mut gdb)) = attached() else {
        return;
    };
    let name = host_name(snapshot, &service);
    gdb.run(&format!("rwatch *(char*){name:#x}"));
    gdb.begin("continue");
    service.console().types("echo; hostname\r");
    let stop = gdb.end();
    assert!(
        stop.contains("Hardware read watchpoint 1: ") && stop.contains("Value = 107 'k'"),
        "{stop}"
    );
}

#[test]
fn every_access_is_seen_by_an_access_watchpoint() {
    let Some((snapshot, mut service, mut gdb)) = attached() else {
        return;
    };
    let name = host_name(snapshot, &service);
    gdb.run(&format!("awatch *(char*){name:#x}"));
    gdb.begin("continue");
    service.console().types("hostname; hostname Q; hostname\r");
    let mut stops = String::new();
    for _ in 0..3 {
        stops += &gdb.end();
        gdb.begin("continue");
    }
    assert_eq!(
        stops
            .matches("Hardware access (read/write) watchpoint 1: ")
            .count(),
        3,
        "{stops}"
    );
    assert!(
        stops.contains("Value = 107 'k'") && stops.contains("New value = 81 'Q'"),
        "{stops}"
    );
    gdb.interrupt();
    gdb.end();
}

#[test]
fn a_watchpoint_may_be_large() {
    let Some((snapshot, mut service, mut gdb)) = attached() else {
        return;
    };
    let name = host_name(snapshot, &service);
    gdb.run(&format!("watch *(char(*)[60]){name:#x}"));
    gdb.begin("continue");
    service.console().types("hostname large\r");
    let stop = gdb.end();
    assert!(stop.contains("Hardware watchpoint 1: "), "{stop}");
}

#[test]
fn a_watchpoint_on_the_kernels_clock_stops_and_the_guest_goes_on() {
    let Some((snapshot, mut service, mut gdb)) = attached() else {
        return;
    };
    gdb.run(&format!(
        "watch *(unsigned long*){:#x}",
        snapshot.symbol("jiffies_64")
    ));
    for _ in 0..5 {
        let stop = gdb.resume();
        assert!(stop.contains("Hardware watchpoint 1: "), "{stop}");
    }
    gdb.detach();
    service.console().answers();
}
