//! What a watch waits for, as breakpoints in the guest's kernel.
//!
//! | trigger | where the guest stops |
//! |---|---|
//! | bugcheck | KeBugCheckEx: what called it is still on the stack, and its arguments are there |
//! | panic | __crash_kexec, which panic() calls whether or not a crash kernel is loaded, once its text is out; else panic |
//! | oops | oops_exit, behind the text of an oops; crash_kexec, if that starts a crash kernel and doesn't return |
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
            let places = places(trigger, kernel).unwrap_or_else(|why| {
                missing.push(why.of(trigger));
                Vec::new()
            });
            let mut set = Vec::new();
            for address in places {
                let breakpoint = Breakpoint {
                    place: Place::Virtual(address),
                    kind: BreakpointKind::Execute,
                    condition: None,
                };
                match session.insert_private_breakpoint(breakpoint) {
                    Ok(id) => set.push((id, trigger.clone())),
                    Err(error) => {
                        missing.push(Missing::later(error).of(trigger));
                        // All of them the next time.
                        set.drain(..).for_each(|(id, _)| remove(session, id));
                        break;
                    }
                }
            }
            self.set.extend(set);
        }
        missing
    }

    /// Takes back what belongs to a kernel that is gone. Plain addresses stay: what comes there may be another kernel's
    /// first instruction.
    pub fn disarm(&mut self, session: &Session) {
        for (id, _) in self.set.extract_if(.., |(_, trigger)| !trigger.is_address()) {
            remove(session, id);
        }
    }

    /// Which of them a stop is.
    pub fn hit(&self, ids: &[BreakpointId]) -> Option<&Trigger> {
        let hit = self.set.iter().find(|(id, _)| ids.contains(id));
        hit.map(|(_, trigger)| trigger)
    }
}

fn remove(session: &Session, id: BreakpointId) {
    if let Err(error) = session.remove_breakpoint(id) {
        tracing::debug!(%error, "a breakpoint can't be removed");
    }
}

/// Whether a stop at a breakpoint of `panic` or `oops` is one. An oops that is to be a panic goes through crash_kexec(), with its
/// registers, to __crash_kexec(). With a crash kernel loaded it doesn't come back from there. Without one it goes on: to oops_exit,
/// and to panic(), which comes to __crash_kexec() again and has no registers.
pub(super) fn counts(
    trigger: &Trigger,
    linux: &Linux,
    domain: &dyn Introspect,
    vcpu: VcpuId,
    kdump_loaded: Option<bool>,
) -> bool {
    let Ok(registers) = domain.registers(vcpu) else {
        return true;
    };
    let is_at = |name| linux.symbol(name) == Some(GuestVirtAddr(registers.rip));
    match trigger {
        Trigger::Oops if is_at(CRASH_KEXEC) => kdump_loaded == Some(true),
        Trigger::Panic if is_at("__crash_kexec") && kdump_loaded == Some(false) => {
            registers.gpr[gpr::RDI] == 0
        }
        _ => true,
    }
}

/// Where oopses go that start a crash kernel.
const CRASH_KEXEC: &str = "crash_kexec";

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

/// Where a trigger's breakpoints are; nowhere if it needs none.
fn places(trigger: &Trigger, kernel: Option<&Kernel>) -> Result<Vec<GuestVirtAddr>, Missing> {
    let names: &[&str] = match (trigger, kernel) {
        (Trigger::Crash | Trigger::Reset | Trigger::ShutDown, _) => return Ok(Vec::new()),
        (Trigger::Breakpoint(text), kernel) => return Ok(vec![breakpoint(text, kernel)?]),
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
    let place = names
        .iter()
        .find_map(|name| kernel.symbol(name))
        .ok_or_else(|| Missing::later(format!("the kernel's symbols have no {}", names.join(" or "))))?;
    // A kernel that can't start another has none.
    let further = kernel.symbol(CRASH_KEXEC).filter(|_| *trigger == Trigger::Oops);
    Ok([Some(place), further].into_iter().flatten().collect())
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
