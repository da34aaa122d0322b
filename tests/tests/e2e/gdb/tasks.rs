//! The tasks of a Linux guest are threads, after the vCPUs.

use super::{attached, attached_four};
use std::collections::BTreeMap;
use tests::{Gdb, four_vcpus, has_tool, one_vcpu};

/// Sleepers of user mode, of several kinds.
const SLEEPERS: &str = "sleep 1000 & (cat /dev/zero | sleep 1000) & cat >/dev/null </dev/ptmx & sleep 0.5";
/// Tasks by pid with their names, or their stacks, as the guest says.
const NAMES: &str =
    "for p in /proc/[0-9]*/task/[0-9]*; do echo \"@${p##*/} $(cat $p/comm)\"; done 2>/dev/null";
const STACKS: &str = "for p in /proc/[0-9]*; do echo \"@${p##*/}\"; cat $p/stack; done 2>/dev/null";

/// What follows `@PID` in the guest's answer.
fn by_pid(text: &str) -> BTreeMap<u32, String> {
    let of = |part: &str| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        Some((part[..digits].parse().ok()?, part[digits..].trim().to_owned()))
    };
    text.split('@').skip(1).filter_map(of).collect()
}

/// A line of `info threads`: gdb's number, the name, and what the task does.
struct Listed {
    number: u32,
    name: String,
    extra: String,
}

/// The tasks of `info threads` by pid.
fn listed(text: &str) -> BTreeMap<u32, Listed> {
    let of = |line: &str| {
        let line = line.trim_start_matches(['*', ' ']);
        let (number, rest) = line.split_once(" Thread ")?;
        let (id, rest) = rest.split_once(" \"")?;
        let (name, rest) = rest.split_once("\" (")?;
        let listed = Listed {
            number: number.trim().parse().ok()?,
            name: name.to_owned(),
            extra: rest.to_owned(),
        };
        Some((id.parse::<u32>().ok()?.checked_sub(1000)?, listed))
    };
    text.lines().filter_map(of).collect()
}

/// gdb's number of the first task of this name.
#[track_caller]
fn number_of(gdb: &mut Gdb, name: &str) -> u32 {
    let text = gdb.run("info threads");
    let tasks = listed(&text);
    let found = tasks.values().find(|task| task.name == name);
    found.unwrap_or_else(|| panic!("no task {name}: {text}")).number
}

#[test]
fn the_list_is_the_guests_own_after_the_vcpus() {
    let Some(snapshot) = four_vcpus().filter(|_| has_tool("gdb")) else {
        return;
    };
    let mut service = snapshot.service();
    service.console().command(SLEEPERS);
    let guest = by_pid(&service.console().command(NAMES));
    let mut gdb = Gdb::attached(&service.gdb_address());
    let text = gdb.run("info threads");
    let tasks = listed(&text);
    for vcpu in 0..4 {
        let line = text.lines().nth(vcpu + 1).unwrap_or_default();
        assert!(
            line.contains(&format!(" {} ", vcpu + 1)) && line.contains(&format!("\"vCPU {vcpu}\"")),
            "{text}"
        );
    }
    assert!(guest.len() > 50, "{guest:?}");
    // Workers come and go by themselves.
    let is_worker = |name: &str| name.starts_with("kworker");
    for (pid, name) in &guest {
        match tasks.get(pid) {
            // The kernel appends what a worker does.
            Some(task) => assert!(name.starts_with(&task.name), "{pid}: {name} and {}", task.name),
            None => assert!(is_worker(name), "{pid} {name} is missing: {text}"),
        }
    }
    for (pid, task) in &tasks {
        assert!(
            guest.contains_key(pid) || is_worker(&task.name),
            "{pid} {} isn't the guest's: {guest:?}",
            task.name
        );
        assert!(task.extra.starts_with(&format!("pid {pid}")), "{}", task.extra);
    }
    let sleeper = tasks.values().find(|task| task.name == "sleep");
    let extra = &sleeper.expect("a sleeper").extra;
    assert!(extra.contains("sleeping in hrtimer_nanosleep+"), "{extra}");

    let off = gdb.run("monitor tasks off");
    assert!(off.contains("vCPUs alone"), "{off}");
    let text = gdb.run("info threads");
    assert_eq!(text.matches("\"vCPU ").count(), 4, "{text}");
    assert!(listed(&text).is_empty(), "{text}");
    gdb.run("monitor tasks on");
    assert_eq!(listed(&gdb.run("info threads")).len(), tasks.len());
    gdb.detach();
    service.console().answers();
}

