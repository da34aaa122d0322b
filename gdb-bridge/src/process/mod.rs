//! One process of a Linux guest as what a client debugs.
//!
//! ```text
//!  threads     the tasks of its thread group
//!  registers   a vCPU's while it runs the thread in user mode, else those that the kernel saved when it was entered
//!  memory      by the process's page tables
//!  breakpoints in its address space alone
//!  steps       [`step`]: to the next instruction in user mode, whatever the kernel does in between
//!  its end     [`end`]
//! ```
//! The guest stands still as a whole while the client looks, and runs as a whole. Nothing is written into the process but what
//! the client writes.

pub mod end;
pub mod step;

use crate::breakpoints::PlaceMode;
use crate::guest::Guest;
use crate::inferior::{Inferior, Runs};
use crate::registers::{RegisterSet, SavedRegisters, View};
use crate::tasks::Stopped;
use crate::thread::Thread;
use hv_core::addr::{GuestPhysAddr, GuestVirtAddr, VcpuId};
use hv_core::regs::seg;
use introspect::linux::{File, Mapping, Task, TaskRegisters};
use introspect::{AddressSpace, PagingMode};

/// The most mappings that are looked at for files.
const MOST_MAPPINGS: usize = 4096;
/// Page tables of nobody.
const NO_TABLES: GuestPhysAddr = GuestPhysAddr(!0xfff);

/// A process, by the pid of its first thread.
pub struct Process(pub u32);

impl Process {
    fn owns(&self, task: &Task) -> bool {
        task.tgid == self.0
    }
}

impl Inferior for Process {
    /// The first thread first.
    fn threads(&self, guest: &Guest) -> Vec<Thread> {
        let Some(tasks) = guest.tasks() else {
            return Vec::new();
        };
        let mut threads: Vec<u32> = tasks
            .iter()
            .filter(|task| self.owns(task))
            .map(|it| it.pid)
            .collect();
        threads.sort_by_key(|&pid| (pid != self.0, pid));
        threads.into_iter().map(Thread::Task).collect()
    }

    fn first(&self) -> Thread {
        Thread::Task(self.0)
    }

    fn has(&self, guest: &Guest, thread: Thread) -> bool {
        match (thread, guest.tasks()) {
            (Thread::Vcpu(_), _) => false,
            (Thread::Task(pid), Some(tasks)) => tasks.get(pid).is_some_and(|task| self.owns(task)),
            // A guest that runs isn't asked.
            (Thread::Task(pid), None) => pid == self.0,
        }
    }

    fn thread_on(&self, guest: &Guest, vcpu: VcpuId) -> Thread {
        let tasks = guest.tasks();
        let current = tasks.as_ref().and_then(|tasks| tasks.current(vcpu));
        match current.filter(|task| self.owns(task)) {
            Some(task) => Thread::Task(task.pid),
            // The guest stopped for another reason: nothing of the process did.
            None if self.has(guest, guest.selected) => guest.selected,
            None => self.first(),
        }
    }

    fn registers<'a>(&self, guest: &'a Guest, thread: Thread) -> Result<RegisterSet<'a>, String> {
        let Thread::Task(pid) = thread else {
            return Err("a process has no vCPUs".into());
        };
        let Stopped { tasks, task } = guest.task(pid).ok_or("there is no such thread")?;
        let domain = guest.domain();
        let user = |memory| {
            let read = tasks.linux.user_registers(memory, &task);
            read.map_err(|error| error.to_string())
        };
        let Some(vcpu) = tasks.vcpu_of(&task) else {
            return Ok(RegisterSet::Saved(SavedRegisters::from(&user(domain)?)));
        };
        let view = View::read(domain, vcpu).map_err(|error| error.to_string())?;
        if view.registers().cpl() == 3 {
            return Ok(RegisterSet::Vcpu(Box::new(view)));
        }
        // In the kernel FS is still the thread's, and its GS is put aside.
        let bases = (
            view.registers().segments[seg::FS].base,
            view.registers().msrs.kernel_gs_base,
        );
        let user = TaskRegisters {
            fs_base: Some(bases.0),
            gs_base: Some(bases.1),
            ..user(domain)?
        };
        Ok(RegisterSet::Saved(SavedRegisters::from(&user)))
    }

    fn space(&self, guest: &Guest, _: Thread) -> AddressSpace {
        let process = guest.task(self.0);
        let space = process.and_then(|it| it.tasks.linux.user_space(guest.domain(), &it.task).ok()?);
        // Nothing is mapped where no process is.
        space.unwrap_or(AddressSpace::Root(PagingMode::Level4, NO_TABLES))
    }

    fn place(&self, guest: &Guest) -> PlaceMode {
        PlaceMode::AddressSpace(self.user_root(guest).unwrap_or(NO_TABLES))
    }

    fn runs(&self, _: &Guest, thread: Thread) -> Result<Runs, String> {
        match thread {
            Thread::Task(pid) => Ok(Runs::InUserMode(pid)),
            Thread::Vcpu(_) => Err("a process has no vCPUs".into()),
        }
    }

    fn process(&self) -> Option<&Process> {
        Some(self)
    }
}

