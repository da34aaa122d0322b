//! CONTEXT and KSPECIAL_REGISTERS of x86.

use super::Selectors;
use super::fpu::{self, Pointers};
use hv_core::regs::{DescriptorTable, Registers, gpr, seg};
use protocol::context::x86::{Context, Descriptor, SpecialRegisters, flags};
use zerocopy::FromZeros;

/// The CONTEXT of a vCPU.
pub fn context(registers: &Registers) -> Context {
    let selector = |index: usize| u32::from(registers.segments[index].selector).into();
    let general = |index: usize| (registers.gpr[index] as u32).into();
    let mut context = Context::new_zeroed();
    context.context_flags = flags::ALL.into();
    context.dr = registers.dr.map(|value| (value as u32).into());
    context.dr6 = (registers.dr6 as u32).into();
    context.dr7 = (registers.dr7 as u32).into();
    let x87 = &registers.x87;
    let save = &mut context.float_save;
    save.control_word = (0xffff_0000 | u32::from(x87.fcw)).into();
    save.status_word = (0xffff_0000 | u32::from(x87.fsw)).into();
    save.tag_word = (0xffff_0000 | u32::from(x87.ftw)).into();
    save.error_offset = (x87.fip as u32).into();
    save.error_selector = (u32::from(x87.fcs) | u32::from(x87.fop) << 16).into();
    save.data_offset = (x87.fdp as u32).into();
    save.data_selector = (0xffff_0000 | u32::from(x87.fds)).into();
    save.cr0_npx_state = (registers.cr0 as u32).into();
    for (n, place) in save.register_area.chunks_exact_mut(10).enumerate() {
        let value = x87.r[(x87.top() + n) % 8].to_le_bytes();
        place.copy_from_slice(&value[..10]);
    }
    context.gs = selector(seg::GS);
    context.fs = selector(seg::FS);
    context.es = selector(seg::ES);
    context.ds = selector(seg::DS);
    context.edi = general(gpr::RDI);
    context.esi = general(gpr::RSI);
    context.ebx = general(gpr::RBX);
    context.edx = general(gpr::RDX);
    context.ecx = general(gpr::RCX);
    context.eax = general(gpr::RAX);
    context.ebp = general(gpr::RBP);
    context.eip = (registers.rip as u32).into();
    context.cs = selector(seg::CS);
    context.eflags = (registers.rflags as u32).into();
    context.esp = general(gpr::RSP);
    context.ss = selector(seg::SS);
    context.extended = fpu::fxsave(registers, Pointers::WithSelector, 8);
    context
}

/// Writes the parts that the CONTEXT's flags name; the selectors that it has come back. Of the two forms of x87 state
/// the FXSAVE image counts where it is named.
pub fn apply(context: &Context, registers: &mut Registers) -> Selectors {
    let has = |part: u32| context.context_flags.get() & part != 0;
    let mut selectors = Selectors::default();
    // A selector is the low half of its field.
    let selector = |value: u32| Some(value as u16);
    let general = &mut registers.gpr;
    if has(flags::CONTROL) {
        registers.rip = u64::from(context.eip.get());
        general[gpr::RSP] = u64::from(context.esp.get());
        general[gpr::RBP] = u64::from(context.ebp.get());
        registers.rflags = u64::from(context.eflags.get());
        selectors[seg::CS] = selector(context.cs.get());
        selectors[seg::SS] = selector(context.ss.get());
    }
    if has(flags::INTEGER) {
        general[gpr::RDI] = u64::from(context.edi.get());
        general[gpr::RSI] = u64::from(context.esi.get());
        general[gpr::RBX] = u64::from(context.ebx.get());
        general[gpr::RDX] = u64::from(context.edx.get());
        general[gpr::RCX] = u64::from(context.ecx.get());
        general[gpr::RAX] = u64::from(context.eax.get());
    }
    if has(flags::SEGMENTS) {
        selectors[seg::DS] = selector(context.ds.get());
        selectors[seg::ES] = selector(context.es.get());
        selectors[seg::FS] = selector(context.fs.get());
        selectors[seg::GS] = selector(context.gs.get());
    }
    if has(flags::EXTENDED_REGISTERS) {
        fpu::apply(&context.extended, Pointers::WithSelector, 8, registers);
    } else if has(flags::FLOATING_POINT) {
        let save = &context.float_save;
        let x87 = &mut registers.x87;
        x87.fcw = save.control_word.get() as u16;
        x87.fsw = save.status_word.get() as u16;
        x87.ftw = save.tag_word.get() as u16;
        let top = x87.top();
        for (n, bytes) in save.register_area.chunks_exact(10).enumerate() {
            let mut value = [0; 16];
            value[..10].copy_from_slice(bytes);
            x87.r[(top + n) % 8] = u128::from_le_bytes(value);
        }
    }
    if has(flags::DEBUG_REGISTERS) {
        registers.dr = context.dr.map(|value| u64::from(value.get()));
        registers.dr6 = u64::from(context.dr6.get());
        registers.dr7 = u64::from(context.dr7.get());
    }
    selectors
}

/// The KSPECIAL_REGISTERS of a vCPU: a 32-bit processor's registers have 32 bits.
pub fn special(registers: &Registers) -> SpecialRegisters {
    let table = |table: DescriptorTable| Descriptor {
        padding: 0.into(),
        limit: table.limit.into(),
        base: (table.base as u32).into(),
    };
    let low = |value: u64| (value as u32).into();
    SpecialRegisters {
        cr0: low(registers.cr0),
        cr2: low(registers.cr2),
        cr3: low(registers.cr3),
        cr4: low(registers.cr4),
        dr: registers.dr.map(low),
        dr6: low(registers.dr6),
        dr7: low(registers.dr7),
        gdtr: table(registers.gdtr),
        idtr: table(registers.idtr),
        tr: registers.tr.selector.into(),
        ldtr: registers.ldtr.selector.into(),
        reserved: Default::default(),
    }
}

/// Writes all but the task register and the LDTR, which have hidden parts.
pub fn apply_special(special: &SpecialRegisters, registers: &mut Registers) {
    let table = |table: &Descriptor| DescriptorTable {
        base: u64::from(table.base.get()),
        limit: table.limit.get(),
    };
    registers.cr0 = u64::from(special.cr0.get());
    registers.cr2 = u64::from(special.cr2.get());
    registers.cr3 = u64::from(special.cr3.get());
    registers.cr4 = u64::from(special.cr4.get());
    registers.dr = special.dr.map(|value| u64::from(value.get()));
    registers.dr6 = u64::from(special.dr6.get());
    registers.dr7 = u64::from(special.dr7.get());
    registers.gdtr = table(&special.gdtr);
    registers.idtr = table(&special.idtr);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_written_back_changes_nothing() {
        let mut registers = Registers::at_reset(true);
        registers.gpr[..8].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let same = context(&registers);
        assert_eq!((same.eax.get(), same.esp.get(), same.edi.get()), (1, 5, 8));
        let mut new = registers.clone();
        apply(&same, &mut new);
        apply_special(&special(&registers), &mut new);
        new.x87.ftw = registers.x87.ftw;
        assert_eq!(new, registers);
    }
}