#[test]
fn stacks_of_sleeping_tasks_are_those_of_proc() {
    let Some(snapshot) = four_vcpus().filter(|_| has_tool("gdb")) else {
        return;
    };
    let mut service = snapshot.service();
    service.console().command(SLEEPERS);
    let guest = by_pid(&service.console().command(STACKS));
    let mut gdb = Gdb::attached(&service.gdb_address());
    let text = gdb.run("thread apply all bt");
    let mut stacks: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    let mut pid = 0;
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("(Thread ") {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            pid = digits.parse::<u32>().map_or(0, |id| id.saturating_sub(1000));
        } else if let Some((_, function)) = line.split_once(" in ") {
            let name = function.split(' ').next().unwrap_or_default();
            stacks.entry(pid).or_default().push(name);
        }
    }
    let (mut compared, mut others) = (0, Vec::new());
    for (pid, text) in &guest {
        let wanted: Vec<&str> = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("[<0>] ")?.split('+').next())
            .collect();
        let Some(frames) = stacks.get(pid).filter(|_| !wanted.is_empty()) else {
            continue;
        };
        compared += 1;
        // The guest leaves the scheduler's frames out.
        if !frames.windows(wanted.len()).any(|part| part == wanted) {
            others.push(format!("{pid}: {wanted:?} against {frames:?}"));
        }
    }
    // Few have moved on since the guest was asked.
    assert!(compared > 50 && others.len() <= 3, "of {compared}: {others:#?}");
    gdb.detach();
    service.console().answers();
}

#[test]
fn a_sleeping_task_is_neither_written_nor_stepped_and_its_reason_is_told() {
    let Some((_, mut service, mut gdb)) = attached() else {
        return;
    };
    let number = number_of(&mut gdb, "kthreadd");
    gdb.run(&format!("thread {number}"));
    assert!(gdb.run("print $rax").contains("<unavailable>"));
    assert!(gdb.run("bt").contains(" in kthreadd ("));
    let rip = gdb.value("$rip");
    let answer = gdb.run("print $r12 = 5");
    assert!(answer.contains("no vCPU runs this task"), "{answer}");
    let time = service.state("vm").1;
    let answer = gdb.run("stepi");
    assert!(
        answer.contains("task 2 (kthreadd, sleeping) is on no vCPU: it can't be stepped"),
        "{answer}"
    );
    assert_eq!(service.state("vm").1, time, "nothing ran");
    assert_eq!(gdb.value("$rip"), rip);
    // The guest goes on whichever thread is selected.
    gdb.begin("continue");
    service.console().answers();
    gdb.interrupt();
    let stop = gdb.end();
    assert!(
        stop.contains("Thread 1 \"vCPU 0\" received signal SIGINT"),
        "{stop}"
    );
    gdb.detach();
    service.console().answers();
}

#[test]
fn a_running_task_has_its_vcpus_registers_and_is_stepped() {
    let Some((_, mut service, mut gdb)) = attached_four() else {
        return;
    };
    gdb.begin("continue");
    service
        .console()
        .command("for one in 4; do taskset $one sh -c 'while :; do :; done' & done");
    service.console().answers();
    gdb.interrupt();
    gdb.end();
    let text = gdb.run("info threads");
    let tasks = listed(&text);
    let task = tasks
        .values()
        .find(|task| task.extra.contains("on vCPU 2"))
        .unwrap_or_else(|| panic!("nothing runs on vCPU 2: {text}"));
    assert!(
        text.lines()
            .any(|line| line.contains("\"vCPU 2\"") && line.contains(", task ")),
        "{text}"
    );
    gdb.run("thread 3");
    let of_vcpu = (gdb.value("$rip"), gdb.value("$rsp"), gdb.value("$cr3"));
    gdb.run(&format!("thread {}", task.number));
    assert_eq!((gdb.value("$rip"), gdb.value("$rsp"), gdb.value("$cr3")), of_vcpu);
    let time = service.state("vm").1;
    let stop = gdb.run("stepi");
    assert!(!stop.contains("SIGTRAP") && !stop.contains("warning"), "{stop}");
    assert!(service.state("vm").1 > time);
    let here = gdb.run("thread");
    assert!(
        here.contains(&format!("Current thread is {} ", task.number)),
        "{here}"
    );
    gdb.detach();
    service.console().answers();
}

