//! What a Linux guest says of itself, from outside: `kdd ps`, `threads`, `modules`, `dmesg`, `symbols`, `info`, against what
//! the guest itself says at its console.

use super::{NOTHING, with_guest};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use tests::{
    BOOT_LIMIT, SECOND_KERNEL, Service, cache_folder, four_vcpus, guest, has_tool, modules_archive, until,
};

/// The kernel of another version at its prompt, on two vCPUs.
fn second_kernel() -> Option<Service> {
    if !cache_folder().join(SECOND_KERNEL).is_file() {
        return None;
    }
    boot("linux-second", &[])
}

/// A kernel of the cache folder at its prompt, with this behind its initial RAM disk.
fn boot(kernel: &str, archive: &[u8]) -> Option<Service> {
    let guest = guest(Some(&format!("{kernel}/vmlinuz")))?;
    let mut initrd = std::fs::read(&guest.initrd).expect("the initial RAM disk");
    initrd.resize(initrd.len().next_multiple_of(4), 0);
    initrd.extend(archive);
    let scratch = tests::Scratch::default();
    let initrd = scratch.file("initrd", &initrd).display().to_string();
    let kernel = guest.kernel.display().to_string();
    let mut service = Service::run(&[
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "--cpus",
        "2",
        "--append",
        "console=ttyS0 cryptomgr.notests",
    ]);
    service.console().shows_prompt(BOOT_LIMIT);
    Some(service)
}

/// What a process is, by /proc/PID/stat: `1 (init) S 0 …`.
#[derive(Clone, PartialEq, Debug)]
struct Stat {
    name: String,
    state: String,
    parent: u64,
    threads: u64,
}

fn stats(text: &str) -> BTreeMap<u64, Stat> {
    let one = |line: &str| {
        let (pid, rest) = line.split_once(" (")?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let stat = Stat {
            name: name.to_owned(),
            state: (*fields.first()?).to_owned(),
            parent: fields.get(1)?.parse().ok()?,
            threads: fields.get(17)?.parse().ok()?,
        };
        Some((pid.trim().parse().ok()?, stat))
    };
    text.lines().filter_map(one).collect()
}

#[track_caller]
fn list<'a>(reply: &'a Value, name: &str) -> &'a [Value] {
    reply[name]
        .as_array()
        .unwrap_or_else(|| panic!("no {name}: {reply}"))
}

fn processes_are_the_guests(mut service: Service) {
    // Sleepers, one that nobody waits for, and one with a name that would clear the screen.
    let begin = "for i in 1 2 3; do sleep 1000 & done; sh -c 'true & exec sleep 1001' & \
        sh -c 'printf \"\\033[2Jx\" >/proc/$$/comm; sleep 1002 & wait' & usleep 300000";
    service.console().command(begin);
    let cat = "cat /proc/[0-9]*/stat";
    let before = stats(&service.console().command(cat));
    let ps = service.kdd(&["ps", "vm", "--json"]).done().json();
    let after = stats(&service.console().command(cat));
    assert!(ps.get("broken").is_none(), "{ps}");
    let processes = list(&ps, "processes");
    let steady: Vec<_> = before
        .iter()
        .filter(|(pid, stat)| after.get(pid).is_some_and(|after| after.name == stat.name))
        .collect();
    assert!(steady.len() > 40, "{}", steady.len());
    let (mut zombies, mut sleepers) = (0, 0);
    for (pid, stat) in steady {
        let process = processes.iter().find(|process| process["pid"] == *pid);
        let process = process.unwrap_or_else(|| panic!("{pid} {stat:?} is missing"));
        let name = process["name"].as_str().expect("a name");
        // The guest's own view of kernel threads has longer names.
        let named = stat.name.starts_with(name) || name.starts_with("kworker") || name.contains("[2Jx");
        assert!(named, "{stat:?} {process}");
        assert_eq!(process["parent_pid"], stat.parent, "{stat:?} {process}");
        assert_eq!(process["threads"], stat.threads, "{stat:?} {process}");
        let kernel = *pid == 2 || stat.parent == 2;
        assert_eq!(process["kernel"], kernel, "{stat:?} {process}");
        assert_eq!(
            process.get("root").is_some(),
            !kernel && stat.state != "Z",
            "{process}"
        );
        if !kernel {
            assert_eq!(process["state_letter"], stat.state.as_str(), "{stat:?} {process}");
            zombies += usize::from(stat.state == "Z" && process["state"] == "zombie");
            sleepers += usize::from(name == "sleep" && process["state"] == "sleeping");
        }
    }
    assert_eq!((zombies, sleepers), (1, 5), "{ps}");
    let known = |pid: &Value| {
        let pid = pid.as_u64().expect("a pid");
        before.contains_key(&pid) || after.contains_key(&pid)
    };
    for process in processes {
        assert!(known(&process["pid"]), "{process} is nobody's");
    }
    let table = service.kdd(&["ps", "vm"]).done().text();
    assert!(table.contains("[kthreadd]") && table.contains("[2Jx"), "{table}");
    let controls = |text: &str| text.chars().any(|c| c.is_control() && c != '\n');
    assert!(!controls(&table), "{table:?}");

    let threads = service.kdd(&["threads", "vm", "--json"]).done().json();
    let threads = list(&threads, "threads");
    let vcpus = service.info("vm")["vcpus"].clone();
    let idle = threads.iter().filter(|thread| thread["tid"] == 0);
    assert_eq!(Value::from(idle.count()), vcpus);
    let on_vcpus = threads.iter().filter(|thread| thread.get("vcpu").is_some());
    assert_eq!(Value::from(on_vcpus.count()), vcpus, "each vCPU runs something");
    let init = service
        .kdd(&["threads", "vm", "--pid", "1", "--json"])
        .done()
        .json();
    let [init] = list(&init, "threads") else {
        panic!("{init}")
    };
    assert_eq!((&init["tid"], &init["kernel"]), (&1.into(), &false.into()));
    assert!(init["cpu"].as_u64() < vcpus.as_u64(), "{init}");
    let why = service.kdd(&["threads", "vm", "--pid", "4000000"]).fails(1);
    assert!(why.contains("no process 4000000"), "{why}");
    assert_eq!(
        service.state("vm").0,
        "running",
        "a look holds it only for a moment"
    );
}

