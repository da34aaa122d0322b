//! gdb has the guest's symbols by `target remote` alone; addresses are compared with the guest's /proc/kallsyms.

use super::attached_four;
use tests::{BOOT_LIMIT, Gdb, LIMIT, Lldb, Scratch, Service, guest, has_tool, modules_archive};

/// The part of a stack that is the kernel's, from the innermost frame on: names.
fn names(stack: &str) -> Vec<&str> {
    fn name(line: &str) -> Option<&str> {
        let rest = line
            .strip_prefix('#')?
            .trim_start_matches(|c: char| c.is_ascii_digit());
        let words: Vec<&str> = rest.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "in").map_or(0, |at| at + 1);
        words.get(at).copied()
    }
    stack.lines().filter_map(name).collect()
}

#[test]
fn target_remote_alone_gives_symbols_and_types() {
    let Some((snapshot, mut service, mut gdb)) = attached_four() else {
        return;
    };
    for name in [
        "vfs_read",
        "do_sys_openat2",
        "jiffies_64",
        "linux_banner",
        "start_kernel",
    ] {
        assert_eq!(
            gdb.value(&format!("(long) &{name}")),
            snapshot.symbol(name),
            "{name}"
        );
    }
    let address = snapshot.symbol("vfs_write");
    let answer = gdb.run(&format!("info symbol {address:#x}"));
    assert!(answer.starts_with("vfs_write in section .text"), "{answer}");
    let answer = gdb.run("ptype struct list_head");
    assert!(answer.contains("struct list_head *next;"), "{answer}");
    let answer = gdb.run("ptype struct task_struct");
    assert!(
        answer.contains("char comm[16];") && answer.lines().count() > 100,
        "{answer}"
    );
    let answer = gdb.run("p init_task.comm");
    assert!(answer.contains("\"swapper/0"), "{answer}");
    let answer = gdb.run("x/s linux_banner");
    assert!(answer.contains("\"Linux version "), "{answer}");
    gdb.detach();
    service.console().answers();
}

#[test]
fn a_stack_leads_through_the_kernel_to_the_system_call() {
    let Some((_, mut service, mut gdb)) = attached_four() else {
        return;
    };
    gdb.run("break vfs_read");
    gdb.begin("continue");
    let begun = service.console().begin("head -c 16 /proc/version >/dev/null");
    let stop = gdb.end();
    assert!(
        stop.contains("hit Breakpoint 1, ") && stop.contains("in vfs_read ("),
        "{stop}"
    );
    let stack = gdb.run("bt");
    let names = names(&stack);
    assert_eq!(names.first(), Some(&"vfs_read"), "{stack}");
    assert!(names.contains(&"do_syscall_64"), "{stack}");
    assert!(
        names.iter().any(|name| name.starts_with("entry_SYSCALL_64")),
        "{stack}"
    );
    // Where the caller goes on, with its types.
    let back = gdb.run("finish");
    assert!(back.contains("Value returned is"), "{back}");
    gdb.run("delete");
    gdb.begin("continue");
    assert_eq!(service.console().result(begun, LIMIT).1, 0);
}

#[test]
fn a_stack_leads_through_an_interrupt_to_what_it_interrupted() {
    let Some((_, _service, mut gdb)) = attached_four() else {
        return;
    };
    gdb.run("break hrtimer_interrupt");
    let mut stack = String::new();
    // gdb believes that stacks only grow: where the interrupted one is below the interrupt's, it ends there.
    for _ in 0..50 {
        let stop = gdb.resume();
        assert!(stop.contains("in hrtimer_interrupt ("), "{stop}");
        stack = gdb.run("bt");
        if !stack.contains("previous frame inner to this frame") {
            break;
        }
    }
    // gdb's words for an entry by which registers were pushed.
    let (inner, outer) = stack
        .split_once("<signal handler called>")
        .unwrap_or_else(|| panic!("no entry: {stack}"));
    assert!(inner.contains("sysvec_apic_timer_interrupt"), "{stack}");
    assert!(outer.lines().any(|line| line.starts_with('#')), "{stack}");
}

#[test]
fn files_are_read_only_bounded_and_the_kernels_alone() {
    let Some((_, _service, mut gdb)) = attached_four() else {
        return;
    };
    let answer = gdb.run("maintenance packet qXfer:exec-file:read::0,1000");
    let name = answer
        .split("received: \"l")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    let name = name.unwrap_or_else(|| panic!("no name: {answer}"));
    let hex = |text: &str| -> String { text.bytes().map(|byte| format!("{byte:02x}")).collect() };
    let mut ask = |body: &str| -> String {
        let answer = gdb.run(&format!("maintenance packet vFile:{body}"));
        let received = answer.split("received: \"").nth(1).unwrap_or_default();
        received.trim_end().trim_end_matches('"').to_owned()
    };
    let open = format!("open:{},0,0", hex(name));
    for other in [
        "/etc/passwd",
        &format!("{name}/../x"),
        &format!("{name}x"),
        "/kdd/",
    ] {
        assert_eq!(ask(&format!("open:{},0,0", hex(other))), "F-1,2", "{other}");
    }
    assert_eq!(ask(&format!("open:{},1,0", hex(name))), "F-1,1e");
    let mut opened = Vec::new();
    let refused = loop {
        let answer = ask(&open);
        match answer.strip_prefix('F').filter(|rest| !rest.starts_with('-')) {
            Some(number) => opened.push(number.to_owned()),
            None => break answer,
        }
        assert!(opened.len() <= 64);
    };
    assert_eq!(refused, "F-1,18");
    let mut distinct = opened.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), opened.len());
    let number = &opened[0];
    assert!(ask(&format!("pread:{number},4,0")).starts_with("F4;"));
    assert_eq!(
        ask(&format!("pread:{number},ffffffffffffffff,ffffffffffffffff")),
        "F0;"
    );
    assert_eq!(ask(&format!("close:{number}")), "F0");
    assert_eq!(ask(&format!("close:{number}")), "F-1,9");
    assert_eq!(ask(&format!("pread:{number},4,0")), "F-1,9");
}

