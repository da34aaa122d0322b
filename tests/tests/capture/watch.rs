//! `kdd watch`: each cause, each way to go on, scripts, limits, other debuggers, ends.

use super::{Guest, Watch, a_while, bare, begin, names, text};
use serde_json::Value;
use std::fs;
use std::path::Path;
use tests::{Engine, EngineOptions, Gdb, Service, guest, has_engine, until};

/// The dumps that are in a folder.
fn dumps(folder: &Path) -> Vec<String> {
    let names = names(folder);
    assert!(names.iter().all(|name| !name.starts_with('.')), "{names:?}");
    names
}

#[track_caller]
pub(super) fn detail(incident: &Value) -> &str {
    incident["detail"].as_str().unwrap_or_default()
}

#[test]
fn deaths_are_told_in_words_and_dumped() {
    for (code, words) in [
        (bare::TRIPLE_FAULT, "triple fault"),
        (bare::HALT, "halted"),
        (bare::PVPANIC, "panic"),
    ] {
        let guest = bare::guest(code, "16M");
        let folder = guest.folder("dumps");
        let mut watch = guest.watch(&["--on", "crash", "--dump", &text(&folder), "--count", "1"]);
        watch.armed();
        guest.service.kdd(&["unpause", "vm"]).done();
        let incident = watch.incident();
        assert_eq!(incident["cause"], "crash");
        assert!(detail(&incident).contains(words), "{incident}");
        let path = incident["dump"]["path"].as_str().expect("a dump");
        assert!(fs::metadata(path).is_ok() && path.contains("/vm-20") && path.ends_with("Z-crash.vmcore"));
        assert_eq!(watch.ended().0, 0);
    }
}

#[test]
fn a_guest_that_was_dead_before_is_an_incident_once() {
    let guest = bare::running(bare::HALT, "16M");
    until("its death", || guest.state() == "crashed");
    let mut watch = guest.watch(&["--on", "crash,reset"]);
    assert_eq!(watch.incident()["cause"], "crash");
    guest.service.kdd(&["reset", "vm"]).done();
    assert_eq!(watch.incident()["cause"], "reset");
    assert_eq!(watch.incident()["cause"], "crash");
}

#[test]
fn a_reset_and_a_power_off_are_told_and_memory_is_said_to_be_gone() {
    let guest = bare::guest(bare::RESET, "16M");
    let folder = guest.folder("dumps");
    let mut watch = guest.watch(&["--on", "reset", "--dump", &text(&folder), "--count", "2"]);
    watch.armed();
    guest.service.kdd(&["unpause", "vm"]).done();
    for number in 1..3 {
        let incident = watch.incident();
        assert_eq!(
            (&incident["cause"], &incident["number"]),
            (&"reset".into(), &number.into())
        );
        assert!(
            incident["dump_error"]
                .as_str()
                .is_some_and(|why| why.contains("gone")),
            "{incident}"
        );
    }
    assert_eq!(watch.ended().0, 0);

    let guest = bare::guest(bare::POWER_OFF, "16M");
    let mut watch = guest.watch(&["--on", "shutdown", "--count", "2"]);
    watch.armed();
    guest.service.kdd(&["unpause", "vm"]).done();
    assert_eq!(watch.incident()["cause"], "shutdown");
    // It may be switched on again.
    guest.service.kdd(&["reset", "vm"]).done();
    assert_eq!(watch.incident()["number"], 2);
    assert_eq!(watch.ended().0, 0);
}

