//! The registers and the page tables of a task that isn't on a CPU, from where the kernel left them.

use super::Snapshot;
use crate::registers::{SavedRegisters, Slot};
use hv_core::addr::{GuestPhysAddr, GuestVirtAddr};
use hv_core::regs::gpr;
use introspect::Target;
use introspect::linux::{Linux, Task};

/// `struct inactive_task_frame` (arch/x86/include/asm/switch_to.h, from 4.9 on): the general registers in it, and the
/// return address.
const SAVED: [usize; 6] = [15, 14, 13, 12, gpr::RBX, gpr::RBP];
const FRAME: usize = 56;

impl Snapshot {
    /// The registers with which a task goes on in the kernel. The kernel keeps no others of it.
    pub(crate) fn registers(&self, target: &Target, task: &Task) -> Result<SavedRegisters, String> {
        let mut frame = [0; FRAME];
        let read = target.read_virtual(self.linux.address_space(), task.stack_pointer, &mut frame);
        match read {
            Ok(FRAME) => {}
            Ok(_) => return Err("its stack can't be read".into()),
            Err(error) => return Err(error.to_string()),
        }
        let words = frame.as_chunks::<8>().0;
        let word = |index: usize| u64::from_le_bytes(words[index]);
        let mut registers = SavedRegisters::default();
        for (index, register) in SAVED.into_iter().enumerate() {
            registers.know(Slot::Gpr(register), word(index));
        }
        registers.know(Slot::Rip, word(SAVED.len()));
        registers.know(
            Slot::Gpr(gpr::RSP),
            task.stack_pointer.0.wrapping_add(FRAME as u64),
        );
        Ok(registers)
    }
}

/// The page tables of a task's process: `None` for a thread of the kernel, or where they can't be found.
pub(super) fn root(linux: &Linux, target: &Target, task: &Task) -> Option<GuestPhysAddr> {
    let (pgd, _) = linux.offset_of("mm_struct", "pgd")?;
    let mut tables = [0; 8];
    let read = target.read_virtual(linux.address_space(), task.mm?.wrapping_add(pgd), &mut tables);
    let tables = GuestVirtAddr(u64::from_le_bytes(tables));
    let known = read == Ok(8) && tables.page_offset() == 0 && tables.0 >> 63 != 0;
    let translation = known.then(|| target.translate(linux.address_space(), tables).ok())??;
    Some(translation.phys)
}
