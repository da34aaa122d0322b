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
use hv_core::introspect::{Breakpoint, BreakpointId, BreakpointKind, Introspect, Place};
use hv_core::regs::gpr;
use hv_core::{GuestVirtAddr, VcpuId};
use introspect::Session;
use introspect::linux::Linux;
use introspect::windows::Windows;
use std::sync::Arc;

/// The kernel that was recognised.
#[derive(Clone)]
pub(super) enum Kernel {
    Windows(Arc<Windows>),
    Linux(Arc<Linux>),
}

impl Kernel {
    pub fn name(&self) -> String {
        match self {
            Kernel::Windows(windows) => windows.description(),
            Kernel::Linux(linux) => linux.description(),
        }
    }

    /// The address of a symbol.
    pub fn symbol(&self, name: &str) -> Option<GuestVirtAddr> {
        match self {
            Kernel::Windows(windows) => windows.symbol(name),
            Kernel::Linux(linux) => linux.symbol(name),
        }
    }

    /// Whether it is still the one that runs.
    pub fn is_still_there(&self, domain: &dyn Introspect) -> bool {
        match self {
            Kernel::Windows(windows) => windows.is_still_there(domain.into()),
            Kernel::Linux(linux) => linux.is_still_there(domain),
        }
    }
}

/// The breakpoints of a watch.
#[derive(Default)]
pub(super) struct Triggers {
    set: Vec<(BreakpointId, Trigger)>,
}

impl Triggers {
    /// Sets what can be set; for the others, why not. The guest stands still.
    pub fn arm(&mut self, session: &Session, wanted: &[Trigger], kernel: Option<&Kernel>) -> Vec<String> {
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
                        Err(error) => missing.push(format!("{trigger}: {error}")),
                    }
                }
                Err(why) => missing.push(format!("{trigger}: {why}")),
            }
        }
        missing
    }

    /// Takes all back: the kernel is another one.
    pub fn disarm(&mut self, session: &Session) {
        for (id, _) in self.set.drain(..) {
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

/// Where a trigger's breakpoint is; `None` if it needs none.
fn place(trigger: &Trigger, kernel: Option<&Kernel>) -> Result<Option<GuestVirtAddr>, String> {
    let names: &[&str] = match (trigger, kernel) {
        (Trigger::Crash | Trigger::Reset | Trigger::ShutDown, _) => return Ok(None),
        (Trigger::Breakpoint(text), kernel) => return breakpoint(text, kernel).map(Some),
        (_, None) => return Err("the guest's kernel is not recognised yet".into()),
        (Trigger::Bugcheck, Some(Kernel::Windows(_))) => &["KeBugCheckEx"],
        (Trigger::Bugcheck, Some(Kernel::Linux(_))) => return Err("the guest is Linux".into()),
        (Trigger::Panic, Some(Kernel::Linux(_))) => &["__crash_kexec", "panic"],
        (Trigger::Oops, Some(Kernel::Linux(_))) => &["oops_exit"],
        (Trigger::Panic | Trigger::Oops, Some(Kernel::Windows(_))) => {
            return Err("the guest is Windows".into());
        }
    };
    let kernel = kernel.ok_or("the guest's kernel is not recognised yet")?;
    names
        .iter()
        .find_map(|name| kernel.symbol(name))
        .map(Some)
        .ok_or_else(|| format!("the kernel's symbols have no {}", names.join(" or ")))
}

/// An address, or a symbol with an offset: `nt!KeBugCheckEx`, `do_sys_openat2+0x10`.
fn breakpoint(text: &str, kernel: Option<&Kernel>) -> Result<GuestVirtAddr, String> {
    if let Ok(address) = parse::address(text) {
        return Ok(GuestVirtAddr(address));
    }
    let kernel = kernel.ok_or("the guest's kernel is not recognised yet")?;
    let (name, offset) = match text.split_once('+') {
        Some((name, offset)) => (name, parse::address(offset)?),
        None => (text, 0),
    };
    let name = name.strip_prefix("nt!").unwrap_or(name);
    kernel
        .symbol(name)
        .and_then(|address| address.checked_add(offset))
        .ok_or_else(|| format!("the kernel has no symbol '{name}'"))
}
