//! memprocfs, a reader of Windows memory that others wrote, lists from an image of the running guest's memory what kdd
//! lists from outside.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use tests::{BOOT_LIMIT, Service, has_memprocfs};

/// What memprocfs can compare of a profile without a symbol server: processes and modules of all.
struct Known {
    profile: &'static str,
    /// Threads too. Its own table of offsets has no trap frame for x86, and for Windows 7 the ETHREAD of the first
    /// release, eight bytes shorter than that of the update in the profile.
    threads: bool,
    /// The loader options. Before Windows 10 it finds the list of modules by the debugger data block or by symbols:
    /// the block must be plain.
    options: &'static str,
}

const fn known(profile: &'static str, threads: bool, options: &'static str) -> Known {
    Known {
        profile,
        threads,
        options,
    }
}

const KNOWN: [Known; 12] = [
    known("win7-x64", false, "NODEBUG"),
    known("win7-x86", false, "NODEBUG"),
    known("win8-x64", true, "DEBUG"),
    known("win81-x64", true, "DEBUG"),
    known("win10-1607-x64", true, "NODEBUG"),
    known("win10-1809-x64", true, "NODEBUG"),
    known("win10-1903-x64", true, "NODEBUG"),
    known("win10-19041-x64", true, "NODEBUG"),
    known("win10-x86", false, "NODEBUG"),
    known("win11-22000-x64", true, "NODEBUG"),
    known("win11-22621-x64", true, "NODEBUG"),
    known("win2022-x64", true, "NODEBUG"),
];

/// The guest's physical memory as a file, with holes where there is none.
fn image(service: &Service, path: &Path) {
    let part = |start: u64, length: u64| {
        let file = service.scratch().path("part");
        let (start, length) = (format!("{start:#x}"), format!("{length:#x}"));
        let name = file.to_string_lossy();
        service
            .kdd(&["mem", "read", "vm", &start, &length, "--phys", "-o", &*name])
            .done();
        std::fs::read(&file).expect("it was written")
    };
    let mut bytes = part(0, 0xa_0000);
    bytes.resize(0x10_0000, 0);
    bytes.extend(part(0x10_0000, (64 << 20) - 0x10_0000));
    std::fs::write(path, bytes).expect("the image is written");
}

fn memprocfs(image: &Path) -> Value {
    let mut command = Command::new("python3");
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/memprocfs/list.py"))
        .arg(image)
        .env("PYTHONPATH", tests::memprocfs_folder());
    let output = command.output().expect("python3 runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"))
}

fn number(value: &Value) -> u64 {
    let text = value.as_str().unwrap_or_default();
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or_else(|_| panic!("{value}"))
}

fn rows<'a>(value: &'a Value, name: &str) -> &'a Vec<Value> {
    value[name]
        .as_array()
        .unwrap_or_else(|| panic!("{name}: {value}"))
}

fn both_lists_are_equal(known: &Known, cpus: &str) {
    let Known {
        profile,
        threads: with_threads,
        options,
    } = *known;
    let arguments = [
        "--nt", profile, "--memory", "64M", "--append", options, "--cpus", cpus,
    ];
    let mut service = Service::run(&arguments);
    service.console().shows("nt> ", BOOT_LIMIT);
    service.kdd(&["pause", "vm"]).done();
    let path = service.scratch().path("memory.raw");
    image(&service, &path);
    let theirs = memprocfs(&path);

    let listed = |command: &str| service.kdd(&[command, "vm", "--json"]).done().json();
    let mut threads: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for thread in rows(&listed("threads"), "threads") {
        let of = threads.entry(thread["pid"].as_u64().unwrap_or(0)).or_default();
        of.extend(thread["tid"].as_u64());
        of.sort_unstable();
    }
    let process = |p: &Value, parent: &str, threads: Value| {
        let threads = if with_threads { threads } else { Value::Null };
        json!([p["pid"], p[parent], p["name"], number(&p["root"]), threads])
    };
    let processes = listed("ps");
    let mut ours: Vec<Value> = rows(&processes, "processes")
        .iter()
        .map(|p| process(p, "parent_pid", json!(threads[&p["pid"].as_u64().unwrap_or(0)])))
        .collect();
    let mut found: Vec<Value> = rows(&theirs, "processes")
        .iter()
        .map(|p| process(p, "ppid", p["threads"].clone()))
        .collect();
    let by_pid = |p: &Value| p[0].as_u64();
    ours.sort_by_key(by_pid);
    found.sort_by_key(by_pid);
    assert!(ours.len() > 10, "{ours:?}");
    assert_eq!(ours, found, "{profile}");

    let modules = listed("modules");
    let mut ours: Vec<(u64, u64)> = rows(&modules, "modules")
        .iter()
        .map(|m| (number(&m["base"]), m["bytes"].as_u64().unwrap_or(0)))
        .collect();
    // It walks the list from its middle.
    let mut found: Vec<(u64, u64)> = rows(&theirs, "modules")
        .iter()
        .map(|m| (number(&m["base"]), m["size"].as_u64().unwrap_or(0)))
        .collect();
    ours.sort_unstable();
    found.sort_unstable();
    assert!(ours.len() >= 3, "{ours:?}");
    assert_eq!(ours, found, "{profile}");
    assert_eq!(
        theirs["build"].as_u64(),
        service.info("vm")["os"]["build"].as_u64()
    );
}

#[test]
fn memprocfs_lists_the_same_processes_threads_and_modules() {
    if has_memprocfs() {
        KNOWN.iter().for_each(|known| both_lists_are_equal(known, "1"));
    }
}

#[test]
fn memprocfs_lists_the_same_without_pae() {
    if has_memprocfs() {
        // On one processor no page table for the lowest addresses is ever made, and it knows a root by that.
        both_lists_are_equal(&known("win7-x86", false, "NODEBUG NOPAE"), "4");
    }
}

#[test]
fn memprocfs_finds_a_kernel_of_four_processors_by_their_start_block() {
    if has_memprocfs() {
        both_lists_are_equal(&known("win10-19041-x64", true, "NODEBUG"), "4");
    }
}

#[test]
fn every_profile_is_compared_with_memprocfs() {
    let mut all: Vec<&str> = nt_guest::Profile::names().collect();
    let mut compared: Vec<&str> = KNOWN.iter().map(|known| known.profile).collect();
    all.sort_unstable();
    compared.sort_unstable();
    assert_eq!(all, compared);
}
