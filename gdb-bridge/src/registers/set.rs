//! The registers of a thread, some of which may be unavailable.

use super::{Register, Slot, View};

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

impl SavedRegisters {
    /// Adds one, if its value is known.
    pub fn know(&mut self, slot: Slot, value: Option<u64>) {
        self.0.extend(value.map(|value| (slot, value)));
    }

    /// One, if it is known.
    pub fn get(&self, slot: Slot) -> Option<u64> {
        let known = self.0.iter().find(|(its, _)| *its == slot);
        known.map(|(_, value)| *value)
    }
}
