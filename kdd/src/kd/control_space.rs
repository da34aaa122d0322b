//! The control space: on x64 a number says which block is meant, on x86 it is KPROCESSOR_STATE byte by byte.

use super::context::{self, Extra};
use super::guest::Guest;
use super::reply::Reply;
use hv_core::VcpuId;
use hv_core::regs::{Registers, seg};
use introspect::windows::Arch;
use protocol::context::{amd64, x86};
use protocol::manipulate::{Manipulate, Memory};
use protocol::status::NtStatus;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

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
            return Some(special_amd64(&registers, vcpu, extra).as_bytes().to_vec());
        }
        number::KPCR => guest.processor(vcpu)?.kpcr,
        number::KPRCB => guest.processor(vcpu)?.kprcb,
        number::THREAD => guest.processor(vcpu)?.current_thread?,
        _ => return None,
    };
    Some(pointer.0.to_le_bytes().to_vec())
}

fn special_amd64(registers: &Registers, vcpu: VcpuId, extra: &Extra<'_>) -> amd64::SpecialRegisters {
    let table = |table: hv_core::regs::DescriptorTable| amd64::Descriptor {
        padding: Default::default(),
        limit: table.limit.into(),
        base: table.base.into(),
    };
    let msrs = &registers.msrs;
    let mut special = amd64::SpecialRegisters::new_zeroed();
    special.cr0 = registers.cr0.into();
    special.cr2 = registers.cr2.into();
    special.cr3 = registers.cr3.into();
    special.cr4 = registers.cr4.into();
    special.dr = extra.debug.addresses.map(Into::into);
    special.dr6 = extra.debug.dr6(vcpu).into();
    special.dr7 = extra.debug.dr7.into();
    special.gdtr = table(registers.gdtr);
    special.idtr = table(registers.idtr);
    special.tr = registers.tr.selector.into();
    special.ldtr = registers.ldtr.selector.into();
    special.mxcsr = registers.mxcsr.into();
    special.cr8 = registers.cr8.into();
    special.gs_base = registers.segments[seg::GS].base.into();
    special.gs_swap = msrs.kernel_gs_base.into();
    special.star = msrs.star.into();
    special.lstar = msrs.lstar.into();
    special.cstar = msrs.cstar.into();
    special.syscall_mask = msrs.sfmask.into();
    special.xcr0 = registers.xcr0.into();
    special.fs_base = registers.segments[seg::FS].base.into();
    special
}

fn write_amd64(guest: &mut Guest, vcpu: VcpuId, data: &[u8], extra: &mut Extra<'_>) -> NtStatus {
    let Ok(old) = guest.registers(vcpu) else {
        return NtStatus::INVALID_PARAMETER;
    };
    let mut whole = special_amd64(&old, vcpu, extra);
    let bytes = whole.as_mut_bytes();
    let length = data.len().min(bytes.len());
    bytes[..length].copy_from_slice(&data[..length]);
    let special = whole;
    if special.tr.get() != old.tr.selector || special.ldtr.get() != old.ldtr.selector {
        return NtStatus::INVALID_PARAMETER;
    }
    let mut new = old.clone();
    let table = |table: &amd64::Descriptor| hv_core::regs::DescriptorTable {
        base: table.base.get(),
        limit: table.limit.get(),
    };
    new.cr0 = special.cr0.get();
    new.cr2 = special.cr2.get();
    new.cr3 = special.cr3.get();
    new.cr4 = special.cr4.get();
    new.gdtr = table(&special.gdtr);
    new.idtr = table(&special.idtr);
    // MXCSR is the CONTEXT's, where hosts edit it.
    new.cr8 = special.cr8.get();
    new.segments[seg::GS].base = special.gs_base.get();
    new.segments[seg::FS].base = special.fs_base.get();
    new.msrs.kernel_gs_base = special.gs_swap.get();
    new.msrs.star = special.star.get();
    new.msrs.lstar = special.lstar.get();
    new.msrs.cstar = special.cstar.get();
    new.msrs.sfmask = special.syscall_mask.get();
    new.xcr0 = special.xcr0.get();
    let status = context::set(guest, vcpu, &old, &new);
    if status == NtStatus::SUCCESS {
        extra.debug.addresses = special.dr.map(|value| value.get());
        extra.debug.set_dr6(vcpu, special.dr6.get());
        extra.debug.dr7 = special.dr7.get();
    }
    status
}

/// KPROCESSOR_STATE of an x86 processor.
fn state_x86(guest: &Guest, vcpu: VcpuId, extra: &Extra<'_>) -> Option<Vec<u8>> {
    let registers = guest.registers(vcpu).ok()?;
    let mut state = context::read(guest, vcpu, extra)?;
    state.extend_from_slice(special_x86(&registers, vcpu, extra).as_bytes());
    Some(state)
}

fn special_x86(registers: &Registers, vcpu: VcpuId, extra: &Extra<'_>) -> x86::SpecialRegisters {
    let table = |table: hv_core::regs::DescriptorTable| x86::Descriptor {
        padding: 0.into(),
        limit: table.limit.into(),
        base: (table.base as u32).into(),
    };
    // A 32-bit processor's registers have 32 bits.
    let low = |value: u64| (value as u32).into();
    x86::SpecialRegisters {
        cr0: low(registers.cr0),
        cr2: low(registers.cr2),
        cr3: low(registers.cr3),
        cr4: low(registers.cr4),
        dr: extra.debug.addresses.map(low),
        dr6: low(extra.debug.dr6(vcpu)),
        dr7: low(extra.debug.dr7),
        gdtr: table(registers.gdtr),
        idtr: table(registers.idtr),
        tr: registers.tr.selector.into(),
        ldtr: registers.ldtr.selector.into(),
        reserved: Default::default(),
    }
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
    let table = |table: &x86::Descriptor| hv_core::regs::DescriptorTable {
        base: u64::from(table.base.get()),
        limit: table.limit.get(),
    };
    let mut new = old.clone();
    new.cr0 = u64::from(special.cr0.get());
    new.cr2 = u64::from(special.cr2.get());
    new.cr3 = u64::from(special.cr3.get());
    new.cr4 = u64::from(special.cr4.get());
    new.gdtr = table(&special.gdtr);
    new.idtr = table(&special.idtr);
    let status = context::set(guest, vcpu, &old, &new);
    if status == NtStatus::SUCCESS {
        extra.debug.addresses = special.dr.map(|value| u64::from(value.get()));
        extra.debug.set_dr6(vcpu, u64::from(special.dr6.get()));
        extra.debug.dr7 = u64::from(special.dr7.get());
    }
    status
}
