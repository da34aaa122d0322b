//! The same inputs give the same state, whoever looks on.
//!
//! The state at the end is compared: of a guest that works for a while and powers itself off. Until then nothing
//! comes from outside, so that the instruction at which it ends, and every byte that it leaves, is determined by
//! the saved state it starts from.

use hv_core::introspect::{Breakpoint, BreakpointId, BreakpointKind, Place, StepMode};
use hv_core::machine::{GuestImage, Machine, MachineConfig, RunExit, RunLimit};
use hv_core::{GuestVirtAddr, Ticks, VcpuId};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use tests::{Gdb, LIMIT, Scratch, Service, Snapshot, four_vcpus, guest, has_tool, kept, one_vcpu, until};

/// Some work of every kind: programs, pipes, timers, and on every vCPU at once.
const WORK: &str = "sleep 0.5; for n in 1 2 3 4; do (head -c 100000 /bin/busybox | gzip | md5sum; sleep 0.1) & done; wait; \
    for n in 1 2 3 4 5 6 7 8; do hostname h$n; cat /proc/interrupts | md5sum; done; date; poweroff -f";

/// A machine in the middle of that work, in a file.
#[track_caller]
fn busy(snapshot: &Snapshot, scratch: &Scratch) -> PathBuf {
    let mut service = snapshot.service();
    let mut console = service.console();
    console.types(&format!("echo on$((1))ward; {WORK}\r"));
    console.shows("on1ward", LIMIT);
    let state = scratch.path("busy");
    service
        .kdd(&["save".as_ref(), "vm".as_ref(), state.as_os_str()])
        .done();
    state
}

/// How a domain ended: at which time, and in which state.
#[track_caller]
fn end(service: &Service, domain: &str) -> (u64, String) {
    until("the end of the guest", || service.state(domain).0 == "shut-down");
    let info = service.kdd(&["info", domain, "--hash", "--json"]).done().json();
    let hash = info["state_hash"].as_str().expect("a hash").to_owned();
    (info["uptime_instructions"].as_u64().expect("a time"), hash)
}

/// A service with the saved machine, waiting.
#[track_caller]
fn restored(state: &Path) -> Service {
    let service = Service::serve(&[] as &[&str]);
    let file = state.to_string_lossy();
    service
        .kdd(&["create", "--restore", &file, "--name", "a", "--paused"])
        .done();
    service
}

/// A saved machine, one restored from it, and forks of that, end alike.
#[track_caller]
fn ends_alike(snapshot: &Snapshot) {
    let scratch = Scratch::default();
    let state = busy(snapshot, &scratch);
    let service = restored(&state);
    service.kdd(&["fork", "a", "--count", "2", "--paused"]).done();
    service.kdd(&["unpause", "a"]).done();
    service.kdd(&["unpause", "a-fork-1"]).done();
    let first = end(&service, "a");
    // Another runs when the first is over, with pauses and looks on its way.
    service.kdd(&["unpause", "a-fork-2"]).done();
    for _ in 0..10 {
        service.kdd(&["pause", "a-fork-2"]);
        service.kdd(&["regs", "a-fork-2"]).done();
        service
            .kdd(&["mem", "read", "a-fork-2", "0", "4K", "--phys"])
            .done();
        service.kdd(&["unpause", "a-fork-2"]);
    }
    assert_eq!(end(&service, "a-fork-1"), first);
    assert_eq!(end(&service, "a-fork-2"), first);
    assert_eq!(
        end_without_throttle(&state),
        first,
        "as fast as it goes, in the test's own process"
    );
}

/// The same in this process, on the bare machine.
#[track_caller]
fn end_without_throttle(state: &Path) -> (u64, String) {
    let mut machine = machine(state);
    run(&mut machine, u64::MAX);
    (machine.now().0, hex(&machine.state_hash()))
}

/// The machine of a saved domain.
#[track_caller]
fn machine(state: &Path) -> Machine {
    let mut file = std::io::BufReader::new(std::fs::File::open(state).expect("the saved state"));
    let hypervisor = hv_core::Hypervisor::new();
    let domain = hypervisor.restore(&mut file, None, true).expect("a saved domain");
    let mut bytes = Vec::new();
    let save = hv_core::introspect::Introspect::save(&*domain).expect("it can be saved");
    save.save(&mut bytes).expect("saved again");
    let start = bytes.windows(7).position(|window| window == b"KDDMACH");
    Machine::restore(&mut &bytes[start.expect("the machine's part")..]).expect("a saved machine")
}

