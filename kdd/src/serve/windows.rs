//! What a Windows guest says of itself, from outside: its system, processes, threads, modules.
//!
//! The guest is held only while it is read. What was recognised once is kept as long as the same kernel is there. Its
//! symbols are looked for and read while the guest runs.

use super::pause::Held;
use super::{Managed, lock};
use crate::Failure;
use crate::control::hex::Hex;
use crate::control::message::{
    GuestModule, GuestModules, GuestProcess, GuestProcesses, GuestThread, GuestThreads, MAX_LINE, OsInfo,
    OsStep, UnloadedGuestModule,
};
use introspect::windows::{Broken, Guest, NotWindows, Process, Thread, Windows};
use serde::Serialize;
use std::sync::Arc;
use symbols::{Pdb, PdbId, SymbolPath};

const HINT: &str = "'kdd info -v' shows what was recognised";
/// Bytes that a list may take in a message.
const MAX_LIST: usize = MAX_LINE / 4 * 3;
/// The most threads of all processes.
const MAX_THREADS: usize = 0x1_0000;

/// The Windows that was last recognised in a domain.
#[derive(Default)]
pub(super) struct Known {
    windows: Option<Arc<Windows>>,
    /// The symbol servers don't have this one.
    missing: Option<PdbId>,
}

/// A recognised Windows that stands still.
struct Look {
    windows: Arc<Windows>,
    held: Held,
}

impl Look {
    fn guest(&self) -> Guest<'_> {
        Guest::from(self.held.managed().domain())
    }
}

impl Managed {
    /// Processes on the active list.
    pub(super) fn guest_processes(self: &Arc<Self>, symbols: &SymbolPath) -> Result<GuestProcesses, Failure> {
        let look = self.look(symbols)?;
        let walk = look
            .windows
            .processes(look.guest())
            .map_err(|error| self.failure(&error, HINT))?;
        let mut list = List::new(walk.broken.as_ref());
        for process in &walk.items {
            list.add(process_info(process));
        }
        Ok(GuestProcesses {
            processes: list.items,
            broken: list.broken,
        })
    }

    /// Threads of one process, or of all.
    pub(super) fn guest_threads(
        self: &Arc<Self>,
        symbols: &SymbolPath,
        pid: Option<u64>,
    ) -> Result<GuestThreads, Failure> {
        let look = self.look(symbols)?;
        let fail = |error: introspect::windows::Error| self.failure(&error, HINT);
        let processes = look.windows.processes(look.guest()).map_err(fail)?;
        let mut list = List::new(processes.broken.as_ref());
        let chosen = |process: &&Process| pid.is_none_or(|pid| process.pid == pid);
        let mut any = false;
        let mut left = MAX_THREADS;
        for process in processes.items.iter().filter(chosen) {
            any = true;
            let walk = look
                .windows
                .threads(look.guest(), process.address)
                .map_err(fail)?;
            for thread in &walk.items {
                list.add(thread_info(process, thread));
            }
            list.note(walk.broken.as_ref());
            left = left.saturating_sub(walk.items.len());
            if left == 0 {
                list.broken
                    .get_or_insert(format!("only the first {MAX_THREADS} threads are told"));
                break;
            }
        }
        match pid {
            Some(pid) if !any => Err(Failure::new(
                format_args!("domain '{}'", self.domain().name()),
                format_args!("it has no process {pid}"),
                "'kdd ps' shows its processes",
            )),
            _ => Ok(GuestThreads {
                threads: list.items,
                broken: list.broken,
            }),
        }
    }

    /// Loaded and unloaded modules.
    pub(super) fn guest_modules(self: &Arc<Self>, symbols: &SymbolPath) -> Result<GuestModules, Failure> {
        let look = self.look(symbols)?;
        let walk = look
            .windows
            .modules(look.guest())
            .map_err(|error| self.failure(&error, HINT))?;
        let mut list = List::new(walk.broken.as_ref());
        for module in walk.items {
            list.add(GuestModule {
                name: module.name,
                path: module.path,
                base: module.base.0.into(),
                bytes: module.size,
                entry_point: module.entry_point.0.into(),
                time_date_stamp: module.time_date_stamp,
                check_sum: module.check_sum,
            });
        }
        // Not every kernel's are known.
        let unloaded = look.windows.unloaded_modules(look.guest()).unwrap_or_default();
        Ok(GuestModules {
            modules: list.items,
            unloaded: unloaded
                .into_iter()
                .map(|module| UnloadedGuestModule {
                    name: module.name,
                    start: module.start.0.into(),
                    end: module.end.0.into(),
                })
                .collect(),
            broken: list.broken,
        })
    }

