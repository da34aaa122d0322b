//! Random bytes as code, page tables, descriptor tables, register state and device programming, in every mode.
//!
//! ```text
//!  input ─► world: a mode, its tables, damage to them, registers ─► Machine ─┬─ run to tick N at once
//!        └► code: device accesses, then raw bytes                           ├─ run there in pieces and steps
//!                                                                            └─ run there with the debugger at work
//! ```
//! The three must end in the same state: how often and why a run returns is nothing that a guest can see. The third
//! inserts breakpoints and watchpoints, forks, saves and restores on the way. Only a guest that changed its page
//! tables, and may have forgotten INVLPG, is excused: it can tell by what a TLB happens to hold.

mod code;
mod world;

use super::Target;
use crate::input::Input;
use crate::lab;
use crate::random::Random;
use hv_core::introspect::{
    AccessKind, Breakpoint, BreakpointId, BreakpointKind, PageRights, Place, StepMode,
};
use hv_core::machine::{Machine, RunExit, RunLimit};
use hv_core::{GuestPhysAddr, GuestVirtAddr, Ticks, VcpuId};
use std::sync::atomic::AtomicBool;

/// See the module.
pub const TARGET: Target = Target {
    name: "engine",
    run,
    seeds,
    words: code::WORDS,
    longest: 1024,
};

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for mode in 0..world::MODES {
        for (n, piece) in code::WORDS.chunks(6).enumerate() {
            // Mode, vCPUs, ticks, how the debugger works, no damage, no changed registers, one device access.
            let mut bytes = vec![
                mode as u8,
                n as u8 & 1,
                40,
                n as u8,
                0,
                0,
                1,
                n as u8,
                0x12,
                n as u8,
            ];
            bytes.extend_from_slice(&piece.concat());
            seeds.push(bytes);
        }
    }
    seeds
}

/// How far a machine got.
#[derive(PartialEq, Eq, Debug)]
struct End {
    exit: Option<RunExit>,
    now: Ticks,
    hash: [u8; 32],
}

/// Runs a machine to `end`, each run as long as `next` says.
fn run_to(machine: &mut Machine, end: u64, next: &mut dyn FnMut(&mut Machine) -> RunLimit) -> End {
    let never = AtomicBool::new(false);
    let mut exit = None;
    let mut idle = 0;
    // For those who look into a failure.
    let trace = std::env::var_os("KDD_FUZZ_TRACE").is_some();
    while machine.now().0 < end {
        let mut limit = next(machine);
        limit.ticks = limit.ticks.min(end - machine.now().0);
        let before = machine.now();
        let ended = machine.run(&limit, &never);
        if trace {
            let r = machine.registers(VcpuId(0));
            let mut bytes = [0; 8];
            machine.read_physical(GuestPhysAddr(r.segments[1].base.wrapping_add(r.rip)), &mut bytes);
            eprintln!(
                "{} {limit:?} {ended:?}: rip {:x} {bytes:02x?} flags {:x} cr2 {:x} rsp {:x}",
                machine.now().0,
                r.rip,
                r.rflags,
                r.cr2,
                r.gpr[4]
            );
        }
        match ended {
            // The guest told of a crash kernel.
            RunExit::Interrupted if !machine.take_guest_crashes().is_empty() => {}
            RunExit::Limit | RunExit::Interrupted => {
                assert!(
                    machine.now().0 >= before.0 + limit.ticks || limit.ticks == 0,
                    "a limit that is none"
                );
            }
            RunExit::Stepped | RunExit::Stopped { .. } => {}
            RunExit::Idle { until } => {
                machine.advance_idle(Ticks(until.0.min(end)));
                idle += 1;
                if idle > 1000 {
                    break;
                }
            }
            RunExit::Reset(_) => machine.reset(),
            // The guest goes on after it.
            RunExit::DebugExit(_) => {}
            other => {
                exit = Some(other);
                break;
            }
        }
    }
    End {
        exit,
        now: machine.now(),
        hash: machine.state_hash(),
    }
}

/// The debugger's work between runs.
struct Debugger {
    random: Random,
    breakpoints: u64,
}

impl Debugger {
    fn limit(&mut self, vcpus: u32) -> RunLimit {
        let step = (self.random.below(2) == 0).then(|| {
            (
                VcpuId(self.random.below(vcpus as usize) as u32),
                StepMode::Schedule,
            )
        });
        RunLimit {
            ticks: 1 + self.random.next() % 20,
            step,
        }
    }

