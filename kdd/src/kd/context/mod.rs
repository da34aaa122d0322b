//! CONTEXT: the registers of a processor, whole or in parts.
//!
//! Always from the virtual CPU: what the guest keeps in its PRCBs is stale where no debugger runs in it. Debug
//! registers are the session's own ([`super::hardware_breakpoints`]), and so is the trap flag that a host sets to
//! step: the guest's registers never have either.

mod xstate;

use super::guest::Guest;
use super::hardware_breakpoints::DebugRegisters;
use super::reply::Reply;
use hv_core::VcpuId;
use hv_core::regs::{Registers, Segment, rflags, seg};
use introspect::windows::{Arch, state};
use protocol::manipulate::{ContextEx, Manipulate};
use protocol::status::NtStatus;
use std::collections::BTreeSet;
use zerocopy::FromBytes;

/// The vCPUs whose host set the trap flag, to step them.
#[derive(Default)]
pub(super) struct TrapFlags {
    set: BTreeSet<VcpuId>,
}

impl TrapFlags {
    /// Takes the flag of a vCPU, if it is set.
    pub fn take(&mut self, vcpu: VcpuId) -> bool {
        let set = self.set.remove(&vcpu);
        // Those of others would step a vCPU that nobody asked to.
        self.set.clear();
        set
    }

    fn show(&self, vcpu: VcpuId, flags: u64) -> u64 {
        if self.set.contains(&vcpu) {
            flags | rflags::TF
        } else {
            flags
        }
    }

    /// The flags that a vCPU is to have after a host wrote `new` over `old`.
    fn write(&mut self, vcpu: VcpuId, old: u64, new: u64) -> u64 {
        let own = old & rflags::TF;
        if new & rflags::TF != own {
            if new & rflags::TF != 0 {
                self.set.insert(vcpu);
            } else {
                self.set.remove(&vcpu);
            }
        }
        let keep = rflags::TF | !rflags::WRITABLE;
        old & keep | new & !keep
    }
}

/// What a session adds to a guest's registers.
pub(super) struct Extra<'a> {
    pub debug: &'a mut DebugRegisters,
    pub trap: &'a mut TrapFlags,
}

/// The CONTEXT of a vCPU, in its machine's form.
pub(super) fn read(guest: &Guest, vcpu: VcpuId, extra: &Extra<'_>) -> Option<Vec<u8>> {
    let mut registers = guest.registers(vcpu).ok()?;
    registers.rflags = extra.trap.show(vcpu, registers.rflags);
    extra.debug.show(vcpu, &mut registers);
    Some(state::context(guest.arch(), &registers))
}

/// The shortest CONTEXT that says something: up to its flags, and the integer registers that all hosts write.
const SHORTEST: usize = 0x100;

/// Writes a CONTEXT over a vCPU's registers. A kernel takes all of one from its message buffer; a host that sends less
/// (radare2 does) counts on the rest being there since it was read: so the rest stays as it is.
pub(super) fn write(guest: &mut Guest, vcpu: VcpuId, bytes: &[u8], extra: &mut Extra<'_>) -> NtStatus {
    let (Ok(old), Some(mut whole)) = (guest.registers(vcpu), read(guest, vcpu, extra)) else {
        return NtStatus::INVALID_PARAMETER;
    };
    let bytes = &bytes[..bytes.len().min(whole.len())];
    if bytes.len() < SHORTEST {
        return NtStatus::INVALID_PARAMETER;
    }
    whole[..bytes.len()].copy_from_slice(bytes);
    let bytes = &*whole;
    let mut new = old.clone();
    extra.debug.show(vcpu, &mut new);
    let taken = match guest.arch() {
        Arch::X64 => protocol::context::amd64::Context::read_from_prefix(bytes)
            .ok()
            .map(|(context, _)| state::amd64::apply(&context, &mut new)),
        Arch::X86 => protocol::context::x86::Context::read_from_prefix(bytes)
            .ok()
            .map(|(context, _)| state::x86::apply(&context, &mut new)),
    };
    extra.debug.take(vcpu, &mut new, &old);
    let Some(selectors) = taken else {
        return NtStatus::INVALID_PARAMETER;
    };
    for (index, selector) in selectors.into_iter().enumerate() {
        let Some(selector) = selector else { continue };
        if selector != old.segments[index].selector && !load(guest, &mut new, index, selector) {
            return NtStatus::INVALID_PARAMETER;
        }
    }
    new.rflags = extra.trap.write(vcpu, old.rflags, new.rflags);
    set(guest, vcpu, &old, &new)
}

