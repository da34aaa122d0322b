//! What a Windows guest says of itself, from outside: its system, processes, threads, modules.
//!
//! The guest is held only while it is read. What was recognised once is kept as long as the same kernel is there. Its
//! symbols are looked for and read while the guest runs.

use super::kernel::{HINT, Kernel, Look, no_process, no_symbol};
use super::list::List;
use super::{Managed, lock};
use crate::Failure;
use crate::control::hex::Hex;
use crate::control::message::{
    GuestModule, GuestModules, GuestProcess, GuestProcesses, GuestSymbol, GuestSymbols, GuestThread,
    GuestThreads, OsInfo, OsStep, UnloadedGuestModule,
};
use crate::parse;
use hv_core::GuestVirtAddr;
use introspect::windows::{Guest, NotWindows, Process, Thread, Windows};
use std::sync::Arc;
use symbols::{Pdb, PdbId, SymbolPath};

/// The most threads of all processes.
const MAX_THREADS: usize = 0x1_0000;

/// The Windows that was last recognised in a domain.
#[derive(Default)]
pub(super) struct Known {
    windows: Option<Arc<Windows>>,
    /// The symbol servers don't have this one.
    missing: Option<PdbId>,
}

fn guest(managed: &Managed) -> Guest<'_> {
    Guest::from(managed.domain())
}