#[test]
fn lldb_reads_the_file_that_monitor_symbols_writes() {
    let Some((snapshot, service, mut gdb)) = attached_four().filter(|_| has_tool("lldb")) else {
        return;
    };
    let answer = gdb.run("monitor symbols");
    let line = answer.lines().find(|line| line.contains("target modules add"));
    let file = line.and_then(|line| line.split("target modules add ").nth(1));
    let file = file.unwrap_or_else(|| panic!("no file: {answer}")).trim();
    let slide = snapshot.symbol("_stext") - 0xffff_ffff_8100_0000;
    assert!(
        answer.contains(&format!("add-symbol-file vmlinux -o {slide:#x}")),
        "{answer}"
    );
    gdb.run("break schedule");
    gdb.resume();
    gdb.detach();
    let add = format!("target modules add {file}");
    let load = format!("target modules load --file {file} --slide 0");
    let session = Lldb::session(
        &service.gdb_address(),
        &[
            &add,
            &load,
            "breakpoint set -n schedule",
            "process continue",
            "thread backtrace",
            "image lookup -n vfs_read",
            "p init_task.comm",
            "detach",
        ],
    );
    let stack = session.answer("thread backtrace");
    assert!(stack.contains("`schedule"), "{}", session.text());
    assert!(
        stack.lines().filter(|line| line.contains("frame #")).count() > 2,
        "{stack}"
    );
    let found = session.answer("image lookup -n vfs_read");
    assert!(
        found.contains(&format!("{:x}]", snapshot.symbol("vfs_read"))),
        "{found}"
    );
    assert!(
        session.answer("p init_task.comm").contains("swapper/0"),
        "{}",
        session.text()
    );
}

#[test]
fn an_unrecognised_guest_is_debugged_without_a_word_of_errors() {
    let Some(files) = guest(None).filter(|_| has_tool("gdb")) else {
        return;
    };
    let kernel = files.kernel.to_string_lossy();
    let service = Service::run(&["--kernel", &kernel, "--paused"]);
    let mut gdb = Gdb::start();
    let answer = gdb.run(&format!("target remote {}", service.gdb_address()));
    assert!(answer.contains("Remote debugging using"), "{answer}");
    assert!(
        !answer.to_lowercase().contains("error") && !answer.contains("/kdd/"),
        "{answer}"
    );
    assert!(gdb.run("info sharedlibrary").contains("No shared libraries"));
    gdb.detach();
}

#[test]
fn modules_come_and_go_as_shared_libraries() {
    let Some(files) = guest(None).filter(|_| has_tool("gdb")) else {
        return;
    };
    let Some(archive) = modules_archive("linux", &["dummy"]) else {
        return;
    };
    let scratch = Scratch::default();
    let initrd = scratch.path("initrd");
    let mut bytes = std::fs::read(&files.initrd).expect("it is there");
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(archive);
    std::fs::write(&initrd, bytes).expect("room for it");
    let (kernel, initrd) = (files.kernel.to_string_lossy(), initrd.to_string_lossy());
    let append = "console=ttyS0 cryptomgr.notests";
    let mut service = Service::run(&["--kernel", &kernel, "--initrd", &initrd, "--append", append]);
    service.console().shows_prompt(BOOT_LIMIT);
    let mut gdb = Gdb::attached(&service.gdb_address());
    gdb.run("break __x64_sys_sethostname");
    gdb.begin("continue");
    let begun = service
        .console()
        .begin("insmod dummy.ko; hostname a; grep -F -w dummy_xmit /proc/kallsyms; rmmod dummy; hostname b");
    let stop = gdb.end();
    assert!(
        stop.contains("hit Breakpoint 1, "),
        "the stop itself is told: {stop}"
    );
    let list = gdb.run("info sharedlibrary");
    assert!(list.contains("/dummy.ko"), "{list}");
    let place = gdb.value("(long) &dummy_xmit");
    let answer = gdb.run(&format!("info symbol {place:#x}"));
    assert!(answer.starts_with("dummy_xmit in section .text"), "{answer}");
    let stop = gdb.resume();
    assert!(stop.contains("hit Breakpoint 1, "), "{stop}");
    assert!(gdb.run("info sharedlibrary").contains("No shared libraries"));
    gdb.begin("continue");
    let (said, status) = service.console().result(begun, LIMIT);
    assert_eq!(status, 0);
    assert!(said.contains(&format!("{place:016x} t dummy_xmit")), "{said}");
}
