//! `struct task_struct`, `signal_struct` and `mm_struct`.

use super::{Inferred, Kernel, Sample, is_name};
use crate::linux::cpus::current_tasks;
use crate::linux::in_memory::ROOTS;
use crate::linux::registers::stack_size;
use crate::linux::space::Space;
use hv_core::GuestVirtAddr;
use memchr::memmem;
use std::collections::HashSet;

/// Bytes of a task that are looked at. The structures have 6 to 12 KiB.
const SIZE: usize = 0x4000;
/// TASK_COMM_LEN.
const COMM: usize = 16;
/// Entries of a ring after which it is believed.
const ENOUGH: usize = 512;
/// Fewer make no ring of tasks: the first process, kthreadd, and what they start at once.
const FEWEST: usize = 5;
/// Tasks of the sample from each end of the list: the oldest are the kernel's, the newest are users'.
const HALF: usize = 48;
/// STACK_END_MAGIC (include/uapi/linux/magic.h).
const STACK_END: u64 = 0x57ac_6e9d;
const SIGCHLD: u32 = 17;
/// PID_MAX_LIMIT.
const MAX_PID: u32 = 1 << 22;
const TASK: &str = "task_struct";

/// Tasks that are looked at together.
struct Tasks<'a, 'm> {
    kernel: &'a Kernel<'a, 'm>,
    /// `init_task`.
    first: Sample,
    /// Leaders of processes; the first process comes first.
    all: Vec<Sample>,
}

pub(super) fn infer(kernel: &Kernel<'_, '_>, found: &mut Inferred) -> Option<()> {
    let first = Sample::read(kernel, (kernel.symbol)("init_task")?.0, SIZE);
    let comm = [&b"swapper/0\0"[..], b"swapper\0"]
        .iter()
        .find_map(|name| memmem::find(&first.bytes, name))? as u64;
    found.set(TASK, "comm", comm);
    let ring = (0..comm)
        .step_by(8)
        .find(|&offset| is_ring(kernel, &first, offset, comm))?;
    found.set(TASK, "tasks", ring);
    let tasks = Tasks::sample(kernel, first, ring);

    let pid = (0..comm).step_by(4).find(|&offset| tasks.is_pid(offset))?;
    found.set(TASK, "pid", pid);
    found.set(TASK, "tgid", pid + 4);
    if let Some(parent) = (pid + 8..comm)
        .step_by(8)
        .find(|&it| tasks.is_parent(it, pid, comm))
    {
        found.set(TASK, "real_parent", parent);
    }

    let stack = (8..0x80).step_by(8).find(|&offset| tasks.is_stack(offset))?;
    found.set(TASK, "stack", stack);
    // It is a long before 5.14; its low half comes first in any case.
    if tasks.all.iter().all(|task| task.half(stack - 8) < 1 << 17) {
        found.set(TASK, "__state", stack - 8);
    }
    if let Some(on_cpu) = tasks.on_cpu(stack) {
        found.set(TASK, "on_cpu", on_cpu);
    }
    let sp = (comm..SIZE as u64)
        .step_by(8)
        .find(|&offset| tasks.is_stack_pointer(offset, stack))?;
    found.set(TASK, "thread.sp", sp);

    let (signal, head, node) = tasks.signal(comm)?;
    found.set(TASK, "signal", signal);
    found.set(TASK, "thread_node", node);
    found.set("signal_struct", "thread_head", head);

    let pgd = pgd(kernel)?;
    found.set("mm_struct", "pgd", pgd);
    let mm = (0..comm).step_by(8).find(|&offset| tasks.is_mm(offset, pgd))?;
    found.set(TASK, "mm", mm);
    found.set(TASK, "active_mm", mm + 8);
    // exit_state, exit_code, exit_signal.
    if let Some(exit) = (mm..pid).step_by(4).find(|&offset| tasks.is_exit_state(offset)) {
        found.set(TASK, "exit_state", exit);
    }
    // Four selectors are between, and `status` in 4.14.
    if let Some(fs) = [sp + 16, sp + 24]
        .into_iter()
        .find(|&fs| tasks.is_fs_base(fs, mm, pgd))
    {
        found.set(TASK, "thread.fsbase", fs);
        found.set(TASK, "thread.gsbase", fs + 8);
    }
    Some(())
}

