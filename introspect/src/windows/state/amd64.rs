//! CONTEXT and KSPECIAL_REGISTERS of AMD64.

use super::Selectors;
use super::fpu::{self, Pointers};
use hv_core::regs::{DescriptorTable, Registers, seg};
use protocol::context::amd64::{Context, Descriptor, SpecialRegisters, flags};
use zerocopy::FromZeros;

/// The CONTEXT of a vCPU.
pub fn context(registers: &Registers) -> Context {
    let selector = |index: usize| registers.segments[index].selector.into();
    let mut context = Context::new_zeroed();
    context.context_flags = flags::ALL.into();
    context.mxcsr = registers.mxcsr.into();
    context.cs = selector(seg::CS);
    context.ds = selector(seg::DS);
    context.es = selector(seg::ES);
    context.fs = selector(seg::FS);
    context.gs = selector(seg::GS);
    context.ss = selector(seg::SS);
    // The upper half of RFLAGS is reserved.
    context.eflags = (registers.rflags as u32).into();
    context.dr = registers.dr.map(Into::into);
    context.dr6 = registers.dr6.into();
    context.dr7 = registers.dr7.into();
    context.gpr = registers.gpr.map(Into::into);
    context.rip = registers.rip.into();
    context.fxsave = fpu::fxsave(registers, Pointers::Long, 16);
    context
}

/// Writes the parts that the CONTEXT's flags name; the selectors that it has come back.
pub fn apply(context: &Context, registers: &mut Registers) -> Selectors {
    let has = |part: u32| context.context_flags.get() & part != 0;
    let mut selectors = Selectors::default();
    if has(flags::CONTROL) {
        registers.rip = context.rip.get();
        registers.gpr[4] = context.gpr[4].get();
        registers.rflags = u64::from(context.eflags.get());
        selectors[seg::CS] = Some(context.cs.get());
        selectors[seg::SS] = Some(context.ss.get());
    }
    if has(flags::INTEGER) {
        let stack = registers.gpr[4];
        registers.gpr = context.gpr.map(|value| value.get());
        registers.gpr[4] = stack;
    }
    if has(flags::SEGMENTS) {
        selectors[seg::DS] = Some(context.ds.get());
        selectors[seg::ES] = Some(context.es.get());
        selectors[seg::FS] = Some(context.fs.get());
        selectors[seg::GS] = Some(context.gs.get());
    }
    if has(flags::FLOATING_POINT) {
        fpu::apply(&context.fxsave, Pointers::Long, 16, registers);
        registers.mxcsr = context.mxcsr.get() & 0xffff;
    }
    if has(flags::DEBUG_REGISTERS) {
        registers.dr = context.dr.map(|value| value.get());
        registers.dr6 = context.dr6.get();
        registers.dr7 = context.dr7.get();
    }
    selectors
}

/// The KSPECIAL_REGISTERS of a vCPU.
pub fn special(registers: &Registers) -> SpecialRegisters {
    let table = |table: DescriptorTable| Descriptor {
        padding: Default::default(),
        limit: table.limit.into(),
        base: table.base.into(),
    };
    let msrs = &registers.msrs;
    let mut special = SpecialRegisters::new_zeroed();
    special.cr0 = registers.cr0.into();
    special.cr2 = registers.cr2.into();
    special.cr3 = registers.cr3.into();
    special.cr4 = registers.cr4.into();
    special.dr = registers.dr.map(Into::into);
    special.dr6 = registers.dr6.into();
    special.dr7 = registers.dr7.into();
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

/// Writes all but the task register and the LDTR, which have hidden parts, and MXCSR, which is the CONTEXT's.
pub fn apply_special(special: &SpecialRegisters, registers: &mut Registers) {
    let table = |table: &Descriptor| DescriptorTable {
        base: table.base.get(),
        limit: table.limit.get(),
    };
    registers.cr0 = special.cr0.get();
    registers.cr2 = special.cr2.get();
    registers.cr3 = special.cr3.get();
    registers.cr4 = special.cr4.get();
    registers.dr = special.dr.map(|value| value.get());
    registers.dr6 = special.dr6.get();
    registers.dr7 = special.dr7.get();
    registers.gdtr = table(&special.gdtr);
    registers.idtr = table(&special.idtr);
    registers.cr8 = special.cr8.get();
    registers.segments[seg::GS].base = special.gs_base.get();
    registers.segments[seg::FS].base = special.fs_base.get();
    registers.msrs.kernel_gs_base = special.gs_swap.get();
    registers.msrs.star = special.star.get();
    registers.msrs.lstar = special.lstar.get();
    registers.msrs.cstar = special.cstar.get();
    registers.msrs.sfmask = special.syscall_mask.get();
    registers.xcr0 = special.xcr0.get();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_parts_that_the_flags_name_are_written() {
        let registers = Registers::at_reset(true);
        let mut written = context(&registers);
        written.gpr = [5.into(); 16];
        written.rip = 6.into();
        written.dr7 = 7.into();
        for (part, gpr, stack, rip, dr7) in [
            (flags::CONTROL, 0, 5, 6, 0x400),
            (flags::INTEGER, 5, 0, 0xfff0, 0x400),
            (flags::DEBUG_REGISTERS, 0, 0, 0xfff0, 7),
        ] {
            written.context_flags = (flags::AMD64 | part).into();
            let mut new = registers.clone();
            apply(&written, &mut new);
            let is = (new.gpr[3], new.gpr[4], new.rip, new.dr7);
            assert_eq!(is, (gpr, stack, rip, dr7), "{part:#x}");
        }
    }

    #[test]
    fn a_context_written_back_changes_nothing() {
        let mut registers = Registers::at_reset(true);
        registers.gpr = std::array::from_fn(|n| n as u64);
        let same = context(&registers);
        let mut new = registers.clone();
        let selectors = apply(&same, &mut new);
        apply_special(&special(&registers), &mut new);
        // x87 tags are told by the values.
        new.x87.ftw = registers.x87.ftw;
        assert_eq!(new, registers);
        assert_eq!(selectors[seg::CS], Some(0xf000));
    }
}
