//! System code against QEMU's TCG: `guests/system/system.s` is single-stepped in both, and every register that both
//! show is compared after each instruction; all memory at times, and at the end.
//!
//! ```text
//!  system.s ─ as, ld, objcopy ─► multiboot kernel ─┬─► QEMU, stopped, behind its gdb stub ─ step ─► State ─┐
//!                                                  └─► hv-core's Machine ──────────────── step ─► State ─┴─ equal?
//! ```
//! Both begin at the guest's `begin` with the same memory. Where they differ and the manual is on hv-core's side,
//! [`known`] says so; anything else is a failure.

mod known;
mod ours;
mod qemu;
mod random;
mod state;

use hv_core::GuestPhysAddr;
use iced_x86::FlowControl;
use ours::Ours;
use qemu::Qemu;
use state::State;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::{Scratch, has_tool};

/// RAM: the guest uses a little more than 32.
const MEGABYTES: u64 = 40;
/// RAM that is compared: all but what the firmware's and the display's areas are.
const RAM: [(GuestPhysAddr, u64); 2] = [
    (GuestPhysAddr(0), 0x9_f000),
    (GuestPhysAddr(0x10_0000), (MEGABYTES - 1) << 20),
];
/// The program is done well before.
const STEPS: usize = 5_000_000;
/// Between two comparisons of memory.
const CHECKPOINT: usize = 500;
/// Where the kernel lies, and in it what it tells of itself.
const KERNEL: u64 = 0x10_0000;
const TOLD: u64 = KERNEL + 12;

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// Assembles the guest; the kernel's file.
fn assemble(scratch: &Scratch) -> PathBuf {
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/../guests/system");
    let [object, elf, kernel] = ["system.o", "system.elf", "kernel"].map(|name| scratch.path(name));
    scratch.file("random.inc", random::descriptors().as_bytes());
    run(Command::new("as")
        .args(["--64", "-I", sources, "-I"])
        .args([scratch.folder(), Path::new("-o")])
        .arg(&object)
        .arg(format!("{sources}/system.s")));
    run(Command::new("ld")
        .args(["-n", "-m", "elf_x86_64", "-Ttext", "0x100000", "-o"])
        .args([&elf, &object]));
    run(Command::new("objcopy")
        .args(["-I", "elf64-x86-64", "-O", "elf32-i386"])
        .args([&elf, &kernel]));
    kernel
}

/// What the guest tells of itself: linear addresses.
struct Told {
    begin: u64,
    done: u64,
    /// Where a handler is once it knows the error code: one of 32-bit code, one of 64-bit code.
    faulted: [u64; 2],
    gdt: Range<u64>,
    /// Its page-directory pointers in PAE mode.
    pointers: Range<u64>,
    stacks: Range<u64>,
    /// Where the address of the present random case is, and where all are.
    random_at: GuestPhysAddr,
    random: Range<u64>,
    /// The end of the stack in the interrupt stack table.
    ist: u64,
}

impl Told {
    fn of(ours: &Ours) -> Told {
        let bytes = ours.memory(GuestPhysAddr(TOLD), 52);
        let word = |n: usize| u64::from(u32::from_le_bytes([0, 1, 2, 3].map(|at| bytes[4 * n + at])));
        Told {
            begin: word(0),
            done: word(1),
            faulted: [word(2), word(3)],
            gdt: word(4)..word(5),
            pointers: word(6)..word(6) + 32,
            stacks: word(7)..word(8),
            random_at: GuestPhysAddr(word(9)),
            random: word(10)..word(11),
            ist: word(12),
        }
    }
}

/// The two machines, and what was found.
struct Comparison {
    ours: Ours,
    theirs: Qemu,
    told: Told,
    failures: Vec<String>,
    /// Why, how often, and where first.
    excused: BTreeMap<&'static str, (usize, String)>,
    /// What differed after the step before: not said again.
    differing: Vec<Difference>,
    /// QEMU's state after the step before.
    last: State,
}

/// A register, our value, QEMU's.
type Difference = (String, u128, u128);

impl Comparison {
    fn start() -> Comparison {
        let scratch = Scratch::default();
        let kernel = assemble(&scratch);
        let (mut ours, mut theirs) = (Ours::start(&kernel, MEGABYTES), Qemu::start(&kernel, MEGABYTES));
        let told = Told::of(&ours);
        ours.run_to(&[told.begin]);
        theirs.run_to(&[told.begin]);
        for (start, length) in RAM {
            let (a, b) = (ours.memory(start, length), theirs.memory(start, length));
            for (n, (a, b)) in a.chunks(0x1000).zip(b.chunks(0x1000)).enumerate() {
                if a != b {
                    ours.set_memory(GuestPhysAddr(start.0 + 0x1000 * n as u64), b);
                }
            }
        }
        Comparison {
            ours,
            theirs,
            told,
            failures: Vec::new(),
            excused: BTreeMap::new(),
            differing: Vec::new(),
            last: State::new(),
        }
    }

