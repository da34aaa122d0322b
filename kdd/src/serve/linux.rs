//! What a Linux guest says of itself, from outside: its system, processes, threads, modules, log, symbols.
//!
//! The guest stands still while it is read: whoever calls these holds it.

use super::Managed;
use super::kernel::{HINT, no_process, no_symbol, printable};
use super::list::List;
use super::pause::Plain;
use super::windows::steps;
use crate::Failure;
use crate::control::hex::Hex;
use crate::control::message::{
    GuestLog, GuestLogRecord, GuestModule, GuestModulePart, GuestModules, GuestProcess, GuestProcesses,
    GuestSymbol, GuestSymbols, GuestThread, GuestThreads, OsInfo,
};
use crate::parse;
use hv_core::{GuestVirtAddr, VcpuId};
use introspect::linux::{Caller, Guest, Linux, ModuleState, Record, Task, Walk};
use std::collections::HashMap;
use symbols::kallsyms::Symbol;

/// Processes: groups of threads, as `ps` counts them. Idle tasks are no processes.
pub(super) fn processes(managed: &Managed, linux: &Linux) -> Result<GuestProcesses, Failure> {
    let walk = tasks(managed, linux)?;
    let mut threads: HashMap<u32, u32> = HashMap::new();
    for task in &walk.items {
        *threads.entry(task.tgid).or_default() += 1;
    }
    let mut list = List::new(walk.broken.as_ref());
    for task in walk.items.iter().filter(|task| is_leader(task)) {
        let root = task
            .mm
            .and_then(|mm| linux.page_tables(managed.domain(), mm).ok());
        list.add(GuestProcess {
            pid: task.tgid.into(),
            parent_pid: task.parent.map(u64::from),
            name: task.name.clone(),
            state: Some(task.state.to_string()),
            state_letter: Some(task.state.letter().into()),
            kernel: Some(is_kernels(task)),
            address: task.address.0.into(),
            root: root.map(|root| root.0.into()),
            user_root: None,
            peb: None,
            wow64: None,
            threads: threads.get(&task.tgid).copied(),
            create_time: None,
        });
    }
    Ok(GuestProcesses {
        processes: list.items,
        broken: list.broken,
    })
}

/// Threads of one process, or of all; process 0 has the CPUs' idle tasks.
pub(super) fn threads(managed: &Managed, linux: &Linux, pid: Option<u64>) -> Result<GuestThreads, Failure> {
    let walk = tasks(managed, linux)?;
    let names: HashMap<u32, &str> = walk
        .items
        .iter()
        .filter(|task| task.pid == task.tgid)
        .map(|task| (task.tgid, task.name.as_str()))
        .collect();
    let running = running(managed, linux);
    let mut list = List::new(walk.broken.as_ref());
    let chosen = |task: &&Task| pid.is_none_or(|pid| u64::from(task.tgid) == pid);
    let mut any = false;
    for task in walk.items.iter().filter(chosen) {
        any = true;
        let name = names.get(&task.tgid).copied().unwrap_or(&task.name);
        list.add(thread(linux, task, name, running.get(&task.address).copied()));
    }
    match pid {
        Some(pid) if !any => Err(no_process(managed, pid)),
        _ => Ok(GuestThreads {
            threads: list.items,
            broken: list.broken,
        }),
    }
}

fn thread(_linux: &Linux, task: &Task, process: &str, vcpu: Option<u32>) -> GuestThread {
    GuestThread {
        pid: task.tgid.into(),
        tid: task.pid.into(),
        process: process.to_owned(),
        name: Some(task.name.clone()),
        address: task.address.0.into(),
        state: Some(task.state.to_string()),
        state_letter: Some(task.state.letter().into()),
        kernel: Some(is_kernels(task)),
        cpu: task.cpu,
        waits_at: None,
        waits_in: None,
        vcpu,
        priority: None,
        start: None,
        teb: None,
        stack_base: None,
    }
}

/// The tasks that vCPUs are running.
fn running(managed: &Managed, linux: &Linux) -> HashMap<GuestVirtAddr, u32> {
    let guest = Guest::from(managed.domain());
    let cpus = linux.cpus(managed.domain()).unwrap_or_default();
    let of_vcpu = |vcpu| {
        let number = linux.cpu_of(guest, VcpuId(vcpu)).ok()??;
        let cpu = cpus.iter().find(|cpu| cpu.number == number)?;
        Some((cpu.current?, vcpu))
    };
    (0..managed.domain().vcpu_count()).filter_map(of_vcpu).collect()
}

fn tasks(managed: &Managed, linux: &Linux) -> Result<Walk<Task>, Failure> {
    linux
        .tasks(managed.domain())
        .map_err(|error| managed.failure(&error, HINT))
}

fn is_leader(task: &Task) -> bool {
    task.pid == task.tgid && task.pid != 0
}

/// A user's task that dies has lost its memory already; the kernel's are children of kthreadd, which is 2.
fn is_kernels(task: &Task) -> bool {
    task.mm.is_none() && (task.tgid == 0 || task.tgid == 2 || task.parent == Some(2))
}