#[test]
fn a_bugcheck_is_caught_at_its_entry_and_each_boot_again() {
    let Some((_, mut guest)) = Guest::nt() else { return };
    let folder = guest.folder("dumps");
    let script = "cat > facts-$KDD_NUMBER; echo \"$KDD_CAUSE $KDD_BUGCHECK $KDD_DOMAIN\"; env | grep ^KDD_ | sort > env";
    let mut watch = guest.watch(&[
        "--on",
        "bugcheck,crash",
        "--dump",
        &text(&folder),
        "--keep",
        "1",
        "--exec",
        script,
        "--then",
        "reset",
        "--count",
        "2",
    ]);
    watch.armed();
    guest.types("bugcheck D1 11 22 33 44");
    let incident = watch.incident();
    assert_eq!(
        (&incident["cause"], &incident["bugcheck_code"], &incident["then"]),
        (&"bugcheck".into(), &"0xd1".into(), &"reset".into())
    );
    assert_eq!(
        incident["bugcheck_parameters"],
        serde_json::json!(["0x11", "0x22", "0x33", "0x44"])
    );
    assert!(
        detail(&incident).contains("DRIVER_IRQL_NOT_LESS_OR_EQUAL"),
        "{incident}"
    );
    assert!(
        incident["os"].as_str().is_some_and(|os| os.contains("19041")),
        "{incident}"
    );
    assert_eq!(incident["script"]["output"], "bugcheck 0xd1 vm\n");
    assert_eq!(incident["script"]["status"], 0);
    let facts = fs::read_to_string(guest.service.scratch().path("facts-1")).expect("facts");
    let facts: Value = serde_json::from_str(&facts).expect("one object");
    for field in [
        "cause",
        "detail",
        "time",
        "dump",
        "domain",
        "id",
        "vcpu",
        "rip",
        "bugcheck_parameters",
    ] {
        assert_eq!(facts[field], incident[field], "{field}");
        assert!(!facts[field].is_null(), "{field}");
    }
    let path = incident["dump"]["path"].as_str().expect("a dump").to_owned();
    let env = fs::read_to_string(guest.service.scratch().path("env")).expect("the environment");
    assert!(env.contains(&format!("KDD_DUMP={path}\n")), "{env}");
    for name in [
        "KDD_DETAIL=0x000000d1",
        "KDD_OS=Windows",
        "KDD_RIP=0x",
        "KDD_TIME=20",
        "KDD_VCPU=",
        "KDD_NUMBER=1",
    ] {
        assert!(env.contains(name), "{name} in {env}");
    }
    // The dump is of the bugcheck, though the kernel hadn't noted it down.
    let info = guest.service.kdd(&["dump-info", &path]).done().text();
    assert!(
        info.contains("DRIVER_IRQL_NOT_LESS_OR_EQUAL (0x11, 0x22, 0x33, 0x44)"),
        "{info}"
    );
    // Its kernel never ran on, and it boots again: the watch is there before.
    guest.shows("ready");
    guest.shows("nt> ");
    watch.armed();
    guest.types("divide");
    let incident = watch.incident();
    assert_eq!(
        (&incident["cause"], &incident["number"]),
        (&"bugcheck".into(), &2.into())
    );
    assert_eq!(incident["removed"], serde_json::json!([path]));
    assert_eq!(dumps(&folder).len(), 1);
    assert_eq!(watch.ended().0, 0);
    let shown = guest.output.text_from(0);
    assert!(!shown.contains("*** STOP"), "{shown}");
}

#[test]
fn a_bugcheck_that_goes_on_is_one_incident_not_two() {
    let Some((_, mut guest)) = Guest::nt() else { return };
    let mut watch = guest.watch(&["--on", "bugcheck,crash"]);
    watch.armed();
    guest.types("crash");
    assert_eq!(watch.incident()["cause"], "bugcheck");
    guest.shows("*** STOP");
    until("its death", || guest.state() == "crashed");
    a_while();
    let so_far = watch.output.text_from(watch.at);
    assert!(!so_far.contains("incident"), "{so_far}");
}

