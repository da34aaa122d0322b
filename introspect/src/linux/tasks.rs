//! Tasks: processes and threads, user's and the kernel's.

use super::error::Error;
use super::list::Ring;
use super::space::{Space, printable};
use super::{Linux, Walk};
use hv_core::GuestVirtAddr;
use hv_core::introspect::ReadMemory;
use std::collections::HashSet;
use std::fmt;

/// The most tasks that are read.
const MAX_TASKS: usize = 1 << 18;
/// The most bytes of `struct task_struct` that are believed.
const MAX_TASK: u64 = 0x8000;
/// TASK_COMM_LEN.
const COMM: usize = 16;

/// A task's state, as `ps` shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskState(
    /// `__state` and `exit_state` in one (include/linux/sched.h).
    pub u32,
);

impl TaskState {
    /// TASK_UNINTERRUPTIBLE and TASK_NOLOAD: a kernel thread that waits for work.
    const IDLE: u32 = 0x402;
    /// TASK_RTLOCK_WAIT.
    const LOCK_WAIT: u32 = 0x1000;
    /// The bits that are shown (TASK_REPORT).
    const SHOWN: u32 = 0x7f;
    /// EXIT_DEAD, EXIT_ZOMBIE and TASK_DEAD.
    const ENDED: u32 = 0xb0;

    /// The letter of /proc/PID/stat.
    pub fn letter(self) -> char {
        if self.0 & Self::IDLE == Self::IDLE {
            return 'I';
        }
        if self.0 & Self::LOCK_WAIT != 0 {
            return 'D';
        }
        let shown = self.0 & Self::SHOWN;
        let highest = u32::BITS - shown.leading_zeros();
        char::from(b"RSDTtXZP"[highest as usize])
    }

    /// It will never run again: its stack may be gone.
    pub fn has_ended(self) -> bool {
        self.0 & Self::ENDED != 0
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.letter() {
            'R' => "running",
            'S' => "sleeping",
            'D' => "disk sleep",
            'T' => "stopped",
            't' => "traced",
            'X' => "dead",
            'Z' => "zombie",
            'P' => "parked",
            _ => "idle",
        })
    }
}

/// A task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    /// Its `struct task_struct`.
    pub address: GuestVirtAddr,
    /// The thread's id; 0 for a CPU's idle task.
    pub pid: u32,
    /// The process's id: the pid of its first thread.
    pub tgid: u32,
    /// The pid of the process that made it.
    pub parent: Option<u32>,
    /// Its name, 15 characters at most.
    pub name: String,
    /// What it is doing.
    pub state: TaskState,
    /// It is on a CPU at the moment (`on_cpu`).
    pub on_cpu: bool,
    /// The CPU that it is on, or was on last, where this kernel says that (with more than one CPU).
    pub cpu: Option<u32>,
    /// The low end of its kernel stack.
    pub stack: GuestVirtAddr,
    /// Where its registers are on that stack when it doesn't run (`thread.sp`).
    pub stack_pointer: GuestVirtAddr,
    /// Its `struct mm_struct`; `None` for a thread of the kernel.
    pub mm: Option<GuestVirtAddr>,
    /// The base of FS in user mode, when it doesn't run (`thread.fsbase`).
    pub fs_base: Option<GuestVirtAddr>,
    /// The base of GS in user mode, when it doesn't run (`thread.gsbase`).
    pub gs_base: Option<GuestVirtAddr>,
}

/// Where everything is in `struct task_struct`.
struct Layout {
    size: usize,
    state: (u64, usize),
    exit_state: Option<u64>,
    pid: u64,
    tgid: u64,
    comm: u64,
    stack: u64,
    sp: u64,
    mm: u64,
    on_cpu: Option<u64>,
    cpu: Option<u64>,
    parent: Option<u64>,
    fs_base: Option<u64>,
    gs_base: Option<u64>,
    tasks: u64,
    thread_node: u64,
    signal: u64,
    thread_head: u64,
}

impl Layout {
    fn of(linux: &Linux) -> Result<Layout, Error> {
        let member = |name| linux.offset("task_struct", name);
        // A long before 5.14.
        let state = member("__state")
            .map(|offset| (offset, 4))
            .or_else(|_| member("state").map(|offset| (offset, 8)))?;
        let layout = Layout {
            size: 0,
            state,
            exit_state: member("exit_state").ok(),
            pid: member("pid")?,
            tgid: member("tgid")?,
            comm: member("comm")?,
            stack: member("stack")?,
            sp: member("thread.sp")?,
            mm: member("mm")?,
            on_cpu: member("on_cpu").ok(),
            // In thread_info from 5.16 on.
            cpu: member("thread_info.cpu").or_else(|_| member("cpu")).ok(),
            parent: member("real_parent").ok(),
            fs_base: member("thread.fsbase").ok(),
            gs_base: member("thread.gsbase").ok(),
            tasks: member("tasks")?,
            thread_node: member("thread_node")?,
            signal: member("signal")?,
            thread_head: linux.offset("signal_struct", "thread_head")?,
        };
        let ends = [
            layout.state.0,
            layout.exit_state.unwrap_or(0),
            layout.pid,
            layout.tgid,
            layout.comm + 8,
            layout.stack,
            layout.sp,
            layout.mm,
            layout.on_cpu.unwrap_or(0),
            layout.cpu.unwrap_or(0),
            layout.parent.unwrap_or(0),
            layout.fs_base.unwrap_or(0),
            layout.gs_base.unwrap_or(0),
        ];
        let end = ends.into_iter().max().unwrap_or(0).min(MAX_TASK) + 8;
        Ok(Layout {
            size: end as usize,
            ..layout
        })
    }
}

