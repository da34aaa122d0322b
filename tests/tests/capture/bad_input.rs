//! Places that can't be written, ends in the middle, files that are no dumps: a clear error, nothing lost, and nothing
//! left that looks complete.

use super::{Guest, NOTHING, bare, begin, names, text};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use tests::{LIMIT, Service, until};

/// Where dumps of a full guest are in the middle.
const FULL: u32 = 512 << 20;

#[test]
fn places_that_cannot_be_written_are_refused_and_nothing_is_left() {
    let guest = bare::counting_guest("16M");
    let folder = guest.folder("dumps");
    let there = folder.join("there");
    fs::write(&there, "precious").expect("a file");
    let dump = |output: &Path| guest.service.kdd(&["dump", "vm", "-o", &text(output)]).fails(1);
    let why = dump(&there);
    assert!(
        why.contains("the file exists") && why.contains("--force"),
        "{why}"
    );
    let why = dump(&folder.join("missing/file"));
    assert!(why.contains("make the directory first"), "{why}");
    let why = dump(&folder);
    assert!(why.contains("name a file in it"), "{why}");
    let why = dump(Path::new("/proc/self/x"));
    assert!(why.starts_with("kdd: dump /proc/self/x: "), "{why}");
    let force = guest
        .service
        .kdd(&["dump", "vm", "--force", "-o", "/dev/null"])
        .fails(1);
    assert!(force.contains("no ordinary file"), "{force}");
    assert!(fs::metadata("/dev/null").is_ok_and(|facts| !facts.is_file()));
    assert_eq!(fs::read(&there).expect("the file"), b"precious");
    assert_eq!(names(&folder), ["there"]);
    guest
        .service
        .kdd(&["dump", "vm", "--force", "-o", &text(&there)])
        .done();
    assert!(fs::metadata(&there).expect("the file").len() > 1 << 20);
    guest
        .service
        .kdd(&["dump", "nobody", "-o", &text(&folder.join("x"))])
        .fails(3);
    assert_eq!(guest.state(), "running");
}

#[test]
fn formats_that_do_not_fit_the_guest_are_refused() {
    let guest = bare::counting_guest("16M");
    let folder = guest.folder("dumps");
    let output = text(&folder.join("x"));
    for (arguments, words) in [
        (&["--format", "windows"][..], "no Windows kernel"),
        (&["--format", "windows-bitmap"], "no Windows kernel"),
        (&["--format", "kdump"], "no Linux kernel"),
        (&["-d", "31"], "kdump files only"),
        (&["--compress", "zstd"], "only kdump files"),
    ] {
        let mut all = vec!["dump", "vm", "-o", &output];
        all.extend(arguments);
        let why = guest.service.kdd(&all).fails(1);
        assert!(why.contains(words), "{why}");
    }
    assert_eq!(names(&folder), [""; 0]);
}

#[test]
fn a_full_disk_is_an_error_and_the_service_lives() {
    let guest = bare::full(64 << 20);
    let service = &guest.service;
    let folder = guest.folder("dumps");
    let dump = |folder: &Path| {
        let why = service
            .kdd(&["dump", "vm", "-o", &text(&folder.join("x"))])
            .fails(1);
        assert_eq!(names(folder), [""; 0], "{why}");
        why
    };
    // The limit of a file's size, which comes with a signal.
    let id = service.ready()["pid"]
        .as_i64()
        .and_then(|id| Pid::from_raw(id as i32));
    let limit = |current| Rlimit {
        current,
        maximum: None,
    };
    let before = prlimit(id, Resource::Fsize, limit(Some(8 << 20))).expect("a limit");
    let why = dump(&folder);
    assert!(why.contains("File too large"), "{why}");
    let mut watch = guest.watch(&["--on", "reset,crash", "--dump", &text(&folder), "--count", "1"]);
    watch.armed();
    prlimit(id, Resource::Fsize, before).expect("no limit");
    service.kdd(&["reset", "vm"]).done();
    watch.incident();

    let disk = Mount::new(service.scratch().path("disk"));
    if let Some(disk) = &disk {
        let guest = bare::full(64 << 20);
        let why = guest
            .service
            .kdd(&["dump", "vm", "-o", &text(&disk.0.join("x"))])
            .fails(1);
        assert!(
            why.contains("No space left") && why.contains("make room"),
            "{why}"
        );
        assert_eq!(names(&disk.0), [""; 0]);
        assert_eq!(guest.state(), "running");
    }
}

