//! lldb 14 attaches like gdb.

use tests::{Lldb, four_vcpus, has_tool, one_vcpu};

#[test]
fn registers_are_read_and_written() {
    let Some(snapshot) = one_vcpu().filter(|_| has_tool("lldb")) else {
        return;
    };
    let mut service = snapshot.service();
    let rip = service.kdd(&["regs", "vm", "--json"]).done().json()["registers"]["rip"].clone();
    assert!(rip.is_string());
    let session = Lldb::session(
        &service.gdb_address(),
        &[
            "register read",
            "register read cr0 cr3 efer",
            "register read r15",
            "register write r15 0x1234567890abcdef",
            "register read --format hex r15",
            "register write r15 0",
            "detach",
        ],
    );
    let all = session.answer("register read");
    for name in ["rax", "rip", "eflags", "cs", "gs_base", "xmm15", "st7"] {
        assert!(
            all.lines()
                .any(|line| line.trim_start().starts_with(&format!("{name} = "))),
            "{name}: {all}"
        );
    }
    assert!(
        session
            .answer("register read cr0 cr3 efer")
            .contains("cr0 = 0x0000000080050033"),
        "{}",
        session.text()
    );
    let written = session.answer("register read --format hex r15");
    assert!(written.contains("r15 = 0x1234567890abcdef"), "{}", session.text());
    service.console().answers();
}

#[test]
fn memory_is_read_and_written() {
    let Some(snapshot) = one_vcpu().filter(|_| has_tool("lldb")) else {
        return;
    };
    let mut service = snapshot.service();
    let name = snapshot.symbol("init_uts_ns");
    let banner = snapshot.symbol("linux_banner");
    // struct new_utsname begins 4 or 8 bytes into init_uts_ns; the host name is its second array of 65 bytes.
    let bytes = service
        .kdd(&["mem", "read", "vm", &format!("{name:x}"), "256", "-o", "-"])
        .done()
        .stdout;
    let at = bytes
        .windows(9)
        .position(|window| window == b"kdd-guest")
        .expect("the host's name") as u64;
    let read = format!("memory read -f s {banner:#x}");
    let write = format!("memory write {:#x} 0x4b", name + at);
    let session = Lldb::session(
        &service.gdb_address(),
        &[&read, &write, "memory read 0xdead0000beef0000", "detach"],
    );
    assert!(
        session.answer(&read).contains("Linux version"),
        "{}",
        session.text()
    );
    assert!(
        session
            .answer("memory read 0xdead0000beef0000")
            .contains("error:"),
        "{}",
        session.text()
    );
    assert_eq!(service.console().command("hostname"), "Kdd-guest\n");
}

#[test]
fn breakpoints_watchpoints_and_steps() {
    let Some(snapshot) = one_vcpu().filter(|_| has_tool("lldb")) else {
        return;
    };
    let mut service = snapshot.service();
    let jiffies = snapshot.symbol("jiffies_64");
    let begun = service
        .console()
        .begin("i=0; while [ $i -lt 200 ]; do i=$((i+1)); cat /proc/self/stat >/dev/null; done");
    let open = snapshot.symbol("do_sys_openat2");
    let set = format!("breakpoint set -a {open:#x}");
    let watch = format!("watchpoint set expression -w write -s 8 -- {jiffies:#x}");
    let session = Lldb::session(
        &service.gdb_address(),
        &[
            &set,
            "process continue",
            "register read rip",
            "thread step-inst",
            "thread step-inst-over",
            "breakpoint delete -f 1",
            &watch,
            "continue",
            "watchpoint delete -f 1",
            "detach",
        ],
    );
    assert!(
        session
            .answer("process continue")
            .contains("stop reason = breakpoint 1.1"),
        "{}",
        session.text()
    );
    assert!(
        session
            .answer("register read rip")
            .contains(&format!("rip = {open:#x}")),
        "{}",
        session.text()
    );
    assert!(
        session
            .answer("thread step-inst")
            .contains("stop reason = instruction step into"),
        "{}",
        session.text()
    );
    let over = session.answer("thread step-inst-over");
    assert!(
        over.contains("stop reason = instruction step over"),
        "{}",
        session.text()
    );
    assert!(
        session.answer("continue").contains("watchpoint 1"),
        "{}",
        session.text()
    );
    let (_, status) = service.console().result(begun, tests::LIMIT);
    assert_eq!(status, 0);
}

#[test]
fn vcpus_are_threads_and_a_detach_lets_them_run() {
    let Some(snapshot) = four_vcpus().filter(|_| has_tool("lldb")) else {
        return;
    };
    let mut service = snapshot.service();
    let session = Lldb::session(
        &service.gdb_address(),
        &[
            "thread list",
            "thread select 3",
            "register read rip",
            "thread select 6",
            "register read rsp rip rax",
            "detach",
        ],
    );
    let list = session.answer("thread list");
    assert_eq!(list.matches("name = 'vCPU ").count(), 4, "{}", session.text());
    // The guest's tasks come after them.
    let line = list.lines().find(|line| line.contains("name = 'kthreadd'"));
    assert!(
        line.is_some_and(|line| line.contains("tid = 0x03ea")),
        "{}",
        session.text()
    );
    assert!(
        session.answer("register read rip").contains("rip = 0xffffffff"),
        "{}",
        session.text()
    );
    let task = session.answer("register read rsp rip rax");
    assert!(
        task.contains("rip = 0xffffffff") && !task.contains("rax = 0x"),
        "{}",
        session.text()
    );
    assert!(
        session.answer("detach").contains("detached"),
        "{}",
        session.text()
    );
    service.console().answers();
}
