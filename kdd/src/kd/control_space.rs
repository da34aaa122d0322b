//! The control space: on x64 a number says which block is meant, on x86 it is KPROCESSOR_STATE byte by byte.

use super::context::{self, Extra};
use super::guest::Guest;
use super::reply::Reply;
use hv_core::VcpuId;
use hv_core::regs::Registers;
use introspect::windows::{Arch, state};
use protocol::context::x86;
use protocol::manipulate::{Manipulate, Memory};
use protocol::status::NtStatus;
use zerocopy::{FromBytes, IntoBytes};

/// The numbers of x64 (wdbgexts.h, DEBUG_CONTROL_SPACE_…).
mod number {
    pub const KPCR: u64 = 0;
    pub const KPRCB: u64 = 1;
    pub const SPECIAL_REGISTERS: u64 = 2;
    pub const THREAD: u64 = 3;
}

/// ReadControlSpace.
pub(super) fn read(
    guest: &Guest,
    vcpu: VcpuId,
    mut header: Manipulate,
    extra: &Extra<'_>,
    reply: &mut Reply,
) {
    let mut memory: Memory = header.get();
    let address = memory.address.get();
    let block = match guest.arch() {
        Arch::X64 => block_amd64(guest, vcpu, address, extra),
        Arch::X86 => state_x86(guest, vcpu, extra).and_then(|state| {
            let offset = usize::try_from(address).ok()?;
            state.get(offset..).map(<[u8]>::to_vec)
        }),
    };
    let block = block.unwrap_or_default();
    let data = &block[..block.len().min(memory.count.get() as usize)];
    memory.actual = (data.len() as u32).into();
    header.set(&memory);
    let status = if data.is_empty() {
        NtStatus::UNSUCCESSFUL
    } else {
        NtStatus::SUCCESS
    };
    reply.finish_with(header, status, data);
}

/// WriteControlSpace.
pub(super) fn write(
    guest: &mut Guest,
    vcpu: VcpuId,
    mut header: Manipulate,
    data: &[u8],
    extra: &mut Extra<'_>,
    reply: &mut Reply,
) {
    let mut memory: Memory = header.get();
    let data = &data[..data.len().min(memory.count.get() as usize)];
    let status = match guest.arch() {
        Arch::X64 if memory.address.get() == number::SPECIAL_REGISTERS => {
            write_amd64(guest, vcpu, data, extra)
        }
        Arch::X64 => NtStatus::UNSUCCESSFUL,
        Arch::X86 => write_x86(guest, vcpu, memory.address.get(), data, extra),
    };
    let done = if status == NtStatus::SUCCESS {
        data.len()
    } else {
        0
    };
    memory.actual = (done as u32).into();
    header.set(&memory);
    reply.finish(header, status, 0);
}

fn block_amd64(guest: &Guest, vcpu: VcpuId, address: u64, extra: &Extra<'_>) -> Option<Vec<u8>> {
    let pointer = match address {
        number::SPECIAL_REGISTERS => {
            let registers = guest.registers(vcpu).ok()?;
            return Some(state::special(Arch::X64, &shown(&registers, vcpu, extra)));
        }
        number::KPCR => guest.processor(vcpu)?.kpcr,
        number::KPRCB => guest.processor(vcpu)?.kprcb,
        number::THREAD => guest.processor(vcpu)?.current_thread?,
        _ => return None,
    };
    Some(pointer.0.to_le_bytes().to_vec())
}

/// A vCPU's registers with the debug registers that the host sees.
fn shown(registers: &Registers, vcpu: VcpuId, extra: &Extra<'_>) -> Registers {
    let mut shown = registers.clone();
    extra.debug.show(vcpu, &mut shown);
    shown
}

fn write_amd64(guest: &mut Guest, vcpu: VcpuId, data: &[u8], extra: &mut Extra<'_>) -> NtStatus {
    let Ok(old) = guest.registers(vcpu) else {
        return NtStatus::INVALID_PARAMETER;
    };
    let mut whole = state::amd64::special(&shown(&old, vcpu, extra));
    let bytes = whole.as_mut_bytes();
    let length = data.len().min(bytes.len());
    bytes[..length].copy_from_slice(&data[..length]);
    let special = whole;
    if special.tr.get() != old.tr.selector || special.ldtr.get() != old.ldtr.selector {
        return NtStatus::INVALID_PARAMETER;
    }
    set_special(guest, vcpu, &old, extra, |new| {
        state::amd64::apply_special(&special, new)
    })
}

/// Lets `apply` write special registers; the debug registers among them are the host's.
fn set_special(
    guest: &mut Guest,
    vcpu: VcpuId,
    old: &Registers,
    extra: &mut Extra<'_>,
    apply: impl FnOnce(&mut Registers),
) -> NtStatus {
    let mut written = old.clone();
    apply(&mut written);
    let mut new = written.clone();
    (new.dr, new.dr6, new.dr7) = (old.dr, old.dr6, old.dr7);
    let status = context::set(guest, vcpu, old, &new);
    if status == NtStatus::SUCCESS {
        extra.debug.take(vcpu, &mut written, old);
    }
    status
}

/// KPROCESSOR_STATE of an x86 processor.
fn state_x86(guest: &Guest, vcpu: VcpuId, extra: &Extra<'_>) -> Option<Vec<u8>> {
    let registers = guest.registers(vcpu).ok()?;
    let mut state = context::read(guest, vcpu, extra)?;
    state.extend(state::special(Arch::X86, &shown(&registers, vcpu, extra)));
    Some(state)
}

fn write_x86(guest: &mut Guest, vcpu: VcpuId, address: u64, data: &[u8], extra: &mut Extra<'_>) -> NtStatus {
    let Some(mut state) = state_x86(guest, vcpu, extra) else {
        return NtStatus::INVALID_PARAMETER;
    };
    let place = usize::try_from(address)
        .ok()
        .and_then(|offset| state.get_mut(offset..offset.checked_add(data.len())?));
    let Some(place) = place else {
        return NtStatus::UNSUCCESSFUL;
    };
    place.copy_from_slice(data);
    let Ok(state) = x86::ProcessorState::read_from_bytes(&state) else {
        return NtStatus::UNSUCCESSFUL;
    };
    let offset = address as usize;
    let context_length = size_of::<x86::Context>();
    if offset < context_length {
        let status = context::write(guest, vcpu, state.context.as_bytes(), extra);
        if status != NtStatus::SUCCESS {
            return status;
        }
    }
    if offset + data.len() <= context_length {
        return NtStatus::SUCCESS;
    }
    let Ok(old) = guest.registers(vcpu) else {
        return NtStatus::INVALID_PARAMETER;
    };
    let special = &state.special;
    if special.tr.get() != old.tr.selector || special.ldtr.get() != old.ldtr.selector {
        return NtStatus::INVALID_PARAMETER;
    }
    set_special(guest, vcpu, &old, extra, |new| {
        state::x86::apply_special(special, new)
    })
}
