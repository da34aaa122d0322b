//! One process of the guest as what gdb debugs: `kdd gdb --process`.

use tests::{Gdb, Service, Snapshot, four_vcpus, has_tool, one_vcpu};

/// A loop of the shell's, whose variable says how far it is.
const COUNTER: &str = "(i=0; while true; do i=$((i+1)); echo $i > /tmp/count; done) & echo $! > /tmp/pid";

/// The guest with a process that counts, and gdb at it.
struct Counting {
    service: Service,
    gdb: Gdb,
    pid: String,
}

#[track_caller]
fn attached_to_process(service: &Service, pid: &str) -> Gdb {
    let endpoint = service.kdd(&["gdb", "vm", "--process", pid, "--json"]).json();
    assert_eq!(endpoint["process"].to_string(), pid);
    let address = endpoint["address"].as_str().expect("an address");
    Gdb::attached(address.strip_prefix("tcp:").unwrap_or(address))
}

impl Counting {
    fn new(snapshot: Option<&'static Snapshot>) -> Option<Counting> {
        let snapshot = snapshot.filter(|_| has_tool("gdb"))?;
        let mut service = snapshot.service();
        service.console().command(COUNTER);
        service.console().command(COUNTER);
        let pid = service.console().command("cat /tmp/pid").trim().to_owned();
        let gdb = attached_to_process(&service, &pid);
        Some(Counting { service, gdb, pid })
    }

    /// How far it has counted, says the guest.
    fn count(&mut self) -> u64 {
        let text = self.service.console().command("cat /tmp/count");
        text.trim().parse().unwrap_or(0)
    }
}

#[test]
fn a_process_is_stepped_stopped_and_let_go() {
    for snapshot in [one_vcpu(), four_vcpus()] {
        let Some(mut counting) = Counting::new(snapshot) else {
            return;
        };
        let gdb = &mut counting.gdb;
        let threads = gdb.run("info threads");
        let line = format!("(pid {}", counting.pid);
        assert!(threads.contains(&line), "{threads}");
        assert_eq!(
            threads.matches("Thread ").count(),
            1,
            "no vCPU and no other task: {threads}"
        );

        // Its program, out of the guest's page cache.
        let files = gdb.run("info files");
        assert!(files.contains("target:/bin/busybox"), "{files}");
        // Instructions of user mode one after the other, whatever the kernel does in between.
        for _ in 0..300 {
            gdb.run("stepi");
            let pc = gdb.value("$pc");
            assert!(pc < 1 << 47, "{pc:#x}");
        }

        // Its twin runs the same program at the same addresses, and doesn't stop there.
        let (pc, root) = (gdb.value("$pc"), gdb.value("$cr3"));
        gdb.run(&format!("break *{pc:#x}"));
        for _ in 0..5 {
            let stop = gdb.resume();
            assert!(stop.contains("Breakpoint 1"), "{stop}");
            assert_eq!((gdb.value("$pc"), gdb.value("$cr3")), (pc, root));
        }
        gdb.run("delete");

        // Its registers can be written where it is in user mode.
        let rax = gdb.value("$r15");
        gdb.run("set $r15 = 0x1234");
        assert_eq!(gdb.value("$r15"), 0x1234);
        gdb.run(&format!("set $r15 = {rax:#x}"));

        counting.gdb.run("detach");
        let before = counting.count();
        tests::until("it counts on", || counting.count() > before);
    }
}

#[test]
fn the_end_of_a_process_is_told_with_its_status() {
    let Some(mut counting) = Counting::new(four_vcpus()) else {
        return;
    };
    counting.gdb.begin("continue");
    let line = format!("kill -9 {}\r", counting.pid);
    counting.service.console().types(&line);
    let end = counting.gdb.end();
    assert!(end.contains("Program terminated with signal SIGKILL"), "{end}");
    let mut service = counting.service;
    service
        .console()
        .command("(sleep 2; exit 7) & echo $! > /tmp/pid");
    let pid = service.console().command("cat /tmp/pid").trim().to_owned();
    let mut gdb = attached_to_process(&service, &pid);
    let end = gdb.resume();
    assert!(end.contains("exited with code 07"), "{end}");
    // The guest goes on.
    assert_eq!(service.console().command("echo still here").trim(), "still here");
}

#[test]
fn a_process_that_isnt_there_is_told_so() {
    let Some(snapshot) = one_vcpu() else { return };
    let service = snapshot.service();
    let refused = service.kdd(&["gdb", "vm", "--process", "nosuch"]);
    assert!(refused.fails(1).contains("it has no process nosuch"));
    let refused = service.kdd(&["gdb", "vm", "--process", "kthreadd"]);
    assert!(refused.fails(1).contains("is a thread of the kernel"));
}
