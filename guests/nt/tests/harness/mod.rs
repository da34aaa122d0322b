//! A booted guest for the tests, and its memory through its page tables.
#![allow(dead_code, reason = "each test program uses its part")]

use hv_core::load::{NtBoot, NtFile};
use hv_core::machine::{GuestImage, Machine, MachineConfig, RunExit, RunLimit};
use hv_core::regs::cr4;
use hv_core::{GuestPhysAddr, Ticks, VcpuId};
use nt_guest::{Arch, Built, DEFAULT_PROFILE, Profile, Role};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

const PROMPT: &str = "nt> ";
/// Guest ticks that anything here may take: 30 seconds of guest time.
const PATIENCE: u64 = 3_000_000_000;
const SECOND: u64 = 100_000_000;

pub struct Options {
    pub vcpus: u32,
    pub options: &'static str,
}

pub struct Guest {
    pub machine: Machine,
    profile: Profile,
    output: String,
}

/// A profile's guest, built once for all tests; `None` without the tools.
fn built(profile: &Profile) -> Option<Built> {
    static BUILDING: Mutex<()> = Mutex::new(());
    if let Err(error) = nt_guest::versions() {
        eprintln!("not run: {error}");
        return None;
    }
    let _alone = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nt-guest-{}", profile.name));
    Some(nt_guest::build(profile, &folder).expect("the guest builds"))
}

fn boot_files(built: &Built, options: &str) -> NtBoot {
    let mut boot = NtBoot {
        images: Vec::new(),
        files: Vec::new(),
        options: options.to_string(),
        large_aligned: built.manifest.large_aligned,
        random_pte_base: built.manifest.random_pte_base,
    };
    for image in &built.manifest.images {
        let bytes = std::fs::read(built.folder.join(&image.file)).expect("the image is there");
        let file = NtFile {
            path: image.path.clone(),
            bytes: bytes.into(),
        };
        let at_boot = match image.role {
            Role::Kernel | Role::Hal => true,
            Role::Driver => image.file == "bootdrv.sys",
            Role::Program => false,
        };
        if at_boot {
            boot.images.push(file);
        } else {
            boot.files.push(file);
        }
    }
    boot
}

impl Guest {
    /// The default profile's guest, at its first prompt.
    pub fn boot(options: &Options) -> Option<Guest> {
        Guest::of_profile(DEFAULT_PROFILE, options)
    }

    /// The guest of a profile, at its first prompt.
    pub fn of_profile(profile: &str, options: &Options) -> Option<Guest> {
        Guest::of_profile_with(profile, options, 128 << 20)
    }

    /// The same with so much memory.
    pub fn of_profile_with(profile: &str, options: &Options, memory_bytes: u64) -> Option<Guest> {
        let profile = Profile::built_in(profile).expect("the profile");
        let built = built(&profile)?;
        let machine = Machine::new(&MachineConfig {
            memory_bytes,
            vcpus: options.vcpus,
            seed: 7,
            cpu_model: String::new(),
            debug_exit: None,
            guest: GuestImage::Nt(boot_files(&built, options.options)),
        })
        .expect("the machine");
        let mut guest = Guest {
            machine,
            profile,
            output: String::new(),
        };
        guest.run_to_the_prompt();
        Some(guest)
    }

    /// What the console showed since the last command.
    pub fn seen(&self) -> &str {
        &self.output
    }

    /// Types a command and returns what it printed.
    pub fn command(&mut self, line: &str) -> String {
        self.type_line(line);
        self.run_to_the_prompt();
        self.output.clone()
    }

    pub fn type_line(&mut self, line: &str) {
        self.output.clear();
        self.machine.console_input(0, format!("{line}\r").as_bytes());
    }

    fn run_to_the_prompt(&mut self) {
        let end = self.machine.now().0 + PATIENCE;
        while !self.output.ends_with(PROMPT) {
            assert!(self.step(20_000), "the guest ended: {}", self.output);
            assert!(self.machine.now().0 < end, "no prompt: {}", self.output);
        }
    }

