//! A machine with the NT-shaped guest, run by hand.

use hv_core::introspect::{Error, MemoryRegion, ReadMemory, ReadRegisters, Result};
use hv_core::load::{NtBoot, NtFile};
use hv_core::machine::{GuestImage, Machine, MachineConfig, RunExit, RunLimit};
use hv_core::regs::Registers;
use hv_core::{DomId, GuestPhysAddr, Ticks, VcpuId};
use introspect::windows::Guest;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

const PROMPT: &[u8] = b"nt> ";
/// Ticks after which a guest that hasn't shown its prompt never will.
const PATIENCE: u64 = 2_000_000_000;

/// A profile's images, built now or before; `None` where that isn't possible here.
pub fn images(profile: &str) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("KDD_NT_IMAGES") {
        let folder = PathBuf::from(folder).join(profile);
        return folder.join("ntoskrnl.exe").exists().then_some(folder);
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("nt-{profile}"));
    let profile = nt_guest::Profile::built_in(profile).unwrap();
    // Tests run in parallel, and several want the same.
    static BUILDING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    match nt_guest::build(&profile, &folder) {
        Ok(_) => Some(folder),
        Err(nt_guest::NtError::NoTool { tool, hint }) => {
            assert!(std::env::var_os("CI").is_none(), "{tool} isn't installed: {hint}");
            println!("SKIPPED: {tool} isn't installed: {hint}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// How a guest is booted.
#[derive(Clone, Copy)]
pub struct Boot {
    pub vcpus: u32,
    pub memory_mib: u64,
    /// Its kernel says that it belongs to a PDB that nobody has.
    pub strange: bool,
}

impl Default for Boot {
    fn default() -> Boot {
        Boot {
            vcpus: 1,
            memory_mib: 128,
            strange: false,
        }
    }
}

/// A machine that stands still between two runs.
pub struct Nt {
    pub machine: Machine,
    output: Vec<u8>,
}

impl Nt {
    /// Powered on.
    pub fn new(folder: &Path, boot: Boot) -> Nt {
        let machine = Machine::new(&MachineConfig {
            memory_bytes: boot.memory_mib << 20,
            vcpus: boot.vcpus,
            seed: 1,
            cpu_model: String::new(),
            debug_exit: None,
            guest: GuestImage::Nt(boot_files(folder, boot.strange)),
        });
        Nt {
            machine: machine.unwrap(),
            output: Vec::new(),
        }
    }

    /// At its prompt.
    pub fn booted(folder: &Path, boot: Boot) -> Nt {
        let mut nt = Nt::new(folder, boot);
        nt.run_to_prompt();
        nt
    }

    pub fn guest(&self) -> Guest<'_> {
        Guest::new(self, self)
    }

    /// Runs so many ticks, or passes an idle stretch. False if the machine has ended.
    pub fn run(&mut self, ticks: u64) -> bool {
        let never = AtomicBool::new(false);
        let exit = self.machine.run(&RunLimit { ticks, step: None }, &never);
        let out = self.machine.take_console_output(0);
        self.output.extend_from_slice(&out);
        match exit {
            RunExit::Limit => true,
            RunExit::Idle { until } if until != Ticks::NEVER => {
                self.machine.advance_idle(until);
                true
            }
            RunExit::Idle { .. } => true,
            _ => false,
        }
    }

    pub fn run_to_prompt(&mut self) {
        self.output.clear();
        let start = self.machine.now().0;
        while !self.output.ends_with(PROMPT) {
            let ran = self.run(100_000) && self.machine.now().0 - start < PATIENCE;
            assert!(ran, "no prompt after:\n{}", String::from_utf8_lossy(&self.output));
        }
    }

    pub fn input(&mut self, line: &str) {
        self.machine.console_input(0, format!("{line}\r").as_bytes());
    }

    /// Types a line and runs until its output is complete: the output.
    pub fn command(&mut self, line: &str) -> String {
        self.input(line);
        self.run_to_prompt();
        String::from_utf8_lossy(&self.output).into_owned()
    }
}

fn boot_files(folder: &Path, strange: bool) -> NtBoot {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .collect();
    names.sort();
    let file = |name: &str, path: String| {
        let mut bytes = std::fs::read(folder.join(name)).unwrap();
        if strange && name == "ntoskrnl.exe" {
            let record = bytes.windows(4).position(|bytes| bytes == b"RSDS").unwrap();
            bytes[record + 4..record + 20].copy_from_slice(&[0x77; 16]);
        }
        NtFile {
            path,
            bytes: bytes.into(),
        }
    };
    let system = |name: &str| file(name, format!("\\SystemRoot\\system32\\{name}"));
    let driver = |name: &str| file(name, format!("\\SystemRoot\\System32\\drivers\\{name}"));
    let mut boot = NtBoot {
        images: vec![system("ntoskrnl.exe"), system("hal.dll")],
        files: Vec::new(),
        options: " NODEBUG".to_owned(),
        large_aligned: true,
        random_pte_base: true,
    };
    for name in &names {
        if name == "bootdrv.sys" {
            boot.images.push(driver(name));
        } else if name.ends_with(".sys") {
            boot.files.push(driver(name));
        } else if name.ends_with(".exe") && name != "ntoskrnl.exe" {
            boot.files.push(system(name));
        }
    }
    boot
}

impl ReadMemory for Nt {
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<()> {
        let done = self.machine.read_physical(address, buffer);
        if done == buffer.len() {
            return Ok(());
        }
        Err(Error::NoMemory {
            domain: DomId(1),
            address: address.wrapping_add(done as u64),
            done,
            wanted: buffer.len(),
        })
    }

    fn memory_regions(&self) -> Vec<MemoryRegion> {
        self.machine.memory_regions()
    }
}

impl ReadRegisters for Nt {
    fn vcpu_count(&self) -> u32 {
        self.machine.vcpu_count()
    }

    fn registers(&self, vcpu: VcpuId) -> Result<Registers> {
        if vcpu.0 < self.machine.vcpu_count() {
            Ok(self.machine.registers(vcpu))
        } else {
            Err(Error::NoVcpu {
                domain: DomId(1),
                vcpu,
                count: self.machine.vcpu_count(),
            })
        }
    }

    fn read_msr(&self, _: VcpuId, _: u32) -> Result<Option<u64>> {
        Ok(None)
    }
}