/// Runs up to a time or the guest's end, in turns of all lengths.
fn run(machine: &mut Machine, to: u64) {
    let never = AtomicBool::new(false);
    let mut turn = 1;
    while machine.now().0 < to {
        turn = turn * 7 % 1_000_003;
        match machine.run(
            &RunLimit {
                ticks: turn.min(to - machine.now().0),
                step: None,
            },
            &never,
        ) {
            RunExit::Idle { until } if until != Ticks::NEVER => machine.advance_idle(Ticks(until.0.min(to))),
            RunExit::Limit => {}
            RunExit::PowerOff => return,
            other => panic!("{other:?}"),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_saved_machine_and_its_forks_end_alike() {
    let Some(snapshot) = one_vcpu() else { return };
    ends_alike(snapshot);
}

#[test]
fn a_saved_machine_with_four_vcpus_and_its_forks_end_alike() {
    let Some(snapshot) = four_vcpus() else { return };
    ends_alike(snapshot);
}

/// Debuggers come, step, break, watch, look, and are killed or leave; the guest ends as if nobody had been there.
#[track_caller]
fn nobody_was_there(snapshot: &Snapshot, seed: u64) {
    let seed = seed_or(seed);
    let scratch = Scratch::default();
    let state = busy(snapshot, &scratch);
    let undisturbed = restored(&state);
    undisturbed.kdd(&["unpause", "a"]).done();

    let service = restored(&state);
    let address = service.add_gdb("a");
    let mut random = Random(seed);
    let places = ["schedule", "vfs_write", "do_sys_openat2", "__x64_sys_sethostname"]
        .map(|name| snapshot.symbol(name));
    let jiffies = snapshot.symbol("jiffies_64");
    let mut first = true;
    for _ in 0..6 {
        if service.state("a").0 == "shut-down" {
            break;
        }
        let mut gdb = Gdb::start();
        gdb.run(&format!("target remote {address}"));
        assert!(!first || service.state("a").0 == "paused");
        first = false;
        let place = places[random.below(4) as usize];
        gdb.run(&format!("break *{place:#x}"));
        if random.below(2) == 0 {
            gdb.run(&format!("watch *(unsigned long*){jiffies:#x}"));
        }
        for _ in 0..1 + random.below(6) {
            gdb.run("continue");
            gdb.run(&format!("stepi {}", 1 + random.below(300)));
            gdb.run("info registers");
            gdb.run("x/20i $rip");
            gdb.run("nexti");
        }
        if random.below(2) == 0 {
            gdb.run("detach");
        } else {
            gdb.begin(if random.below(2) == 0 {
                "stepi 1000"
            } else {
                "continue"
            });
            gdb.kill();
        }
    }
    let expected = end(&undisturbed, "a");
    let found = end(&service, "a");
    if found != expected {
        // For whoever has to find out why.
        for (service, name) in [(&undisturbed, "expected"), (&service, "found")] {
            let path = kept(&format!("{name}-{seed}.state"));
            service
                .kdd(&["save".as_ref(), "a".as_ref(), path.as_os_str()])
                .done();
            eprintln!("{}", path.display());
        }
    }
    assert_eq!(found, expected, "seed {seed}");
}

/// On the bare machine, where each debugger's call can be made at a chosen tick: runs of all lengths, steps, and
/// breakpoints that are passed as gdb passes them, with a step of that vCPU alone.
#[track_caller]
fn no_call_changes_anything(snapshot: &Snapshot, seed: u64) {
    let seed = seed_or(seed);
    let scratch = Scratch::default();
    let mut start = machine(&busy(snapshot, &scratch));
    let places = ["schedule", "vfs_write", "do_sys_openat2"].map(|name| snapshot.symbol(name));
    let end = start.now().0 + 60_000_000;
    let mut undisturbed = start.fork();
    run(&mut undisturbed, end);
    for seed in seed..seed + 5 {
        let mut machine = start.fork();
        disturb(&mut machine, &mut Random(seed), &places, end);
        run(&mut machine, end);
        assert_eq!((machine.now(), undisturbed.now()), (Ticks(end), Ticks(end)));
        assert!(
            machine.state_hash() == undisturbed.state_hash(),
            "seed {seed} gives another state"
        );
    }
}

fn disturb(machine: &mut Machine, random: &mut Random, places: &[u64], end: u64) {
    let never = AtomicBool::new(false);
    let vcpus = u64::from(machine.vcpu_count());
    let mut id = 0;
    while machine.now().0 + 1_000_000 < end {
        let left = end - machine.now().0;
        id += 1;
        let place = Place::Virtual(GuestVirtAddr(places[random.below(places.len() as u64) as usize]));
        let execute = Breakpoint {
            place,
            kind: BreakpointKind::Execute,
            condition: None,
        };
        machine.insert_breakpoint(BreakpointId(id), execute.clone());
        let mut stops = random.below(20);
        let until = machine.now().0 + (1 + random.below(4_000_000)).min(left);
        while stops > 0 && machine.now().0 < until {
            let limit = RunLimit {
                ticks: until - machine.now().0,
                step: None,
            };
            match machine.run(&limit, &never) {
                RunExit::Idle { until } => machine.advance_idle(Ticks(until.0.min(end))),
                RunExit::Stopped { vcpu, .. } => {
                    stops -= 1;
                    machine.remove_breakpoint(BreakpointId(id));
                    let mode = if random.below(2) == 0 {
                        StepMode::Alone
                    } else {
                        StepMode::Schedule
                    };
                    step(machine, vcpu, mode, end);
                    for _ in 0..random.below(200) {
                        step(machine, vcpu, StepMode::Schedule, end);
                    }
                    machine.insert_breakpoint(BreakpointId(id), execute.clone());
                }
                RunExit::Limit => {}
                other => panic!("{other:?}"),
            }
        }
        machine.remove_breakpoint(BreakpointId(id));
        let vcpu = VcpuId(random.below(vcpus) as u32);
        for _ in 0..random.below(500) {
            step(machine, vcpu, StepMode::Schedule, end);
        }
    }
}

/// One step, or what can be done of it in a while.
fn step(machine: &mut Machine, vcpu: VcpuId, mode: StepMode, end: u64) {
    let limit = RunLimit {
        ticks: (end - machine.now().0).min(1000),
        step: Some((vcpu, mode)),
    };
    match machine.run(&limit, &AtomicBool::new(false)) {
        RunExit::Idle { until } => machine.advance_idle(Ticks(until.0.min(end))),
        RunExit::Stepped | RunExit::Limit => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_debugger_call_changes_what_the_guest_does() {
    let Some(snapshot) = one_vcpu() else { return };
    no_call_changes_anything(snapshot, 0);
}

#[test]
fn no_debugger_call_changes_what_a_guest_with_four_vcpus_does() {
    let Some(snapshot) = four_vcpus() else { return };
    no_call_changes_anything(snapshot, 0);
}

/// The seed that the environment gives, to try others or one again; else the test's own.
fn seed_or(seed: u64) -> u64 {
    let given = std::env::var("KDD_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or(seed);
    eprintln!("KDD_TEST_SEED={seed}");
    seed
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn a_debugged_guest_ends_as_if_nobody_had_been_there() {
    let Some(snapshot) = one_vcpu().filter(|_| has_tool("gdb")) else {
        return;
    };
    nobody_was_there(snapshot, 1);
}

#[test]
fn a_debugged_guest_with_four_vcpus_ends_as_if_nobody_had_been_there() {
    let Some(snapshot) = four_vcpus().filter(|_| has_tool("gdb")) else {
        return;
    };
    nobody_was_there(snapshot, 2);
}

/// Two boots in this process, the second in other turns and with steps in between.
#[track_caller]
fn boots_alike(vcpus: u32, command_line: &str, to: u64) {
    let Some(guest) = guest(None) else { return };
    let read = |path: &PathBuf| std::fs::read(path).expect("a guest's file").into();
    let config = MachineConfig {
        memory_bytes: 256 << 20,
        vcpus,
        seed: 5,
        cpu_model: String::new(),
        debug_exit: None,
        guest: GuestImage::Linux {
            kernel: read(&guest.kernel),
            initrd: Some(read(&guest.initrd)),
            command_line: format!("console=ttyS0 cryptomgr.notests {command_line}"),
        },
    };
    let boot = |disturbed: bool| {
        let mut machine = Machine::new(&config).expect("a machine");
        let mut hashes = Vec::new();
        for part in 1..=4 {
            if disturbed {
                run(&mut machine, to / 4 * part - 10_000);
                for _ in 0..1000 {
                    let step = Some((VcpuId(0), StepMode::Schedule));
                    let left = to / 4 * part - machine.now().0;
                    machine.run(
                        &RunLimit {
                            ticks: left.min(5),
                            step,
                        },
                        &AtomicBool::new(false),
                    );
                }
                machine = machine.fork();
            }
            run(&mut machine, to / 4 * part);
            assert_eq!(machine.now().0, to / 4 * part);
            hashes.push(hex(&machine.state_hash()));
        }
        hashes
    };
    assert_eq!(boot(false), boot(true));
}

#[test]
fn a_boot_is_the_same_each_time() {
    boots_alike(1, "", 200_000_000);
}

#[test]
fn a_boot_with_four_vcpus_is_the_same_each_time() {
    boots_alike(4, "nokaslr", 240_000_000);
}