    /// Runs until `done`, looking often.
    pub fn run_until(&mut self, done: impl Fn(&Machine) -> bool) {
        let end = self.machine.now().0 + PATIENCE;
        while !done(&self.machine) {
            assert!(self.step(500), "the guest ended: {}", self.output);
            assert!(self.machine.now().0 < end, "it doesn't come to that");
        }
    }

    /// Runs until every processor is halted for good.
    pub fn run_to_the_end(&mut self) {
        let end = self.machine.now().0 + PATIENCE;
        while self.step(20_000) {
            assert!(self.machine.now().0 < end, "it doesn't end");
        }
    }

    pub fn wait_seconds(&mut self, seconds: u64) {
        let end = self.machine.now().0 + seconds * SECOND;
        while self.machine.now().0 < end {
            assert!(self.step(SECOND), "the guest ended: {}", self.output);
        }
    }

    /// Runs a little; false if there is nothing to run any more.
    fn step(&mut self, ticks: u64) -> bool {
        let limit = RunLimit { ticks, step: None };
        let exit = self.machine.run(&limit, &AtomicBool::new(false));
        let text = self.machine.take_console_output(0);
        self.output.push_str(&String::from_utf8_lossy(&text));
        match exit {
            RunExit::Limit => true,
            RunExit::Idle { until } if until != Ticks::NEVER => {
                self.machine.advance_idle(until);
                true
            }
            _ => false,
        }
    }

    /// The System process's page-table root.
    pub fn root(&self) -> u64 {
        0x1a_a000
    }

    /// The kernel's base: the header before what IDT entry 0 leads to.
    pub fn kernel(&self) -> u64 {
        let idt = self.machine.registers(hv_core::VcpuId(0)).idtr.base;
        let (low, high) = (self.read(idt), self.read(idt + 8));
        let entry = low & 0xffff | low >> 32 & 0xffff_0000 | high << 32;
        (0..0x4000)
            .map(|pages| (entry & !0xfff) - pages * 0x1000)
            .find(|base| self.read(*base) & 0xffff == 0x5a4d)
            .expect("a header")
    }

    pub fn symbol(&self, name: &str) -> u64 {
        self.known_symbol(name).expect("the profile has the symbol")
    }

    /// A symbol of the profile; the builder places others where it likes.
    pub fn known_symbol(&self, name: &str) -> Option<u64> {
        let rva = self.profile.rvas.get(name)?;
        Some(self.kernel() + u64::from(*rva))
    }

    /// Eight bytes of kernel memory.
    pub fn read(&self, address: u64) -> u64 {
        let physical = self
            .translate(self.root(), address)
            .expect("the address is mapped");
        self.physical(physical)
    }

    /// Eight bytes of physical memory.
    pub fn physical(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        self.machine.read_physical(GuestPhysAddr(address), &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// SDM vol. 3A, 4.3 to 4.5.
    pub fn translate(&self, root: u64, address: u64) -> Option<u64> {
        const FRAME: u64 = 0x000f_ffff_ffff_f000;
        let has_pae = self.machine.registers(VcpuId(0)).cr4 & cr4::PAE != 0;
        let (mut table, levels): (_, &[u32]) = match self.profile.arch {
            Arch::X64 => (root & FRAME, &[39, 30, 21, 12]),
            Arch::X86 if has_pae => (root & !0x1f, &[30, 21, 12]),
            Arch::X86 => (root & FRAME, &[22, 12]),
        };
        for &shift in levels {
            let entry = if has_pae {
                self.physical(table + (address >> shift & 0x1ff) * 8)
            } else {
                self.physical(table + (address >> shift & 0x3ff) * 4) & 0xffff_ffff
            };
            if entry & 1 == 0 {
                return None;
            }
            if shift == 12 || entry & 0x80 != 0 {
                let mask = (1 << shift) - 1;
                return Some(entry & FRAME & !mask | address & mask);
            }
            table = entry & FRAME;
        }
        None
    }
}
