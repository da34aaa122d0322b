//! lldb 14 attaches like gdb.

use std::collections::BTreeMap;
use tests::{Gdb, Lldb, four_vcpus, has_tool, one_vcpu};

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

/// The guest's stacks, one after the other.
const STACKS: &str =
    "for p in /proc/[0-9]*; do echo \"@${p##*/} $(cat $p/comm)\"; cat $p/stack; done 2>/dev/null";

/// A task as the guest tells of it: its name and the functions on its stack.
type Task<'a> = (&'a str, Vec<&'a str>);

fn tasks_of(answer: &str) -> BTreeMap<u64, Task<'_>> {
    fn function(line: &str) -> Option<&str> {
        line.trim().strip_prefix("[<0>] ")?.split('+').next()
    }
    fn of(part: &str) -> Option<(u64, Task<'_>)> {
        let (pid, rest) = part.split_once(' ')?;
        let (name, stack) = rest.split_once('\n')?;
        Some((
            pid.parse().ok()?,
            (name.trim(), stack.lines().filter_map(function).collect()),
        ))
    }
    answer.split('@').skip(1).filter_map(of).collect()
}

#[test]
fn tasks_have_their_names_and_stacks_and_their_registers_are_not_written() {
    let Some(snapshot) = four_vcpus().filter(|_| has_tool("lldb") && has_tool("gdb")) else {
        return;
    };
    let mut service = snapshot.service();
    service
        .console()
        .command("sleep 1000 & (cat /dev/zero | sleep 1000) & sleep 0.5");
    let answer = service.console().command(STACKS);
    let guest = tasks_of(&answer);
    let mut gdb = Gdb::attached(&service.gdb_address());
    let symbols = gdb.run("monitor symbols");
    let line = symbols.lines().find(|line| line.contains("target modules add"));
    let file = line.and_then(|line| line.split("target modules add ").nth(1));
    let create = format!(
        "target create {}",
        file.unwrap_or_else(|| panic!("no file: {symbols}")).trim()
    );
    gdb.detach();
    let log = service.scratch().path("packets");
    let session = Lldb::session_after(
        &[
            &create,
            &format!("log enable -f {} gdb-remote packets", log.display()),
        ],
        &service.gdb_address(),
        &[
            "thread list",
            "thread backtrace all",
            "thread step-inst",
            "thread select 6",
            "register write r12 5",
            "detach",
        ],
    );
    let list = session.answer("thread list");
    let id = |line: &str| {
        let digits = line.split("tid = 0x").nth(1)?.split([',', ' ']).next()?;
        u64::from_str_radix(digits, 16).ok()?.checked_sub(1000)
    };
    let listed: BTreeMap<u64, &str> = list.lines().filter_map(|line| Some((id(line)?, line))).collect();
    assert!(guest.len() > 50, "{answer}");
    for (pid, (name, _)) in guest.iter().filter(|(_, (name, _))| !name.starts_with("kworker")) {
        let Some(line) = listed.get(pid) else {
            // What asked for the stacks.
            continue;
        };
        assert!(line.contains(&format!("name = '{name}'")), "{pid} {name}: {line}");
    }

    // A thread's number in lldb's list, and with it the order of the list.
    let numbers: BTreeMap<&str, u64> = list
        .lines()
        .filter_map(|line| Some((line.split_once("thread #")?.1.split_once(':')?.0, id(line)?)))
        .collect();
    let mut stacks: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    let mut pid = 0;
    for line in session.answer("thread backtrace all").lines() {
        if let Some((_, rest)) = line.split_once("thread #") {
            pid = rest
                .split(',')
                .next()
                .and_then(|n| numbers.get(n))
                .copied()
                .unwrap_or(0);
        } else if let Some((_, function)) = line.split_once('`') {
            let name = function.split([' ', '(']).next().unwrap_or_default();
            stacks.entry(pid).or_default().push(name);
        }
    }
    let (mut compared, mut others) = (0, Vec::new());
    for (pid, (_, wanted)) in &guest {
        let Some(frames) = stacks.get(pid).filter(|_| !wanted.is_empty()) else {
            continue;
        };
        compared += 1;
        if !frames.windows(wanted.len()).any(|part| part == wanted) {
            others.push(format!("{pid}: {wanted:?} against {frames:?}"));
        }
    }
    // Few have moved on since the guest was asked.
    assert!(compared > 50 && others.len() <= 3, "of {compared}: {others:#?}");

    assert!(
        session
            .answer("register write r12 5")
            .contains("Failed to write register 'r12'"),
        "{}",
        session.text()
    );
    let log = std::fs::read_to_string(log).unwrap_or_default();
    // When it attaches it asks for each thread; at the stop after that for all at once.
    let (attached, stopped) = log.split_once("send packet: $vCont;").unwrap_or_default();
    assert!(attached.contains("send packet: $qThreadStopInfo"), "{log}");
    assert!(stopped.contains("send packet: $jThreadsInfo"), "{log}");
    for other in ["$qThreadStopInfo", "$qfThreadInfo", "$p"] {
        assert!(
            !stopped.contains(&format!("send packet: {other}")),
            "{other}: {log}"
        );
    }
    service.console().answers();
}
