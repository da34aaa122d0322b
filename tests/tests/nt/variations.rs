//! Kernels that nobody has seen: a layout that is no known kernel's is recognised by structure alone, without its PDB.

use nt_guest::Profile;
use serde_json::{Value, json};
use tests::{BOOT_LIMIT, Scratch, Service, has_tool};

/// A profile whose structures have room in the middle that the built-in one's don't have: all behind it lies further on.
fn shifted(name: &str, symbols_stay: bool) -> Value {
    let known = Profile::built_in(name).expect("it is built in");
    let mut structs = known.structs.clone();
    let process_part = known.structs["_EPROCESS"]["ProcessLock"];
    let thread_part = known.structs["_KTHREAD"]["_size"];
    let x86 = known.arch.name() == "x86";
    let pick = |of_x64, of_x86| if x86 { of_x86 } else { of_x64 };
    for (structure, from, by) in [
        ("_EPROCESS", process_part, pick(0x38, 0x18)),
        ("_KTHREAD", pick(0xd0, 0x60), 0x18),
        ("_ETHREAD", thread_part, pick(0x28, 0x20)),
        ("_KPRCB", pick(0x700, 0x400), 0x80),
    ] {
        for (field, offset) in structs.get_mut(structure).expect("every profile has it") {
            if *offset >= from && !field.contains('.') {
                *offset += by;
            }
        }
    }
    let rvas = if symbols_stay {
        known.rvas.clone()
    } else {
        Default::default()
    };
    json!({"version": known.version, "arch": known.arch.name(), "structs": structs, "rvas": rvas})
}

fn rows(service: &Service, command: &str) -> Vec<Value> {
    let listed = service.kdd(&[command, "vm", "--json"]).done().json();
    let name = if command == "ps" { "processes" } else { command };
    listed[name].as_array().cloned().unwrap_or_default()
}

fn is_recognised(name: &str, symbols_stay: bool, cpus: &str) {
    if !has_tool("clang") || !has_tool("lld-link") {
        return;
    }
    let stem = format!("shifted-{name}");
    let scratch = Scratch::default();
    let file = scratch.path(&format!("{stem}.json"));
    std::fs::write(&file, shifted(name, symbols_stay).to_string()).expect("it is written");
    let path = file.to_string_lossy();
    let mut service = Service::run(&["--nt", &*path, "--memory", "64M", "--cpus", cpus]);
    service.console().shows("nt> ", BOOT_LIMIT);
    service.kdd(&["pause", "vm"]).done();

    let os = &service.info("vm")["os"];
    assert_eq!(os["pdb_found"], json!(false), "{os}");
    let step = |what: &str| {
        let steps = os["recognition"].as_array().cloned().unwrap_or_default();
        steps
            .into_iter()
            .find(|step| step["what"] == what)
            .map(|step| step["found"].clone())
    };
    assert_eq!(step("known kernel"), Some(json!(false)), "{os}");
    assert_eq!(step("debugger data"), Some(json!(true)), "{os}");
    let names: Vec<Value> = rows(&service, "ps")
        .iter()
        .map(|row| row["name"].clone())
        .collect();
    for expected in ["System", "smss.exe", "lsass.exe", "explorer.exe"] {
        assert!(names.contains(&json!(expected)), "{expected}: {names:?}");
    }
    // One of each program, three of System's, and the idle threads.
    let threads = rows(&service, "threads").len();
    assert!(threads >= names.len() + 2, "{threads} threads of {names:?}");
    assert_eq!(rows(&service, "modules").len(), 3);
    // It was built beside the profiles' guests.
    let _ = std::fs::remove_dir_all(tests::cache_folder().join("nt").join(&stem));
}

#[test]
fn a_layout_of_no_known_kernel_is_recognised_on_x64() {
    is_recognised("win10-19041-x64", true, "4");
}

#[test]
fn a_layout_of_no_known_kernel_is_recognised_where_symbols_lie_elsewhere_too() {
    is_recognised("win10-1607-x64", false, "1");
}

#[test]
fn a_layout_of_no_known_kernel_is_recognised_on_x86() {
    is_recognised("win10-x86", false, "1");
}
