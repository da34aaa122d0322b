//! Noticing that the process ends: a breakpoint of the session's own at `do_exit`, in the process's address space.

use super::Process;
use super::step::private_breakpoint;
use crate::guest::Guest;
use crate::tasks::Stopped;
use hv_core::addr::{GuestPhysAddr, VcpuId};
use hv_core::introspect::BreakpointId;
use hv_core::regs::gpr;
use std::collections::BTreeSet;

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// With this exit status.
    Exited(u8),
    /// By this signal.
    Killed(u8),
}

/// The watch for its end.
#[derive(Default)]
pub struct EndWatch {
    armed: Option<(BreakpointId, GuestPhysAddr)>,
    /// Threads that are ending.
    ending: BTreeSet<u32>,
}

impl EndWatch {
    /// Sets the breakpoint, before the guest runs; anew if the process has other page tables since (`execve`).
    pub fn arm(&mut self, guest: &Guest, process: &Process) {
        let Some(Stopped { tasks, task }) = guest.task(process.0) else {
            return;
        };
        let linux = &tasks.linux;
        let tables = task.mm.and_then(|mm| linux.page_tables(guest.domain(), mm).ok());
        let (Some(root), Some(at)) = (tables, linux.symbol("do_exit")) else {
            return;
        };
        if self.armed.is_some_and(|(_, its)| its == root) {
            return;
        }
        self.disarm(guest);
        match private_breakpoint(guest, at, root) {
            Ok(id) => self.armed = Some((id, root)),
            Err(why) => tracing::info!(%why, "the end of the process won't be noticed"),
        }
    }

    /// Takes it out.
    pub fn disarm(&mut self, guest: &Guest) {
        if let Some((id, _)) = self.armed.take()
            && let Err(error) = guest.session.remove_breakpoint(id)
        {
            tracing::debug!(%error, "a breakpoint can't be removed");
        }
    }

    /// Whether this breakpoint is its own.
    pub fn is(&self, id: BreakpointId) -> bool {
        self.armed.is_some_and(|(its, _)| its == id)
    }

    /// A thread ends on a vCPU: how the process ended, if that was its last.
    pub fn ends(&mut self, guest: &Guest, process: &Process, vcpu: VcpuId) -> Option<End> {
        let tasks = guest.tasks()?;
        let current = tasks.current(vcpu)?;
        if current.tgid != process.0 {
            return None;
        }
        self.ending.insert(current.pid);
        let mut threads = tasks.iter().filter(|task| task.tgid == process.0);
        if threads.any(|task| !task.state.has_ended() && !self.ending.contains(&task.pid)) {
            return None;
        }
        // As waitpid(2) gives it.
        let code = guest.domain().registers(vcpu).ok()?.gpr[gpr::RDI];
        Some(match code & 0x7f {
            0 => End::Exited((code >> 8) as u8),
            signal => End::Killed(signal as u8),
        })
    }
}
