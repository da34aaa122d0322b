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
use crate::registers::{RegisterSet, SavedRegisters, SegmentName, Slot, View};
use crate::tasks::Stopped;
use crate::thread::Thread;
use hv_core::addr::{GuestPhysAddr, VcpuId};
use hv_core::regs::seg;
use introspect::linux::Task;
use introspect::{AddressSpace, PagingMode};

const FS: SegmentName = SegmentName::Data(seg::FS);
const GS: SegmentName = SegmentName::Data(seg::GS);
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
        let vcpu = tasks.vcpu_of(&task);
        let mut saved = SavedRegisters::default();
        if let Some(vcpu) = vcpu {
            let view = View::read(domain, vcpu).map_err(|error| error.to_string())?;
            let registers = view.registers();
            if registers.cpl() == 3 {
                return Ok(RegisterSet::Vcpu(view));
            }
            // In the kernel FS is still the thread's, and its GS is put aside.
            saved.know(Slot::Base(FS), Slot::Base(FS).get(registers) as u64);
            saved.know(Slot::Base(GS), Slot::KernelGsBase.get(registers) as u64);
        }
        let user = tasks
            .linux
            .user_registers(domain, &task)
            .map_err(|error| error.to_string())?;
        saved.know_those_of(&user);
        Ok(RegisterSet::Saved(saved))
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
}
