//! Dumps served as guests: they say what the live guest said, to every command and debugger, and refuse the rest.

use super::{Guest, NOTHING, PROFILE, a_while, text};
use serde_json::Value;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use tests::kd::KdClient;
use tests::{Gdb, Service, nt_guest, one_vcpu};

/// What every command says of a domain, by command.
#[track_caller]
fn said(service: &Service, domain: &str, commands: &[&[&str]]) -> Vec<(String, Value)> {
    let answer = |command: &&[&str]| {
        let mut all: Vec<&str> = command.to_vec();
        let place = all.iter().position(|word| *word == "DOM").expect("a place");
        all[place] = domain;
        all.push("--json");
        (command.join(" "), service.kdd(&all).done().json())
    };
    commands.iter().map(answer).collect()
}

/// A memory image: the guest's RAM by `kdd mem read`, as raw memory or, with headers, LiME.
fn image(guest: &Guest, path: &Path, bytes: u64, lime: bool) {
    let mut file = fs::File::create(path).expect("a new file");
    for (start, end) in [(0, 0xa_0000), (0x10_0000, bytes)] {
        let length = end - start;
        let read = [
            "mem",
            "read",
            "vm",
            &format!("{start:x}"),
            &format!("{length}"),
            "--phys",
            "-o",
            "-",
        ];
        let memory = guest.service.kdd(&read).done().stdout;
        assert_eq!(memory.len() as u64, length);
        if lime {
            // LiME's lime.h: magic, version, first and last address, reserved.
            file.write_all(&0x4c69_4d45_u32.to_le_bytes()).expect("written");
            file.write_all(&1_u32.to_le_bytes()).expect("written");
            for value in [start, end - 1, 0] {
                file.write_all(&value.to_le_bytes()).expect("written");
            }
        } else {
            file.seek(SeekFrom::Start(start)).expect("a place");
        }
        file.write_all(&memory).expect("written");
    }
}

/// What can't be done to a dump.
#[track_caller]
fn assert_refusals(service: &Service, domain: &str) {
    let file = text(&service.scratch().path("never"));
    let refused: &[&[&str]] = &[
        &["pause", domain],
        &["unpause", domain],
        &["reset", domain],
        &["save", domain, &file],
        &["fork", domain],
        &["watch", domain, "--on", "crash"],
        &["mem", "write", domain, "1000", "00", "--phys"],
    ];
    for command in refused {
        let why = service.kdd(command).fails(1);
        assert!(why.contains("it") || why.contains("can't"), "{command:?}: {why}");
    }
    assert!(!Path::new(&file).exists());
}

#[test]
fn windows_dumps_say_what_the_guest_says() {
    let Some((nt, guest)) = Guest::nt() else { return };
    guest.service.kdd(&["pause", "vm"]).done();
    let kernel = format!("{:x}", nt.base());
    let process = format!("{:x}", nt.processes()[1].address);
    let views: &[&[&str]] = &[
        &["ps", "DOM"],
        &["modules", "DOM"],
        &["threads", "DOM"],
        &["mem", "read", "DOM", &kernel, "4096"],
        &["mem", "read", "DOM", &process, "512"],
        &["translate", "DOM", &kernel],
    ];
    let registers: &[&[&str]] = &[&["regs", "DOM"], &["regs", "DOM", "--vcpu", "1"]];
    let (expected, expected_registers) = (
        said(&guest.service, "vm", views),
        said(&guest.service, "vm", registers),
    );
    let os = guest.service.info("vm")["os"].clone();
    let scratch = guest.service.scratch();
    let served = Service::serve(NOTHING);
    for format in ["windows", "windows-bitmap", "windows-kernel", "elf"] {
        let path = text(&scratch.path(format));
        guest
            .service
            .kdd(&["dump", "vm", "--format", format, "-o", &path])
            .done();
        served.kdd(&["create", "--dump", &path, "--name", format]).done();
    }
    for (name, lime) in [("raw", false), ("lime", true)] {
        let path = scratch.path(name);
        image(&guest, &path, 128 << 20, lime);
        served
            .kdd(&["create", "--dump", &text(&path), "--name", name])
            .done();
    }
    for format in [
        "windows",
        "windows-bitmap",
        "windows-kernel",
        "elf",
        "raw",
        "lime",
    ] {
        let got = said(&served, format, views);
        for ((command, expected), (_, got)) in expected.iter().zip(&got) {
            assert_eq!(got, expected, "{format}: {command}");
        }
        let info = served.info(format);
        for field in ["build", "kernel_base", "name"] {
            assert_eq!(info["os"][field], os[field], "{format}: {info}");
        }
        if !matches!(format, "raw" | "lime") {
            // What the format has no place for.
            let missing: &[&str] = match format {
                "elf" => &["apic_base", "mtrr_def_type", "star", "lstar", "cstar", "sfmask"],
                _ => &["apic_base", "mtrr_def_type"],
            };
            for ((command, expected), (_, got)) in
                expected_registers.iter().zip(&said(&served, format, registers))
            {
                for (name, value) in expected["registers"].as_object().expect("registers") {
                    // Neither QEMU's notes nor NT_PRSTATUS have the task priority.
                    if name == "cr8" && format == "elf" {
                        continue;
                    }
                    if !missing.contains(&&**name) {
                        assert_eq!(&got["registers"][name], value, "{format}: {command}: {name}");
                    }
                }
                assert_eq!(got["registers"]["rip"], expected["registers"]["rip"], "{format}");
                assert_eq!(got["registers"]["cr3"], expected["registers"]["cr3"], "{format}");
            }
        }
        assert_refusals(&served, format);
    }
    served.kdd(&["destroy", "raw"]).done();
    served.kdd(&["info", "raw"]).fails(3);
}

