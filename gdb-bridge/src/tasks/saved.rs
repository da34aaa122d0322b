//! The registers of a task that isn't on a CPU.

use super::Snapshot;
use crate::registers::SavedRegisters;
use hv_core::introspect::ReadMemory;
use introspect::linux::Task;

impl Snapshot {
    /// The registers with which a task goes on in the kernel. The kernel keeps no others of it.
    pub(crate) fn registers(&self, memory: &dyn ReadMemory, task: &Task) -> Result<SavedRegisters, String> {
        let read = self.linux.task_registers(memory, task);
        read.map(|read| SavedRegisters::from(&read))
            .map_err(|error| error.to_string())
    }
}