    fn act(&mut self, machine: &mut Machine) {
        let address = match self.random.below(4) {
            0 => machine.registers(VcpuId(0)).rip,
            1 => machine.registers(VcpuId(0)).gpr[self.random.below(16)],
            2 => self.random.next() >> self.random.below(64),
            _ => world::CODE + self.random.next() % 64,
        };
        let place = match self.random.below(3) {
            0 => Place::Virtual(GuestVirtAddr(address)),
            1 => Place::Physical(GuestPhysAddr(address)),
            _ => Place::InAddressSpace(
                GuestVirtAddr(address),
                GuestPhysAddr(machine.registers(VcpuId(0)).cr3 & !0xfff),
            ),
        };
        match self.random.below(12) {
            0..=2 => self.insert(
                machine,
                Breakpoint {
                    place,
                    kind: BreakpointKind::Execute,
                    condition: None,
                },
            ),
            3 | 4 => {
                let length = (1 << self.random.below(14)).min(u64::MAX - address).max(1);
                let access = *self
                    .random
                    .pick(&[AccessKind::Read, AccessKind::Write, AccessKind::ReadWrite]);
                self.insert(
                    machine,
                    Breakpoint {
                        place,
                        kind: BreakpointKind::Watch { length, access },
                        condition: None,
                    },
                );
            }
            5 => {
                machine.remove_breakpoint(BreakpointId(self.random.next() % (self.breakpoints + 1)));
            }
            6 => *machine = machine.fork(),
            7 => {
                let mut bytes = Vec::new();
                assert!(machine.save(&mut bytes).is_ok());
                match Machine::restore(&mut &bytes[..]) {
                    Ok(restored) => *machine = restored,
                    Err(error) => panic!("what was saved isn't restored: {error}"),
                }
            }
            8 => {
                let mut bytes = [0; 40];
                let done = machine.read_physical(GuestPhysAddr(address), &mut bytes);
                // The same bytes: nothing changes.
                machine.write_physical(GuestPhysAddr(address), &bytes[..done]);
            }
            9 => {
                let registers = machine.registers(VcpuId(0));
                if let Err(error) = machine.set_registers(VcpuId(0), &registers) {
                    panic!("its own registers are refused: {error:?}");
                }
            }
            _ => {}
        }
    }

    fn insert(&mut self, machine: &mut Machine, breakpoint: Breakpoint) {
        self.breakpoints += 1;
        machine.insert_breakpoint(BreakpointId(self.breakpoints), breakpoint);
    }
}

/// Runs a case.
///
/// # Panics
/// When the way it is run shows in its state.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mode = input.below(world::MODES);
    let vcpus = 1 + u32::from(input.u8() & 1);
    let end = 1 + u64::from(input.u8()) * 8;
    let seed = u64::from(input.u8());
    let Ok(mut whole) = Machine::new(&lab::config(vcpus)) else {
        return;
    };
    let tables = world::build(&mut whole, mode, &mut input);
    let code = code::with_devices(world::bits(mode), &mut input);
    whole.write_physical(GuestPhysAddr(world::CODE), &code);
    let mut pieces = whole.fork();
    let mut debugged = whole.fork();
    let mut wild = whole.fork();
    if std::env::var_os("KDD_FUZZ_TRACE").is_some()
        && let Some((tick, a, b)) = first_difference(&mut whole.fork(), end)
    {
        eprintln!("the first difference is at tick {tick}");
        let state = |machine: &Machine| End {
            exit: None,
            now: machine.now(),
            hash: machine.state_hash(),
        };
        assert_same(&state(&a), &state(&b), &a, &b, "stepped");
    }

    let expected = run_to(&mut whole, end, &mut |_| RunLimit {
        ticks: u64::MAX,
        step: None,
    });
    let mut hand = Debugger {
        random: Random::new(seed, 1),
        breakpoints: 0,
    };
    let got = run_to(&mut pieces, end, &mut |_| hand.limit(vcpus));
    let exact = tables.hold(&whole) && tables.hold(&pieces);
    if exact {
        assert_same(&expected, &got, &whole, &pieces, "in pieces");
    }
    let mut hand = Debugger {
        random: Random::new(seed, 2),
        breakpoints: 0,
    };
    let got = run_to(&mut debugged, end, &mut |machine| {
        hand.act(machine);
        hand.limit(vcpus)
    });
    if exact && tables.hold(&debugged) {
        assert_same(&expected, &got, &whole, &debugged, "with a debugger");
    }
    for n in (0..vcpus).map(VcpuId) {
        let registers = whole.registers(n);
        if let Err(error) = whole.set_registers(n, &registers) {
            panic!("its own registers are refused: {error:?}");
        }
    }
    run_wild(&mut wild, end, seed);
}