#[test]
fn kd_attaches_to_a_dump_and_reads_it() {
    let Some(nt) = nt_guest(PROFILE, 2) else { return };
    let Some((_, guest)) = Guest::nt() else { return };
    guest.service.kdd(&["pause", "vm"]).done();
    let path = text(&guest.service.scratch().path("memory.dmp"));
    guest.service.kdd(&["dump", "vm", "-o", &path]).done();
    let live = guest.service.kdd(&["regs", "vm", "--json"]).done().json();
    let served = Service::run(&["--dump", &path, "--kd", "127.0.0.1:0"]);
    let (mut client, stop) = KdClient::attach(&served.kd_address());
    assert_eq!(stop.processors, 2);
    let version = client.version();
    assert_eq!(version.kernel_base, nt.base());
    assert_eq!(client.read_virtual(nt.base(), 2).as_deref(), Ok(&b"MZ"[..]));
    let context = client.context(0).expect("a context");
    let rip = format!("{:#x}", tests::kd::requests::register(&context, "rip"));
    assert_eq!(live["registers"]["rip"], rip);
    // Writing is refused, and the session goes on.
    assert!(client.write_virtual(nt.base(), b"XX").is_err());
    assert!(client.write_physical(0x10_0000, b"XX").is_err());
    assert_eq!(client.read_virtual(nt.base(), 2).as_deref(), Ok(&b"MZ"[..]));
    let mut changed = context.clone();
    tests::kd::requests::set_register(&mut changed, "rax", 0x1234_5678);
    assert!(client.set_context(0, &changed).is_err());
    assert_eq!(client.context(0).expect("a context"), context);
}

#[test]
fn linux_dumps_say_what_the_guest_says_to_commands_and_to_gdb() {
    let Some(guest) = Guest::linux() else { return };
    let snapshot = one_vcpu().expect("it is there");
    guest.service.kdd(&["pause", "vm"]).done();
    let banner = snapshot.symbol("linux_banner");
    let address = format!("{banner:x}");
    let views: &[&[&str]] = &[
        &["mem", "read", "DOM", &address, "64"],
        &["translate", "DOM", &address],
    ];
    let expected = said(&guest.service, "vm", views);
    let registers = guest.service.kdd(&["regs", "vm", "--json"]).done().json();
    let scratch = guest.service.scratch();
    for (name, options) in [
        ("elf", &["--format", "elf"][..]),
        ("gdb", &["--format", "elf", "--for-gdb"]),
        ("kdump", &["--format", "kdump"]),
        (
            "filtered",
            &["--format", "kdump", "-d", "31", "--compress", "zstd"],
        ),
    ] {
        let path = text(&scratch.path(name));
        let mut all = vec!["dump", "vm", "-o", &path];
        all.extend(options);
        guest.service.kdd(&all).done();
        let served = Service::run(&["--dump", &path, "--gdb", "127.0.0.1:0"]);
        for ((command, expected), (_, got)) in expected.iter().zip(&said(&served, "vm", views)) {
            assert_eq!(got, expected, "{name}: {command}");
        }
        let got = served.kdd(&["regs", "vm", "--json"]).done().json();
        for register in ["rip", "rsp", "cr3", "rax", "rflags"] {
            assert_eq!(
                got["registers"][register], registers["registers"][register],
                "{name}: {register}"
            );
        }
        assert_refusals(&served, "vm");
        gdb_reads_and_no_more(&served, banner, &registers);
    }
}

/// gdb at a dump: it reads; it can't write or run, is told so, and goes on reading.
#[track_caller]
fn gdb_reads_and_no_more(served: &Service, banner: u64, registers: &Value) {
    let mut gdb = Gdb::attached(&served.gdb_address());
    let rip = format!("{:#x}", gdb.value("$rip"));
    assert_eq!(registers["registers"]["rip"], rip);
    let text = gdb.run(&format!("x/s {banner:#x}"));
    assert!(text.contains("\"Linux version "), "{text}");
    let written = gdb.run(&format!("set var *(char*){banner:#x} = 0x41"));
    assert!(written.contains("Cannot access memory"), "{written}");
    let written = gdb.run("set $rip = 0");
    assert!(written.to_lowercase().contains("could not write"), "{written}");
    gdb.run("maintenance flush register-cache");
    assert_eq!(registers["registers"]["rip"], format!("{:#x}", gdb.value("$rip")));
    for command in ["continue", "stepi"] {
        gdb.begin(command);
        let stop = gdb.end();
        assert!(
            !stop.contains("exited") && !stop.contains("closed"),
            "{command}: {stop}"
        );
    }
    let text = gdb.run(&format!("x/s {banner:#x}"));
    assert!(text.contains("\"Linux version "), "{text}");
    gdb.detach();
    a_while();
    served.kdd(&["info", "vm"]).done();
}