    /// One instruction in both. How many steps a REP takes is a matter of taste: it is one here, as are the second and
    /// later rounds of a loop.
    fn step(&mut self) {
        let next = self.ours.next();
        let repeated = next.is_string_instruction() && (next.has_rep_prefix() || next.has_repne_prefix());
        let loops =
            next.flow_control() == FlowControl::ConditionalBranch && next.near_branch_target() < next.ip();
        let mut ends = Vec::new();
        if repeated || loops {
            ends.push(next.next_ip());
        }
        if repeated {
            ends.extend(self.told.faulted);
        }
        if ends.is_empty() {
            self.ours.step();
            self.theirs.step();
        } else {
            self.ours.run_to(&ends);
            self.theirs.run_to(&ends);
        }
    }

    fn excuse(&mut self, why: &'static str, place: &str) {
        self.excused.entry(why).or_insert_with(|| (0, place.to_owned())).0 += 1;
    }

    fn compare_registers(&mut self, place: &str) {
        let wide = state::is_wide(&self.ours.registers());
        let (a, mut b) = (self.ours.state(), self.theirs.state(wide));
        let mut patience = 3;
        while b == self.last && b["rip"] != a["rip"] && patience > 0 {
            patience -= 1;
            self.excuse(known::STEP_OF_NOTHING, place);
            self.theirs.step();
            b = self.theirs.state(wide);
        }
        self.last.clone_from(&b);
        let before = std::mem::take(&mut self.differing);
        let differing: Vec<Difference> = a
            .iter()
            .map(|(name, ours)| (name.clone(), *ours, b[name]))
            .filter(|(_, ours, theirs)| ours != theirs)
            .collect();
        let mut said = Vec::new();
        for difference in differing.iter().filter(|known| !before.contains(known)) {
            let (name, ours, theirs) = difference;
            match known::in_register(&self.told, &a, name, *ours, *theirs) {
                Some(why) => self.excuse(why, place),
                None => said.push(format!("{name}: ours {ours:#x}, QEMU's {theirs:#x}")),
            }
        }
        self.differing = differing;
        if !said.is_empty() {
            self.failures.push(format!("{place}: {}", said.join("; ")));
        }
        // Where control parts, nothing that follows means anything.
        if a["rip"] != b["rip"] || self.failures.len() > 40 {
            panic!("{}\n{:x?}", self.failures.join("\n"), self.ours.registers());
        }
    }

    /// The random descriptor that the guest is at.
    fn case(&self) -> String {
        let word = |address| {
            let bytes = self.ours.memory(address, 8);
            bytes
                .iter()
                .rev()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        };
        let at = word(self.told.random_at) & 0xffff_ffff;
        if !self.told.random.contains(&at) {
            return "no random case".to_owned();
        }
        let descriptor = word(GuestPhysAddr(at));
        let (selector, upper) = {
            let both = word(GuestPhysAddr(at + 8));
            (both & 0xffff_ffff, both >> 32)
        };
        let case = (at - self.told.random.start) / 16;
        format!("case {case} ({upper:#x}, {descriptor:#018x}, asked for as {selector:#x})")
    }

    fn compare_memory(&mut self, place: &str) {
        for (start, length) in RAM {
            let (a, b) = (self.ours.memory(start, length), self.theirs.memory(start, length));
            if a == b {
                continue;
            }
            let words = |bytes: &[u8]| -> Vec<u32> {
                let (words, _) = bytes.as_chunks::<4>();
                words.iter().map(|word| u32::from_le_bytes(*word)).collect()
            };
            let pairs = words(&a).into_iter().zip(words(&b)).enumerate();
            for (n, (a, b)) in pairs.filter(|(_, (a, b))| a != b) {
                let address = start.0 + 4 * n as u64;
                if let Some(why) = known::in_memory(&self.told, address, a, b) {
                    self.excuse(why, place);
                } else {
                    let said = format!("{place}: at {address:#x} ours {a:#x}, QEMU's {b:#x}");
                    self.failures.push(said);
                }
            }
        }
    }
}

#[test]
fn system_code_runs_in_hv_core_as_in_qemu() {
    if !has_tool("qemu-system-x86_64") || !has_tool("as") {
        return;
    }
    let mut both = Comparison::start();
    both.compare_registers("at the beginning");
    let mut steps = 0;
    while both.ours.at() != both.told.done {
        steps += 1;
        assert!(steps < STEPS, "the guest doesn't end");
        let r = both.ours.registers();
        let cs = r.segments[hv_core::regs::seg::CS].selector;
        let place = format!("step {steps}, {}, after {cs:#x}:{:#x}", both.case(), r.rip);
        both.step();
        both.compare_registers(&place);
        if steps % CHECKPOINT == 0 {
            both.compare_memory(&place);
        }
    }
    both.compare_memory("at the end");
    println!("{steps} steps compared");
    for (why, (count, first)) in &both.excused {
        println!("{count} differences excused, the first at {first}: {why}");
    }
    assert!(both.failures.is_empty(), "{}", both.failures.join("\n"));
}