#[test]
fn a_bugcheck_of_a_32_bit_windows_is_caught_and_the_engine_reads_its_dump() {
    for (profile, build, type_id) in [("win7-x86", "7601", "bitmap"), ("win10-x86", "19041", "kernel")] {
        let Some((nt, mut guest)) = Guest::nt_like(profile) else {
            return;
        };
        let folder = guest.folder("dumps");
        let format = format!("windows-{type_id}");
        let mut watch = guest.watch(&[
            "--on",
            "bugcheck",
            "--dump",
            &text(&folder),
            "--format",
            &format,
            "--then",
            "resume",
            "--count",
            "1",
        ]);
        watch.armed();
        guest.types("bugcheck C2 7 1097 80001234 FFFFFFF0");
        let incident = watch.incident();
        assert_eq!(watch.ended().0, 0);
        let parameters = ["0x7", "0x1097", "0x80001234", "0xfffffff0"];
        assert_eq!(
            (
                &incident["cause"],
                &incident["bugcheck_code"],
                &incident["bugcheck_parameters"]
            ),
            (&"bugcheck".into(), &"0xc2".into(), &serde_json::json!(parameters)),
            "{profile}"
        );
        let os = incident["os"].as_str().unwrap_or_default();
        assert!(os.contains(build), "{incident}");
        assert_eq!(incident["dump"]["format"], *format);
        // It ran on to its end.
        guest.shows("*** STOP: 0x000000C2 (0x00000007,");
        let path = incident["dump"]["path"].as_str().expect("a dump");
        let info = guest.service.kdd(&["dump-info", path]).done().text();
        let words = "BAD_POOL_CALLER (0x7, 0x1097, 0x80001234, 0xfffffff0)";
        assert!(info.contains(words), "{info}");
        if !has_engine() {
            continue;
        }
        let options = EngineOptions {
            symbols: vec![nt.folder.clone()],
            images: vec![nt.folder.clone()],
            ..EngineOptions::default()
        };
        let mut engine = Engine::dump(Path::new(path), &options);
        assert_eq!(
            engine.run(".bugcheck"),
            "Bugcheck code 000000C2\nArguments 00000007 00001097 80001234 fffffff0\n"
        );
        // The processor that failed is the one that the engine shows, and its caller is on its stack.
        let stack = engine.run("k");
        assert!(stack.contains("nt!KeBugCheckEx\n"), "{stack}");
        assert!(stack.contains("nt!KiConsoleThread"), "{stack}");
        // At its first instruction.
        let place = incident["rip"].as_str().unwrap_or_default();
        assert_eq!(engine.run("r eip").trim(), place.replace("0x", "eip="));
        let distance = engine.run("? @eip - nt!KeBugCheckEx");
        assert_eq!(distance.trim(), "Evaluate expression: 0 = 00000000");
    }
}

#[test]
fn a_panic_is_caught_when_its_words_are_out() {
    let Some(mut guest) = Guest::linux() else { return };
    let folder = guest.folder("dumps");
    let arguments = [
        "--on",
        "panic",
        "--dump",
        &text(&folder),
        "--format",
        "kdump",
        "--then",
        "pause",
        "--count",
        "1",
    ];
    let mut watch = guest.watch(&arguments);
    watch.armed();
    guest.types("echo c > /proc/sysrq-trigger");
    let incident = watch.incident();
    assert_eq!(incident["cause"], "panic");
    assert!(detail(&incident).contains("sysrq triggered crash"), "{incident}");
    assert_eq!(incident["dump"]["format"], "kdump");
    assert_eq!(watch.ended().0, 0);
    assert_eq!(guest.state(), "paused");
    let path = incident["dump"]["path"].as_str().expect("a dump");
    let info = guest.service.kdd(&["dump-info", path, "--json"]).done().json();
    assert!(
        info["crash"]
            .as_str()
            .is_some_and(|words| words.contains("sysrq triggered crash")),
        "{info}"
    );
    guest.service.kdd(&["unpause", "vm"]).done();
    guest.shows("end Kernel panic");
}

#[test]
fn a_kernel_that_panics_at_boot_is_caught_before_anybody_knew_it() {
    let Some(files) = guest(None) else { return };
    // No root file system; and it reboots a second after.
    let append = "console=ttyS0 cryptomgr.notests nokaslr panic=1";
    let guest = Guest::create(&[
        "--kernel",
        &text(&files.kernel),
        "--append",
        append,
        "--paused",
        "--no-throttle",
    ]);
    let mut watch = guest.watch(&["--on", "panic", "--count", "2"]);
    let first = watch.next();
    assert!(
        first["missing"][0]
            .as_str()
            .is_some_and(|why| why.contains("not recognised yet")),
        "{first}"
    );
    guest.service.kdd(&["unpause", "vm"]).done();
    for _ in 0..2 {
        let incident = watch.incident();
        assert!(
            detail(&incident).contains("Unable to mount root fs"),
            "{incident}"
        );
    }
    assert_eq!(watch.ended().0, 0);
}