#[test]
fn processes_are_those_that_the_guest_sees() {
    let Some(snapshot) = four_vcpus() else { return };
    processes_are_the_guests(snapshot.service());
}

#[test]
fn processes_of_another_kernel_are_those_that_the_guest_sees() {
    let Some(service) = second_kernel() else { return };
    processes_are_the_guests(service);
}

fn log_is_the_guests(mut service: Service) {
    // A console that turns its messages off doesn't have them between what the guest prints.
    service
        .console()
        .command("dmesg -n 1; printf '<3>one\\033[2J' >/dev/kmsg");
    let ours = service.kdd(&["dmesg", "vm"]).done().text();
    let theirs = service.console().command("dmesg");
    let theirs = theirs.replace('\u{1b}', "\u{fffd}");
    assert_eq!(ours, theirs);
    assert!(ours.contains("] Linux version "), "{ours}");
    let records = service.kdd(&["dmesg", "vm", "--json"]).done().json_lines();
    let lines: usize = records
        .iter()
        .map(|record| record["text"].as_str().expect("text").split('\n').count())
        .sum();
    assert_eq!(lines, ours.lines().count());
    let numbers: Vec<_> = records.iter().map(|record| record["seq"].as_u64()).collect();
    assert!(
        numbers.is_sorted() && numbers.first() == Some(&Some(0)),
        "{numbers:?}"
    );
    let last = records.last().expect("a record");
    assert_eq!(
        (&last["level"], &last["facility"]),
        (&3.into(), &1.into()),
        "{last}"
    );
    assert!(
        last["caller"]
            .as_str()
            .is_some_and(|caller| caller.starts_with('T')),
        "{last}"
    );
    let uptime = service.info("vm")["os"]["uptime_ms"].as_u64().expect("an uptime");
    let logged = last["time_ns"].as_u64().expect("a time") / 1_000_000;
    assert!(uptime + 5000 > logged, "{uptime} {logged}");
}

#[test]
fn the_log_is_what_the_guests_dmesg_prints() {
    let Some(snapshot) = four_vcpus() else { return };
    log_is_the_guests(snapshot.service());
}

#[test]
fn the_log_of_another_kernel_is_what_its_dmesg_prints() {
    let Some(service) = second_kernel() else { return };
    log_is_the_guests(service);
}

