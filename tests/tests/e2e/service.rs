//! The service and its commands: what scripts rely on.

use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use tests::{LIMIT, Outcome, Scratch, Service, guest, kdd, one_vcpu, until};

const NOTHING: &[&str] = &[];

/// A service with one guest, `vm`, that has booted.
fn with_guest() -> Option<(&'static tests::Snapshot, Service)> {
    let snapshot = one_vcpu()?;
    let service = Service::serve(NOTHING);
    service
        .kdd(&["create", "--restore", snapshot.state(), "--name", "vm"])
        .done();
    Some((snapshot, service))
}

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
fn wrong_usage_is_2_and_an_unknown_domain_3_and_no_service_4() {
    let service = Service::serve(NOTHING);
    let wrong: &[&[&str]] = &[
        &[],
        &["nonsense"],
        &["info"],
        &["list", "--nonsense"],
        &["create"],
        &["create", "--kernel", "x", "--restore", "y"],
        &["create", "--kernel", "x", "--memory", "much"],
        &["create", "--kernel", "x", "--cpus", "0"],
        &["create", "--kernel", "x", "--cpus", "9"],
        &["create", "--kernel", "x", "--name", "a b"],
        &["mem", "read", "vm", "xyz", "1"],
        &["mem", "write", "vm", "0"],
        &["fork", "vm", "--count", "0"],
        &["gdb", "vm", "--listen", "127.0.0.1:99999"],
        &["run", "--timeout", "-1"],
    ];
    for arguments in wrong {
        let outcome = service.kdd(arguments);
        assert_eq!(outcome.status, 2, "{arguments:?}: {outcome:?}");
        assert!(!outcome.stderr.is_empty() && outcome.stdout.is_empty());
    }
    let state = service.scratch().path("state").display().to_string();
    let nobody: &[&[&str]] = &[
        &["info", "nobody"],
        &["pause", "nobody"],
        &["unpause", "nobody"],
        &["reset", "nobody"],
        &["destroy", "nobody"],
        &["gdb", "nobody"],
        &["save", "nobody", &state],
        &["fork", "nobody"],
        &["regs", "nobody"],
        &["mem", "read", "nobody", "0", "1"],
        &["mem", "write", "nobody", "0", "00"],
        &["translate", "nobody", "0"],
    ];
    let elsewhere = Scratch::default();
    for arguments in nobody {
        let line = service.kdd(arguments).fails(3);
        assert_eq!(
            line,
            "kdd: domain 'nobody': there is no such domain; 'kdd list' shows those that exist"
        );
        Outcome::of(&elsewhere.path("control"), arguments).fails(4);
    }
    Outcome::of(&elsewhere.path("control"), &["list"]).fails(4);
}

#[test]
fn help_has_an_example_for_every_command() {
    let elsewhere = Scratch::default();
    let commands =
        "run serve create list info pause unpause reset destroy gdb save fork regs mem translate completions";
    for command in commands.split(' ') {
        let help = Outcome::of(&elsewhere.path("control"), &[command, "--help"])
            .done()
            .text();
        assert!(
            help.contains("Example") && help.contains(&format!("kdd {command}")),
            "{command}: {help}"
        );
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = Outcome::of(&elsewhere.path("control"), &["completions", shell])
            .done()
            .text();
        assert!(script.contains("translate"), "{shell}");
    }
}

#[test]
fn a_timeout_is_124() {
    let scratch = Scratch::default();
    Outcome::of(&scratch.path("control"), &["serve", "--timeout", "0.2"]).fails(124);
    let Some(snapshot) = one_vcpu() else { return };
    let run = [
        "run",
        "--restore",
        snapshot.state(),
        "--console",
        "none",
        "--timeout",
        "0.5",
    ];
    let outcome = Outcome::of(&scratch.path("control"), &run);
    assert_eq!(outcome.status, 124, "{outcome:?}");
    assert!(
        outcome
            .stderr
            .lines()
            .last()
            .is_some_and(|line| line.starts_with("kdd: timeout: ")),
        "{outcome:?}"
    );
    // A service that doesn't answer.
    let silent = UnixListener::bind(scratch.path("silent")).expect("a socket");
    Outcome::of(&scratch.path("silent"), &["list", "--timeout", "0.2"]).fails(124);
    drop(silent);
}

