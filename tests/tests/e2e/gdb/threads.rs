//! vCPUs as threads.

use super::attached_four;
use tests::LIMIT;

/// Every vCPU has something to do.
const BUSY: &str = "for cpu in 1 2 4 8; do taskset $cpu sh -c 'while :; do :; done' & done";

#[test]
fn each_vcpu_is_a_thread() {
    let Some((_, mut service, mut gdb)) = attached_four() else {
        return;
    };
    let list = gdb.run("info threads");
    for vcpu in 0..4 {
        assert!(list.contains(&format!("\"vCPU {vcpu}\" (")), "{list}");
    }
    let mut bases = Vec::new();
    for thread in 1..=4 {
        gdb.run(&format!("thread {thread}"));
        bases.push(gdb.value("$gs_base"));
        let dump = service
            .kdd(&["regs", "vm", "--vcpu", &(thread - 1).to_string(), "--json"])
            .done()
            .json();
        assert_eq!(
            dump["registers"]["rip"],
            format!("{:#x}", gdb.value("$rip")).as_str()
        );
    }
    bases.sort_unstable();
    bases.dedup();
    assert_eq!(bases.len(), 4, "each has its own per-CPU data");
    gdb.run("monitor tasks off");
    let all = gdb.run("thread apply all print $cr3");
    assert_eq!(all.matches(" = ").count(), 4, "{all}");
    gdb.detach();
    service.console().answers();
}

#[test]
fn scheduler_locking_keeps_the_others_still() {
    let Some((_, mut service, mut gdb)) = attached_four() else {
        return;
    };
    gdb.begin("continue");
    service.console().command(BUSY);
    service.console().answers();
    gdb.interrupt();
    gdb.end();
    gdb.run("set scheduler-locking on");
    let others = |gdb: &mut tests::Gdb| -> Vec<(u64, u64, u64)> {
        [1, 2, 4]
            .map(|thread| {
                gdb.run(&format!("thread {thread}"));
                (gdb.value("$rip"), gdb.value("$rsp"), gdb.value("$rax"))
            })
            .to_vec()
    };
    let before = others(&mut gdb);
    let time = service.state("vm").1;
    gdb.run("thread 3");
    let rip = gdb.value("$rip");
    gdb.run("stepi");
    assert_eq!(service.state("vm").1, time + 1);
    gdb.run("stepi 500");
    assert_eq!(others(&mut gdb), before);
    gdb.run("thread 3");
    assert!(gdb.value("$rip") != rip || service.state("vm").1 > time + 400);
    gdb.run("set scheduler-locking off");
    gdb.run("stepi 50000");
    assert_ne!(others(&mut gdb), before);
    gdb.detach();
    service.console().answers();
}

#[test]
fn a_stop_names_the_vcpu() {
    let Some((snapshot, mut service, mut gdb)) = attached_four() else {
        return;
    };
    gdb.run(&format!("break *{:#x}", snapshot.symbol("__x64_sys_sethostname")));
    for vcpu in [2, 0, 3, 1] {
        gdb.begin("continue");
        let begun = service
            .console()
            .begin(&format!("taskset {:x} hostname on{vcpu}", 1 << vcpu));
        let stop = gdb.end();
        assert!(
            stop.contains(&format!("Thread {} \"vCPU {vcpu}\" hit Breakpoint 1", vcpu + 1)),
            "{stop}"
        );
        gdb.begin("continue");
        assert_eq!(service.console().result(begun, LIMIT).1, 0);
        gdb.interrupt();
        gdb.end();
    }
}

#[test]
fn a_breakpoint_for_one_thread_stops_only_there() {
    let Some((snapshot, mut service, mut gdb)) = attached_four() else {
        return;
    };
    gdb.run(&format!(
        "break *{:#x} thread 3",
        snapshot.symbol("__x64_sys_sethostname")
    ));
    gdb.begin("continue");
    service
        .console()
        .types("taskset 1 hostname a; taskset 2 hostname b; taskset 4 hostname c\r");
    let stop = gdb.end();
    assert!(stop.contains("Thread 3 \"vCPU 2\" hit Breakpoint 1"), "{stop}");
    gdb.detach();
    assert_eq!(service.console().command("hostname"), "c\n");
}