impl Process {
    /// The page tables that are in use while it is in user mode.
    pub fn user_root(&self, guest: &Guest) -> Option<GuestPhysAddr> {
        let Stopped { tasks, task } = guest.task(self.0)?;
        let tables = tasks.linux.page_tables(guest.domain(), task.mm?).ok()?;
        Some(tasks.linux.user_page_tables(guest.domain(), tables))
    }

    /// Its program's file.
    pub fn program(&self, guest: &Guest) -> Option<File> {
        let Stopped { tasks, task } = guest.task(self.0)?;
        tasks.linux.program(guest.domain(), task.mm?).ok()?
    }

    /// What it has mapped.
    fn mappings(&self, guest: &Guest) -> Vec<Mapping> {
        let read = |stopped: Stopped| {
            let walk = stopped.tasks.linux.mappings(guest.domain(), stopped.task.mm?);
            let mut mappings = walk.ok()?.items;
            mappings.truncate(MOST_MAPPINGS);
            Some(mappings)
        };
        guest.task(self.0).and_then(read).unwrap_or_default()
    }

    /// Where its program begins.
    pub fn program_base(&self, guest: &Guest) -> Option<GuestVirtAddr> {
        let program = self.program(guest)?;
        let linux = guest.linux()?;
        let is_it = |mapping: &&Mapping| {
            let file = mapping
                .file
                .and_then(|file| linux.file(guest.domain(), file).ok());
            mapping.offset == 0 && file.is_some_and(|file| file.mapping == program.mapping)
        };
        self.mappings(guest)
            .iter()
            .find(is_it)
            .map(|mapping| mapping.start)
    }

    /// Files with code that it has mapped besides its program, and where each begins.
    pub fn libraries(&self, guest: &Guest) -> Vec<(String, GuestVirtAddr)> {
        let (Some(linux), Some(program)) = (guest.linux(), self.program(guest)) else {
            return Vec::new();
        };
        let mut begun: Option<(GuestVirtAddr, GuestVirtAddr)> = None;
        let mut libraries: Vec<(String, GuestVirtAddr)> = Vec::new();
        for mapping in self.mappings(guest) {
            let Some(file) = mapping.file else { continue };
            if mapping.offset == 0 {
                begun = Some((file, mapping.start));
            }
            // Its parts follow each other.
            let Some((_, start)) = begun.filter(|(its, _)| *its == file && mapping.is_code()) else {
                continue;
            };
            begun = None;
            match linux.file(guest.domain(), file) {
                Ok(file) if file.mapping != program.mapping => libraries.push((file.path, start)),
                _ => {}
            }
        }
        libraries
    }

    /// A file that it has mapped, by its path.
    pub fn file(&self, guest: &Guest, path: &[u8]) -> Option<File> {
        let linux = guest.linux()?;
        let mapped = self.mappings(guest);
        let mut files: Vec<_> = mapped.iter().filter_map(|mapping| mapping.file).collect();
        files.dedup();
        let mut files = files
            .into_iter()
            .filter_map(|file| linux.file(guest.domain(), file).ok());
        let program = self.program(guest).filter(|file| file.path.as_bytes() == path);
        program.or_else(|| files.find(|file| file.path.as_bytes() == path))
    }
}