/// The kernel oopses in a line that the shell is given, which sets the host's name: gdb lets that jump to address 0.
#[track_caller]
pub(super) fn jump_to_nowhere(guest: &mut Guest, gdb: &mut Gdb, line: &str) {
    let snapshot = tests::one_vcpu().expect("it is there");
    let place = snapshot.symbol("__x64_sys_sethostname");
    gdb.run(&format!("hbreak *{place:#x}"));
    gdb.begin("continue");
    guest.types(line);
    let stop = gdb.end();
    assert!(stop.contains("Breakpoint 1"), "{stop}");
    gdb.run_all(&["delete 1", "set $rip = 0"]);
    gdb.begin("continue");
}

#[test]
fn an_oops_is_caught_and_the_guest_lives_on_with_gdb_beside() {
    let Some(mut guest) = Guest::linux() else { return };
    let folder = guest.folder("dumps");
    let mut watch = guest.watch(&["--on", "oops,panic", "--dump", &text(&folder)]);
    watch.armed();
    let mut gdb = Gdb::attached(&guest.service.add_gdb("vm"));
    jump_to_nowhere(&mut guest, &mut gdb, "hostname x; echo status-$?");
    let incident = watch.incident();
    assert_eq!(incident["cause"], "oops");
    assert!(
        detail(&incident).contains("NULL pointer dereference"),
        "{incident}"
    );
    assert!(
        incident["dump"]["crash"]
            .as_str()
            .is_some_and(|words| words.contains("NULL pointer")),
        "{incident}"
    );
    guest.shows("status-");
    guest.shell_answers();
    // gdb has seen no stop.
    gdb.interrupt();
    let stop = gdb.end();
    assert!(stop.contains("SIGINT"), "{stop}");
    gdb.detach();
    guest.shell_answers();
}

#[test]
fn breakpoints_by_symbol_and_by_address_stop_nobody_else_and_go_with_their_watch() {
    let Some(mut guest) = Guest::linux() else { return };
    let snapshot = tests::one_vcpu().expect("it is there");
    let place = snapshot.symbol("__x64_sys_sethostname");
    let by_address = format!("breakpoint={place:#x}");
    for on in ["breakpoint=__x64_sys_sethostname", &by_address] {
        let mut watch = guest.watch(&["--on", on, "--count", "2"]);
        watch.armed();
        for number in 1..3 {
            guest.types("hostname kdd; echo status-$?");
            let incident = watch.incident();
            assert_eq!(
                (&incident["cause"], &incident["number"]),
                (&"breakpoint".into(), &number.into())
            );
            assert_eq!(incident["rip"], format!("{place:#x}"));
            guest.shows("status-0");
        }
        assert_eq!(watch.ended().0, 0);
        guest.types("hostname kdd; echo status-$?");
        guest.shows("status-0");
    }
    // A watch that is killed while its script holds the guest gives it back.
    let mut watch = guest.watch(&[
        "--on",
        &by_address,
        "--exec",
        "touch holding; sleep 1000",
        "--then",
        "pause",
    ]);
    watch.armed();
    guest.types("hostname kdd; echo status-$?");
    until("the script", || guest.service.scratch().path("holding").exists());
    assert_eq!(guest.state(), "paused");
    watch.kill();
    until("the guest to go on", || {
        guest.service.info("vm")["sessions"] == serde_json::json!([])
    });
    assert_eq!(guest.state(), "running");
    guest.shows("status-0");
    guest.types("hostname kdd; echo again-$?");
    guest.shows("again-0");
    // What can't be found is said, and doesn't end the watch.
    let mut watch = guest.watch(&["--on", "breakpoint=no_such_function"]);
    let event = watch.next();
    assert!(
        event["missing"][0]
            .as_str()
            .is_some_and(|why| why.contains("no_such_function")),
        "{event}"
    );
}

#[test]
fn a_killed_watch_leaves_the_guest_running_without_breakpoints() {
    let Some(mut guest) = Guest::linux() else { return };
    let mut watch = guest.watch(&["--on", "breakpoint=__x64_sys_sethostname", "--then", "pause"]);
    watch.armed();
    watch.kill();
    until("the session's end", || {
        guest.service.info("vm")["sessions"] == serde_json::json!([])
    });
    guest.types("hostname kdd; echo status-$?");
    guest.shows("status-0");
    assert_eq!(guest.state(), "running");
}