/// Whether a ring of tasks goes through there.
fn is_ring(kernel: &Kernel<'_, '_>, first: &Sample, offset: u64, comm: u64) -> bool {
    let head = first.address.wrapping_add(offset);
    let (mut at, mut previous) = (first.word(offset), head);
    for count in 0..ENOUGH {
        if at == head {
            return count >= FEWEST;
        }
        let name = GuestVirtAddr(at.wrapping_sub(offset).wrapping_add(comm));
        let (mut links, mut text) = ([0; 2], [0; COMM]);
        let good = kernel.is_pointer(at)
            && kernel
                .space
                .words("a list", GuestVirtAddr(at), &mut links)
                .is_ok()
            && links[1] == previous
            && kernel.space.read(name, &mut text).is_ok()
            && is_name(&text);
        if !good {
            return false;
        }
        (previous, at) = (at, links[0]);
    }
    true
}

/// Where `init_mm` has the kernel's own page tables.
fn pgd(kernel: &Kernel<'_, '_>) -> Option<u64> {
    let root = ROOTS.iter().find_map(|name| (kernel.symbol)(name))?;
    let first = Sample::read(kernel, (kernel.symbol)("init_mm")?.0, 0x400);
    (0..0x400).step_by(8).find(|&offset| first.word(offset) == root.0)
}

impl<'a, 'm> Tasks<'a, 'm> {
    fn sample(kernel: &'a Kernel<'a, 'm>, first: Sample, ring: u64) -> Tasks<'a, 'm> {
        let head = first.address.wrapping_add(ring);
        let mut seen = HashSet::from([head]);
        let mut all = Vec::new();
        for link in [0, 8] {
            let mut at = first.word(ring + link);
            for _ in 0..HALF {
                if !kernel.is_pointer(at) || !seen.insert(at) {
                    break;
                }
                all.push(Sample::read(kernel, at.wrapping_sub(ring), SIZE));
                let Some(next) = kernel.word(at.wrapping_add(link)) else {
                    break;
                };
                at = next;
            }
        }
        Tasks { kernel, first, all }
    }

    /// Equal for leaders, 1 for the first, all different.
    fn is_pid(&self, offset: u64) -> bool {
        let mut seen = HashSet::new();
        let mut good = |task: &Sample| {
            let pid = task.half(offset);
            pid == task.half(offset + 4) && (1..MAX_PID).contains(&pid) && seen.insert(pid)
        };
        let first = self.all.first().map(|task| task.half(offset));
        self.first.word(offset) == 0 && first == Some(1) && self.all.iter().all(&mut good)
    }

    /// The first task is its own parent and the first process', and all have tasks for parents.
    fn is_parent(&self, offset: u64, pid: u64, comm: u64) -> bool {
        let known: HashSet<u64> = self.all.iter().map(|task| task.address).collect();
        let first = self.first.address;
        let is_task = |at: u64| {
            let mut text = [0; COMM];
            let ids = self.kernel.word(at.wrapping_add(pid)).unwrap_or(0);
            let name = GuestVirtAddr(at.wrapping_add(comm));
            ids as u32 == (ids >> 32) as u32
                && ids != 0
                && self.kernel.space.read(name, &mut text).is_ok()
                && is_name(&text)
        };
        let good = |task: &Sample| {
            let parent = task.word(offset);
            let is_known = parent == first || known.contains(&parent);
            is_known || self.kernel.is_pointer(parent) && is_task(parent)
        };
        let process = self.all.first().map(|task| task.word(offset));
        self.first.word(offset) == first && process == Some(first) && self.all.iter().all(good)
    }

    /// A page's address, another for each, with the mark of a stack's end; none for those that have ended.
    fn is_stack(&self, offset: u64) -> bool {
        let mut seen = HashSet::new();
        let mut ended = 0;
        let mut good = |task: &Sample| {
            let stack = task.word(offset);
            ended += usize::from(stack == 0);
            stack == 0
                || stack.is_multiple_of(0x1000)
                    && self.kernel.is_pointer(stack)
                    && seen.insert(stack)
                    && self.kernel.word(stack) == Some(STACK_END)
        };
        self.first.word(offset) != 0
            && good(&self.first)
            && self.all.iter().all(&mut good)
            && ended <= self.all.len() / 4
    }

    /// On its stack for each, and most were left by the kernel's own code.
    fn is_stack_pointer(&self, offset: u64, stack: u64) -> bool {
        let size = stack_size(self.kernel.symbol);
        let inside = |task: &Sample| {
            let (sp, low) = (task.word(offset), task.word(stack));
            low == 0 || sp.is_multiple_of(8) && sp.wrapping_sub(low) < size && sp != low
        };
        if !inside(&self.first) || !self.all.iter().all(inside) {
            return false;
        }
        // What `__switch_to_asm` leaves there ends with where it returns to.
        let returns = |task: &&Sample| {
            let place = task.word(offset).wrapping_add(48);
            let to = self.kernel.word(place).map(GuestVirtAddr);
            to.is_some_and(|to| self.kernel.image.contains(to))
        };
        self.all.iter().filter(returns).count() * 4 >= self.all.len() * 3
    }

