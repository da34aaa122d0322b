//! What a Windows guest says of itself, from outside: `kdd ps`, `threads`, `modules`, and `kdd info`.

use super::NOTHING;
use std::process::Command;
use tests::{Service, has_tool, kdd, until};

const PROFILE: &str = "win10-19041-x64";

/// A service with the NT-shaped guest as the domain `nt`; `None` where the guest can't be built.
fn nt() -> Option<Service> {
    if !has_tool("clang") || !has_tool("lld-link") {
        return None;
    }
    let service = Service::serve(NOTHING);
    let output = Command::new(kdd())
        .args(["create", "--nt", PROFILE, "--name", "nt", "--memory", "128M"])
        .env("KDD_CONTROL", service.control())
        .env("KDD_CACHE", concat!(env!("CARGO_TARGET_TMPDIR"), "/guests"))
        .output()
        .expect("kdd runs");
    assert!(output.status.success(), "{output:?}");
    until("System's processes", || {
        let ps = service.kdd(&["ps", "nt", "--json"]);
        ps.status == 0 && ps.json()["processes"].as_array().is_some_and(|all| all.len() > 1)
    });
    Some(service)
}

#[test]
fn a_windows_guests_processes_threads_and_modules_are_listed_while_it_runs() {
    let Some(service) = nt() else { return };
    let ps = service.kdd(&["ps", "nt", "--json"]).done().json();
    let system = &ps["processes"][0];
    assert_eq!(
        (system["name"].as_str(), system["pid"].as_u64()),
        (Some("System"), Some(4))
    );
    assert!(ps.get("broken").is_none(), "{ps}");
    let table = service.kdd(&["ps", "nt"]).done().text();
    assert!(table.contains("smss.exe"), "{table}");

    let threads = service
        .kdd(&["threads", "nt", "--pid", "4", "--json"])
        .done()
        .json();
    let all = threads["threads"].as_array().expect("threads");
    assert!(
        all.iter().all(|thread| thread["pid"] == 4) && !all.is_empty(),
        "{threads}"
    );
    service.kdd(&["threads", "nt", "--pid", "5"]).fails(1);

    let modules = service.kdd(&["modules", "nt", "--json"]).done().json();
    assert_eq!(modules["modules"][0]["name"], "ntoskrnl.exe");
    let info = service.info("nt");
    assert_eq!(info["os"]["kernel_base"], modules["modules"][0]["base"]);
    assert_eq!(info["os"]["build"], 19041);
    assert_eq!(info["state"], "running", "a look holds it only for a moment");
    let text = service.kdd(&["info", "nt", "-v"]).done().text();
    assert!(
        text.contains("Windows 10 x64, build 19041") && text.contains("known kernel"),
        "{text}"
    );
}

#[test]
fn what_only_linux_has_is_said_to_be_missing() {
    let Some(service) = nt() else { return };
    let why = service.kdd(&["dmesg", "nt"]).fails(1);
    assert!(why.contains("Windows"), "{why}");
    let why = service.kdd(&["symbols", "nt"]).fails(1);
    assert!(why.contains(".pdb/") && why.contains("_NT_SYMBOL_PATH"), "{why}");
    let file = service.scratch().path("elf").display().to_string();
    let why = service.kdd(&["symbols", "nt", "--elf", &file]).fails(1);
    assert!(why.contains("PDB"), "{why}");
    assert!(!std::path::Path::new(&file).exists());
}

#[test]
fn what_is_known_of_a_windows_kernel_has_its_name() {
    let Some(service) = nt() else { return };
    let found = service
        .kdd(&["symbols", "nt", "nt!PsLoadedModuleList", "--json"])
        .done()
        .json();
    assert_eq!(found["name"], "PsLoadedModuleList");
    let address = found["address"].as_str().expect("an address");
    let near = service.kdd(&["symbols", "nt", address, "--json"]).done().json();
    assert_eq!((&near["name"], &near["offset"]), (&found["name"], &0.into()));
    let read = |place: &str| service.kdd(&["mem", "read", "nt", place, "8"]).done().text();
    assert_eq!(read("nt!PsLoadedModuleList"), read(address));
    service
        .kdd(&["mem", "read", "nt", "nt!NoSuchThing", "8"])
        .fails(1);
}
