//! What a Windows guest says of itself, from outside: `kdd ps`, `threads`, `modules`, and `kdd info`.

use super::{NOTHING, with_guest};
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
fn another_guest_is_said_to_be_no_windows() {
    let Some((_, service)) = with_guest() else { return };
    for command in ["ps", "threads", "modules"] {
        let why = service.kdd(&[command, "vm"]).fails(1);
        assert!(why.contains("Windows"), "{why}");
    }
    assert!(service.info("vm").get("os").is_none());
}