/// Processes on the active list.
pub(super) fn processes(managed: &Managed, windows: &Windows) -> Result<GuestProcesses, Failure> {
    let walk = windows
        .processes(guest(managed))
        .map_err(|error| managed.failure(&error, HINT))?;
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
pub(super) fn threads(
    managed: &Managed,
    windows: &Windows,
    pid: Option<u64>,
) -> Result<GuestThreads, Failure> {
    let fail = |error: introspect::windows::Error| managed.failure(&error, HINT);
    let processes = windows.processes(guest(managed)).map_err(fail)?;
    let mut list = List::new(processes.broken.as_ref());
    let chosen = |process: &&Process| pid.is_none_or(|pid| process.pid == pid);
    let mut any = false;
    let mut left = MAX_THREADS;
    for process in processes.items.iter().filter(chosen) {
        any = true;
        let walk = windows.threads(guest(managed), process.address).map_err(fail)?;
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
        Some(pid) if !any => Err(no_process(managed, pid)),
        _ => Ok(GuestThreads {
            threads: list.items,
            broken: list.broken,
        }),
    }
}

/// Loaded and unloaded modules.
pub(super) fn modules(managed: &Managed, windows: &Windows) -> Result<GuestModules, Failure> {
    let walk = windows
        .modules(guest(managed))
        .map_err(|error| managed.failure(&error, HINT))?;
    let mut list = List::new(walk.broken.as_ref());
    for module in walk.items {
        list.add(GuestModule {
            name: module.name,
            path: Some(module.path),
            base: module.base.0.into(),
            bytes: module.size.into(),
            state: None,
            parts: Vec::new(),
            references: None,
            used_by: None,
            entry_point: Some(module.entry_point.0.into()),
            time_date_stamp: module.time_date_stamp,
            check_sum: Some(module.check_sum),
        });
    }
    // Not every kernel's are known.
    let unloaded = windows.unloaded_modules(guest(managed)).unwrap_or_default();
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

/// Names of the kernel: all of its PDB's, those of a name, or the nearest to an address. Without a PDB a few are known.
pub(super) fn symbols(
    managed: &Managed,
    windows: &Windows,
    find: Option<&str>,
    skip: u64,
) -> Result<GuestSymbols, Failure> {
    let symbol = |name: &str, address: u64, offset| GuestSymbol {
        address: address.into(),
        kind: None,
        name: name.to_owned(),
        module: None,
        offset,
    };
    let base = windows.kernel().base;
    let Some(find) = find else {
        let pdb = windows.pdb().ok_or_else(|| no_pdb(managed, windows))?;
        let mut names: Vec<(u32, &str)> = pdb.names().map(|(name, rva)| (rva, name)).collect();
        names.sort_unstable();
        let skipped = usize::try_from(skip).unwrap_or(usize::MAX);
        let mut list = List::new(None);
        let left = names.iter().skip(skipped).map(|&(rva, name)| {
            let address = base.wrapping_add(u64::from(rva));
            symbol(name, address.0, None)
        });
        let more = !left.map(|symbol| list.offer(symbol)).all(|fits| fits);
        return Ok(GuestSymbols {
            next: more.then_some(skip.saturating_add(list.items.len() as u64)),
            symbols: list.items,
        });
    };
    let name = find.strip_prefix("nt!").unwrap_or(find);
    let found = match (windows.symbol(name), parse::address(find)) {
        (Some(address), _) => symbol(name, address.0, None),
        (None, Ok(address)) => match windows.nearest_symbol(GuestVirtAddr(address)) {
            Some((name, offset)) => symbol(name, address - offset, Some(offset)),
            None => return Err(no_symbol(managed, find)),
        },
        (None, Err(_)) if windows.pdb().is_none() => return Err(no_pdb(managed, windows)),
        (None, Err(_)) => return Err(no_symbol(managed, find)),
    };
    Ok(GuestSymbols {
        symbols: vec![found],
        next: None,
    })
}

fn no_pdb(managed: &Managed, windows: &Windows) -> Failure {
    let pdb = windows.kernel().pdb.as_ref().map(PdbId::to_string);
    Failure::new(
        format_args!("domain '{}'", managed.domain().name()),
        format_args!(
            "the symbols of {} are in {}, which is not at hand",
            windows.description(),
            pdb.as_deref().unwrap_or("a PDB that the kernel doesn't name")
        ),
        "set _NT_SYMBOL_PATH where the service is started",
    )
}

/// What the guest's system is.
pub(super) fn os_info(managed: &Managed, windows: &Windows) -> OsInfo {
    let kernel = windows.kernel();
    let bugcheck = windows.bugcheck(guest(managed)).ok().flatten().map(|it| {
        let [a, b, c, d] = it.parameters;
        format!("{:#x} ({a:#x}, {b:#x}, {c:#x}, {d:#x})", it.code)
    });
    OsInfo {
        family: "windows".into(),
        name: windows.description(),
        arch: windows.arch().to_string(),
        build: windows.build(),
        build_lab: windows.build_lab().map(str::to_owned),
        kernel_base: kernel.base.0.into(),
        kernel_bytes: kernel.size.into(),
        release: None,
        banner: None,
        kernel_slide: None,
        command_line: None,
        pdb: kernel.pdb.as_ref().map(PdbId::to_string),
        pdb_found: Some(windows.pdb().is_some()),
        uptime_ms: windows
            .shared_data(guest(managed))
            .ok()
            .map(|shared| shared.uptime_ms()),
        bugcheck,
        panic: None,
        oops: None,
        oopses: None,
        taint: None,
        recognition: steps(windows.report()),
    }
}

/// How it was recognised.
pub(super) fn steps(report: &introspect::windows::Report) -> Vec<OsStep> {
    let steps = report.steps().iter().map(|step| OsStep {
        what: step.what.to_owned(),
        found: step.found,
        how: step.how.clone(),
    });
    steps.collect()
}

impl Managed {
    /// Recognises the guest's Windows and holds it for a look. Symbols are looked for, and read, while the guest runs.
    pub(super) fn look_at_windows(self: &Arc<Self>, symbols: &SymbolPath) -> Result<Look, Failure> {
        let (windows, look) = self.look_with(None)?;
        let Some(id) = windows.kernel().pdb.clone() else {
            return Ok(look);
        };
        let in_vain = symbols.has_servers() && lock(&self.known).windows.missing.as_ref() == Some(&id);
        if windows.pdb().is_some() || symbols.is_empty() || in_vain {
            return Ok(look);
        }
        drop(look);
        let pdb = symbols
            .locate(&id)
            .map_err(|error| error.to_string())
            .and_then(|found| Pdb::open(&found.path, Some(&id)).map_err(|error| error.to_string()));
        match pdb {
            Ok(pdb) => self.look_with(Some(&Arc::new(pdb))).map(|(_, look)| look),
            Err(why) => {
                tracing::info!(why, "no symbols of the guest's kernel");
                lock(&self.known).windows.missing = Some(id);
                self.look_with(None).map(|(_, look)| look)
            }
        }
    }

    /// The same with what is at hand: a PDB, or the Windows that was recognised before.
    fn look_with(self: &Arc<Self>, pdb: Option<&Arc<Pdb>>) -> Result<(Arc<Windows>, Look), Failure> {
        let look = |windows: Arc<Windows>, held| {
            let kernel = Kernel::Windows(windows.clone());
            (windows, Look::new(kernel, held))
        };
        let held = self.hold()?;
        let guest = Guest::from(self.domain());
        let known = lock(&self.known)
            .windows
            .windows
            .clone()
            .filter(|_| pdb.is_none());
        if let Some(windows) = known.filter(|windows| windows.is_still_there(guest)) {
            return Ok(look(windows, held));
        }
        let recognised = match pdb {
            Some(pdb) => Windows::recognise_with_pdb(guest, pdb),
            None => Windows::recognise(guest, &SymbolPath::default()),
        };
        let windows = Arc::new(recognised.map_err(|error| self.not_windows(&error))?);
        lock(&self.known).windows.windows = Some(windows.clone());
        Ok(look(windows, held))
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
        state: None,
        state_letter: None,
        kernel: None,
        address: process.address.0.into(),
        root: Some(process.root.0.into()),
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
        name: None,
        address: thread.address.0.into(),
        state: thread.state.map(|state| state.to_string()),
        state_letter: None,
        kernel: None,
        cpu: None,
        waits_at: None,
        waits_in: None,
        vcpu: thread.running_on.map(|vcpu| vcpu.0),
        priority: thread.priority,
        start: hex(thread.win32_start.filter(|start| start.0 != 0).or(thread.start)),
        teb: hex(thread.teb),
        stack_base: hex(thread.stack_base),
    }
}
