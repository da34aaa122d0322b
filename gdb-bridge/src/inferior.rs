//! What a client takes for the program that it debugs: the machine.
//!
//! ```text
//!  packets, stub ──"which threads? whose registers? whose memory?"──► dyn Inferior
//!                                                                       │
//!                                              Machine: vCPUs, and the tasks of a Linux guest
//!                                              Process: one process of a Linux guest
//! ```
//! Everything that depends on it is asked here and nowhere else. A guest runs or stands still as a whole, whatever is debugged.

use crate::breakpoints::PlaceMode;
use crate::guest::Guest;
use crate::process::Process;
use crate::registers::{RegisterSet, View};
use crate::tasks::Stopped;
use crate::thread::Thread;
use hv_core::addr::VcpuId;
use introspect::AddressSpace;

/// See the module. A session holds the guest while it asks.
pub trait Inferior: Send {
    /// Its threads, in the order in which clients number them.
    fn threads(&self, guest: &Guest) -> Vec<Thread>;

    /// The thread that is selected before anything is known of the guest.
    fn first(&self) -> Thread;

    /// Whether it has this thread.
    fn has(&self, guest: &Guest, thread: Thread) -> bool;

    /// The thread that stops when a vCPU does.
    fn thread_on(&self, guest: &Guest, vcpu: VcpuId) -> Thread;

    /// A thread's registers.
    ///
    /// # Errors
    /// A sentence that says why there are none.
    fn registers<'a>(&self, guest: &'a Guest, thread: Thread) -> Result<RegisterSet<'a>, String>;

    /// What a thread sees as memory.
    fn space(&self, guest: &Guest, thread: Thread) -> AddressSpace;

    /// What the address of a new breakpoint means when the user doesn't say.
    fn place(&self, guest: &Guest) -> PlaceMode;

    /// What runs when a thread is to.
    ///
    /// # Errors
    /// A sentence that says why nothing does.
    fn runs(&self, guest: &Guest, thread: Thread) -> Result<Runs, String>;

    /// The process that it is, if it is one.
    fn process(&self) -> Option<&Process> {
        None
    }
}

/// What runs for a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Runs {
    /// A vCPU, instruction by instruction.
    Vcpu(VcpuId),
    /// The task of this pid, whose instructions are those of user mode.
    InUserMode(u32),
}

/// The whole machine: its vCPUs are there always and first, then come the guest's tasks.
pub struct Machine;

impl Inferior for Machine {
    fn threads(&self, guest: &Guest) -> Vec<Thread> {
        let vcpus = (0..guest.domain().vcpu_count()).map(|index| Thread::Vcpu(VcpuId(index)));
        let tasks = guest.tasks();
        let tasks = tasks.iter().flat_map(|tasks| tasks.pids()).map(Thread::Task);
        vcpus.chain(tasks).collect()
    }

    fn first(&self) -> Thread {
        Thread::Vcpu(VcpuId(0))
    }

    fn has(&self, guest: &Guest, thread: Thread) -> bool {
        match thread {
            Thread::Vcpu(vcpu) => vcpu.0 < guest.domain().vcpu_count(),
            Thread::Task(pid) => guest.task(pid).is_some(),
        }
    }

    /// Who steps a task that a vCPU runs gets that task's stop.
    fn thread_on(&self, guest: &Guest, vcpu: VcpuId) -> Thread {
        match guest.asked {
            Some(thread @ Thread::Task(_)) if guest.vcpu_of(thread) == Ok(vcpu) => thread,
            _ => Thread::Vcpu(vcpu),
        }
    }

    fn registers<'a>(&self, guest: &'a Guest, thread: Thread) -> Result<RegisterSet<'a>, String> {
        let of_vcpu = |vcpu| match View::read(guest.domain(), vcpu) {
            Ok(view) => Ok(RegisterSet::Vcpu(Box::new(view))),
            Err(error) => Err(error.to_string()),
        };
        let pid = match thread {
            Thread::Vcpu(vcpu) => return of_vcpu(vcpu),
            Thread::Task(pid) => pid,
        };
        let Stopped { tasks, task } = guest.task(pid).ok_or("there is no such task")?;
        match tasks.vcpu_of(&task) {
            Some(vcpu) => of_vcpu(vcpu),
            None => tasks.registers(guest.domain(), &task).map(RegisterSet::Saved),
        }
    }

    fn space(&self, guest: &Guest, thread: Thread) -> AddressSpace {
        match thread {
            Thread::Vcpu(vcpu) => AddressSpace::Vcpu(vcpu),
            Thread::Task(pid) => match guest.task(pid) {
                Some(Stopped { tasks, task }) => tasks.space(guest.domain(), &task),
                None => AddressSpace::Vcpu(guest.stopped),
            },
        }
    }

    fn place(&self, _: &Guest) -> PlaceMode {
        PlaceMode::Virtual
    }

    fn runs(&self, guest: &Guest, thread: Thread) -> Result<Runs, String> {
        match guest.vcpu_of(thread) {
            Ok(vcpu) => Ok(Runs::Vcpu(vcpu)),
            Err(why) => Err(format!("{why}: it can't be stepped, nor run alone")),
        }
    }
}