#[test]
fn a_domain_is_listed_described_paused_and_destroyed() {
    let Some((_, service)) = with_guest() else { return };
    let list = service.kdd(&["list", "--json"]).done().json();
    assert_eq!(
        (&list["name"], &list["state"], &list["vcpus"]),
        (&"vm".into(), &"running".into(), &1.into())
    );
    assert_eq!(list["memory_bytes"], 256 << 20);
    let id = list["id"].as_str().expect("an id").to_owned();
    assert!(
        id.len() == 16 && id.bytes().all(|digit| digit.is_ascii_hexdigit()),
        "{id}"
    );
    assert!(service.kdd(&["list"]).done().text().contains("vm"));

    // By its id as well.
    let info = service.info(&id);
    for field in [
        "guest",
        "console",
        "vcpu_states",
        "sessions",
        "uptime_nanoseconds",
        "operator_pauses",
    ] {
        assert!(!info[field].is_null(), "{field}: {info}");
    }
    assert_eq!(info["vcpu_states"][0]["mode"], "long");

    // Pauses count.
    service.kdd(&["pause", "vm"]).done();
    service.kdd(&["pause", "vm"]).done();
    let (state, time) = service.state("vm");
    assert_eq!(state, "paused");
    service.kdd(&["unpause", "vm"]).done();
    assert_eq!(service.state("vm"), ("paused".into(), time));
    service.kdd(&["unpause", "vm"]).done();
    assert_eq!(service.state("vm").0, "running");
    service.kdd(&["unpause", "vm"]).fails(1);
    until("guest time", || service.state("vm").1 > time);

    let destroyed = service.kdd(&["destroy", "vm", "--json"]).done().json();
    assert_eq!(destroyed["domain"], "vm");
    service.kdd(&["info", "vm"]).fails(3);
}

