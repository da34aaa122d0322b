//! `.crash`: the guest calls its own KeBugCheckEx.
//!
//! The current vCPU is given the registers and the stack of a call from where it stands, with MANUALLY_INITIATED_CRASH,
//! and runs: what follows is the kernel's own doing, and the session notices the bugcheck as it does any other. That is
//! the one request for which a session writes to the guest by itself; it is what the user asked for.
//!
//! | the vCPU is | the call is made |
//! |---|---|
//! | in the kernel | on the stack in use, below what is on it |
//! | in a program, or in the kernel's first or last instructions for one | on its thread's kernel stack, which is empty then, with the kernel's page tables and segments |
//!
//! Everything is looked at before anything is written; where the call can't be made nothing is changed. The request has
//! no reply that could carry a status, so the reason is printed and the stop reported again.

use super::guest::{Guest, is_user};
use super::session::{KdSession, State};
use super::{bugcheck, context};
use hv_core::regs::{Activity, Registers, gpr, rflags, seg};
use hv_core::{GuestVirtAddr, VcpuId};
use introspect::AddressSpace;
use introspect::windows::{Arch, Processor};
use protocol::status::NtStatus;
use std::time::Instant;

/// MANUALLY_INITIATED_CRASH (bugcodes.h).
const CODE: u32 = 0xe2;
/// KPRCB.RspBase of x64: where the running thread's kernel stack begins (nt kernel public PDBs, 7 to 11).
const RSP_BASE: u64 = 0x28;
/// KPCR.NtTib.StackBase of x86, later Used_StackBase: the same.
const USED_STACK_BASE: u64 = 4;
/// Bytes at the beginning of x86 stacks that are the floating-point state's and a virtual-8086 frame's.
const X86_STACK_HEAD: u64 = 0x400;
/// Bytes that there must be of an empty stack.
const LEAST_STACK: u64 = 0x2000;
const PAGE: u64 = 0x1000;

/// The selectors of a kernel's code, stack, data and KPCR (ntddk.h: KGDT64_R0_CODE …, KGDT_R0_CODE …).
const SELECTORS_X64: [(usize, u16); 2] = [(seg::CS, 0x10), (seg::SS, 0x18)];
const SELECTORS_X86: [(usize, u16); 5] = [
    (seg::CS, 8),
    (seg::SS, 0x10),
    (seg::DS, 0x23),
    (seg::ES, 0x23),
    (seg::FS, 0x30),
];

impl KdSession {
    /// CauseBugCheck.
    pub(super) fn cause_bugcheck(&mut self, now: Instant) {
        let vcpu = self.guest.current;
        let called = match self.cannot_run() {
            None => call(&mut self.guest, vcpu),
            Some(why) => Err(why),
        };
        let was_there = match called {
            Ok(was_there) => was_there,
            Err(why) => {
                self.say(&format!("kdd: no bugcheck is caused: {}\n", why.trim_end()), now);
                return self.report_break(vcpu, now);
            }
        };
        self.trap.take(vcpu);
        self.stands_at_int3 = false;
        self.noted = false;
        if was_there {
            // The engine doesn't stop once more where it has just stopped.
            return self.bugcheck(vcpu, now);
        }
        self.install();
        self.state = State::Running;
        if let Err(error) = self.guest.session.resume() {
            self.say(&format!("kdd: the guest can't run: {error}\n"), now);
        }
    }
}

/// Makes the vCPU stand at the entry of KeBugCheckEx, called. Whether it stood there before, or why it can't be done.
fn call(guest: &mut Guest, vcpu: VcpuId) -> Result<bool, String> {
    let function = match &guest.kernel {
        None => return Err("no kernel is recognised".into()),
        Some(kernel) => kernel
            .symbol(bugcheck::SYMBOL)
            .ok_or("the place of KeBugCheckEx isn't known")?,
    };
    let old = guest.registers(vcpu).map_err(|error| error.to_string())?;
    if old.activity == Activity::WaitForSipi {
        return Err(format!("processor {vcpu} isn't started"));
    }
    let processor = guest
        .processor(vcpu)
        .ok_or_else(|| format!("the KPCR of processor {vcpu} isn't found"))?;
    let space = guest.space(function);
    let mut new = old.clone();
    if !is_in_kernel(guest.arch(), space, &old, &processor) {
        enter_kernel(guest, space, &mut new, &processor)?;
    }
    let (stack, bytes) = frame(guest.arch(), old.rip, new.gpr[gpr::RSP]);
    if !is_writable(guest, space, stack, bytes.len() as u64) {
        return Err(format!(
            "the stack of processor {vcpu} at {stack} can't be written"
        ));
    }
    new.activity = Activity::Running;
    new.interrupt_shadow = false;
    new.rip = function.0;
    new.gpr[gpr::RSP] = stack.0;
    new.rflags &= !(rflags::DF | rflags::TF | rflags::RF);
    if guest.arch() == Arch::X64 {
        new.gpr[gpr::RCX] = u64::from(CODE);
        for argument in [gpr::RDX, 8, 9] {
            new.gpr[argument] = 0;
        }
    }
    let mut before = vec![0; bytes.len()];
    let whole = |done: Option<usize>| done == Some(bytes.len());
    let target = guest.target.clone();
    if !whole(target.read_virtual(space, stack, &mut before).ok())
        || !whole(target.write_virtual(space, stack, &bytes).ok())
    {
        return Err(format!("the stack at {stack} can't be written"));
    }
    if context::set(guest, vcpu, &old, &new) != NtStatus::SUCCESS {
        if !whole(target.write_virtual(space, stack, &before).ok()) {
            tracing::warn!(%stack, "bytes below the stack can't be written back");
        }
        return Err("the registers of the call are refused".into());
    }
    Ok(old.rip == function.0)
}