    /// 1 for what CPUs run, 0 for others, but for some in the middle of a switch.
    fn on_cpu(&self, stack: u64) -> Option<u64> {
        let current = current_tasks(self.kernel.space, self.kernel.symbol);
        if current.is_empty() {
            return None;
        }
        let running: Vec<Sample> = current
            .iter()
            .map(|task| Sample::read(self.kernel, task.0, 0x100))
            .collect();
        let is_current = |task: &&Sample| current.contains(&GuestVirtAddr(task.address));
        (stack + 8..0x100 - 4).step_by(4).find(|&offset| {
            let others = || self.all.iter().filter(|task| !is_current(task));
            let on = others().filter(|task| task.half(offset) == 1).count();
            running.iter().all(|task| task.half(offset) == 1)
                && others().all(|task| task.half(offset) <= 1)
                && on <= current.len()
                && self.all.len() > on + current.len()
        })
    }

    /// A pointer to a structure with the head of a ring of threads near its start, on which the leader is the first:
    /// the pointer, the head, and the leader's own place.
    fn signal(&self, comm: u64) -> Option<(u64, u64, u64)> {
        let node_of = |task: &Sample, signal: u64, head: u64| {
            let head = task.word(signal).wrapping_add(head);
            if !self.kernel.is_pointer(head) {
                return None;
            }
            let node = self.kernel.word(head)?;
            let inside = node.wrapping_sub(task.address);
            let back = self.kernel.word(node.wrapping_add(8))?;
            (inside < SIZE as u64 && inside.is_multiple_of(8) && back == head).then_some(inside)
        };
        let pointers = (comm..comm + 0x200).step_by(8);
        let places = pointers.flat_map(|signal| (8..0x40).step_by(8).map(move |head| (signal, head)));
        places
            .filter_map(|(signal, head)| Some((signal, head, node_of(&self.first, signal, head)?)))
            .find(|&(signal, head, node)| {
                let same = |task: &Sample| node_of(task, signal, head) == Some(node);
                self.all.iter().all(same)
            })
    }

    /// Users' have page tables, and their own one is the active one; the kernel's have none.
    fn is_mm(&self, offset: u64, pgd: u64) -> bool {
        let good = |task: &Sample| {
            let mm = task.word(offset);
            let tables = || self.kernel.word(mm.wrapping_add(pgd));
            mm == 0
                || self.kernel.is_pointer(mm)
                    && task.word(offset + 8) == mm
                    && tables().is_some_and(|at| at.is_multiple_of(0x1000) && self.kernel.is_pointer(at))
        };
        let process = self.all.first().map_or(0, |task| task.word(offset));
        let kernel = self.all.iter().filter(|task| task.word(offset) == 0).count();
        self.first.word(offset) == 0 && process != 0 && kernel > 0 && self.all.iter().all(good)
    }

    /// What a parent is told at the end is SIGCHLD for nearly all.
    fn is_exit_state(&self, offset: u64) -> bool {
        let good = |task: &Sample| matches!(task.half(offset), 0 | 0x10 | 0x20);
        let told = self.all.iter().filter(|task| task.half(offset + 8) == SIGCHLD);
        told.count() * 4 >= self.all.len() * 3
            && self.first.half(offset + 8) == 0
            && good(&self.first)
            && self.all.iter().all(good)
    }

    /// Where thread-local storage begins, it has its own address (System V ABI, TLS variant II).
    fn is_fs_base(&self, offset: u64, mm: u64, pgd: u64) -> bool {
        let users = self.all.iter().filter(|task| task.word(mm) != 0);
        let storage = |task: &&Sample| {
            let base = task.word(offset);
            let itself = || {
                let tables = self.kernel.word(task.word(mm).wrapping_add(pgd))?;
                let space = self.kernel.space;
                let root = space.physical(GuestVirtAddr(tables))?;
                let user = Space::new(space.memory, space.mode, root);
                let value = user.u64("thread-local storage", GuestVirtAddr(base)).ok()?;
                (value == base).then_some(())
            };
            base != 0 && !self.kernel.space.is_kernel(GuestVirtAddr(base)) && itself().is_some()
        };
        users.filter(storage).count() > 0
    }
}
