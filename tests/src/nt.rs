//! The NT-shaped guest: built, booted once to its prompt, and what is known of it.
//!
//! What is known comes from the profile (offsets, addresses within the kernel) and from the guest's own console (where
//! things are), never from kdd.

use crate::tools::{cache_folder, kept, skip};
use crate::{BOOT_LIMIT, Service};
use hv_core::Ticks;
use hv_core::machine::{Machine, RunExit, RunLimit};
use nt_guest::{Profile, versions};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, OnceLock};

const PROMPT: &str = "nt> ";

/// A booted guest of a profile, saved at its prompt.
pub struct NtGuest {
    /// Offsets, and addresses within the kernel.
    pub profile: Profile,
    /// Images and PDBs.
    pub folder: PathBuf,
    state: PathBuf,
    /// What its console has shown, with its own lists of modules (`lm`) and processes (`ps`).
    pub console: String,
}

/// A module, as the guest's console tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NtModule {
    /// Where it begins.
    pub base: u64,
    /// Where it ends.
    pub end: u64,
    /// Its full path.
    pub path: String,
}

/// A process, as the guest's console tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NtProcess {
    /// Its id, in decimal.
    pub id: u64,
    /// ImageFileName.
    pub name: String,
    /// DirectoryTableBase.
    pub root: u64,
    /// EPROCESS.
    pub address: u64,
}

/// The guest of a profile, with so many CPUs. `None`, and it is said, where it can't be built.
#[track_caller]
pub fn nt_guest(profile: &str, cpus: u32) -> Option<&'static NtGuest> {
    nt_guest_with(profile, cpus, "")
}

/// The same with loader options: words.
#[track_caller]
pub fn nt_guest_with(profile: &str, cpus: u32, options: &str) -> Option<&'static NtGuest> {
    type Known = (String, &'static OnceLock<Option<NtGuest>>);
    static GUESTS: Mutex<Vec<Known>> = Mutex::new(Vec::new());
    let words = options.split_whitespace().map(|word| format!("-{word}"));
    let name = format!("{profile}-{cpus}{}", words.collect::<String>());
    let cell = {
        let mut guests = GUESTS.lock().unwrap_or_else(|error| panic!("{error}"));
        match guests.iter().find(|(known, _)| *known == name) {
            Some((_, cell)) => cell,
            None => {
                let cell: &'static OnceLock<_> = Box::leak(Box::new(OnceLock::new()));
                guests.push((name.clone(), cell));
                cell
            }
        }
    };
    cell.get_or_init(|| NtGuest::make(profile, cpus, options, &name))
        .as_ref()
}

impl NtGuest {
    #[track_caller]
    fn make(profile: &str, cpus: u32, options: &str, name: &str) -> Option<NtGuest> {
        let profile = Profile::built_in(profile).unwrap_or_else(|error| panic!("{error}"));
        if let Err(error) = versions() {
            skip(&error.to_string());
            return None;
        }
        let cpus = cpus.to_string();
        let mut arguments = vec!["--nt", &profile.name, "--cpus", &cpus, "--memory", "128M"];
        if !options.is_empty() {
            arguments.extend(["--append", options]);
        }
        let mut service = Service::run(&arguments);
        let mut console = service.console();
        for command in ["lm\r", "ps\r", ""] {
            console.shows(PROMPT, BOOT_LIMIT);
            console.types(command);
        }
        let state = kept(&format!("nt-{name}.state"));
        service
            .kdd(&["save".as_ref(), "vm".as_ref(), state.as_os_str()])
            .done();
        Some(NtGuest {
            folder: cache_folder().join("nt").join(&profile.name),
            profile,
            state,
            console: service.console_text(),
        })
    }

    /// The file that it is saved in.
    pub fn saved(&self) -> &Path {
        &self.state
    }

    /// A service with a guest that goes on from here, and a KD endpoint: `kdd run`.
    #[track_caller]
    pub fn service(&self) -> Service {
        self.service_with(&[])
    }

    /// The same with more arguments.
    #[track_caller]
    pub fn service_with(&self, arguments: &[&str]) -> Service {
        let state = self.state.to_string_lossy();
        let mut all = vec!["--restore", &*state, "--kd", "127.0.0.1:0"];
        all.extend(arguments);
        Service::run(&all)
    }

    /// The modules, the kernel first.
    pub fn modules(&self) -> Vec<NtModule> {
        let lines = self.after("lm\r\n");
        let module = |line: &str| {
            let mut words = line.split_whitespace();
            Some(NtModule {
                base: hex(words.next()?)?,
                end: hex(words.next()?)?,
                path: words.next()?.to_owned(),
            })
        };
        lines.lines().map_while(module).collect()
    }

    /// The processes, System first.
    pub fn processes(&self) -> Vec<NtProcess> {
        let lines = self.after("ps\r\n");
        let process = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let value = |name: &str| {
                let at = words.iter().position(|word| *word == name)?;
                hex(words.get(at + 1)?)
            };
            Some(NtProcess {
                id: words.first()?.parse().ok()?,
                name: (*words.get(1)?).to_owned(),
                root: value("root")?,
                address: value("eprocess")?,
            })
        };
        lines.lines().filter_map(process).collect()
    }

    /// Where the kernel is.
    #[track_caller]
    pub fn base(&self) -> u64 {
        match self.modules().first() {
            Some(kernel) => kernel.base,
            None => panic!("no modules:\n{}", self.console),
        }
    }

    /// The address of a symbol of the kernel.
    #[track_caller]
    pub fn symbol(&self, name: &str) -> u64 {
        match self.profile.rvas.get(name) {
            Some(rva) => self.base() + u64::from(*rva),
            None => panic!("the profile has no {name}"),
        }
    }

    /// The offset of a field.
    #[track_caller]
    pub fn field(&self, structure: &str, field: &str) -> u64 {
        let fields = self.profile.structs.get(structure);
        match fields.and_then(|fields| fields.get(field)) {
            Some(offset) => u64::from(*offset),
            None => panic!("the profile has no {structure}.{field}"),
        }
    }

    /// What the console showed between a command and the next prompt.
    fn after(&self, command: &str) -> &str {
        let rest = self.console.split_once(command).map_or("", |(_, rest)| rest);
        rest.split(PROMPT).next().unwrap_or_default()
    }

    /// The state's hash at a time, when nobody looks: run in this process from where the guest was saved.
    #[track_caller]
    pub fn undisturbed(&self, to: u64) -> String {
        let mut machine = machine(&self.state);
        let never = AtomicBool::new(false);
        while machine.now().0 < to {
            let limit = RunLimit {
                ticks: to - machine.now().0,
                step: None,
            };
            match machine.run(&limit, &never) {
                RunExit::Idle { until } if until != Ticks::NEVER => {
                    machine.advance_idle(Ticks(until.0.min(to)))
                }
                RunExit::Limit => {}
                other => panic!("{other:?}"),
            }
        }
        let hash = machine.state_hash();
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()
}

/// The machine of a saved domain.
#[track_caller]
fn machine(state: &Path) -> Machine {
    let bytes = std::fs::read(state).unwrap_or_else(|error| panic!("{}: {error}", state.display()));
    let start = bytes.windows(7).position(|window| window == b"KDDMACH");
    let machine = start.map(|start| Machine::restore(&mut &bytes[start..]));
    match machine {
        Some(Ok(machine)) => machine,
        Some(Err(error)) => panic!("{error}"),
        None => panic!("{}: no machine in it", state.display()),
    }
}