#[test]
fn scripts_fail_hang_and_flood_and_the_watch_goes_on() {
    let guest = bare::guest(bare::RESET, "16M");
    let watch = |script: &str| {
        let arguments = [
            "--on",
            "reset",
            "--exec",
            script,
            "--exec-limit",
            "1",
            "--count",
            "1",
        ];
        let mut watch = guest.watch(&arguments);
        watch.armed();
        guest.service.kdd(&["unpause", "vm"]).done();
        let incident = watch.incident();
        assert_eq!(watch.ended().0, 0);
        guest.service.kdd(&["pause", "vm"]).done();
        incident["script"].clone()
    };
    let failed = watch("echo no >&2; exit 7");
    assert_eq!(
        (&failed["status"], &failed["output"]),
        (&7.into(), &"no\n".into())
    );
    assert!(
        failed["error"]
            .as_str()
            .is_some_and(|why| why.contains("status 7"))
    );
    let hung = watch("sleep 1000 & echo $! > sleeper; sleep 1000");
    assert!(
        hung["error"]
            .as_str()
            .is_some_and(|why| why.contains("longer than 1 s")),
        "{hung}"
    );
    let sleeper = fs::read_to_string(guest.service.scratch().path("sleeper")).expect("its id");
    until("the end of what it started", || !is_alive(sleeper.trim()));
    let flood = watch("yes 0123456789 | head -c 20000000; cat > /dev/null");
    assert_eq!(flood["status"], 0, "{flood}");
    assert_eq!(flood["output"].as_str().map(str::len), Some(16 << 10));
    let missing = watch("/nowhere/notify.sh");
    assert_eq!(missing["status"], 127);
}

/// Whether a process is there and no zombie.
fn is_alive(id: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
    state.is_some_and(|state| state != b'Z')
}

#[test]
fn the_oldest_dumps_go_when_they_take_too_much() {
    let guest = bare::guest(bare::HALT, "16M");
    let folder = guest.folder("dumps");
    let other = "vm-notes.vmcore";
    fs::write(folder.join(other), "mine").expect("a file");
    let script = "cat > /dev/null";
    let mut watch = guest.watch(&[
        "--on",
        "crash",
        "--dump",
        &text(&folder),
        "--keep-bytes",
        "1K",
        "--exec",
        script,
        "--then",
        "reset",
    ]);
    watch.armed();
    guest.service.kdd(&["unpause", "vm"]).done();
    for _ in 0..3 {
        watch.incident();
    }
    watch.kill();
    until("its end", || {
        guest.service.info("vm")["sessions"] == serde_json::json!([])
    });
    let left: Vec<_> = dumps(&folder);
    assert_eq!(left.len(), 2, "the newest, and what isn't ours: {left:?}");
    assert!(left.iter().any(|name| name == other));
}

#[test]
fn two_domains_are_watched_at_once() {
    let Some((_, mut guest)) = Guest::nt() else {
        return;
    };
    let Some(files) = tests::one_vcpu() else { return };
    let console = guest.service.scratch().path("other");
    let target = format!("unix:{}", console.display());
    let create = [
        "create",
        "--restore",
        files.state(),
        "--name",
        "linux",
        "--console",
        &target,
    ];
    guest.service.kdd(&create).done();
    let folder = guest.folder("dumps");
    let folder_text = text(&folder);
    let rule = [
        "--on",
        "bugcheck,panic,crash",
        "--dump",
        &folder_text,
        "--then",
        "pause",
        "--count",
        "1",
    ];
    let mut windows = guest.watch(&rule);
    let mut linux = Watch::of(&guest.service, "linux", &rule);
    // Each says that the other's cause can't be.
    until("both", || {
        windows
            .next()
            .get("missing")
            .is_some_and(|why| !why.to_string().contains("recognised"))
    });
    until("both", || {
        linux
            .next()
            .get("missing")
            .is_some_and(|why| !why.to_string().contains("recognised"))
    });
    let mut input = std::os::unix::net::UnixStream::connect(&console).expect("its console");
    std::io::Write::write_all(&mut input, b"echo c > /proc/sysrq-trigger\r").expect("typed");
    guest.types("bugcheck E2 1 2 3 4");
    assert_eq!(windows.incident()["cause"], "bugcheck");
    assert_eq!(linux.incident()["cause"], "panic");
    assert_eq!((windows.ended().0, linux.ended().0), (0, 0));
    let names = dumps(&folder);
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(
        names[0].starts_with("linux-20") && names[0].ends_with("Z-panic.vmcore"),
        "{names:?}"
    );
    assert!(
        names[1].starts_with("vm-20") && names[1].ends_with("Z-bugcheck.dmp"),
        "{names:?}"
    );
}