fn md5(text: &[u8]) -> String {
    let mut child = Command::new("md5sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("md5sum");
    let mut input = child.stdin.take().expect("its input");
    input.write_all(text).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn symbols_are_the_guests(mut service: Service) {
    let ours = service.kdd(&["symbols", "vm"]).done().text();
    let count = ours.lines().count();
    assert!(count > 50_000, "{count}");
    service
        .console()
        .command("echo 1 >/proc/sys/kernel/kptr_restrict");
    // Megabytes are too much for a serial line.
    let begun = service
        .console()
        .begin(&format!("head -n {count} /proc/kallsyms | md5sum"));
    let (theirs, _) = service.console().result(begun, BOOT_LIMIT);
    assert_eq!(theirs, md5(ours.as_bytes()));
    // What comes behind the kernel's own are modules' and the like.
    let begun = service.console().begin(&format!(
        "tail -n +{} /proc/kallsyms | grep -v -F -c [",
        count + 1
    ));
    let (rest, _) = service.console().result(begun, BOOT_LIMIT);
    assert_eq!(rest, "0\n");

    let by_name = service.kdd(&["symbols", "vm", "do_exit", "--json"]).done().json();
    let address = by_name["address"].as_str().expect("an address").to_owned();
    assert_eq!(
        (&by_name["type"], &by_name["name"]),
        (&"T".into(), &"do_exit".into())
    );
    let line = ours
        .lines()
        .find(|line| line.ends_with(" T do_exit"))
        .expect("do_exit");
    assert_eq!(format!("0x{}", &line[..16]), address);
    let inside = format!("{:x}", u64::from_str_radix(&address[2..], 16).expect("hex") + 5);
    for place in ["do_exit+5", "vmlinux!do_exit+0x5"] {
        let read = |place| service.kdd(&["mem", "read", "vm", place, "16"]).done().text();
        assert_eq!(read(place), read(&inside));
        let walk = |place| service.kdd(&["translate", "vm", place]).done().text();
        assert_eq!(walk(place), walk(&inside));
    }
    let near = service.kdd(&["symbols", "vm", &inside]).done().text();
    assert!(near.ends_with(" T do_exit+0x5\n"), "{near}");
    let many = service.kdd(&["symbols", "vm", "cleanup_module"]);
    assert!(many.status == 0 || many.stderr.contains("no symbol"), "{many:?}");
    // Static functions share names.
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for line in ours.lines() {
        *names.entry(&line[19..]).or_default() += 1;
    }
    let (name, times) = names.iter().max_by_key(|(_, times)| **times).expect("names");
    let all = service.kdd(&["symbols", "vm", name]).done().text();
    assert_eq!(all.lines().count(), *times, "{name}");
}

#[test]
fn symbols_are_those_of_proc_kallsyms() {
    if !has_tool("md5sum") {
        return;
    }
    let Some(snapshot) = four_vcpus() else { return };
    symbols_are_the_guests(snapshot.service());
}

#[test]
fn symbols_of_another_kernel_are_those_of_proc_kallsyms() {
    let Some(service) = second_kernel() else { return };
    symbols_are_the_guests(service);
}

#[test]
fn debuggers_read_the_symbol_file() {
    if !has_tool("readelf") || !has_tool("gdb") {
        return;
    }
    let Some(snapshot) = four_vcpus() else { return };
    let service = snapshot.service();
    let path = service.scratch().path("vmlinux");
    let file = path.display().to_string();
    let report = service
        .kdd(&["symbols", "vm", "--elf", &file, "--json"])
        .done()
        .json();
    assert_eq!(report["path"], file.as_str());
    let bytes = std::fs::read(&path).expect("the file");
    assert_eq!(report["bytes"], bytes.len());
    assert_eq!(report["kernel_base"], service.info("vm")["os"]["kernel_base"]);
    let piped = service.kdd(&["symbols", "vm", "--elf", "-"]).done();
    assert!(piped.stdout == bytes, "standard output has the same file");

    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let address = format!("{:016x}", snapshot.symbol("do_sys_openat2"));
    let (symbols, errors) = said("readelf", &["-W", "-s", &file]);
    assert_eq!(errors, "");
    let line = symbols.lines().find(|line| line.ends_with(" do_sys_openat2"));
    assert!(line.is_some_and(|line| line.contains(&address)), "{line:?}");
    let gdb = [
        "-nx",
        "-batch",
        "-ex",
        "info address do_sys_openat2",
        "-ex",
        "print sizeof(struct task_struct) > 4000",
        &file,
    ];
    let (answer, errors) = said("gdb", &gdb);
    assert!(
        answer.contains(address.trim_start_matches('0')),
        "{answer} {errors}"
    );
    assert!(answer.contains("$1 = 1"), "{answer} {errors}");

    // A file that is there stays, unless it is to go.
    std::fs::write(&path, "mine").expect("a file");
    let why = service.kdd(&["symbols", "vm", "--elf", &file]).fails(1);
    assert!(why.contains("exists") && why.contains("--force"), "{why}");
    assert_eq!(std::fs::read(&path).expect("the file"), b"mine");
    service.kdd(&["symbols", "vm", "--elf", &file, "--force"]).done();
    assert!(std::fs::read(&path).expect("the file") == bytes);
    let folder = service.scratch().folder().display().to_string();
    for place in ["/proc/nowhere/vmlinux", &folder, "/dev/full", "/proc/self/comm"] {
        service
            .kdd(&["symbols", "vm", "--elf", place, "--force"])
            .fails(1);
    }
    let left = std::fs::read_dir(service.scratch().folder()).expect("the folder");
    let partial = left.filter(|entry| {
        let name = entry.as_ref().expect("an entry").file_name();
        name.to_string_lossy().contains("partial")
    });
    assert_eq!(partial.count(), 0);
}

fn modules_are_the_guests(mut service: Service, names: &[&str]) {
    let none = service.kdd(&["modules", "vm", "--json"]).done().json();
    assert!(list(&none, "modules").is_empty(), "{none}");
    for name in names {
        service.console().command(&format!("insmod /root/{name}.ko"));
    }
    // Somebody uses it.
    service
        .console()
        .command("if [ -e /dev/fuse ]; then sleep 1000 </dev/fuse & fi");
    let theirs = service.console().command("cat /proc/modules");
    let ours = service.kdd(&["modules", "vm", "--json"]).done().json();
    let lines = list(&ours, "modules").iter().map(|module| {
        let users: String = list(module, "used_by")
            .iter()
            .map(|user| format!("{},", user.as_str().expect("a name")))
            .collect();
        let base = module["base"].as_str().expect("an address");
        format!(
            "{} {} {} {} {} {base}\n",
            module["name"].as_str().expect("a name"),
            module["bytes"],
            module["references"],
            if users.is_empty() { "-" } else { &users },
            if module["state"] == "live" {
                "Live"
            } else {
                "other"
            },
        )
    });
    assert_eq!(lines.collect::<String>(), theirs);
    assert_eq!(theirs.lines().count(), names.len());
    for module in list(&ours, "modules") {
        let parts = list(module, "parts");
        let sizes = parts.iter().map(|part| part["bytes"].as_u64().expect("a size"));
        assert_eq!(Some(sizes.sum()), module["bytes"].as_u64(), "{module}");
        assert_eq!(parts[0]["base"], module["base"]);
    }
    let table = service.kdd(&["modules", "vm"]).done().text();
    assert!(names.iter().all(|name| table.contains(name)), "{table}");
}

#[test]
fn modules_are_those_of_proc_modules() {
    let names = ["loop", "dummy", "fuse"];
    let Some(archive) = modules_archive("linux", &names) else {
        return;
    };
    let Some(service) = boot("linux", &archive) else {
        return;
    };
    modules_are_the_guests(service, &names);
}

#[test]
fn modules_of_another_kernel_are_those_of_proc_modules() {
    let names = ["loop", "dummy"];
    let Some(archive) = modules_archive("linux-second", &names) else {
        return;
    };
    let Some(service) = boot("linux-second", &archive) else {
        return;
    };
    modules_are_the_guests(service, &names);
}

#[test]
fn info_says_which_kernel_it_is_and_how_that_is_known() {
    let Some(snapshot) = four_vcpus() else { return };
    let mut service = snapshot.service();
    let os = service.info("vm")["os"].clone();
    let release = service.console().command("uname -r");
    assert_eq!(
        (&os["family"], &os["release"]),
        (&"linux".into(), &release.trim().into())
    );
    let banner = service.console().command("cat /proc/version");
    assert_eq!(os["banner"], banner.trim());
    let line = service.console().command("cat /proc/cmdline");
    assert_eq!(os["command_line"], line.trim());
    let base = os["kernel_base"].as_str().expect("an address");
    assert_eq!(base, format!("{:#x}", snapshot.symbol("_stext")));
    let slide = snapshot.symbol("_stext") - 0xffff_ffff_8100_0000;
    assert_eq!(os["kernel_slide"], format!("{slide:#x}"));
    for absent in ["panic", "oops", "taint", "bugcheck", "pdb", "build"] {
        assert!(os.get(absent).is_none(), "{absent}: {os}");
    }
    let brief = service.kdd(&["info", "vm"]).done().text();
    assert!(
        brief.contains(release.trim()) && brief.contains("moved by"),
        "{brief}"
    );
    assert!(!brief.contains("kallsyms"), "{brief}");
    let long = service.kdd(&["info", "vm", "-v"]).done().text();
    assert!(long.contains("kallsyms") && long.contains("by BTF"), "{long}");
}

#[test]
fn a_kernel_that_has_panicked_says_so_and_its_log_is_there() {
    let Some((_, service)) = with_guest() else { return };
    // It goes round in circles from then on.
    let panic = "echo c >/proc/sysrq-trigger\r";
    let mut run = four_vcpus().expect("it was there").service();
    drop(service);
    run.console().types(panic);
    until("the panic", || run.info("vm")["os"].get("panic").is_some());
    let os = run.info("vm")["os"].clone();
    assert!(
        os["panic"].as_str().is_some_and(|text| text.contains("sysrq")),
        "{os}"
    );
    let log = run.kdd(&["dmesg", "vm"]).done().text();
    assert!(
        log.contains("Kernel panic - not syncing: sysrq triggered crash"),
        "{log}"
    );
    run.kdd(&["ps", "vm"]).done();
}

#[test]
fn a_guest_without_a_kernel_is_said_to_have_none() {
    let Some(guest) = guest(None) else { return };
    let service = Service::serve(NOTHING);
    let kernel = guest.kernel.display().to_string();
    service
        .kdd(&["create", "--kernel", &kernel, "--name", "early", "--paused"])
        .done();
    let file = service.scratch().path("elf").display().to_string();
    let commands: &[&[&str]] = &[
        &["ps", "early"],
        &["threads", "early"],
        &["modules", "early"],
        &["dmesg", "early"],
        &["symbols", "early"],
        &["symbols", "early", "do_exit"],
        &["symbols", "early", "--elf", &file],
        &["mem", "read", "early", "do_exit", "16"],
        &["mem", "write", "early", "do_exit", "90"],
        &["translate", "early", "do_exit"],
    ];
    for command in commands {
        let why = service.kdd(command).fails(1);
        assert!(
            why.contains("Linux") && why.contains("once their kernel runs"),
            "{why}"
        );
    }
    assert!(!Path::new(&file).exists());
    assert!(service.info("early").get("os").is_none());
}

#[test]
fn symbols_that_are_none_are_refused() {
    let Some((_, service)) = with_guest() else { return };
    for place in ["no_such_symbol", "do_exit+ffffffffffffffff"] {
        for command in ["read", "write"] {
            service.kdd(&["mem", command, "vm", place, "10"]).fails(1);
        }
        service.kdd(&["translate", "vm", place]).fails(1);
    }
    let why = service.kdd(&["symbols", "vm", "no_such\u{1b}[2J"]).fails(1);
    assert!(!why.contains('\u{1b}'), "{why:?}");
    let why = service.kdd(&["symbols", "vm", "0x1000"]).fails(1);
    assert!(why.contains("not in its kernel"), "{why}");
    service
        .kdd(&["mem", "read", "vm", "do_exit", "16", "--phys"])
        .fails(2);
    for nonsense in ["", "do exit", "do_exit+x", "0xdo_exit"] {
        assert_eq!(
            service.kdd(&["translate", "vm", nonsense]).status,
            2,
            "{nonsense:?}"
        );
    }
}

#[test]
fn a_dump_of_it_says_the_same() {
    let Some((_, service)) = with_guest() else { return };
    service.kdd(&["pause", "vm"]).done();
    let said = |domain: &str| {
        let ask = |command: &str| service.kdd(&[command, domain, "--json"]).done().text();
        let symbol = service.kdd(&["symbols", domain, "do_exit"]).done().text();
        let banner = service
            .kdd(&["mem", "read", domain, "linux_banner", "64"])
            .done()
            .text();
        let answers = ["ps", "threads", "modules", "dmesg"].map(ask);
        let os = service.info(domain)["os"].clone();
        let os =
            ["release", "banner", "command_line", "kernel_slide", "uptime_ms"].map(|what| os[what].clone());
        (answers, symbol, banner, os)
    };
    let expected = said("vm");
    for format in ["elf", "kdump"] {
        let path = service.scratch().path(format).display().to_string();
        let report = service
            .kdd(&["dump", "vm", "--format", format, "-o", &path, "--json"])
            .done()
            .json();
        assert!(
            report["os"].as_str().is_some_and(|os| os.starts_with("Linux ")),
            "{report}"
        );
        service.kdd(&["create", "--dump", &path, "--name", format]).done();
        assert_eq!(said(format), expected, "{format}");
    }
}
