//! Where tasks sleep: the place in the kernel that called the scheduler.

use super::symbols::{Modules, nearest};
use crate::serve::Managed;
use hv_core::GuestVirtAddr;
use hv_core::introspect::Introspect;
use introspect::linux::{Linux, Task, Unwinder};
use std::ops::Range;

/// Looks up where many tasks wait.
pub(super) struct Waits<'a> {
    domain: &'a dyn Introspect,
    linux: &'a Linux,
    unwinder: Unwinder<'a>,
    modules: Modules<'a>,
    /// The scheduler's own functions, and those of locks (`in_sched_functions`, kernel/sched/core.c).
    scheduler: Vec<Range<GuestVirtAddr>>,
}

impl<'a> Waits<'a> {
    /// Of a guest that stands still.
    pub fn new(managed: &'a Managed, linux: &'a Linux) -> Waits<'a> {
        let section = |name| {
            let edge = |side| linux.symbol(&format!("__{name}_text_{side}"));
            Some(edge("start")?..edge("end")?)
        };
        Waits {
            domain: managed.domain(),
            linux,
            unwinder: linux.unwinder(managed.domain()),
            modules: Modules::new(managed, linux),
            scheduler: ["sched", "lock"].into_iter().filter_map(section).collect(),
        }
    }

    /// Where a task waits, by address and by name; `None` if it runs, is about to, or has ended.
    pub fn of(&mut self, task: &Task) -> Option<(GuestVirtAddr, String)> {
        if task.on_cpu || task.state.letter() == 'R' || task.state.has_ended() {
            return None;
        }
        let registers = self.linux.task_registers(self.domain, task).ok()?;
        let frames = self.unwinder.stack(&registers).items;
        let scheduler = |at: GuestVirtAddr| self.scheduler.iter().any(|part| part.contains(&at));
        let frame = frames.iter().find(|frame| !scheduler(frame.call()))?;
        let name = match nearest(self.linux, &mut self.modules, frame.call()) {
            Some(symbol) => {
                // A call may be a function's last instruction: what is behind it is another's.
                let offset = frame.rip.0.wrapping_sub(symbol.address.low());
                let module = symbol.module.map(|module| format!(" [{module}]"));
                format!("{}+{offset:#x}{}", symbol.name, module.unwrap_or_default())
            }
            None => frame.rip.to_string(),
        };
        Some((frame.rip, name))
    }
}
