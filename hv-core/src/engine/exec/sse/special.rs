//! MXCSR, PTEST, CRC32, the string comparisons, hints and fences.

use super::Operation::{self, General, Special};
use super::{source, xmm};
use crate::engine::bus::Bus;
use crate::engine::flags::Flags;
use crate::engine::simd::env::MXCSR_MASK;
use crate::engine::simd::{crc32, pcmpstr};
use crate::engine::vcpu::{Exec, Vcpu};
use crate::regs::{gpr, rflags};
use iced_x86::{Instruction, Mnemonic as M, OpKind};

pub(super) fn operation(m: M) -> Option<Operation> {
    Some(match m {
        M::Ldmxcsr => Special(ldmxcsr),
        M::Stmxcsr => Special(|cpu, bus, i| {
            let value = cpu.r.mxcsr as u64;
            cpu.write_operand(bus, i, 0, value)
        }),
        M::Ptest => Special(ptest),
        M::Pcmpestri | M::Pcmpestri64 | M::Pcmpestrm | M::Pcmpestrm64 | M::Pcmpistri | M::Pcmpistrm => {
            Special(strings)
        }
        M::Crc32 => General(crc),
        M::Lfence
        | M::Mfence
        | M::Sfence
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2 => General(|_, _, _| Ok(())),
        _ => return None,
    })
}

fn ldmxcsr(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let value = cpu.read_operand(bus, i, 0)? as u32;
    if value & !MXCSR_MASK != 0 {
        return Err(cpu.general_protection());
    }
    cpu.r.mxcsr = value;
    Ok(())
}

fn ptest(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let b = source(cpu, bus, i, 1)?;
    let a = cpu.r.xmm[xmm(i, 0)];
    let zf = if a & b == 0 { rflags::ZF } else { 0 };
    let cf = if !a & b == 0 { rflags::CF } else { 0 };
    cpu.flags = Flags::from_rflags(zf | cf);
    Ok(())
}

/// PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM; memory need not be aligned.
fn strings(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let b = if i.op1_kind() == OpKind::Register {
        cpu.r.xmm[xmm(i, 1)]
    } else {
        let linear = cpu.memory_operand(i, 16, false)?;
        cpu.load_u128(bus, linear)?
    };
    let (a, imm) = (cpu.r.xmm[xmm(i, 0)], i.immediate(2) as u8);
    let m = i.mnemonic();
    let explicit = |value: u64| {
        let wide = matches!(m, M::Pcmpestri64 | M::Pcmpestrm64);
        pcmpstr::explicit_length(if wide { value as i64 } else { value as i32 as i64 }, imm)
    };
    let (len_a, len_b) = match m {
        M::Pcmpistri | M::Pcmpistrm => (pcmpstr::implicit_length(a, imm), pcmpstr::implicit_length(b, imm)),
        _ => (explicit(cpu.gpr[gpr::RAX]), explicit(cpu.gpr[gpr::RDX])),
    };
    let compared = pcmpstr::compare(a, b, len_a, len_b, imm);
    match m {
        M::Pcmpestri | M::Pcmpestri64 | M::Pcmpistri => cpu.gpr[gpr::RCX] = compared.index() as u64,
        _ => cpu.r.xmm[0] = compared.mask(),
    }
    cpu.flags = Flags::from_rflags(compared.flags);
    Ok(())
}

fn crc(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let data = cpu.read_operand(bus, i, 1)?;
    let before = cpu.get_register(i.op0_register()) as u32;
    let after = crc32::crc32(before, data, Vcpu::operand_size(i, 1) as u32);
    cpu.set_register(i.op0_register(), after as u64);
    Ok(())
}
