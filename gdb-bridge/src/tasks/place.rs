//! Where a task sleeps: the function that called the scheduler, as /proc/PID/wchan says.

use super::Snapshot;
use hv_core::addr::GuestVirtAddr;
use hv_core::introspect::ReadMemory;
use introspect::linux::{Linux, Task, Unwinder};

impl Snapshot {
    /// For the places of many tasks.
    pub fn unwinder<'a>(&'a self, memory: &'a dyn ReadMemory) -> Unwinder<'a> {
        self.linux.unwinder(memory)
    }

    /// The innermost function outside the scheduler on the stack of a task that isn't on a CPU, and how far in it.
    pub fn place(&self, memory: &dyn ReadMemory, unwinder: &mut Unwinder<'_>, task: &Task) -> Option<String> {
        let registers = self.linux.task_registers(memory, task).ok()?;
        let frames = unwinder.stack(&registers).items;
        let frame = frames
            .iter()
            .find(|frame| !is_scheduler(&self.linux, frame.call()))?;
        Some(match self.linux.nearest_symbol(frame.call()) {
            Some((symbol, _)) => format!(
                "{}+{:#x}",
                symbol.text(),
                frame.rip.0.wrapping_sub(symbol.address)
            ),
            // In a module.
            None => frame.rip.to_string(),
        })
    }
}

/// Whether /proc/PID/wchan goes past this function (`__sched`).
fn is_scheduler(linux: &Linux, address: GuestVirtAddr) -> bool {
    let bounds = linux
        .symbol("__sched_text_start")
        .zip(linux.symbol("__sched_text_end"));
    bounds.is_some_and(|(start, end)| (start..end).contains(&address))
}
