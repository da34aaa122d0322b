//! What a watch waits for, as breakpoints in the guest's kernel.
//!
//! | trigger | where the guest stops |
//! |---|---|
//! | bugcheck | KeBugCheckEx: what called it is still on the stack, and its arguments are there |
//! | panic | __crash_kexec, which panic() calls whether or not a crash kernel is loaded, once its text is out; else panic |
//! | oops | oops_exit, behind the text of an oops |
//! | breakpoint | the place itself |
//!
//! The breakpoints are the session's private ones: other debuggers see no stop.

use crate::control::message::Trigger;
use crate::parse;
use crate::serve::kernel::Kernel;
use hv_core::introspect::{Breakpoint, BreakpointId, BreakpointKind, Introspect, Place};
use hv_core::regs::gpr;
use hv_core::{GuestVirtAddr, VcpuId};
use introspect::Session;
use introspect::linux::Linux;

/// The breakpoints of a watch.
#[derive(Default)]
pub(super) struct Triggers {
    set: Vec<(BreakpointId, Trigger)>,
}

impl Triggers {
    /// Sets what can be set; for the others, why not.
    pub fn arm(&mut self, session: &Session, wanted: &[Trigger], kernel: Option<&Kernel>) -> Vec<Missing> {
        let mut missing = Vec::new();
        for trigger in wanted {
            if self.set.iter().any(|(_, set)| set == trigger) {
                continue;
            }
            match place(trigger, kernel) {
                Ok(None) => {}
                Ok(Some(address)) => {
                    let breakpoint = Breakpoint {
                        place: Place::Virtual(address),
                        kind: BreakpointKind::Execute,
                        condition: None,
                    };
                    match session.insert_private_breakpoint(breakpoint) {
                        Ok(id) => self.set.push((id, trigger.clone())),
                        Err(error) => missing.push(Missing::later(error).of(trigger)),
                    }
                }
                Err(why) => missing.push(why.of(trigger)),
            }
        }
        missing
    }

    /// Takes back what belongs to a kernel that is gone. Plain addresses stay: what comes there may be another kernel's
    /// first instruction.
    pub fn disarm(&mut self, session: &Session) {
        for (id, _) in self.set.extract_if(.., |(_, trigger)| !trigger.is_address()) {
            if let Err(error) = session.remove_breakpoint(id) {
                tracing::debug!(%error, "a breakpoint can't be removed");
            }
        }
    }

    /// Which of them a stop is.
    pub fn hit(&self, ids: &[BreakpointId]) -> Option<&Trigger> {
        let hit = self.set.iter().find(|(id, _)| ids.contains(id));
        hit.map(|(_, trigger)| trigger)
    }
}

/// Whether a stop at __crash_kexec is no panic, but an oops in crash_kexec() that finds no crash kernel. It hands over registers
/// and goes on; if panic() follows, that comes there again, and has none.
pub(super) fn is_oops_on_its_way(
    linux: &Linux,
    domain: &dyn Introspect,
    vcpu: VcpuId,
    kdump_loaded: Option<bool>,
) -> bool {
    kdump_loaded == Some(false)
        && domain.registers(vcpu).is_ok_and(|registers| {
            linux.symbol("__crash_kexec") == Some(GuestVirtAddr(registers.rip))
                && registers.gpr[gpr::RDI] != 0
        })
}

/// Why a trigger can't be waited for.
pub(super) struct Missing {
    pub why: String,
    /// Whether that may change before the next reset.
    pub may_come: bool,
}

impl Missing {
    fn later(why: impl ToString) -> Missing {
        Missing {
            why: why.to_string(),
            may_come: true,
        }
    }

    fn never(why: &str) -> Missing {
        Missing {
            why: why.to_owned(),
            may_come: false,
        }
    }

    fn of(mut self, trigger: &Trigger) -> Missing {
        self.why = format!("{trigger}: {}", self.why);
        self
    }
}

/// Where a trigger's breakpoint is; `None` if it needs none.
fn place(trigger: &Trigger, kernel: Option<&Kernel>) -> Result<Option<GuestVirtAddr>, Missing> {
    let names: &[&str] = match (trigger, kernel) {
        (Trigger::Crash | Trigger::Reset | Trigger::ShutDown, _) => return Ok(None),
        (Trigger::Breakpoint(text), kernel) => return breakpoint(text, kernel).map(Some),
        (_, None) => return Err(Missing::later(NO_KERNEL)),
        (Trigger::Bugcheck, Some(Kernel::Windows(_))) => &["KeBugCheckEx"],
        (Trigger::Bugcheck, Some(Kernel::Linux(_))) => return Err(Missing::never("the guest is Linux")),
        (Trigger::Panic, Some(Kernel::Linux(_))) => &["__crash_kexec", "panic"],
        (Trigger::Oops, Some(Kernel::Linux(_))) => &["oops_exit"],
        (Trigger::Panic | Trigger::Oops, Some(Kernel::Windows(_))) => {
            return Err(Missing::never("the guest is Windows"));
        }
    };
    let kernel = kernel.ok_or_else(|| Missing::later(NO_KERNEL))?;
    names
        .iter()
        .find_map(|name| kernel.symbol(name))
        .map(Some)
        .ok_or_else(|| Missing::later(format!("the kernel's symbols have no {}", names.join(" or "))))
}

const NO_KERNEL: &str = "the guest's kernel is not recognised yet";

/// Where a user's breakpoint is.
fn breakpoint(text: &str, kernel: Option<&Kernel>) -> Result<GuestVirtAddr, Missing> {
    let (name, offset) = match text.parse::<parse::Place>() {
        Ok(parse::Place::Address(address)) => return Ok(GuestVirtAddr(address)),
        Ok(parse::Place::Symbol { name, offset }) => (name, offset),
        Err(why) => return Err(Missing::never(&why)),
    };
    let kernel = kernel.ok_or_else(|| Missing::later(NO_KERNEL))?;
    kernel
        .symbol(&name)
        .and_then(|address| address.checked_add(offset))
        .ok_or_else(|| Missing::later(format!("the kernel has no symbol '{name}'")))
}