/// The first tick up to which a run at once and a stepped one differ; for those who look into a failure.
fn first_difference(start: &mut Machine, end: u64) -> Option<(u64, Machine, Machine)> {
    let mut stepped = start.fork();
    for tick in 1..=end {
        let mut whole = start.fork();
        let a = run_to(&mut whole, tick, &mut |_| RunLimit {
            ticks: u64::MAX,
            step: None,
        });
        let b = run_to(&mut stepped, tick, &mut |_| RunLimit {
            ticks: 1,
            step: Some((VcpuId(0), StepMode::Schedule)),
        });
        if a != b {
            return Some((tick, whole, stepped));
        }
    }
    None
}

fn assert_same(expected: &End, got: &End, whole: &Machine, other: &Machine, how: &str) {
    if expected == got {
        return;
    }
    for n in 0..whole.vcpu_count() {
        let (a, b) = (whole.registers(VcpuId(n)), other.registers(VcpuId(n)));
        if a != b {
            eprintln!("vCPU {n} at once: {a:x?}\nvCPU {n} {how}: {b:x?}");
        }
    }
    if whole.describe_devices() != other.describe_devices() {
        eprintln!(
            "devices at once: {}\n{how}: {}",
            whole.describe_devices(),
            other.describe_devices()
        );
    }
    let (mut a, mut b) = (vec![0; lab::MEMORY as usize], vec![0; lab::MEMORY as usize]);
    for start in [0, 0x10_0000] {
        whole.read_physical(GuestPhysAddr(start), &mut a[start as usize..]);
        other.read_physical(GuestPhysAddr(start), &mut b[start as usize..]);
    }
    for at in (0..a.len()).filter(|at| a[*at] != b[*at]).take(16) {
        eprintln!("memory at {at:#x}: {:02x} at once, {:02x} {how}", a[at], b[at]);
    }
    panic!(
        "{how}: {:?} at {:?}, at once: {:?} at {:?}",
        got.exit, got.now, expected.exit, expected.now
    );
}

/// What changes the guest: nothing is expected of it but that it ends.
fn run_wild(machine: &mut Machine, end: u64, seed: u64) {
    let mut random = Random::new(seed, 3);
    let vcpus = machine.vcpu_count();
    run_to(machine, end, &mut |machine| {
        let vcpu = VcpuId(random.below(vcpus as usize) as u32);
        let address = GuestPhysAddr(random.next() % lab::MEMORY);
        match random.below(8) {
            0 => {
                machine.write_physical(address, &random.next().to_le_bytes());
            }
            1 => {
                let mut registers = machine.registers(vcpu);
                world::damage_registers(&mut registers, &mut Input::new(&random.next().to_le_bytes()));
                let _ = machine.set_registers(vcpu, &registers);
            }
            2 => {
                let bits = random.next();
                let rights = PageRights {
                    read: bits & 1 != 0,
                    write: bits & 2 != 0,
                    execute: bits & 4 != 0,
                };
                machine.set_page_access(address, if bits & 24 == 0 { rights } else { PageRights::ALL });
            }
            3 => {
                let msr = *random.pick(&world::MSRS);
                machine.read_msr(vcpu, msr);
                machine.write_msr(vcpu, msr, random.next());
            }
            4 => {
                machine.console_input(random.below(2), b"input");
                machine.take_console_output(0);
            }
            5 if random.below(8) == 0 => machine.reset(),
            _ => {}
        }
        let mode = *random.pick(&[StepMode::Alone, StepMode::Schedule]);
        let step = (random.below(2) == 0).then_some((vcpu, mode));
        RunLimit {
            ticks: 1 + random.next() % 50,
            step,
        }
    });
}
