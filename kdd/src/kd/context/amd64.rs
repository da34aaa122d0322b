//! CONTEXT of AMD64.

use super::Selectors;
use super::fpu::{self, Pointers};
use crate::kd::hardware_breakpoints::DebugRegisters;
use hv_core::VcpuId;
use hv_core::regs::{Registers, seg};
use protocol::context::amd64::{Context, flags};
use zerocopy::FromZeros;

pub(super) fn context(registers: &Registers, debug: &DebugRegisters, vcpu: VcpuId) -> Context {
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
    context.dr = debug.addresses.map(Into::into);
    context.dr6 = debug.dr6(vcpu).into();
    context.dr7 = debug.dr7.into();
    context.gpr = registers.gpr.map(Into::into);
    context.rip = registers.rip.into();
    context.fxsave = fpu::fxsave(registers, Pointers::Long, 16);
    context
}

/// Writes the parts that the CONTEXT's flags name; the selectors that it has come back.
pub(super) fn apply(
    context: &Context,
    registers: &mut Registers,
    debug: &mut DebugRegisters,
    vcpu: VcpuId,
) -> Selectors {
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
        debug.addresses = context.dr.map(|value| value.get());
        debug.set_dr6(vcpu, context.dr6.get());
        debug.dr7 = context.dr7.get();
    }
    selectors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_parts_that_the_flags_name_are_written() {
        let registers = Registers::at_reset(true);
        let mut debug = DebugRegisters::default();
        let mut written = context(&registers, &debug, VcpuId(0));
        written.gpr = [5.into(); 16];
        written.rip = 6.into();
        written.dr7 = 7.into();
        for (part, gpr, stack, rip) in [
            (flags::CONTROL, 0, 5, 6),
            (flags::INTEGER, 5, 0, 0xfff0),
            (flags::DEBUG_REGISTERS, 0, 0, 0xfff0),
        ] {
            written.context_flags = (flags::AMD64 | part).into();
            let mut new = registers.clone();
            apply(&written, &mut new, &mut debug, VcpuId(0));
            assert_eq!((new.gpr[3], new.gpr[4], new.rip), (gpr, stack, rip), "{part:#x}");
        }
        assert_eq!(debug.dr7, 7);
    }

    #[test]
    fn a_context_written_back_changes_nothing() {
        let mut registers = Registers::at_reset(true);
        registers.gpr = std::array::from_fn(|n| n as u64);
        let mut debug = DebugRegisters::default();
        let same = context(&registers, &debug, VcpuId(0));
        let mut new = registers.clone();
        let selectors = apply(&same, &mut new, &mut debug, VcpuId(0));
        // x87 tags are told by the values.
        new.x87.ftw = registers.x87.ftw;
        assert_eq!(new, registers);
        assert_eq!(selectors[seg::CS], Some(0xf000));
    }
}