#[test]
fn memory_is_that_of_the_selected_tasks_process() {
    let Some(snapshot) = one_vcpu().filter(|_| has_tool("gdb")) else {
        return;
    };
    let mut service = snapshot.service();
    // The same program at the same addresses twice.
    service
        .console()
        .command("echo 0 >/proc/sys/kernel/randomize_va_space");
    service.console().command("sleep 1234 & sleep 5678 & sleep 0.5");
    let places = service
        .console()
        .command("for p in $(pidof sleep); do echo \"@$p $(cut -d' ' -f48 /proc/$p/stat)\"; done");
    let places = by_pid(&places);
    assert_eq!(places.len(), 2, "{places:?}");
    let mut gdb = Gdb::attached(&service.gdb_address());
    let tasks = listed(&gdb.run("info threads"));
    let mut seen: Vec<&str> = Vec::new();
    for _ in 0..2 {
        for (pid, place) in &places {
            gdb.run(&format!("thread {}", tasks[pid].number));
            let text = gdb.run(&format!("x/s {place} + 6"));
            seen.extend(["1234", "5678"].into_iter().filter(|time| text.contains(time)));
            // The kernel's memory is there, too.
            assert!(gdb.run("x/s &linux_banner").contains("Linux version"));
        }
    }
    assert!(
        places
            .values()
            .collect::<Vec<_>>()
            .windows(2)
            .all(|two| two[0] == two[1])
    );
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert!(seen[0] != seen[1] && seen[..2] == seen[2..], "{seen:?}");
    gdb.detach();
    service.console().answers();
}

#[test]
fn a_list_that_runs_in_a_circle_ends_with_a_note() {
    let Some((_, _service, mut gdb)) = attached() else {
        return;
    };
    let whole = listed(&gdb.run("info threads")).len();
    let ps = gdb.run("monitor lx ps");
    let address = |pid: &str| {
        let line = ps
            .lines()
            .find(|line| line.split_whitespace().nth(1) == Some(pid));
        let first = line.and_then(|line| line.split_whitespace().next());
        first.unwrap_or_else(|| panic!("no task {pid}: {ps}")).to_owned()
    };
    let (first, second) = (address("2"), address("3"));
    let link = |task: &str| format!("((struct task_struct *) {task})->tasks");
    gdb.run(&format!(
        "set variable {}.next = &{}",
        link(&second),
        link(&first)
    ));
    let answer = gdb.run("monitor tasks on");
    assert!(answer.contains("circle"), "{answer}");
    let text = gdb.run("info threads");
    assert!(text.contains("circle"), "{text}");
    assert!((3..whole).contains(&listed(&text).len()), "{text}");
    gdb.kill();
}

#[test]
fn what_the_kernels_scripts_show_is_shown_without_them() {
    let Some(snapshot) = one_vcpu().filter(|_| has_tool("gdb")) else {
        return;
    };
    let mut service = snapshot.service();
    let mut gdb = Gdb::attached(&service.gdb_address());
    let mut shown = |what: &str| gdb.run(&format!("monitor {what}")).trim().to_owned();
    let (version, line, log) = (shown("lx version"), shown("lx cmdline"), shown("lx dmesg"));
    let (ps, current) = (shown("lx ps"), shown("lx current"));
    assert!(shown("info version").starts_with("kdd "));
    assert!(shown("lx lsmod").starts_with("Address "));
    assert!(shown("lx").contains("ps, dmesg, lsmod"));
    gdb.detach();
    assert_eq!(service.console().command("cat /proc/version").trim(), version);
    assert_eq!(service.console().command("cat /proc/cmdline").trim(), line);
    let guest = service.console().command("dmesg");
    let guest: Vec<&str> = guest.lines().map(str::trim_end).collect();
    let log: Vec<&str> = log.lines().map(str::trim_end).collect();
    assert!(log.len() > 100 && guest.starts_with(&log), "{log:?}");
    assert!(ps.lines().any(|line| line.ends_with(" kthreadd")), "{ps}");
    assert!(
        current.ends_with(" swapper/0") || current.contains(' '),
        "{current}"
    );
}
