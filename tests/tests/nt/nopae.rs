//! x86 without PAE: two levels of page tables, seen by kdd and by Microsoft's engine.

use serde_json::{Value, json};
use tests::{BOOT_LIMIT, Engine, EngineOptions, Scratch, Service, cache_folder, has_engine, has_tool};

fn rows(service: &Service, command: &str) -> Vec<Value> {
    let listed = service.kdd(&[command, "vm", "--json"]).done().json();
    let name = if command == "ps" { "processes" } else { command };
    listed[name].as_array().cloned().unwrap_or_default()
}

/// kdd lists what each guest has: programs, their threads, modules.
fn lists_are_whole(service: &Service) {
    let names: Vec<Value> = rows(service, "ps")
        .iter()
        .map(|row| row["name"].clone())
        .collect();
    for expected in ["System", "smss.exe", "lsass.exe", "explorer.exe"] {
        assert!(names.contains(&json!(expected)), "{expected}: {names:?}");
    }
    let threads = rows(service, "threads").len();
    assert!(threads >= names.len() + 2, "{threads} threads of {names:?}");
    assert_eq!(rows(service, "modules").len(), 3);
}

#[test]
fn a_profile_without_pae_runs_and_is_recognised() {
    if !has_tool("clang") || !has_tool("lld-link") {
        return;
    }
    let scratch = Scratch::default();
    let file = scratch.path("plain-x86.json");
    let profile = json!({"version": "6.1.7601.17514", "os": "Win7", "arch": "x86", "pae": false});
    std::fs::write(&file, profile.to_string()).expect("it is written");
    let path = file.to_string_lossy();
    let mut service = Service::run(&["--nt", &*path, "--memory", "64M", "--cpus", "2"]);
    service.console().shows("nt> ", BOOT_LIMIT);
    service.kdd(&["pause", "vm"]).done();
    lists_are_whole(&service);
    let info = service.info("vm")["os"].to_string();
    assert!(info.contains("ntkrnlmp.pdb"), "{info}");
    // It was built beside the profiles' guests.
    let _ = std::fs::remove_dir_all(cache_folder().join("nt").join("plain-x86"));
}

#[test]
fn the_engine_debugs_a_kernel_without_pae() {
    if !has_engine() || !has_tool("clang") || !has_tool("lld-link") {
        return;
    }
    let arguments = ["--nt", "win7-x86", "--memory", "64M", "--append", "NODEBUG NOPAE"];
    let mut service = Service::run(&[&arguments[..], &["--kd", "127.0.0.1:0"]].concat());
    service.console().shows("nt> ", BOOT_LIMIT);
    lists_are_whole(&service);

    let folder = cache_folder().join("nt").join("win7-x86");
    let options = EngineOptions {
        symbols: vec![folder.clone()],
        images: vec![folder],
        ..EngineOptions::default()
    };
    let mut engine = Engine::attached(&service.kd_address(), &options);
    let version = engine.run("vertarget");
    assert!(version.contains("Kernel Version 7601"), "{version}");
    assert!(!version.contains("PAE"), "{version}");
    let pae = engine.run("dw nt!KdDebuggerDataBlock+36 L1");
    assert!(pae.trim_end().ends_with(" 0000"), "{pae}");
    // CR4: PSE, and no PAE; the directory is seen where it maps itself.
    let cr4 = number(&engine.run("? @cr4 & 30"));
    assert_eq!(cr4, 0x10);
    let root = number(&engine.run("? @cr3"));
    let own = number(&engine.run("? poi(c0300c00) & fffff000"));
    assert_eq!(own & 0xffff_ffff, root & 0xffff_f000);
    engine.run(".reload");
    let modules = engine.run("lm");
    assert!(
        modules.contains("   nt ") && modules.contains("   hal "),
        "{modules}"
    );
    let entry = engine.run("bp nt!KeClockInterruptNotify; g");
    assert!(entry.contains("nt!KeClockInterruptNotify"), "{entry}");
    let stack = engine.run("k");
    assert!(stack.contains("nt!KeClockInterruptNotify"), "{stack}");
    engine.detach();
}

/// What `?` says: `Evaluate expression: 16 = 00000010`.
#[track_caller]
fn number(answer: &str) -> u64 {
    let digits = answer
        .trim()
        .rsplit(' ')
        .next()
        .unwrap_or_default()
        .replace('`', "");
    u64::from_str_radix(&digits, 16).unwrap_or_else(|_| panic!("{answer}"))
}
