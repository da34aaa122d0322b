//! The control socket.

use super::NOTHING;
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use tests::{LIMIT, Outcome, Scratch, Service, kdd, until};

#[test]
fn a_control_socket_that_is_in_use_is_left_alone_and_a_stale_one_replaced() {
    let mut service = Service::serve(NOTHING);
    let control = service.control().to_owned();
    let serve = ["serve", "--control", control.to_str().expect("a path")];
    let line = Outcome::of(&control, &serve).fails(1);
    assert!(line.contains("control socket"), "{line}");
    service.kdd(&["list"]).done();

    // A service that was killed leaves its socket.
    service.kill();
    assert!(control.exists());
    service.kdd(&["list"]).fails(4);
    let timeout = ["serve", "--control", serve[2], "--timeout", "0.3"];
    Outcome::of(&control, &timeout).fails(124);
    assert!(!control.exists());

    // What isn't a socket isn't removed.
    std::fs::write(&control, "mine").expect("a file");
    Outcome::of(&control, &serve).fails(1);
    assert_eq!(std::fs::read(&control).expect("the file"), b"mine");
    Outcome::of(&control, &["serve", "--control", "/proc/nowhere/control"]).fails(1);
}

#[test]
fn nonsense_on_the_control_socket_is_answered_and_disturbs_nobody() {
    let service = Service::serve(NOTHING);
    let mut stream = UnixStream::connect(service.control()).expect("the socket");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream
        .write_all(b"nonsense\n{\"id\":7,\"request\":\"no-such\"}\n{\"id\":8,\"request\":\"list\"}\n")
        .expect("sent");
    let mut answers = String::new();
    let mut buffer = [0; 4096];
    while answers.lines().count() < 3 || !answers.ends_with('\n') {
        let read = stream.read(&mut buffer).expect("answers");
        assert_ne!(read, 0, "{answers}");
        answers += &String::from_utf8_lossy(&buffer[..read]);
    }
    let answers: Vec<Value> = answers
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    assert!(
        answers[0]["error"].is_object() && answers[1]["error"].is_object(),
        "{answers:?}"
    );
    assert_eq!(
        (&answers[2]["id"], &answers[2]["ok"]["reply"]),
        (&8.into(), &"domains".into())
    );

    // Half a line, an endless line, and many who say nothing.
    UnixStream::connect(service.control())
        .expect("the socket")
        .write_all(b"{\"id\":")
        .expect("sent");
    let mut endless = UnixStream::connect(service.control()).expect("the socket");
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..16 {
        if endless.write_all(&piece).is_err() {
            break;
        }
    }
    let silent: Vec<_> = (0..100)
        .filter_map(|_| UnixStream::connect(service.control()).ok())
        .collect();
    drop(silent);
    until("an answer", || {
        service.kdd(&["list", "--timeout", "10"]).status == 0
    });
}

#[test]
fn a_service_in_its_default_place_is_owner_only() {
    let scratch = Scratch::default();
    let mut command = Command::new(kdd());
    command
        .args(["serve", "--timeout", "0.3"])
        .env("XDG_RUNTIME_DIR", scratch.folder())
        .env_remove("KDD_CONTROL");
    let output = command.output().expect("kdd");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        said,
        format!("control {}\n", scratch.path("kdd/control.sock").display())
    );
    let mode = std::fs::metadata(scratch.path("kdd"))
        .expect("the folder")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700, "{mode:o}");
}