/// Loaded modules, the newest first.
pub(super) fn modules(managed: &Managed, linux: &Linux) -> Result<GuestModules, Failure> {
    let walk = linux
        .modules(managed.domain())
        .map_err(|error| managed.failure(&error, HINT))?;
    let mut list = List::new(walk.broken.as_ref());
    for module in walk.items {
        let state = match module.state {
            ModuleState::Live => "live",
            ModuleState::Coming => "coming",
            ModuleState::Going => "going",
            ModuleState::Unformed => "unformed",
        };
        list.add(GuestModule {
            base: module.base().map_or(0, |base| base.0).into(),
            bytes: module.size(),
            state: Some(state.into()),
            parts: module
                .parts
                .iter()
                .map(|part| GuestModulePart {
                    kind: part.kind.into(),
                    base: part.base.0.into(),
                    bytes: part.size.into(),
                })
                .collect(),
            name: module.name,
            path: None,
            references: module.references,
            used_by: Some(module.users),
            entry_point: None,
            time_date_stamp: None,
            check_sum: None,
        });
    }
    Ok(GuestModules {
        modules: list.items,
        unloaded: Vec::new(),
        broken: list.broken,
    })
}

/// The kernel's log from a record on, as much as fits into a message.
pub(super) fn log(managed: &Managed, linux: &Linux, skip: u64) -> Result<GuestLog, Failure> {
    let log = linux
        .log(managed.domain())
        .map_err(|error| managed.failure(&error, HINT))?;
    let skipped = usize::try_from(skip).unwrap_or(usize::MAX);
    let mut list = List::new(None);
    let mut left = log.records.into_iter().skip(skipped).map(record);
    let more = !left.all(|record| list.offer(record));
    Ok(GuestLog {
        next: more.then_some(skip.saturating_add(list.items.len() as u64)),
        records: list.items,
        broken: log.broken,
    })
}

fn record(record: Record) -> GuestLogRecord {
    GuestLogRecord {
        seq: record.sequence,
        level: record.level as u8,
        facility: record.facility,
        time_ns: record.nanoseconds,
        caller: record.caller.map(|caller| match caller {
            Caller::Thread(pid) => format!("T{pid}"),
            Caller::Cpu(cpu) => format!("C{cpu}"),
        }),
        text: record.text,
    }
}

/// Symbols: all from one on, as many as fit into a message; all of a name; or the nearest to an address.
pub(super) fn symbols(
    managed: &Managed,
    linux: &Linux,
    find: Option<&str>,
    skip: u64,
) -> Result<GuestSymbols, Failure> {
    let kallsyms = linux.kallsyms().ok_or_else(|| {
        let why = Plain("its kernel's symbols were not found: it has no kallsyms, or is only starting");
        managed.failure(&why, HINT)
    })?;
    let Some(find) = find else {
        let skipped = usize::try_from(skip).unwrap_or(usize::MAX);
        let mut list = List::new(None);
        let mut left = kallsyms.iter().skip(skipped);
        let more = !left.all(|symbol| list.offer(kernel_symbol(symbol, None)));
        return Ok(GuestSymbols {
            next: more.then_some(skip.saturating_add(list.items.len() as u64)),
            symbols: list.items,
        });
    };
    let mut list = List::new(None);
    for symbol in kallsyms.all_of_name(find) {
        list.offer(kernel_symbol(symbol, None));
    }
    if list.items.is_empty() {
        let address = parse::address(find).map_err(|_| no_symbol(managed, find))?;
        let (symbol, offset) = linux
            .nearest_symbol(GuestVirtAddr(address))
            .ok_or_else(|| outside(managed, linux, GuestVirtAddr(address)))?;
        list.offer(kernel_symbol(symbol, Some(offset)));
    }
    Ok(GuestSymbols {
        symbols: list.items,
        next: None,
    })
}

fn kernel_symbol(symbol: Symbol<'_>, offset: Option<u64>) -> GuestSymbol {
    GuestSymbol {
        address: symbol.address.into(),
        kind: Some(symbol.kind.into()),
        name: printable(&symbol.text()),
        module: None,
        offset,
    }
}

/// Why an address has no symbol.
fn outside(managed: &Managed, linux: &Linux, address: GuestVirtAddr) -> Failure {
    let kernel = linux.kernel();
    Failure::new(
        format_args!("domain '{}'", managed.domain().name()),
        format_args!(
            "{address} is not in its kernel, which is {:#x} bytes at {}",
            kernel.size, kernel.base
        ),
        "'kdd modules' shows what is outside of it",
    )
}

/// What the guest's system is.
pub(super) fn os_info(managed: &Managed, linux: &Linux) -> OsInfo {
    let kernel = linux.kernel();
    let crash = linux.crash(managed.domain()).ok();
    let told = |text: Option<&str>| text.map(str::to_owned);
    OsInfo {
        family: "linux".into(),
        name: linux.description(),
        arch: "x64".into(),
        build: None,
        build_lab: None,
        kernel_base: kernel.base.0.into(),
        kernel_bytes: kernel.size,
        release: told(linux.release()),
        banner: told(linux.banner()),
        kernel_slide: Some(Hex::from(kernel.slide())),
        command_line: linux.command_line(managed.domain()),
        pdb: None,
        pdb_found: None,
        uptime_ms: linux
            .uptime(managed.domain())
            .and_then(|uptime| u64::try_from(uptime.as_millis()).ok()),
        bugcheck: None,
        panic: crash
            .as_ref()
            .filter(|crash| crash.panicked())
            .and_then(|crash| told(crash.message())),
        oops: crash.as_ref().and_then(|crash| crash.oops.clone()),
        oopses: crash.as_ref().and_then(|crash| crash.oopses),
        taint: crash
            .map(|crash| crash.taint)
            .filter(|taint| taint.0 != 0)
            .map(|taint| taint.to_string()),
        recognition: steps(linux.report()),
    }
}
