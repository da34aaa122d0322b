//! The tasks of a Linux guest, as its threads.
//!
//! They are read when the client asks, once while the guest stands still: what is kept is of one moment of the guest's
//! time, and goes when that has moved on, whoever let it. Guest memory is hostile: a list that breaks off or is too long
//! gives what was read before, with a note.

mod place;
mod saved;

use crate::guest::Guest;
use hv_core::addr::{Ticks, VcpuId};
use hv_core::introspect::ReadMemory;
use introspect::linux::{Linux, Task};
use introspect::{AddressSpace, Target};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// So many tasks are listed without being asked for.
const MOST_UNASKED: usize = 5000;

/// Whether tasks are threads (`monitor tasks`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Listing {
    /// If the guest is a recognised Linux with no more than [`MOST_UNASKED`] of them.
    #[default]
    Auto,
    /// However many there are.
    On,
    /// No.
    Off,
}

/// What a session knows of its guest's tasks.
#[derive(Default)]
pub struct Tasks {
    /// What the user wants.
    pub listing: Listing,
    kept: RefCell<Kept>,
}

#[derive(Default)]
struct Kept {
    snapshot: Option<Arc<Snapshot>>,
    /// When no Linux was found.
    in_vain: Option<Ticks>,
    /// There were too many.
    too_many: Option<usize>,
}

/// A task and the moment that it is of.
pub struct Stopped {
    /// All tasks.
    pub tasks: Arc<Snapshot>,
    /// The one.
    pub task: Task,
}

/// The tasks at one moment.
pub struct Snapshot {
    at: Ticks,
    /// Their kernel.
    pub linux: Arc<Linux>,
    tasks: Vec<Task>,
    by_pid: HashMap<u32, usize>,
    running: HashMap<u32, VcpuId>,
    /// What is wrong with the list.
    pub note: Option<String>,
}

impl Tasks {
    /// Forgets what was read: the guest is another one now.
    pub fn forget(&mut self) {
        self.kept = RefCell::default();
    }

    /// As the user chose; also forgets that there were too many.
    pub fn list(&mut self, listing: Listing) {
        self.listing = listing;
        self.forget();
    }

    /// Why the tasks aren't threads, or not all of them.
    pub fn note(&self) -> Option<String> {
        let kept = self.kept.borrow();
        if let Some(count) = kept.too_many {
            return Some(format!("{count} tasks aren't listed: monitor tasks on"));
        }
        kept.snapshot.as_ref()?.note.clone()
    }

    fn at(&self, target: &Target) -> Option<Arc<Snapshot>> {
        let now = target.domain().uptime();
        let mut kept = self.kept.borrow_mut();
        if let Some(snapshot) = kept.snapshot.take().filter(|snapshot| snapshot.at == now) {
            return Some(kept.snapshot.insert(snapshot).clone());
        }
        let given_up = self.listing == Listing::Auto && kept.too_many.is_some();
        if self.listing == Listing::Off || given_up || !kept.looks_again(now) {
            return None;
        }
        let snapshot = match Snapshot::read(target, now) {
            Ok(snapshot) => snapshot,
            Err(why) => {
                tracing::debug!(%why, "the guest's tasks aren't listed");
                kept.in_vain = Some(now);
                return None;
            }
        };
        kept.in_vain = None;
        if self.listing == Listing::Auto && snapshot.tasks.len() > MOST_UNASKED {
            tracing::info!(
                tasks = snapshot.tasks.len(),
                "too many tasks to list them unasked"
            );
            kept.too_many = Some(snapshot.tasks.len());
            return None;
        }
        Some(kept.snapshot.insert(Arc::new(snapshot)).clone())
    }
}

impl Kept {
    /// A guest that wasn't recognised is looked at again when it has run for half as long again: it may have been
    /// starting. A reset puts the time back.
    fn looks_again(&self, now: Ticks) -> bool {
        self.in_vain
            .is_none_or(|then| now < then || now.0 - then.0 > then.0 / 2)
    }
}

