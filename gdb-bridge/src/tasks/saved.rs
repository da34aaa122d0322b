//! The registers of a task that isn't on a CPU.

use super::Snapshot;
use crate::registers::{SavedRegisters, SegmentName, Slot};
use hv_core::introspect::ReadMemory;
use hv_core::regs::seg;
use introspect::linux::{Task, TaskRegisters};

impl Snapshot {
    /// The registers with which a task goes on in the kernel. The kernel keeps no others of it.
    pub(crate) fn registers(&self, memory: &dyn ReadMemory, task: &Task) -> Result<SavedRegisters, String> {
        let read = self.linux.task_registers(memory, task);
        read.map(|read| SavedRegisters::from(&read))
            .map_err(|error| error.to_string())
    }
}

impl From<&TaskRegisters> for SavedRegisters {
    fn from(read: &TaskRegisters) -> SavedRegisters {
        let mut saved = SavedRegisters::default();
        for (index, value) in read.gpr.into_iter().enumerate() {
            saved.know(Slot::Gpr(index), value);
        }
        saved.know(Slot::Rip, Some(read.rip.0));
        saved.know(Slot::Rflags, read.rflags);
        for (index, selector) in [(seg::CS, read.cs), (seg::SS, read.ss)] {
            saved.know(Slot::selector(index), selector.map(u64::from));
        }
        for (index, base) in [(seg::FS, read.fs_base), (seg::GS, read.gs_base)] {
            saved.know(Slot::Base(SegmentName::Data(index)), base);
        }
        saved
    }
}
