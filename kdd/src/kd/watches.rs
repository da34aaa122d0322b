//! The session's own stops: where a kernel that knows of its debugger would speak to it.
//!
//! | where | what the host is told |
//! |---|---|
//! | KeBugCheckEx | the error's text, and a break |
//! | the handler of #BP | a break, at the instruction |
//! | the links of the list of modules | modules that are loaded and unloaded |
//! | DebugPrint | what the guest prints; the guest doesn't stop |
//!
//! None of them is seen by the guest or by a host that reads memory.

use super::bugcheck;
use super::guest::Guest;
use super::int3;
use super::modules::Known;
use super::prints::{self, AtDebugPrint, Printer};
use super::state_change::ModuleChange;
use super::stops::Installed;
use hv_core::VcpuId;
use hv_core::introspect::{Breakpoint, BreakpointId, BreakpointKind, Place};
use std::sync::Arc;

/// The session's own breakpoints and watchpoints.
pub(super) struct Watches {
    printer: Arc<Printer>,
    bugcheck: Option<BreakpointId>,
    int3: Option<BreakpointId>,
    prints: Option<BreakpointId>,
    known: Known,
    links: Installed,
    armed: bool,
}

/// Whose stop it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Own {
    Bugcheck,
    Int3,
    Modules,
}

impl Watches {
    pub fn new(printer: Arc<Printer>) -> Watches {
        Watches {
            printer,
            bugcheck: None,
            int3: None,
            prints: None,
            known: Known::default(),
            links: Installed::default(),
            armed: false,
        }
    }

    /// What the guest printed since the last call.
    pub fn printed(&self) -> Vec<Vec<u8>> {
        self.printer.take()
    }

    /// Sets them, once the kernel is recognised. The guest stands still.
    pub fn arm(&mut self, guest: &mut Guest) {
        let handler = if self.armed { None } else { int3::handler(guest) };
        let guest = &*guest;
        let Some(kernel) = &guest.kernel else { return };
        if !self.armed {
            self.armed = true;
            self.int3 = handler.and_then(|address| {
                insert(
                    guest,
                    Breakpoint {
                        place: Place::Virtual(address),
                        kind: BreakpointKind::Execute,
                        condition: Some(Arc::new(int3::InKernel(kernel.arch()))),
                    },
                )
            });
            self.bugcheck = kernel.symbol(bugcheck::SYMBOL).and_then(|address| {
                insert(
                    guest,
                    Breakpoint {
                        place: Place::Virtual(address),
                        kind: BreakpointKind::Execute,
                        condition: None,
                    },
                )
            });
            self.prints = kernel.symbol(prints::SYMBOL).and_then(|address| {
                insert(
                    guest,
                    Breakpoint {
                        place: Place::Virtual(address),
                        kind: BreakpointKind::Execute,
                        condition: Some(Arc::new(AtDebugPrint {
                            arch: kernel.arch(),
                            printer: self.printer.clone(),
                        })),
                    },
                )
            });
        }
        if !self.known.is_known() {
            self.known.look(guest);
            self.watch_links(guest);
        }
    }

    /// Removes them: the kernel is gone.
    pub fn disarm(&mut self, guest: &Guest) {
        let ids = [self.bugcheck.take(), self.int3.take(), self.prints.take()];
        for id in ids.into_iter().flatten() {
            if let Err(error) = guest.session.remove_breakpoint(id) {
                tracing::warn!(%error, "a breakpoint can't be removed");
            }
        }
        self.links.make(&guest.session, &[]);
        self.known = Known::default();
        self.armed = false;
    }

    /// Whether one of these is the session's own.
    pub fn own(&self, ids: &[BreakpointId]) -> Option<Own> {
        if self.bugcheck.is_some_and(|id| ids.contains(&id)) {
            Some(Own::Bugcheck)
        } else if self.int3.is_some_and(|id| ids.contains(&id)) {
            Some(Own::Int3)
        } else if self.links.has_any(ids) {
            Some(Own::Modules)
        } else {
            None
        }
    }

    /// What has changed in the list of modules, after a write of one of its links.
    pub fn module_changes(&mut self, guest: &mut Guest, vcpu: VcpuId) -> Vec<ModuleChange> {
        let changes = self.known.changes(guest, vcpu);
        if !changes.is_empty() {
            self.watch_links(guest);
        }
        changes
    }

    /// The kernel's own image, as news.
    pub fn kernel_module(&self) -> Option<ModuleChange> {
        self.known.kernel()
    }

    fn watch_links(&mut self, guest: &Guest) {
        let wanted = self.known.wanted(guest);
        self.links.make(&guest.session, &wanted);
    }
}

fn insert(guest: &Guest, breakpoint: Breakpoint) -> Option<BreakpointId> {
    guest
        .session
        .insert_breakpoint(breakpoint)
        .inspect_err(|error| tracing::warn!(%error, "a breakpoint can't be set"))
        .ok()
}