#[test]
fn a_domain_that_goes_ends_its_watch_with_a_word() {
    let guest = bare::counting_guest("16M");
    let mut watch = guest.watch(&["--on", "crash"]);
    watch.armed();
    guest.service.kdd(&["destroy", "vm"]).done();
    let (status, why) = watch.ended();
    assert!(
        status == 1 && why.contains("it is gone") && why.lines().count() == 1,
        "{why}"
    );

    let guest = bare::counting_guest("16M");
    let mut watch = guest.watch(&["--on", "crash"]);
    watch.armed();
    guest.service.terminate();
    let (status, why) = watch.ended();
    assert!(status == 1 && why.contains("the service stops"), "{why}");

    // If that was what it was to do, it is no error.
    let guest = bare::guest(bare::HALT, "16M");
    let mut watch = guest.watch(&["--on", "crash", "--then", "destroy"]);
    watch.armed();
    guest.service.kdd(&["unpause", "vm"]).done();
    assert_eq!(watch.incident()["cause"], "crash");
    assert_eq!(watch.ended().0, 0);
    guest.service.kdd(&["info", "vm"]).fails(3);
}

#[test]
fn rules_of_the_configuration_are_followed_for_as_long_as_the_service_lasts() {
    let scratch = tests::Scratch::default();
    scratch.file("halt", &bare::kernel(bare::HALT));
    fs::create_dir(scratch.path("dumps")).expect("a folder");
    let config = scratch.file(
        "kdd.toml",
        b"[[domain]]\nname = 'web'\nkernel = 'halt'\nmemory = '16M'\n\
          [[domain.watch]]\non = ['crash']\ndump = 'dumps'\nkeep = 2\nkeep-bytes = '20G'\n\
          exec = 'cat >> facts'\nthen = 'reset'\n",
    );
    let mut service = Service::serve(&["--config", &text(&config)]);
    let facts = || fs::read_to_string(scratch.path("facts")).unwrap_or_default();
    until("five crashes", || facts().lines().count() >= 5);
    let first: Value = serde_json::from_str(facts().lines().next().unwrap_or_default()).expect("an object");
    assert_eq!(
        (&first["domain"], &first["cause"]),
        (&"web".into(), &"crash".into())
    );
    service.terminate();
    assert!(service.ended(tests::LIMIT).success());
    let left = dumps(&scratch.path("dumps"));
    assert!((1..=2).contains(&left.len()), "{left:?}");
    assert!(
        service.log().text_from(0).contains("halted"),
        "{}",
        service.log().text_from(0)
    );

    // What makes no sense is said at the start.
    let config = scratch.file(
        "bad.toml",
        b"[[domain]]\nkernel = 'halt'\n[[domain.watch]]\non = ['rain']\n",
    );
    let outcome = tests::Outcome::of(&scratch.path("control"), &["serve", "--config", &text(&config)]);
    assert!(outcome.fails(1).contains("'rain' can't be waited for"));
    let config = scratch.file(
        "bad.toml",
        b"[[domain]]\nkernel = 'halt'\n[[domain.watch]]\non = ['crash']\ndump = 'nowhere'\n",
    );
    let control = text(&scratch.path("control"));
    let outcome = tests::Outcome::of(
        &scratch.path("control"),
        &["serve", "--config", &text(&config), "--control", &control],
    );
    assert!(outcome.fails(1).contains("no such folder"));
}