/// Whether the vCPU is in kernel code with all that is the kernel's: its segments, its page tables, its stack.
fn is_in_kernel(arch: Arch, space: AddressSpace, registers: &Registers, processor: &Processor) -> bool {
    let (block, code) = match arch {
        Arch::X64 => (seg::GS, registers.segments[seg::CS].long()),
        Arch::X86 => (seg::FS, registers.rflags & rflags::VM == 0),
    };
    let root = match space {
        AddressSpace::Root(mode, root) => mode.root(registers.cr3) == mode.root(root.0),
        AddressSpace::Vcpu(_) => true,
        AddressSpace::Physical => false,
    };
    let stack = GuestVirtAddr(registers.gpr[gpr::RSP]);
    registers.cpl() == 0
        && code
        && root
        && registers.segments[block].base == processor.kpcr.0
        && !is_user(arch, stack)
}

/// Brings the vCPU to where the kernel's entry code would: with nothing on the kernel stack of its thread.
fn enter_kernel(
    guest: &mut Guest,
    space: AddressSpace,
    registers: &mut Registers,
    processor: &Processor,
) -> Result<(), String> {
    let arch = guest.arch();
    let (at, head) = match arch {
        Arch::X64 => (processor.kprcb.wrapping_add(RSP_BASE), 0),
        Arch::X86 => (processor.kpcr.wrapping_add(USED_STACK_BASE), X86_STACK_HEAD),
    };
    let top = guest
        .read_word(at)
        .and_then(|top| top.checked_sub(head))
        .filter(|top| top.is_multiple_of(16) && !is_user(arch, GuestVirtAddr(*top)))
        .ok_or("it is in a program, and the kernel stack of its thread isn't found")?;
    let lowest = GuestVirtAddr(top.wrapping_sub(LEAST_STACK));
    if !is_writable(guest, space, lowest, LEAST_STACK) {
        return Err(format!(
            "it is in a program, and the kernel stack of its thread at {top:#x} isn't there"
        ));
    }
    let selectors: &[_] = match arch {
        Arch::X64 => &SELECTORS_X64,
        Arch::X86 => &SELECTORS_X86,
    };
    for &(index, selector) in selectors {
        if !context::load(guest, registers, index, selector) {
            return Err(format!("the kernel's segment {selector:#x} isn't in the GDT"));
        }
    }
    let kpcr = processor.kpcr.0;
    let base = &mut registers.segments[seg::GS].base;
    if arch == Arch::X64 && *base != kpcr {
        registers.msrs.kernel_gs_base = std::mem::replace(base, kpcr);
    }
    if let AddressSpace::Root(mode, root) = space
        && mode.root(registers.cr3) != mode.root(root.0)
    {
        registers.cr3 = root.0;
    }
    registers.rflags &= !(rflags::NT | rflags::AC | rflags::IOPL | rflags::VM | rflags::VIF | rflags::VIP);
    registers.gpr[gpr::RSP] = top;
    Ok(())
}

/// What a call leaves on the stack, and where: the return address, and the arguments that aren't in registers. On x64
/// the home of the four that are lies between (Microsoft's x64 calling convention).
fn frame(arch: Arch, from: u64, stack: u64) -> (GuestVirtAddr, Vec<u8>) {
    match arch {
        Arch::X64 => {
            let words = [from, 0, 0, 0, 0, 0];
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            // The stack is aligned to 16 before the call, so the return address isn't.
            let at = (stack & !15).wrapping_sub(bytes.len() as u64 + 8);
            (GuestVirtAddr(at), bytes)
        }
        Arch::X86 => {
            let words = [from as u32, CODE, 0, 0, 0, 0];
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let at = (stack & !3).wrapping_sub(bytes.len() as u64);
            (GuestVirtAddr(at & 0xffff_ffff), bytes)
        }
    }
}

/// Whether the guest's kernel may write all of a range.
fn is_writable(guest: &Guest, space: AddressSpace, start: GuestVirtAddr, length: u64) -> bool {
    let Some(last) = start.checked_add(length.saturating_sub(1)) else {
        return false;
    };
    (start.0 / PAGE..=last.0 / PAGE).all(|page| {
        let at = GuestVirtAddr(page * PAGE);
        guest.target.translate(space, at).is_ok_and(|page| page.writable)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_of_x64_has_home_space_and_an_odd_multiple_of_8() {
        for stack in [
            0xffff_8000_0000_1000,
            0xffff_8000_0000_1ff8,
            0xffff_8000_0000_1005,
        ] {
            let (at, bytes) = frame(Arch::X64, 0x1234, stack);
            assert_eq!(at.0 % 16, 8);
            assert!(at.0 + bytes.len() as u64 <= stack);
            assert_eq!(bytes[..8], 0x1234_u64.to_le_bytes());
            assert_eq!(bytes[8..], [0; 40]);
        }
    }

    #[test]
    fn a_call_of_x86_has_its_arguments_on_the_stack() {
        let (at, bytes) = frame(Arch::X86, 0x8200_1000, 0x8210_0002);
        assert_eq!(at.0, 0x8210_0000 - 24);
        let words: Vec<u32> = bytes
            .chunks(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect();
        assert_eq!(words, [0x8200_1000, 0xe2, 0, 0, 0, 0]);
    }
}