impl Linux {
    /// Every task: the idle ones, then each process with its threads, in the order of the kernel's list.
    ///
    /// # Errors
    /// [`Error`] if the layout isn't known or the first task can't be read.
    pub fn tasks(&self, memory: &dyn ReadMemory) -> Result<Walk<Task>, Error> {
        let space = self.space(memory);
        let layout = Layout::of(self)?;
        let first = self.needed("init_task")?;
        let mut tasks = vec![task(&space, &layout, first)?];
        let mut seen = HashSet::from([first]);
        for idle in self.idle_tasks(&space) {
            if seen.insert(idle)
                && let Ok(idle) = task(&space, &layout, idle)
            {
                tasks.push(idle);
            }
        }
        // Of all rings together: many processes may claim the same threads.
        let (mut broken, mut walked) = (None, 0);
        let leaders = Ring {
            name: "task list",
            head: first.wrapping_add(layout.tasks),
            link: layout.tasks,
            limit: MAX_TASKS,
        };
        let walk = leaders.walk(&space, |leader| {
            tasks.push(task(&space, &layout, leader)?);
            seen.insert(leader);
            let signal = space.pointer("signal_struct", leader.wrapping_add(layout.signal))?;
            let threads = Ring {
                name: "thread list",
                head: signal.wrapping_add(layout.thread_head),
                link: layout.thread_node,
                limit: MAX_TASKS.saturating_sub(walked),
            };
            let walk = threads.walk(&space, |thread| {
                if seen.insert(thread) {
                    tasks.push(task(&space, &layout, thread)?);
                }
                Ok(())
            })?;
            walked += walk.items.len();
            if broken.is_none() {
                broken = walk.broken;
            }
            Ok(())
        })?;
        Ok(Walk {
            items: tasks,
            broken: walk.broken.or(broken),
        })
    }

    /// One task, by the address of its `struct task_struct`.
    ///
    /// # Errors
    /// [`Error`] if the layout isn't known or it can't be read.
    pub fn task(&self, memory: &dyn ReadMemory, address: GuestVirtAddr) -> Result<Task, Error> {
        task(&self.space(memory), &Layout::of(self)?, address)
    }
}

fn task(space: &Space<'_>, layout: &Layout, address: GuestVirtAddr) -> Result<Task, Error> {
    let mut bytes = vec![0; layout.size];
    space.bytes("task_struct", address, &mut bytes)?;
    let word = |offset: u64, size: usize| {
        let mut word = [0; 8];
        if let Some(part) = bytes.get(offset as usize..offset as usize + size) {
            word[..size].copy_from_slice(part);
        }
        u64::from_le_bytes(word)
    };
    let comm = bytes.get(layout.comm as usize..).unwrap_or_default();
    let comm = &comm[..comm.len().min(COMM)];
    let end = memchr::memchr(0, comm).unwrap_or(comm.len());
    let parent = layout.parent.and_then(|offset| {
        let parent = GuestVirtAddr(word(offset, 8));
        let pid = parent.checked_add(layout.tgid)?;
        space.is_kernel(parent).then(|| space.u32("parent", pid).ok())?
    });
    let mm = GuestVirtAddr(word(layout.mm, 8));
    let exit_state = layout.exit_state.map_or(0, |offset| word(offset, 4) as u32);
    Ok(Task {
        address,
        pid: word(layout.pid, 4) as u32,
        tgid: word(layout.tgid, 4) as u32,
        parent,
        name: printable(&comm[..end], false),
        state: TaskState(word(layout.state.0, layout.state.1) as u32 | exit_state),
        on_cpu: layout.on_cpu.is_some_and(|offset| word(offset, 4) != 0),
        cpu: layout.cpu.map(|offset| word(offset, 4) as u32),
        stack: GuestVirtAddr(word(layout.stack, 8)),
        stack_pointer: GuestVirtAddr(word(layout.sp, 8)),
        mm: (mm.0 != 0).then_some(mm),
        fs_base: layout.fs_base.map(|offset| GuestVirtAddr(word(offset, 8))),
        gs_base: layout.gs_base.map(|offset| GuestVirtAddr(word(offset, 8))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_the_letters_of_proc() {
        let letters = [
            (0, 'R'),
            (1, 'S'),
            (2, 'D'),
            (4, 'T'),
            (8, 't'),
            (0x10, 'X'),
            (0x20, 'Z'),
            (0x40, 'P'),
            (0x402, 'I'),
            (0x2002, 'D'),
            (0x1000, 'D'),
            (0x8001, 'S'),
        ];
        for (state, letter) in letters {
            assert_eq!(TaskState(state).letter(), letter, "{state:#x}");
        }
    }
}
