//! Memory.

use super::{attached, host_name};
use tests::LIMIT;

#[test]
fn the_guest_sees_what_is_written() {
    let Some((snapshot, mut service, mut gdb)) = attached() else {
        return;
    };
    let name = host_name(snapshot, &service);
    assert!(gdb.run(&format!("x/s {name:#x}")).contains("\"kdd-guest\""));
    gdb.run(&format!("set var *(int*){name:#x} = 0x6d6f7266"));
    gdb.run(&format!("set var *(unsigned char*){:#x} = 0x2d", name + 4));
    gdb.detach();
    assert_eq!(service.console().command("hostname"), "from-uest\n");
}

#[test]
fn the_guest_runs_code_that_is_written() {
    let Some((snapshot, mut service, mut gdb)) = attached() else {
        return;
    };
    let function = snapshot.symbol("__x64_sys_sethostname");
    let old = gdb.value(&format!("*(unsigned long*){function:#x}"));
    // mov rax, -1; ret: "operation not permitted".
    gdb.run(&format!(
        "set var *(unsigned long*){function:#x} = 0xc3ffffffffc0c748"
    ));
    gdb.begin("continue");
    let begun = service.console().begin("hostname patched");
    let (text, status) = service.console().result(begun, LIMIT);
    assert!(status != 0 && text.contains("not permitted"), "{text}");
    gdb.interrupt();
    gdb.end();
    gdb.run(&format!("set var *(unsigned long*){function:#x} = {old:#x}"));
    gdb.detach();
    service.console().command("hostname restored");
}

#[test]
fn code_is_disassembled() {
    let Some((snapshot, _service, mut gdb)) = attached() else {
        return;
    };
    let code = gdb.run(&format!("x/20i {:#x}", snapshot.symbol("do_sys_openat2")));
    assert_eq!(code.lines().count(), 20, "{code}");
    assert!(
        code.contains("push") && !code.contains("(bad)") && !code.contains("int3"),
        "{code}"
    );
}

#[test]
fn a_dump_equals_what_kdd_reads() {
    let Some((snapshot, service, mut gdb)) = attached() else {
        return;
    };
    let (start, length) = (snapshot.symbol("_stext"), 4 << 20);
    let by_gdb = service.scratch().path("gdb");
    gdb.run(&format!(
        "dump binary memory {} {start:#x} {:#x}",
        by_gdb.display(),
        start + length
    ));
    let by_kdd = service.scratch().path("kdd");
    let to = by_kdd.display().to_string();
    service
        .kdd(&[
            "mem",
            "read",
            "vm",
            &format!("{start:x}"),
            &length.to_string(),
            "-o",
            &to,
        ])
        .done();
    let (by_gdb, by_kdd) = (
        std::fs::read(by_gdb).expect("gdb's dump"),
        std::fs::read(by_kdd).expect("kdd's"),
    );
    assert_eq!(by_gdb.len() as u64, length);
    assert!(by_gdb == by_kdd, "they differ");
}

#[test]
fn memory_that_is_not_there_is_an_error() {
    let Some((snapshot, _service, mut gdb)) = attached() else {
        return;
    };
    for address in [
        0xdead_0000_u64,
        0x0000_8000_0000_0000,
        0xffff_7fff_ffff_fff8,
        0xffff_ffff_ffff_fff8,
    ] {
        let answer = gdb.run(&format!("x/gx {address:#x}"));
        assert!(answer.contains("Cannot access memory at address"), "{answer}");
        let answer = gdb.run(&format!("set var *(long*){address:#x} = 1"));
        assert!(answer.contains("Cannot access memory at address"), "{answer}");
    }
    // A dump that runs into a hole fails, and what is before it can be read.
    let file = std::env::temp_dir().join("kdd-e2e-never-written");
    let answer = gdb.run(&format!(
        "dump binary memory {} 0xffffffffffe00000 0xffffffffffffffff",
        file.display()
    ));
    assert!(answer.contains("Cannot access memory"), "{answer}");
    assert_ne!(gdb.value(&format!("*(long*){:#x}", snapshot.symbol("_stext"))), 0);
}

#[test]
fn physical_memory_is_the_same_memory() {
    let Some((snapshot, service, mut gdb)) = attached() else {
        return;
    };
    let banner = snapshot.symbol("linux_banner");
    let walk = service
        .kdd(&["translate", "vm", &format!("{banner:x}"), "--json"])
        .done()
        .json();
    let physical = walk["physical"].as_str().expect("a physical address");
    gdb.run("monitor physical on");
    let text = gdb.run(&format!("x/s {physical}"));
    assert!(text.contains("Linux version"), "{text}");
    gdb.run("monitor physical off");
    let text = gdb.run(&format!("x/s {banner:#x}"));
    assert!(text.contains("Linux version"), "{text}");
}

#[test]
fn memory_is_searched_by_the_service() {
    let Some((snapshot, _service, mut gdb)) = attached() else {
        return;
    };
    let banner = snapshot.symbol("linux_banner");
    let found = gdb.run(&format!(
        "find /1 {:#x}, +0x100000, 'L', 'i', 'n', 'u', 'x', ' ', 'v', 'e', 'r'",
        banner - 64
    ));
    assert!(found.contains(&format!("{banner:#x}")), "{found}");
}