/// Gives a vCPU new registers, if they are new.
pub(super) fn set(guest: &mut Guest, vcpu: VcpuId, old: &Registers, new: &Registers) -> NtStatus {
    if old == new {
        return NtStatus::SUCCESS;
    }
    let Some(write) = guest.domain().write_registers() else {
        return NtStatus::UNSUCCESSFUL;
    };
    match write.set_registers(vcpu, new) {
        Ok(()) => {
            if vcpu == guest.current {
                guest.memory_changed();
            }
            NtStatus::SUCCESS
        }
        Err(error) => {
            tracing::info!(%error, "the host's registers are refused");
            NtStatus::UNSUCCESSFUL
        }
    }
}

/// Loads a segment register from the guest's descriptor table, as MOV to it would.
pub(super) fn load(guest: &mut Guest, registers: &mut Registers, index: usize, selector: u16) -> bool {
    let long = registers.efer & hv_core::regs::efer::LMA != 0;
    let base = registers.segments[index].base;
    let keeps_base = long && (index == seg::FS || index == seg::GS);
    if selector & !3 == 0 {
        registers.segments[index] = Segment {
            selector,
            base: if keeps_base { base } else { 0 },
            limit: 0,
            attributes: Segment::UNUSABLE,
        };
        return index != seg::CS;
    }
    let table = if selector & 4 == 0 {
        (registers.gdtr.base, u32::from(registers.gdtr.limit))
    } else {
        (registers.ldtr.base, registers.ldtr.limit)
    };
    let offset = u32::from(selector & !7);
    if offset + 7 > table.1 {
        return false;
    }
    let mut bytes = [0; 8];
    let at = hv_core::GuestVirtAddr(table.0.wrapping_add(u64::from(offset)));
    if guest.read_virtual(at, &mut bytes) < bytes.len() {
        return false;
    }
    let mut new = state::segment(selector, bytes);
    if keeps_base {
        new.base = base;
    }
    if !new.is_code_or_data() || !new.present() {
        return false;
    }
    registers.segments[index] = new;
    true
}

/// The CONTEXT, and behind it what a part up to `end` reaches into.
fn read_up_to(guest: &Guest, vcpu: VcpuId, end: usize, extra: &Extra<'_>) -> Option<Vec<u8>> {
    let mut whole = read(guest, vcpu, extra)?;
    if end > whole.len() {
        xstate::append(&mut whole, guest.arch(), &guest.registers(vcpu).ok()?);
    }
    Some(whole)
}

/// GetContextEx: a part of the CONTEXT, or of what follows it.
pub(super) fn read_part(
    guest: &Guest,
    vcpu: VcpuId,
    mut header: Manipulate,
    extra: &Extra<'_>,
    reply: &mut Reply,
) {
    let mut part: ContextEx = header.get();
    let (offset, count) = (part.offset.get() as usize, part.count.get() as usize);
    let whole = read_up_to(guest, vcpu, offset.saturating_add(count), extra).unwrap_or_default();
    let Some(rest) = whole.get(offset..) else {
        part.copied = 0.into();
        header.set(&part);
        return reply.finish(header, NtStatus::UNSUCCESSFUL, 0);
    };
    let data = &rest[..rest.len().min(count)];
    part.copied = (data.len() as u32).into();
    header.set(&part);
    reply.finish_with(header, NtStatus::SUCCESS, data);
}

/// SetContextEx: a part of the CONTEXT, which counts at once. Nothing behind the CONTEXT can be changed.
pub(super) fn write_part(
    guest: &mut Guest,
    vcpu: VcpuId,
    mut header: Manipulate,
    data: &[u8],
    extra: &mut Extra<'_>,
    reply: &mut Reply,
) {
    let mut part: ContextEx = header.get();
    let (offset, count) = (part.offset.get() as usize, part.count.get() as usize);
    let end = offset.saturating_add(count);
    let size = read(guest, vcpu, extra).map_or(0, |context| context.len());
    let mut whole = read_up_to(guest, vcpu, end, extra).unwrap_or_default();
    let status = match whole.get_mut(offset..end) {
        Some(place) if data.len() >= count => {
            place.copy_from_slice(&data[..count]);
            if xstate::is_possible(&whole, size) {
                write(guest, vcpu, &whole, extra)
            } else {
                NtStatus::INVALID_PARAMETER
            }
        }
        _ => NtStatus::INVALID_PARAMETER,
    };
    let copied = if status == NtStatus::SUCCESS {
        count as u32
    } else {
        0
    };
    part.copied = copied.into();
    header.set(&part);
    reply.finish(header, status, 0);
}
