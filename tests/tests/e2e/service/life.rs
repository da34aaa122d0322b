//! From start to end: the service, its configuration, its guests' consoles.

use super::NOTHING;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use tests::{LIMIT, Outcome, Scratch, Service, one_vcpu, until};

#[test]
fn a_service_says_where_it_is_and_ends_cleanly() {
    let mut service = Service::serve(NOTHING);
    assert_eq!(service.ready()["control"].as_str(), service.control().to_str());
    assert!(service.ready()["pid"].is_u64());
    let mode = std::fs::metadata(service.control())
        .expect("a socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    assert!(service.kdd(&["list", "--json"]).done().json_lines().is_empty());
    service.terminate();
    assert_eq!(service.ended(LIMIT).code(), Some(0));
    assert!(!service.control().exists());
}

#[test]
fn a_reset_boots_again() {
    let Some(snapshot) = one_vcpu() else { return };
    let mut service = snapshot.service();
    service.kdd(&["reset", "vm"]).done();
    service.console().shows("Linux version", LIMIT);
}

#[test]
fn a_console_socket_and_a_console_file_work() {
    let Some(snapshot) = one_vcpu() else { return };
    let service = Service::serve(NOTHING);
    let socket = service.scratch().path("console");
    let to = format!("unix:{}", socket.display());
    service
        .kdd(&[
            "create",
            "--restore",
            snapshot.state(),
            "--name",
            "vm",
            "--console",
            &to,
        ])
        .done();
    let mut stream = UnixStream::connect(&socket).expect("the console");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream.write_all(b"echo $((6*7))two\r").expect("typed");
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    while !seen.contains("42two") {
        let read = stream.read(&mut buffer).expect("output");
        assert_ne!(read, 0, "{seen}");
        seen += &String::from_utf8_lossy(&buffer[..read]);
    }

    let mut second = Service::serve(NOTHING);
    let file = second.scratch().path("log");
    let to = format!("file:{}", file.display());
    second
        .kdd(&["create", "--restore", snapshot.state(), "--console", &to])
        .done();
    second.kdd(&["reset", "vm"]).done();
    until("the kernel's first line", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains("Linux version"))
    });
    second.terminate();
    second.ended(LIMIT);
}

#[test]
fn a_configuration_lists_domains() {
    let Some(snapshot) = one_vcpu() else { return };
    let scratch = Scratch::default();
    let config = format!(
        "[[domain]]\nname = \"one\"\nrestore = {:?}\npaused = true\ngdb = [\"127.0.0.1:0\"]\n",
        snapshot.state()
    );
    let path = scratch.file("kdd.toml", config.as_bytes());
    let service = Service::serve(&["--config".as_ref(), path.as_os_str()]);
    assert_eq!(service.ready()["domains"][0]["name"], "one");
    assert_eq!(service.state("one").0, "paused");
    let bad = scratch.file("bad.toml", b"[[domain]]\nkernel = 5\n");
    Outcome::of(
        &scratch.path("control"),
        &["serve".as_ref(), "--config".as_ref(), bad.as_os_str()],
    )
    .fails(1);
    let none = scratch.path("none.toml");
    Outcome::of(
        &scratch.path("control"),
        &["serve".as_ref(), "--config".as_ref(), none.as_os_str()],
    )
    .fails(1);
}

#[test]
fn a_signal_ends_a_run_and_leaves_nothing() {
    let Some(snapshot) = one_vcpu() else { return };
    let mut service = snapshot.service();
    service.console().answers();
    service.terminate();
    assert_eq!(service.ended(LIMIT).code(), Some(0));
    assert!(!service.control().exists());
}
