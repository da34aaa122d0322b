//! Breakpoints.

use super::{attached, host_name};
use tests::{Gdb, LIMIT, Service, Snapshot, guest, has_tool, one_vcpu};

#[test]
fn a_breakpoint_stops_each_time_and_hits_are_counted() {
    let Some((snapshot, mut service, mut gdb)) = attached() else {
        return;
    };
    let function = snapshot.symbol("__x64_sys_sethostname");
    gdb.run(&format!("break *{function:#x}"));
    gdb.begin("continue");
    let begun = service.console().begin("for n in 1 2 3; do hostname h$n; done");
    for hit in 1..=3 {
        let stop = gdb.end();
        assert!(
            stop.contains("Breakpoint 1, ") && stop.contains(&format!("{function:#x} in")),
            "{stop}"
        );
        assert_eq!(gdb.value("$rip"), function);
        let times = if hit == 1 {
            "1 time".to_owned()
        } else {
            format!("{hit} times")
        };
        let list = gdb.run("info breakpoints");
        assert!(list.contains(&format!("already hit {times}")), "{list}");
        gdb.begin("continue");
    }
    assert_eq!(service.console().result(begun, LIMIT).1, 0);
    assert_eq!(service.console().command("hostname"), "h3\n");
}

#[test]
fn a_condition_is_obeyed_and_counts_its_hits() {
    let Some((snapshot, mut service, mut gdb)) = attached() else {
        return;
    };
    let function = snapshot.symbol("__x64_sys_sethostname");
    // RDI points to the caller's registers, in which RSI at 104 is the name's length.
    gdb.run(&format!(
        "break *{function:#x} if *(unsigned long*)($rdi+104) == 4"
    ));
    gdb.begin("continue");
    let begun = service
        .console()
        .begin("for n in a ab abc abcd abcde; do hostname $n; done");
    let stop = gdb.end();
    assert!(stop.contains("Breakpoint 1, "), "{stop}");
    assert_eq!(gdb.value("*(unsigned long*)($rdi+104)"), 4);
    assert!(gdb.run("info breakpoints").contains("already hit 1 time"));
    gdb.begin("continue");
    assert_eq!(service.console().result(begun, LIMIT).1, 0);
    assert_eq!(service.console().command("hostname"), "abcde\n");
}

#[test]
fn an_ignore_count_and_a_temporary_breakpoint_work() {
    let Some((snapshot, mut service, mut gdb)) = attached() else {
        return;
    };
    let function = snapshot.symbol("__x64_sys_sethostname");
    gdb.run(&format!("break *{function:#x}"));
    gdb.run("ignore 1 3");
    gdb.begin("continue");
    let begun = service
        .console()
        .begin("for n in 1 2 3 4 5; do hostname h$n; done");
    gdb.end();
    assert!(gdb.run("info breakpoints").contains("already hit 4 times"));
    gdb.run("delete 1");
    gdb.run(&format!("thbreak *{function:#x}"));
    let stop = gdb.resume();
    assert!(stop.contains("Temporary breakpoint 2, "), "{stop}");
    assert!(gdb.run("info breakpoints").contains("No breakpoints"));
    gdb.begin("continue");
    assert_eq!(service.console().result(begun, LIMIT).1, 0);
}

#[test]
fn a_hardware_breakpoint_stops() {
    let Some((snapshot, mut service, mut gdb)) = attached() else {
        return;
    };
    let function = snapshot.symbol("__x64_sys_sethostname");
    let answer = gdb.run(&format!("hbreak *{function:#x}"));
    assert!(answer.contains("Hardware assisted breakpoint 1 at"), "{answer}");
    gdb.begin("continue");
    service.console().types("hostname x\r");
    assert!(gdb.end().contains("Breakpoint 1, "));
    assert_eq!(gdb.value("$rip"), function);
}

#[test]
fn commands_run_at_a_breakpoint() {
    let Some((snapshot, mut service, mut gdb)) = attached() else {
        return;
    };
    let name = host_name(snapshot, &service);
    gdb.run(&format!("break *{:#x}", snapshot.symbol("__x64_sys_sethostname")));
    gdb.run(&format!(
        "commands\nsilent\nprintf \"name %s\\n\", (char*){name:#x}\ncontinue\nend"
    ));
    gdb.begin("continue");
    service.console().command("hostname one; hostname two");
    gdb.interrupt();
    let text = gdb.end();
    assert!(
        text.contains("name kdd-guest") && text.contains("name one"),
        "{text}"
    );
}

/// Addresses of functions of the kernel: they are aligned, and the gaps before them are filled with INT3.
#[track_caller]
fn functions(service: &Service, snapshot: &Snapshot, count: usize) -> Vec<u64> {
    let start = snapshot.symbol("_stext");
    let text = service
        .kdd(&["mem", "read", "vm", &format!("{start:x}"), "1M", "-o", "-"])
        .done()
        .stdout;
    (16..text.len())
        .step_by(16)
        .filter(|&at| text[at - 2..at] == [0xcc, 0xcc] && text[at] != 0xcc)
        .map(|at| start + at as u64)
        .skip(count)
        .take(count)
        .collect()
}