#[test]
fn a_watch_says_why_there_is_no_dump_and_goes_on() {
    let guest = bare::guest(bare::HALT, "16M");
    let folder = guest.folder("dumps");
    let script = "test -z \"$KDD_DUMP\" && echo \"$KDD_DUMP_ERROR\"";
    let rule = [
        "--on",
        "crash",
        "--dump",
        &text(&folder),
        "--format",
        "windows",
        "--exec",
        script,
        "--then",
        "reset",
        "--count",
        "2",
    ];
    let mut watch = guest.watch(&rule);
    watch.armed();
    guest.service.kdd(&["unpause", "vm"]).done();
    let incident = watch.incident();
    let why = incident["dump_error"].as_str().expect("a reason");
    assert!(why.contains("no Windows kernel"), "{why}");
    assert!(
        incident["script"]["output"]
            .as_str()
            .is_some_and(|text| text.contains("no Windows kernel"))
    );
    // The folder goes away under it.
    fs::remove_dir(&folder).expect("it is empty");
    watch.incident();
    assert_eq!(watch.ended().0, 0);
}

/// A tiny file system, where this user may mount one.
struct Mount(PathBuf);

impl Mount {
    fn new(path: PathBuf) -> Option<Mount> {
        fs::create_dir(&path).expect("a new folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(&path);
        let mounted = mount.status().is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("no file system can be mounted here: only the limit of a file's size was tried");
        }
        mounted.then_some(Mount(path))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// A dump that is in the middle: its unfinished file is there and has bytes. One that was too quick to be met there is
/// begun again.
#[track_caller]
#[allow(clippy::zombie_processes)] // the caller waits for it; where an assertion fails, the test program ends
fn in_the_middle(guest: &Guest, folder: &Path) -> Child {
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut client = begin(&guest.service, &["dump", "vm", "-o", &text(&folder.join("x"))]);
        while Instant::now() < deadline {
            match names(folder).as_slice() {
                [] => {}
                [name] if name == "x" => break,
                [name] => {
                    assert!(name.starts_with(".x.") && name.ends_with(".partial"), "{name}");
                    if fs::metadata(folder.join(name)).is_ok_and(|facts| facts.len() > 4 << 20) {
                        return client;
                    }
                }
                names => panic!("{names:?}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        client.wait().expect("it ends");
        fs::remove_file(folder.join("x")).expect("a dump that is complete");
    }
}

#[test]
fn a_service_that_is_killed_leaves_nothing_that_looks_complete() {
    let mut guest = bare::full(FULL);
    let folder = guest.folder("dumps");
    let client = in_the_middle(&guest, &folder);
    guest.service.kill();
    let output = client.wait_with_output().expect("it ends");
    for name in names(&folder) {
        // It may have become complete just before.
        if name == "x" {
            assert!(dump::open(&folder.join("x")).is_ok());
            continue;
        }
        assert_eq!(output.status.code(), Some(4), "{output:?}");
        assert!(name.starts_with(".x.") && name.ends_with(".partial"), "{name}");
    }
}

#[test]
fn a_service_that_is_ended_leaves_nothing() {
    let mut guest = bare::full(FULL);
    let folder = guest.folder("dumps");
    let client = in_the_middle(&guest, &folder);
    guest.service.terminate();
    assert!(guest.service.ended(LIMIT).success());
    let output = client.wait_with_output().expect("it ends");
    let left = names(&folder);
    // Completed or removed: it may have been just about to be complete.
    if output.status.success() {
        assert_eq!(left, ["x"]);
    } else {
        assert_eq!(left, [""; 0], "{output:?}");
    }
}

/// Ends the client of a dump that is in the middle: nothing of it is left. On a busy machine the dump may be complete by
/// then, which is tried again.
#[track_caller]
fn ended_in_the_middle(guest: &Guest, folder: &Path, signal: Signal) {
    for _ in 0..20 {
        let mut client = in_the_middle(guest, folder);
        kill_process(Pid::from_child(&client), signal).expect("it is there");
        client.wait().expect("it ends");
        until("no unfinished file", || {
            names(folder).iter().all(|name| !name.ends_with(".partial"))
        });
        until("the guest to go on", || guest.state() == "running");
        match names(folder).as_slice() {
            [] => return,
            left => assert_eq!(left, ["x"]),
        }
        assert!(dump::open(&folder.join("x")).is_ok());
        fs::remove_file(folder.join("x")).expect("it is there");
    }
    panic!("every dump was complete before its client was ended");
}

#[test]
fn a_client_that_is_killed_leaves_nothing_and_the_guest_goes_on() {
    let guest = bare::full(FULL);
    let folder = guest.folder("dumps");
    ended_in_the_middle(&guest, &folder, Signal::KILL);
    // As does one that is asked to end. (A SIGINT may be ignored where the tests run in the background.)
    ended_in_the_middle(&guest, &folder, Signal::TERM);
}

#[test]
fn a_domain_that_is_destroyed_in_the_middle_leaves_nothing_half() {
    let guest = bare::full(FULL);
    let folder = guest.folder("dumps");
    let client = in_the_middle(&guest, &folder);
    guest.service.kdd(&["destroy", "vm"]).done();
    let output = client.wait_with_output().expect("it ends");
    // What is written is a fork: it doesn't need the domain.
    assert!(output.status.success(), "{output:?}");
    assert_eq!(names(&folder), ["x"]);
    assert!(dump::open(&folder.join("x")).is_ok());
}

/// What must be said about a file, both when it is explained and when it is served.
#[track_caller]
fn assert_refused(service: &Service, path: &Path) -> String {
    let explained = service.kdd(&["dump-info", &text(path)]).fails(1);
    let served = service.kdd(&["create", "--dump", &text(path)]).fails(1);
    for why in [&explained, &served] {
        assert!(
            why.starts_with(&format!("kdd: dump {}: ", path.display())),
            "{why}"
        );
    }
    explained
}

#[test]
fn files_that_are_no_dumps_are_refused() {
    let service = Service::serve(NOTHING);
    let scratch = service.scratch();
    for (name, content) in [
        ("empty", &b""[..]),
        ("words", b"not a dump at all\n"),
        ("magic", b"PAGEDU64"),
        ("kdump", b"KDUMP   "),
        ("elf", b"\x7fELF\x02\x01\x01"),
        ("lime", b"EMiL\x01\0\0\0"),
        ("flat", b"makedumpfile\0\0\0\0"),
    ] {
        assert_refused(&service, &scratch.file(name, content));
    }
    let why = assert_refused(&service, Path::new("/nowhere/memory.dmp"));
    assert!(why.contains("No such file"), "{why}");
    assert_refused(&service, scratch.folder());
    assert_refused(&service, Path::new("/dev/null"));
    assert_refused(&service, &tests::kdd());
}

#[test]
fn truncated_and_broken_dumps_are_refused_or_served_as_far_as_they_go() {
    let Some((_, guest)) = Guest::nt() else { return };
    guest.service.kdd(&["pause", "vm"]).done();
    let scratch = guest.service.scratch();
    let whole = scratch.path("whole");
    for format in ["windows", "windows-bitmap", "elf"] {
        let dump = ["dump", "vm", "--force", "--format", format, "-o", &text(&whole)];
        guest.service.kdd(&dump).done();
        let file = fs::File::open(&whole).expect("the dump");
        let length = file.metadata().expect("its length").len();
        for kept in [100, 4096, 0x2000, 0x3000, length / 2, length - 1] {
            let broken = scratch.path("broken");
            fs::copy(&whole, &broken).expect("a copy");
            let cut = fs::File::options().write(true).open(&broken).expect("the copy");
            cut.set_len(kept).expect("it is cut");
            let outcome = guest.service.kdd(&["dump-info", &text(&broken)]);
            if outcome.status == 0 {
                let shown = outcome.text();
                assert!(shown.contains("  problem "), "{format}, {kept} bytes: {shown}");
            } else {
                outcome.fails(1);
            }
        }
        // Bytes of its head turned over, one after another: an answer, whatever it is.
        let bytes = fs::read(&whole).expect("the dump");
        for at in (0..0x2000).step_by(311) {
            let mut head = bytes[..0x4_0000].to_vec();
            head[at] ^= 0xff;
            let broken = scratch.file("broken", &head);
            let outcome = guest.service.kdd(&["dump-info", &text(&broken)]);
            assert!(
                matches!(outcome.status, 0 | 1),
                "{format} at {at:#x}: {outcome:?}"
            );
        }
    }
    guest.service.kdd(&["list"]).done();
}