impl Snapshot {
    /// Reads them from a guest that stands still.
    fn read(target: &Target, at: Ticks) -> Result<Snapshot, String> {
        let linux = target.linux().map_err(|error| error.to_string())?;
        let domain = &**target.domain();
        let walk = linux.tasks(domain).map_err(|error| error.to_string())?;
        let mut tasks = walk.items;
        tasks.retain(|task| task.pid != 0);
        let mut by_pid = HashMap::new();
        for (index, task) in tasks.iter().enumerate() {
            by_pid.entry(task.pid).or_insert(index);
        }
        let mut note = walk.broken.map(|broken| broken.to_string());
        if by_pid.len() < tasks.len() {
            note.get_or_insert_with(|| "the task list has a pid twice".into());
        }
        let by_address: HashMap<_, _> = tasks.iter().map(|task| (task.address, task.pid)).collect();
        let cpus = linux.cpus(domain).unwrap_or_default();
        let current = |index| {
            let vcpu = VcpuId(index);
            let number = linux.cpu_of(domain.into(), vcpu).ok()??;
            let cpu = cpus.iter().find(|cpu| cpu.number == number)?;
            Some((*by_address.get(&cpu.current?)?, vcpu))
        };
        let running = (0..domain.vcpu_count()).filter_map(current).collect();
        Ok(Snapshot {
            at,
            linux,
            tasks,
            by_pid,
            running,
            note,
        })
    }

    /// All, in the kernel's order.
    pub fn iter(&self) -> impl Iterator<Item = &Task> {
        let first = |(index, task): &(usize, &Task)| self.by_pid.get(&task.pid) == Some(index);
        self.tasks.iter().enumerate().filter(first).map(|(_, task)| task)
    }

    /// Their pids.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.iter().map(|task| task.pid)
    }

    /// The one with this pid.
    pub fn get(&self, pid: u32) -> Option<&Task> {
        self.tasks.get(*self.by_pid.get(&pid)?)
    }

    /// The vCPU that the task is on.
    pub fn vcpu_of(&self, task: &Task) -> Option<VcpuId> {
        self.running.get(&task.pid).copied()
    }

    /// The task that a vCPU runs, unless it idles.
    pub fn current(&self, vcpu: VcpuId) -> Option<&Task> {
        let (pid, _) = self.running.iter().find(|(_, its)| **its == vcpu)?;
        self.get(*pid)
    }

    /// What a task sees as memory: its process's page tables, which map the kernel too; the kernel's own for a thread of
    /// the kernel, and where they can't be found.
    pub fn space(&self, memory: &dyn ReadMemory, task: &Task) -> AddressSpace {
        let space = self.linux.user_space(memory, task).ok().flatten();
        space.unwrap_or_else(|| self.linux.address_space())
    }
}

impl Guest {
    /// The guest's tasks now, if they are threads. Of a guest that may run they can't be told.
    pub fn tasks(&self) -> Option<Arc<Snapshot>> {
        let runs = !self.session.holds() && self.domain().control_run().is_some();
        if runs { None } else { self.listed.at(&self.target) }
    }

    /// One of them.
    pub fn task(&self, pid: u32) -> Option<Stopped> {
        let tasks = self.tasks()?;
        let task = tasks.get(pid)?.clone();
        Some(Stopped { tasks, task })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_linux_is_looked_at_ever_more_rarely() {
        let kept = Kept {
            in_vain: Some(Ticks(1000)),
            ..Kept::default()
        };
        assert!(!kept.looks_again(Ticks(1000)));
        assert!(!kept.looks_again(Ticks(1500)));
        assert!(kept.looks_again(Ticks(1501)));
        assert!(kept.looks_again(Ticks(3)), "it was reset");
        assert!(Kept::default().looks_again(Ticks(0)));
    }
}