#[test]
fn two_hundred_breakpoints_at_once_and_the_guest_cannot_see_them() {
    let Some(snapshot) = one_vcpu().filter(|_| has_tool("gdb")) else {
        return;
    };
    let mut service = snapshot.service();
    let functions = functions(&service, snapshot, 200);
    assert_eq!(functions.len(), 200);
    // /proc/kcore is the kernel's memory as an ELF file: where in it is the page that a function is in?
    let headers = service
        .console()
        .command("head -c 1024 /proc/kcore | xxd -p | tr -d '\\n'; echo");
    let (low, high) = (
        functions.iter().min().expect("some") & !4095,
        functions.iter().max().expect("some") | 4095,
    );
    let offset = kcore_offset(&headers, low).expect("the kernel's text in /proc/kcore");
    let pages = (high + 1 - low) / 4096;
    let sum = format!(
        "dd if=/proc/kcore bs=4096 skip={} count={pages} 2>/dev/null | md5sum",
        offset / 4096
    );
    let before = service.console().command(&sum);
    let read = |service: &Service| {
        let length = (high + 1 - low).to_string();
        service
            .kdd(&["mem", "read", "vm", &format!("{low:x}"), &length, "-o", "-"])
            .done()
            .stdout
    };
    let memory = read(&service);

    let mut gdb = Gdb::attached(&service.gdb_address());
    for (n, function) in functions.iter().enumerate() {
        // Half of them stop each time, which is passed over; half have a condition that never holds.
        gdb.run(&format!(
            "break *{function:#x}{}",
            if n % 2 == 0 { " if $rsp == 1" } else { "" }
        ));
        if n % 2 == 1 {
            gdb.run("ignore $bpnum 100000000");
        }
    }
    gdb.run(&format!("break *{:#x}", snapshot.symbol("__x64_sys_sethostname")));
    gdb.begin("continue");
    assert_eq!(service.console().command(&sum), before);
    let begun = service.console().begin("hostname x");
    let stop = gdb.end();
    assert!(stop.contains("Breakpoint 201, "), "{stop}");
    assert!(read(&service) == memory, "the kernel's text has changed");
    gdb.detach();
    assert_eq!(service.console().result(begun, LIMIT).1, 0);
    assert_eq!(service.console().command(&sum), before);
}

/// Where an address is in a 64-bit ELF core file, whose first bytes are given in hex.
fn kcore_offset(headers: &str, address: u64) -> Option<u64> {
    let digits = headers.trim();
    let bytes: Vec<u8> = (0..digits.len() / 2)
        .map_while(|n| u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).ok())
        .collect();
    let number = |at: usize, size: usize| -> Option<u64> {
        Some(
            bytes
                .get(at..at + size)?
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | u64::from(*byte)),
        )
    };
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    (0..count).find_map(|n| {
        let at = (table + n * size) as usize;
        let (offset, start, length) = (number(at + 8, 8)?, number(at + 16, 8)?, number(at + 32, 8)?);
        (start..start.saturating_add(length))
            .contains(&address)
            .then(|| offset + address - start)
    })
}

#[test]
fn a_breakpoint_at_an_address_that_is_not_mapped_works_once_it_is() {
    let Some(snapshot) = one_vcpu().filter(|_| has_tool("gdb")) else {
        return;
    };
    let Some(guest) = guest(None) else { return };
    let function = snapshot.symbol("start_kernel");
    let (kernel, initrd) = (guest.kernel.to_string_lossy(), guest.initrd.to_string_lossy());
    let mut service = Service::run(&[
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "--append",
        "console=ttyS0 nokaslr",
        "--paused",
    ]);
    // It waits for its debugger, at its first instruction.
    assert_eq!(service.state("vm"), ("paused".into(), 0));
    let mut gdb = Gdb::attached(&service.gdb_address());
    let answer = gdb.run(&format!("x/i {function:#x}"));
    assert!(answer.contains("Cannot access memory"), "{answer}");
    gdb.run(&format!("break *{function:#x}"));
    let stop = gdb.resume();
    assert!(stop.contains("Breakpoint 1, "), "{stop}");
    assert_eq!(gdb.value("$rip"), function);
    assert!(!gdb.run(&format!("x/i {function:#x}")).contains("Cannot"));
    gdb.detach();
    service.console().shows("Linux version", LIMIT);
}

#[test]
fn a_breakpoint_at_a_physical_address_stops() {
    let Some((snapshot, mut service, mut gdb)) = attached() else {
        return;
    };
    let function = snapshot.symbol("__x64_sys_sethostname");
    let walk = service
        .kdd(&["translate", "vm", &format!("{function:x}"), "--json"])
        .done()
        .json();
    let physical = walk["physical"].as_str().expect("a physical address").to_owned();
    gdb.run("monitor place physical");
    gdb.run(&format!("hbreak *{physical}"));
    gdb.begin("continue");
    let begun = service.console().begin("hostname x");
    let stop = gdb.end();
    assert!(stop.contains("SIGTRAP"), "{stop}");
    assert_eq!(gdb.value("$rip"), function);
    gdb.begin("continue");
    assert_eq!(service.console().result(begun, LIMIT).1, 0);
}