    /// What the guest's system is; `None` if it isn't recognised.
    pub(super) fn os_info(self: &Arc<Self>, symbols: &SymbolPath) -> Option<OsInfo> {
        let look = self.look(symbols).ok()?;
        let windows = &look.windows;
        let kernel = windows.kernel();
        let bugcheck = windows.bugcheck(look.guest()).ok().flatten().map(|it| {
            let [a, b, c, d] = it.parameters;
            format!("{:#x} ({a:#x}, {b:#x}, {c:#x}, {d:#x})", it.code)
        });
        Some(OsInfo {
            family: "windows".into(),
            name: windows.description(),
            arch: windows.arch().to_string(),
            build: windows.build(),
            build_lab: windows.build_lab().map(str::to_owned),
            kernel_base: kernel.base.0.into(),
            kernel_bytes: kernel.size,
            pdb: kernel.pdb.as_ref().map(PdbId::to_string),
            pdb_found: windows.pdb().is_some(),
            uptime_ms: windows
                .shared_data(look.guest())
                .ok()
                .map(|shared| shared.uptime_ms()),
            bugcheck,
            recognition: windows
                .report()
                .steps()
                .iter()
                .map(|step| OsStep {
                    what: step.what.to_owned(),
                    found: step.found,
                    how: step.how.clone(),
                })
                .collect(),
        })
    }

    /// The Windows in it, if there is one, with its symbols where they are found.
    pub(super) fn known_windows(self: &Arc<Self>, symbols: &SymbolPath) -> Option<Arc<Windows>> {
        Some(self.look(symbols).ok()?.windows.clone())
    }

    /// Recognises the guest's Windows and holds it for a look. Symbols are looked for, and read, while the guest runs.
    fn look(self: &Arc<Self>, symbols: &SymbolPath) -> Result<Look, Failure> {
        let look = self.look_with(None)?;
        let Some(id) = look.windows.kernel().pdb.clone() else {
            return Ok(look);
        };
        let in_vain = symbols.has_servers() && lock(&self.windows).missing.as_ref() == Some(&id);
        if look.windows.pdb().is_some() || symbols.is_empty() || in_vain {
            return Ok(look);
        }
        drop(look);
        let pdb = symbols
            .locate(&id)
            .map_err(|error| error.to_string())
            .and_then(|found| Pdb::open(&found.path, Some(&id)).map_err(|error| error.to_string()));
        match pdb {
            Ok(pdb) => self.look_with(Some(&Arc::new(pdb))),
            Err(why) => {
                tracing::info!(why, "no symbols of the guest's kernel");
                lock(&self.windows).missing = Some(id);
                self.look_with(None)
            }
        }
    }

    /// The same with what is at hand: a PDB, or the Windows that was recognised before.
    fn look_with(self: &Arc<Self>, pdb: Option<&Arc<Pdb>>) -> Result<Look, Failure> {
        let held = self.hold()?;
        let guest = Guest::from(self.domain());
        let known = lock(&self.windows).windows.clone().filter(|_| pdb.is_none());
        if let Some(windows) = known.filter(|windows| windows.is_still_there(guest)) {
            return Ok(Look { windows, held });
        }
        let recognised = match pdb {
            Some(pdb) => Windows::recognise_with_pdb(guest, pdb),
            None => Windows::recognise(guest, &SymbolPath::default()),
        };
        let windows = Arc::new(recognised.map_err(|error| self.not_windows(&error))?);
        lock(&self.windows).windows = Some(windows.clone());
        Ok(Look { windows, held })
    }

    fn not_windows(&self, error: &NotWindows) -> Failure {
        self.failure(error, "this is for Windows guests, once their kernel runs")
    }
}

fn process_info(process: &Process) -> GuestProcess {
    GuestProcess {
        pid: process.pid,
        parent_pid: process.parent,
        name: process.name.clone(),
        address: process.address.0.into(),
        root: process.root.0.into(),
        user_root: process.user_root.map(|root| root.0.into()),
        peb: process.peb.map(|peb| peb.0.into()),
        wow64: process.wow64,
        threads: process.active_threads,
        create_time: process.create_time,
    }
}

fn thread_info(process: &Process, thread: &Thread) -> GuestThread {
    let hex = |address: Option<hv_core::GuestVirtAddr>| address.map(|address| Hex::from(address.0));
    GuestThread {
        pid: thread.pid,
        tid: thread.tid,
        process: process.name.clone(),
        address: thread.address.0.into(),
        state: thread.state.map(|state| state.to_string()),
        vcpu: thread.running_on.map(|vcpu| vcpu.0),
        priority: thread.priority,
        start: hex(thread.win32_start.filter(|start| start.0 != 0).or(thread.start)),
        teb: hex(thread.teb),
        stack_base: hex(thread.stack_base),
    }
}

/// A list that fits into one message, whatever the guest holds.
struct List<T> {
    items: Vec<T>,
    broken: Option<String>,
    bytes: usize,
}

impl<T: Serialize> List<T> {
    fn new(broken: Option<&Broken>) -> List<T> {
        List {
            items: Vec::new(),
            broken: broken.map(Broken::to_string),
            bytes: 0,
        }
    }

    fn note(&mut self, broken: Option<&Broken>) {
        if let Some(broken) = broken {
            self.broken.get_or_insert(broken.to_string());
        }
    }

    fn add(&mut self, item: T) {
        self.bytes += serde_json::to_string(&item).map_or(0, |text| text.len() + 1);
        if self.bytes <= MAX_LIST {
            self.items.push(item);
        } else {
            self.broken
                .get_or_insert(format!("only the first {} are told", self.items.len()));
        }
    }
}
