//! Breakpoint instructions of the guest's own kernel code: `DbgBreakPoint`, assertions of drivers.
//!
//! A kernel without a debugger bugchecks at them. The session stops the vCPU at the handler of #BP, where the guest has
//! run nothing of it yet, and takes the delivery back: the host finds the vCPU at the instruction, as with a kernel
//! that handles it. If the host doesn't want it (`gn`), the guest has it once more.
//!
//! Those of programs are the guest's own, as in a kernel that was booted with `noumex`: whether a process has a debugger
//! inside the guest, which comes first, is nothing that a session judges. `int 2d` is [`super::services`].

use super::guest::Guest;
use hv_core::introspect::{Condition, StopContext};
use hv_core::regs::{Registers, gpr, rflags, seg};
use hv_core::{GuestVirtAddr, VcpuId};
use introspect::windows::Arch;

/// The vector of #BP.
pub(super) const VECTOR: u64 = 3;
/// INT3.
const INT3: u8 = 0xcc;

/// What the processor pushed when it delivered the exception.
struct Frame {
    rip: u64,
    cs: u16,
    flags: u64,
    /// The stack before; without a change of privilege x86 doesn't push it.
    rsp: u64,
}

/// Where the handler of a vector begins (SDM vol. 3A, 6.11 and 6.14.1).
pub(super) fn handler(guest: &mut Guest, vector: u64) -> Option<GuestVirtAddr> {
    let table = guest.registers(guest.current).ok()?.idtr;
    let arch = guest.arch();
    let size = 2 * arch.pointer_size();
    let offset = vector * size as u64;
    if offset + size as u64 - 1 > u64::from(table.limit) {
        return None;
    }
    let mut bytes = [0; 16];
    let gate = &mut bytes[..size];
    if guest.read_virtual(GuestVirtAddr(table.base.wrapping_add(offset)), gate) < size {
        return None;
    }
    let word = |at: usize| u64::from(u16::from_le_bytes([gate[at], gate[at + 1]]));
    let present = gate[5] & 0x80 != 0;
    let high = match arch {
        Arch::X64 => word(8) << 32 | word(10) << 48,
        Arch::X86 => 0,
    };
    present.then(|| GuestVirtAddr(word(0) | word(6) << 16 | high))
}

/// Stops for exceptions of kernel code only: those of programs are their own.
pub(super) struct InKernel(pub Arch);

impl Condition for InKernel {
    fn should_stop(&self, at: &mut dyn StopContext) -> bool {
        was_in_kernel(self.0, at)
    }
}

/// At the entry of a handler: whether kernel code was interrupted.
pub(super) fn was_in_kernel(arch: Arch, at: &mut dyn StopContext) -> bool {
    let mut selector = [0; 2];
    let place = at.gpr(gpr::RSP).wrapping_add(arch.pointer_size() as u64);
    at.read_virtual(GuestVirtAddr(place), &mut selector) && selector[0] & 3 == 0
}

/// Takes the delivery back: the vCPU stands at its INT3 again. False if that isn't how it came here.
pub(super) fn take_back(guest: &mut Guest, vcpu: VcpuId) -> bool {
    undo(guest, vcpu, &[INT3], |registers, behind| {
        registers.rip = behind.wrapping_sub(1);
    })
}

/// Undoes the delivery of an instruction's interrupt: the vCPU stands as before it, but for what `change` does with its
/// registers and the address behind the instruction. False, and nothing is changed, if it isn't at a handler that this
/// instruction of kernel code called.
pub(super) fn undo(
    guest: &mut Guest,
    vcpu: VcpuId,
    instruction: &[u8],
    change: impl FnOnce(&mut Registers, u64),
) -> bool {
    let Ok(old) = guest.registers(vcpu) else {
        return false;
    };
    let Some(frame) = frame(guest, &old) else {
        return false;
    };
    let mut code = [0; 4];
    let Some(code) = code.get_mut(..instruction.len()) else {
        return false;
    };
    let at = frame.rip.wrapping_sub(code.len() as u64);
    let is_there = guest.read_virtual(GuestVirtAddr(at), code) == code.len() && code == instruction;
    if !is_there || frame.cs != old.segments[seg::CS].selector {
        return false;
    }
    let mut new = old.clone();
    change(&mut new, frame.rip);
    new.gpr[gpr::RSP] = frame.rsp;
    new.rflags = frame.flags & rflags::WRITABLE | rflags::FIXED;
    let write = guest.domain().write_registers();
    write.is_some_and(|write| write.set_registers(vcpu, &new).is_ok())
}

fn frame(guest: &mut Guest, registers: &Registers) -> Option<Frame> {
    let size = guest.arch().pointer_size();
    let stack = registers.gpr[gpr::RSP];
    let mut bytes = [0; 40];
    let wanted = match guest.arch() {
        Arch::X64 => 5 * size,
        Arch::X86 => 3 * size,
    };
    if guest.read_virtual(GuestVirtAddr(stack), &mut bytes[..wanted]) < wanted {
        return None;
    }
    let word = |n: usize| {
        bytes[n * size..(n + 1) * size]
            .iter()
            .rev()
            .fold(0, |v, b| v << 8 | u64::from(*b))
    };
    Some(Frame {
        rip: word(0),
        // The rest of its slot is undefined.
        cs: word(1) as u16,
        flags: word(2),
        rsp: match guest.arch() {
            Arch::X64 => word(3),
            Arch::X86 => stack + 3 * size as u64,
        },
    })
}
