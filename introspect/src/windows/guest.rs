//! What recognition reads: memory and vCPU state, nothing else.

use crate::target::Target;
use hv_core::introspect::{Introspect, ReadMemory, ReadRegisters};

/// A guest to look at: anything with memory and vCPU registers. The caller keeps it paused while a call runs.
#[derive(Clone, Copy)]
pub struct Guest<'a> {
    /// Its memory.
    pub memory: &'a dyn ReadMemory,
    /// Its vCPUs.
    pub vcpus: &'a dyn ReadRegisters,
}

impl<'a> Guest<'a> {
    /// From the two reading traits.
    pub fn new(memory: &'a dyn ReadMemory, vcpus: &'a dyn ReadRegisters) -> Guest<'a> {
        Guest { memory, vcpus }
    }
}

impl<'a> From<&'a dyn Introspect> for Guest<'a> {
    fn from(domain: &'a dyn Introspect) -> Self {
        Guest {
            memory: domain,
            vcpus: domain,
        }
    }
}

impl<'a> From<&'a Target> for Guest<'a> {
    fn from(target: &'a Target) -> Self {
        Guest::from(&**target.domain())
    }
}
