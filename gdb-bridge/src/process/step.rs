//! Steps of a thread in user mode, whatever vCPU it is on and whatever the kernel does in between.
//!
//! ```text
//!  in user mode on a vCPU ── one instruction ──► still there: done
//!          ▲                                 └─► in the kernel, by SYSCALL:      waits for the instruction behind it: done
//!          │                                 └─► by an interrupt or a fault:     waits for the same instruction ──┐
//!          └──────────────────────────────────────────────────────────────────────────────────────────────────────┘
//!  elsewhere (asleep, in the kernel, not on a vCPU) ── waits for where it goes on
//! ```
//! It waits at a breakpoint of the session's own in the process's address space; the guest runs meanwhile. A signal that takes the
//! thread elsewhere is not noticed: the wait goes on until that handler returns, or until the client's Ctrl-C.

use super::Process;
use crate::guest::Guest;
use crate::tasks::Stopped;
use hv_core::addr::{GuestPhysAddr, GuestVirtAddr, VcpuId};
use hv_core::introspect::{Breakpoint, BreakpointId, BreakpointKind, Place};
use hv_core::regs::Registers;

/// A place where a thread is waited for.
#[derive(Debug)]
pub struct Awaited {
    /// The breakpoint there.
    pub id: BreakpointId,
    /// The instruction there is to be stepped still.
    pub again: bool,
}

/// Where a thread is.
pub enum Whereabouts {
    /// In user mode on this vCPU.
    On(VcpuId),
    /// It goes on in user mode at this address; `again` if it has yet to carry out what is there.
    Returns {
        /// Where.
        to: GuestVirtAddr,
        /// See [`Awaited::again`].
        again: bool,
    },
}

impl Process {
    /// Where a thread of it is now.
    ///
    /// # Errors
    /// A sentence that says why that can't be told.
    pub fn whereabouts(&self, guest: &Guest, pid: u32) -> Result<Whereabouts, String> {
        let Stopped { tasks, task } = guest.task(pid).ok_or("there is no such thread any more")?;
        if let Some(vcpu) = tasks.vcpu_of(&task) {
            let registers = guest.domain().registers(vcpu).map_err(|it| it.to_string())?;
            if registers.cpl() == 3 {
                return Ok(Whereabouts::On(vcpu));
            }
        }
        let user = tasks
            .linux
            .user_registers(guest.domain(), &task)
            .map_err(|error| error.to_string())?;
        Ok(Whereabouts::Returns {
            to: user.rip,
            // Out of an interrupt it goes on with the instruction; out of a system call behind it.
            again: user.orig_rax == Some(u64::MAX),
        })
    }

    /// Where a thread goes on that was in user mode at `before` and isn't after a step: behind a system call, else at the same
    /// instruction.
    pub fn after_entry(&self, guest: &Guest, before: &Registers) -> Whereabouts {
        // SYSCALL, SYSENTER, INT 0x80.
        const CALLS: [[u8; 2]; 3] = [[0x0f, 0x05], [0x0f, 0x34], [0xcd, 0x80]];
        let mut code = [0; 2];
        let at = GuestVirtAddr(before.rip);
        let read = guest.target.read_virtual(guest.virtual_space(), at, &mut code);
        let called = read == Ok(2) && CALLS.contains(&code);
        Whereabouts::Returns {
            to: if called { at.wrapping_add(2) } else { at },
            again: !called,
        }
    }

    /// Sets the breakpoint at which a thread is waited for.
    ///
    /// # Errors
    /// A sentence that says why it can't be.
    pub fn wait(&self, guest: &Guest, to: GuestVirtAddr, again: bool) -> Result<Awaited, String> {
        let root = self.user_root(guest).ok_or("the process has ended")?;
        let id = private_breakpoint(guest, to, root)?;
        Ok(Awaited { id, again })
    }
}

/// An execution breakpoint in one address space, which is this session's own affair.
pub(super) fn private_breakpoint(
    guest: &Guest,
    at: GuestVirtAddr,
    root: GuestPhysAddr,
) -> Result<BreakpointId, String> {
    let breakpoint = Breakpoint {
        place: Place::InAddressSpace(at, root),
        kind: BreakpointKind::Execute,
        condition: None,
    };
    let inserted = guest.session.insert_private_breakpoint(breakpoint);
    inserted.map_err(|error| error.to_string())
}
