//! The registers of a thread, some of which may be unavailable.

use super::{Register, SegmentName, Slot, View};
use hv_core::regs::seg;
use introspect::linux::TaskRegisters;

/// A thread's registers.
pub enum RegisterSet<'a> {
    /// Those of a vCPU, all of them, which can be written.
    Vcpu(Box<View<'a>>),
    /// What the guest's kernel saved of a thread that isn't on a vCPU.
    Saved(SavedRegisters),
}

impl RegisterSet<'_> {
    /// Appends one register, little-endian; false, and nothing is appended, if it is unavailable.
    pub fn put(&self, register: &Register, out: &mut Vec<u8>) -> bool {
        match self {
            RegisterSet::Vcpu(view) => view.put(register, out),
            RegisterSet::Saved(saved) => {
                let Some(value) = saved.get(register.slot) else {
                    return false;
                };
                out.extend_from_slice(&u128::from(value).to_le_bytes()[..register.bytes()]);
            }
        }
        true
    }

    /// The register `system`, in the same way.
    pub fn put_system(&self, out: &mut Vec<u8>) -> bool {
        match self {
            RegisterSet::Vcpu(view) => view.put_system(out),
            RegisterSet::Saved(_) => return false,
        }
        true
    }
}

/// The registers that are known, of a thread that isn't on a vCPU.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct SavedRegisters(Vec<(Slot, u64)>);

impl From<&TaskRegisters> for SavedRegisters {
    fn from(task: &TaskRegisters) -> SavedRegisters {
        let numbers = 0..task.gpr.len();
        let general = numbers.map(|number| (Slot::Gpr(number), task.gpr[number]));
        let of = SegmentName::Data;
        let others = [
            (Slot::Rip, Some(task.rip.0)),
            (Slot::Rflags, task.rflags),
            (Slot::Selector(of(seg::CS)), task.cs.map(u64::from)),
            (Slot::Selector(of(seg::SS)), task.ss.map(u64::from)),
            (Slot::Base(of(seg::FS)), task.fs_base),
            (Slot::Base(of(seg::GS)), task.gs_base),
        ];
        let known = general
            .chain(others)
            .filter_map(|(slot, value)| Some((slot, value?)));
        SavedRegisters(known.collect())
    }
}

impl SavedRegisters {
    /// One, if it is known.
    pub fn get(&self, slot: Slot) -> Option<u64> {
        let known = self.0.iter().find(|(its, _)| *its == slot);
        known.map(|(_, value)| *value)
    }
}