#[test]
fn a_domain_of_the_configuration_is_watched_before_its_first_instruction() {
    let scratch = tests::Scratch::default();
    scratch.file("halt", &bare::kernel(bare::COUNT_ONCE));
    let config = scratch.file(
        "kdd.toml",
        b"[[domain]]\nname = 'web'\nkernel = 'halt'\nmemory = '16M'\n\
          [[domain.watch]]\non = ['breakpoint=0x100020']\nexec = 'cat >> facts'\n",
    );
    let _service = Service::serve(&["--config", &text(&config)]);
    let facts = || fs::read_to_string(scratch.path("facts")).unwrap_or_default();
    until("the breakpoint at its entry", || facts().lines().count() >= 1);
    let first: Value = serde_json::from_str(facts().lines().next().unwrap_or_default()).expect("an object");
    assert_eq!(
        (&first["rip"], &first["uptime_instructions"]),
        (&"0x100020".into(), &0.into())
    );
}

#[test]
fn what_a_killed_service_was_writing_is_removed_by_the_next_watch() {
    let guest = bare::full(700 << 20);
    let folder = guest.folder("dumps");
    let rule = ["--on", "breakpoint=0x100038", "--dump", &text(&folder)];
    let is_partial = |name: &String| name.ends_with(".partial");
    let mut guest = guest;
    let _watch = guest.watch(&rule);
    until("a dump that is being written", || {
        names(&folder).iter().any(is_partial)
    });
    guest.service.kill();
    let left = names(&folder);
    assert!(left.len() == 1 && is_partial(&left[0]), "{left:?}");
    let mine = folder.join(".notes.A1b2C3.partial");
    fs::write(&mine, "mine").expect("a file");
    let guest = bare::guest(bare::HALT, "16M");
    let mut watch = guest.watch(&["--on", "crash", "--dump", &text(&folder)]);
    watch.armed();
    assert_eq!(names(&folder), [".notes.A1b2C3.partial"]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let guest = bare::guest(bare::HALT, "16M");
    let service = &guest.service;
    let usage: &[&[&str]] = &[
        &["watch", "vm"],
        &["watch", "vm", "--on", "rain"],
        &["watch", "vm", "--on", "crash", "--keep", "1"],
        &["watch", "vm", "--on", "crash", "--dump", ".", "--keep", "0"],
        &["watch", "vm", "--on", "crash", "--then", "dance"],
        &["watch", "vm", "--on", "crash", "--count", "0"],
        &["watch", "vm", "--on", "crash", "--exec-limit", "1"],
        &["dump", "vm"],
        &["dump", "vm", "-o", "x", "--format", "zip"],
        &["dump", "vm", "-o", "x", "-d", "32"],
    ];
    for arguments in usage {
        assert_eq!(service.kdd(arguments).status, 2, "{arguments:?}");
    }
    service.kdd(&["watch", "nobody", "--on", "crash"]).fails(3);
    let why = service
        .kdd(&["watch", "vm", "--on", "crash", "--dump", "/nowhere"])
        .fails(1);
    assert!(why.contains("no such folder"), "{why}");
    service
        .kdd(&["watch", "vm", "--on", "crash", "--timeout", "0.3"])
        .fails(124);
    service.kdd(&["list"]).done();
}

#[test]
fn a_watch_is_readable() {
    let guest = bare::guest(bare::HALT, "16M");
    let folder = guest.folder("dumps");
    let folder = text(&folder);
    let script = "echo told the operator; exit 3";
    let all = [
        "watch", "vm", "--on", "crash", "--dump", &folder, "--exec", script, "--count", "1",
    ];
    let client = begin(&guest.service, &all);
    until("the watch", || {
        guest.service.info("vm")["sessions"] != serde_json::json!([])
    });
    guest.service.kdd(&["unpause", "vm"]).done();
    let output = client.wait_with_output().expect("it ends");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[0], "watching for crash");
    assert!(
        lines[1].contains(" vm crash") && lines[1].contains("halted"),
        "{shown}"
    );
    assert!(
        lines[2].starts_with("  dump ") && lines[2].ends_with(" bytes)"),
        "{shown}"
    );
    assert_eq!(
        lines.last().copied(),
        Some("  script failed: it failed with status 3")
    );
    assert!(shown.contains("  script: told the operator\n"), "{shown}");
}
