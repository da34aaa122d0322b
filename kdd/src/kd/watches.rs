//! The session's own stops: where a kernel that knows of its debugger would speak to it.
//!
//! | where | what the host is told |
//! |---|---|
//! | KeBugCheckEx | the error's text, and a break |
//! | the handler of #BP | a break, at the instruction |
//! | the handler of `int 2d` | questions, modules that aren't on the list, what the guest prints |
//! | the links of the list of modules | modules that are loaded and unloaded |
//! | DebugPrint | what the guest prints; the guest doesn't stop |
//!
//! None of them is seen by the guest or by a host that reads memory. A stop at a bugcheck or a breakpoint instruction is
//! one for every debugger of the guest; at the others this session alone holds it.

use super::bugcheck;
use super::guest::Guest;
use super::int3;
use super::modules::Known;
use super::prints::{self, AtDebugPrint, Printer};
use super::services::{self, AtService};
use super::state_change::ModuleChange;
use super::stops::Installed;
use hv_core::introspect::{Breakpoint, BreakpointId, BreakpointKind, Condition, Place};
use hv_core::{GuestVirtAddr, VcpuId};
use std::sync::Arc;

/// The session's own breakpoints and watchpoints.
pub(super) struct Watches {
    printer: Arc<Printer>,
    bugcheck: Option<BreakpointId>,
    int3: Option<BreakpointId>,
    services: Option<BreakpointId>,
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
    Service,
    Modules,
}

impl Watches {
    pub fn new(printer: Arc<Printer>) -> Watches {
        Watches {
            printer,
            bugcheck: None,
            int3: None,
            services: None,
            prints: None,
            known: Known::default(),
            links: Installed::private(),
            armed: false,
        }
    }

    /// What the guest printed since the last call.
    pub fn printed(&self) -> Vec<Vec<u8>> {
        self.printer.take()
    }

    /// Sets them, once the kernel is recognised. The guest stands still.
    pub fn arm(&mut self, guest: &mut Guest) {
        let Some(arch) = guest.kernel.as_ref().map(|kernel| kernel.arch()) else {
            return;
        };
        if !std::mem::replace(&mut self.armed, true) {
            let symbol = |guest: &Guest, name| guest.kernel.as_ref().and_then(|kernel| kernel.symbol(name));
            let (bugcheck, prints) = (symbol(guest, bugcheck::SYMBOL), symbol(guest, prints::SYMBOL));
            let printer = &self.printer;
            let at_int3 = int3::handler(guest, int3::VECTOR);
            let at_service = int3::handler(guest, services::VECTOR);
            let in_kernel: Arc<dyn Condition> = Arc::new(int3::InKernel(arch));
            let at_debug_print = Arc::new(AtDebugPrint {
                arch,
                printer: printer.clone(),
            });
            let service = Arc::new(AtService {
                arch,
                printer: printer.clone(),
            });
            self.bugcheck = insert(guest, bugcheck, None, false);
            self.int3 = insert(guest, at_int3, Some(in_kernel), false);
            self.services = insert(guest, at_service, Some(service), true);
            self.prints = insert(guest, prints, Some(at_debug_print), true);
        }
        let guest = &*guest;
        if !self.known.is_known() {
            self.known.look(guest);
            self.watch_links(guest);
        }
    }

    /// Removes them: the kernel is gone.
    pub fn disarm(&mut self, guest: &Guest) {
        let ids = [
            self.bugcheck.take(),
            self.int3.take(),
            self.services.take(),
            self.prints.take(),
        ];
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
        } else if self.services.is_some_and(|id| ids.contains(&id)) {
            Some(Own::Service)
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

    /// Whether the list of modules has one at this base.
    pub fn knows_module(&self, base: GuestVirtAddr) -> bool {
        self.known.has(base)
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

/// A breakpoint of the session's own, if there is a place for it. One that is private concerns no other session.
fn insert(
    guest: &Guest,
    address: Option<GuestVirtAddr>,
    condition: Option<Arc<dyn Condition>>,
    private: bool,
) -> Option<BreakpointId> {
    let breakpoint = Breakpoint {
        place: Place::Virtual(address?),
        kind: BreakpointKind::Execute,
        condition,
    };
    let inserted = if private {
        guest.session.insert_private_breakpoint(breakpoint)
    } else {
        guest.session.insert_breakpoint(breakpoint)
    };
    inserted
        .inspect_err(|error| tracing::warn!(%error, "a breakpoint can't be set"))
        .ok()
}
