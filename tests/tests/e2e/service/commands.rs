//! Commands and what they answer: exit statuses, JSON, error lines.

use super::{NOTHING, hex, with_guest};
use std::os::unix::net::UnixListener;
use std::process::Command;
use tests::{Outcome, Scratch, Service, kdd, one_vcpu, until};

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
        &["ps", "nobody"],
        &["threads", "nobody"],
        &["modules", "nobody"],
        &["dmesg", "nobody"],
        &["symbols", "nobody"],
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
    let commands = "run serve create list info pause unpause reset destroy gdb save fork regs mem translate ps threads modules dmesg symbols completions";
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