#[test]
fn registers_and_memory_are_looked_at_without_a_debugger() {
    let Some((snapshot, service)) = with_guest() else {
        return;
    };
    let registers = service.kdd(&["regs", "vm", "--json"]).done().json();
    for name in ["rip", "rsp", "rflags", "cr3", "efer"] {
        let value = registers["registers"][name].as_str().expect(name);
        assert!(value.starts_with("0x"), "{name}: {value}");
    }
    assert!(
        registers["segments"]["cs"]["selector"].is_string()
            && registers["tables"]["idtr"]["base"].is_string()
    );
    assert!(service.kdd(&["regs", "vm"]).done().text().contains("cr3"));
    service.kdd(&["regs", "vm", "--vcpu", "1"]).fails(1);

    let banner = format!("{:x}", snapshot.symbol("linux_banner"));
    let read = service
        .kdd(&["mem", "read", "vm", &banner, "16", "--json"])
        .done()
        .json();
    assert_eq!(read["bytes"].as_str(), Some(hex(b"Linux version 6.").as_str()));
    assert!(
        service
            .kdd(&["mem", "read", "vm", &banner, "16"])
            .done()
            .text()
            .contains("Linux version")
    );
    // WinDbg's way to write an address.
    let (high, low) = banner.split_at(8);
    let ticked = service
        .kdd(&["mem", "read", "vm", &format!("{high}`{low}"), "5", "-o", "-"])
        .done();
    assert_eq!(ticked.stdout, b"Linux");

    let walk = service.kdd(&["translate", "vm", &banner, "--json"]).done().json();
    let physical = walk["physical"].as_str().expect("a physical address");
    assert_eq!(walk["walk"][0]["level"], "PML4E");
    assert_eq!(
        service
            .kdd(&["mem", "read", "vm", physical, "5", "--phys", "-o", "-"])
            .done()
            .stdout,
        b"Linux"
    );
    service.kdd(&["translate", "vm", "dead0000"]).fails(1);
    service.kdd(&["mem", "read", "vm", "dead0000", "16"]).fails(1);
    service.kdd(&["mem", "write", "vm", "dead0000", "00"]).fails(1);
    service
        .kdd(&["mem", "read", "vm", "ffffffffffffffff", "16"])
        .fails(2);
    service.kdd(&["mem", "read", "vm", "800000000000", "16"]).fails(1);

    // A free page of the guest's: written, read, put back.
    service.kdd(&["pause", "vm"]).done();
    let old = service
        .kdd(&["mem", "read", "vm", "500", "4", "--phys", "-o", "-"])
        .done()
        .stdout;
    service
        .kdd(&["mem", "write", "vm", "500", "--phys", "de", "ad", "be", "ef"])
        .done();
    assert_eq!(
        service
            .kdd(&["mem", "read", "vm", "500", "4", "--phys", "-o", "-"])
            .done()
            .stdout,
        [0xde, 0xad, 0xbe, 0xef]
    );
    service
        .kdd(&["mem", "write", "vm", "500", "--phys", &hex(&old)])
        .done();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_saved_domain_comes_back_with_its_id_and_memory() {
    let Some((_, service)) = with_guest() else { return };
    service.kdd(&["pause", "vm"]).done();
    let before = hash(&service, "vm");
    let id = service.info("vm")["id"].clone();
    let file = service.scratch().path("state");
    let path = file.display().to_string();
    let saved = service.kdd(&["save", "vm", &path, "--json"]).done().json();
    assert_eq!(
        saved["bytes"].as_u64(),
        std::fs::metadata(&file).ok().map(|meta| meta.len())
    );
    // Saving changes nothing, and the same domain isn't there twice.
    assert_eq!(hash(&service, "vm"), before);
    service
        .kdd(&["create", "--restore", &path, "--name", "again"])
        .fails(1);
    let other = Service::serve(NOTHING);
    other.kdd(&["create", "--restore", &path, "--paused"]).done();
    assert_eq!(other.info("vm")["id"], id);
    assert_eq!(hash(&other, "vm"), before);
    service.kdd(&["save", "vm", "/nowhere/at/all"]).fails(1);
}

fn hash(service: &Service, domain: &str) -> Value {
    service.kdd(&["info", domain, "--hash", "--json"]).done().json()["state_hash"].clone()
}

#[test]
fn forks_are_alike_and_apart() {
    let Some((snapshot, service)) = with_guest() else {
        return;
    };
    service.kdd(&["pause", "vm"]).done();
    let forks = service
        .kdd(&["fork", "vm", "--count", "3", "--json"])
        .done()
        .json_lines();
    let names: Vec<_> = forks.iter().filter_map(|fork| fork["name"].as_str()).collect();
    assert_eq!(names, ["vm-fork-1", "vm-fork-2", "vm-fork-3"]);
    let before = hash(&service, "vm");
    assert!(names.iter().all(|name| hash(&service, name) == before));
    let banner = format!("{:x}", snapshot.symbol("init_uts_ns"));
    service.kdd(&["mem", "write", "vm-fork-2", &banner, "11"]).done();
    assert_ne!(hash(&service, "vm-fork-2"), before);
    assert_eq!(hash(&service, "vm"), before);
    assert_eq!(hash(&service, "vm-fork-3"), before);
    service.kdd(&["destroy", "vm"]).done();
    assert_eq!(hash(&service, "vm-fork-1"), before);
    service.kdd(&["unpause", "vm-fork-1"]).done();
    let time = service.state("vm-fork-1").1;
    until("guest time", || service.state("vm-fork-1").1 > time);
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
fn a_name_in_use_and_a_busy_port_are_refused_and_nothing_is_left() {
    let Some((snapshot, service)) = with_guest() else {
        return;
    };
    let line = service
        .kdd(&["create", "--restore", snapshot.state(), "--name", "vm"])
        .fails(1);
    assert!(line.contains("the name 'vm' is in use"), "{line}");
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = busy.local_addr().expect("its number").to_string();
    service.kdd(&["gdb", "vm", "--listen", &port]).fails(1);
    let guest = guest(None).expect("the guest's files");
    let kernel = guest.kernel.display().to_string();
    let line = service
        .kdd(&["create", "--kernel", &kernel, "--name", "other", "--gdb", &port])
        .fails(1);
    assert!(line.contains("in use"), "{line}");
    assert_eq!(service.kdd(&["list", "--json"]).done().json_lines().len(), 1);
}

#[test]
fn guests_that_are_none_are_refused() {
    let Some(guest) = guest(None) else { return };
    let service = Service::serve(NOTHING);
    let scratch = service.scratch();
    let kernel = std::fs::read(&guest.kernel).expect("the kernel");
    let text = scratch.file(
        "text",
        b"I am no kernel, but a text of some length.\n"
            .repeat(100)
            .as_slice(),
    );
    let empty = scratch.file("empty", b"");
    let short = scratch.file("short", &kernel[..kernel.len() / 2]);
    let stub = scratch.file("stub", &kernel[..600]);
    let mut broken = kernel.clone();
    broken[0x202..0x206].fill(0xff);
    let magic = scratch.file("magic", &broken);
    let large = scratch.path("large");
    let file = std::fs::File::create(&large).expect("a file");
    file.set_len(300 << 20).expect("a hole");
    let of = |kernel: &Path, more: &[&str]| {
        let kernel = kernel.display().to_string();
        let mut arguments = vec!["create", "--kernel", &kernel];
        arguments.extend(more);
        service.kdd(&arguments).fails(1)
    };
    for (file, words) in [
        (text.as_path(), "kernel"),
        (&empty, "empty"),
        (&short, "kernel"),
        (&stub, "kernel"),
        (&magic, "kernel"),
        (scratch.folder(), "kernel"),
        (&scratch.path("missing"), "no such file"),
        (Path::new("/dev/null"), "empty"),
    ] {
        let line = of(file, &["--append", "nokaslr"]);
        assert!(line.contains(words), "{}: {line}", file.display());
        let line = of(file, &[]);
        assert!(line.contains(words), "{}: {line}", file.display());
    }
    let initrd = large.display().to_string();
    assert!(of(&guest.kernel, &["--initrd", &initrd]).contains("initrd"));
    assert!(of(&guest.kernel, &["--initrd", "/nowhere"]).contains("no such file"));
    for memory in ["1M", "8M", "16M"] {
        let line = of(&guest.kernel, &["--memory", memory]);
        assert!(
            line.contains("memory") || line.contains("fit"),
            "{memory}: {line}"
        );
    }
    let line = of(&guest.kernel, &["--cpu", "z80"]);
    assert!(line.contains("z80") && line.contains("kdd64"), "{line}");
    let long = "x".repeat(5000);
    assert!(of(&guest.kernel, &["--append", &long]).contains("command line"));
    assert!(service.kdd(&["list", "--json"]).done().json_lines().is_empty());
}

#[test]
fn a_saved_state_that_is_damaged_or_of_another_version_is_refused() {
    let Some(snapshot) = one_vcpu() else { return };
    let service = Service::serve(NOTHING);
    let mut bytes = std::fs::read(snapshot.state()).expect("the state");
    let path = service.scratch().path("state");
    let refused = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).expect("written");
        let line = service
            .kdd(&["create".as_ref(), "--restore".as_ref(), path.as_os_str()])
            .fails(1);
        assert!(line.contains("saved"), "{what}: {line}");
        line
    };
    let length = bytes.len();
    for at in [0, 9, 13, 40, 600, length / 2, length - 1] {
        bytes[at] ^= 0x10;
        refused(&bytes, &format!("byte {at}"));
        bytes[at] ^= 0x10;
    }
    for end in [0, 4, 20, 1000, length / 2, length - 1] {
        refused(&bytes[..end], &format!("{end} bytes"));
    }
    bytes[8] = 99;
    assert!(refused(&bytes, "version").contains("version"));
    assert!(refused(b"something else entirely", "other").contains("not a saved domain"));
    assert!(service.kdd(&["list", "--json"]).done().json_lines().is_empty());
}

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

#[test]
fn run_without_a_guest_says_how_to_get_one() {
    let scratch = Scratch::default();
    let mut command = Command::new(kdd());
    command.arg("run").env("KDD_CACHE", scratch.folder());
    let output = command.output().expect("kdd");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.starts_with("kdd: default guest: ") && said.contains("setup/guest-linux.sh"),
        "{said}"
    );
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
