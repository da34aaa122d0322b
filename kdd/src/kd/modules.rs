//! Modules that come and go, seen at the writes of the list that the kernel keeps of them.
//!
//! A module is inserted by a write of the last entry's forward link, and taken out by one of the entry before it: so
//! every forward link is watched, that of the head too. The list is compared with what was known once it closes again.

use super::guest::Guest;
use super::state_change::ModuleChange;
use hv_core::introspect::{AccessKind, BreakpointKind, Place, StepMode, StepOutcome};
use hv_core::{GuestVirtAddr, VcpuId};
use introspect::windows::Module;

/// Modules that are watched; a kernel has some two hundred.
const MOST_WATCHED: usize = 1024;
/// Instructions in which a list closes that is being changed.
const MOST_STEPS: usize = 64;

/// The modules as the host knows them.
#[derive(Default)]
pub(super) struct Known {
    modules: Option<Vec<Module>>,
}

impl Known {
    /// Whether there is a list to compare with.
    pub fn is_known(&self) -> bool {
        self.modules.is_some()
    }

    /// Whether a module is at this base.
    pub fn has(&self, base: GuestVirtAddr) -> bool {
        self.modules
            .as_ref()
            .is_some_and(|modules| modules.iter().any(|module| module.base == base))
    }

    /// Takes the list as it is.
    pub fn look(&mut self, guest: &Guest) {
        self.modules = guest
            .kernel
            .as_ref()
            .and_then(|kernel| kernel.modules(&guest.target));
    }

    /// What is to be watched.
    pub fn wanted(&self, guest: &Guest) -> Vec<(Place, BreakpointKind)> {
        let (Some(modules), Some(kernel)) = (&self.modules, &guest.kernel) else {
            return Vec::new();
        };
        let length = kernel.arch().pointer_size() as u64;
        let access = AccessKind::Write;
        let links = modules.iter().take(MOST_WATCHED).map(|module| module.entry);
        kernel
            .loaded_module_list()
            .into_iter()
            .chain(links)
            .map(|address| (Place::Virtual(address), BreakpointKind::Watch { length, access }))
            .collect()
    }

    /// After a write of a link: what has changed. The list is brought to its end by stepping the vCPU that changes it.
    pub fn changes(&mut self, guest: &mut Guest, vcpu: VcpuId) -> Vec<ModuleChange> {
        let mut now = guest
            .kernel
            .as_ref()
            .and_then(|kernel| kernel.modules(&guest.target));
        for _ in 0..MOST_STEPS {
            if now.is_some() {
                break;
            }
            if guest.session.step(vcpu, StepMode::Alone) != Ok(StepOutcome::Stepped) {
                break;
            }
            now = guest
                .kernel
                .as_ref()
                .and_then(|kernel| kernel.modules(&guest.target));
        }
        let Some(now) = now else {
            return Vec::new();
        };
        let before = self.modules.replace(now.clone()).unwrap_or_default();
        let same = |a: &Module, b: &Module| a.entry == b.entry && a.base == b.base;
        let gone = before
            .iter()
            .filter(|module| !now.iter().any(|new| same(new, module)));
        let new = now
            .iter()
            .filter(|module| !before.iter().any(|old| same(old, module)));
        gone.map(|module| change(module, true))
            .chain(new.map(|module| change(module, false)))
            .collect()
    }

    /// The kernel's own image, which is the first of the list.
    pub fn kernel(&self) -> Option<ModuleChange> {
        let first = self.modules.as_ref()?.first()?;
        Some(change(first, false))
    }
}

fn change(module: &Module, unload: bool) -> ModuleChange {
    ModuleChange::Module {
        path: module.path.clone(),
        base: module.base,
        process: 0,
        checksum: module.check_sum,
        size: module.size,
        unload,
    }
}
