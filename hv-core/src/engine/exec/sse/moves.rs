//! Data moves: whole registers, halves, scalars, to and from general and MMX registers, masked stores.

use super::Operation::{self, General, Special};
use super::{source, xmm};
use crate::engine::bus::Bus;
use crate::engine::exec::mmx;
use crate::engine::simd::{integer, shuffle};
use crate::engine::vcpu::{Exec, Vcpu};
use crate::regs::gpr;
use iced_x86::{Instruction, Mnemonic as M, OpKind};

pub(super) fn operation(m: M) -> Option<Operation> {
    Some(match m {
        M::Movaps | M::Movapd | M::Movdqa | M::Movntps | M::Movntpd | M::Movntdq | M::Movntdqa => {
            Special(aligned)
        }
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu => Special(unaligned),
        M::Movss | M::Movsd => Special(scalar),
        M::Movd | M::Movq => Special(zero_extended),
        M::Movlps | M::Movlpd | M::Movhps | M::Movhpd | M::Movlhps | M::Movhlps => Special(half),
        M::Movdq2q => Special(movdq2q),
        M::Movq2dq => Special(movq2dq),
        M::Movmskps => Special(|cpu, _, i| mask(cpu, i, integer::movmskps)),
        M::Movmskpd => Special(|cpu, _, i| mask(cpu, i, integer::movmskpd)),
        M::Pmovmskb => Special(|cpu, _, i| mask(cpu, i, integer::pmovmskb)),
        M::Pinsrb | M::Pinsrw | M::Pinsrd | M::Pinsrq => Special(insert),
        M::Pextrb | M::Pextrw | M::Pextrd | M::Pextrq | M::Extractps => Special(extract),
        M::Insertps => Special(insertps),
        M::Maskmovdqu => Special(maskmovdqu),
        M::Movnti => General(|cpu, bus, i| {
            let value = cpu.read_operand(bus, i, 1)?;
            cpu.write_operand(bus, i, 0, value)
        }),
        _ => return None,
    })
}

fn aligned(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    if i.op0_kind() == OpKind::Register {
        cpu.r.xmm[xmm(i, 0)] = source(cpu, bus, i, 1)?;
        return Ok(());
    }
    let linear = cpu.aligned_operand(i, true)?;
    cpu.store_u128(bus, linear, cpu.r.xmm[xmm(i, 1)])
}

fn unaligned(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    if i.op0_kind() != OpKind::Register {
        let linear = cpu.memory_operand(i, 16, true)?;
        return cpu.store_u128(bus, linear, cpu.r.xmm[xmm(i, 1)]);
    }
    let value = if i.op1_kind() == OpKind::Register {
        cpu.r.xmm[xmm(i, 1)]
    } else {
        let linear = cpu.memory_operand(i, 16, false)?;
        cpu.load_u128(bus, linear)?
    };
    cpu.r.xmm[xmm(i, 0)] = value;
    Ok(())
}

/// Stores the low bytes of a value at the memory operand.
fn store_low(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction, value: u64) -> Exec {
    let size = i.memory_size().size();
    let linear = cpu.memory_operand(i, size, true)?;
    cpu.store_sized(bus, linear, size, value)
}

/// MOVSS, MOVSD: between registers the rest stays, from memory it becomes zero.
fn scalar(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    if i.op0_kind() != OpKind::Register {
        let value = cpu.r.xmm[xmm(i, 1)] as u64;
        return store_low(cpu, bus, i, value);
    }
    let value = source(cpu, bus, i, 1)?;
    let to = xmm(i, 0);
    cpu.r.xmm[to] = if i.op1_kind() == OpKind::Register {
        let low = if i.mnemonic() == M::Movss {
            u32::MAX as u128
        } else {
            u64::MAX as u128
        };
        cpu.r.xmm[to] & !low | value & low
    } else {
        value
    };
    Ok(())
}

/// MOVD, MOVQ with an XMM register on at least one side.
fn zero_extended(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let from_xmm = i.op1_kind() == OpKind::Register && i.op1_register().is_xmm();
    let value = if from_xmm {
        cpu.r.xmm[xmm(i, 1)] as u64
    } else {
        cpu.read_operand(bus, i, 1)?
    };
    if i.op0_kind() == OpKind::Register && i.op0_register().is_xmm() {
        cpu.r.xmm[xmm(i, 0)] = value as u128;
        return Ok(());
    }
    cpu.write_operand(bus, i, 0, value)
}

/// MOVLPS, MOVHPS and their like, MOVLHPS, MOVHLPS.
fn half(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let m = i.mnemonic();
    let high = matches!(m, M::Movhps | M::Movhpd);
    if i.op0_kind() != OpKind::Register {
        let value = cpu.r.xmm[xmm(i, 1)];
        return store_low(cpu, bus, i, if high { value >> 64 } else { value } as u64);
    }
    let b = source(cpu, bus, i, 1)?;
    let a = cpu.r.xmm[xmm(i, 0)];
    let (low, upper) = (u64::MAX as u128, (u64::MAX as u128) << 64);
    cpu.r.xmm[xmm(i, 0)] = match m {
        M::Movhps | M::Movhpd | M::Movlhps => a & low | b << 64,
        M::Movhlps => a & upper | b >> 64,
        _ => a & upper | b & low,
    };
    Ok(())
}

fn movdq2q(cpu: &mut Vcpu, _: &mut Bus, i: &Instruction) -> Exec {
    mmx::check(cpu)?;
    let value = cpu.r.xmm[xmm(i, 1)] as u64;
    cpu.r.x87.set_mmx(mmx::mm(i, 0), value);
    Ok(())
}

fn movq2dq(cpu: &mut Vcpu, _: &mut Bus, i: &Instruction) -> Exec {
    mmx::check(cpu)?;
    cpu.r.xmm[xmm(i, 0)] = cpu.r.x87.mmx(mmx::mm(i, 1)) as u128;
    cpu.r.x87.enter_mmx();
    Ok(())
}

fn mask(cpu: &mut Vcpu, i: &Instruction, f: impl FnOnce(u128) -> u32) -> Exec {
    let value = f(cpu.r.xmm[xmm(i, 1)]);
    cpu.set_register(i.op0_register(), value as u64);
    Ok(())
}

fn insert(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let value = cpu.read_operand(bus, i, 1)?;
    let (a, imm) = (cpu.r.xmm[xmm(i, 0)], i.immediate(2) as u8);
    cpu.r.xmm[xmm(i, 0)] = match i.mnemonic() {
        M::Pinsrb => shuffle::pinsrb(a, value as u32, imm),
        M::Pinsrw => shuffle::pinsrw(a, value as u32, imm),
        M::Pinsrd => shuffle::pinsrd(a, value as u32, imm),
        _ => shuffle::pinsrq(a, value, imm),
    };
    Ok(())
}

fn extract(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let (a, imm) = (cpu.r.xmm[xmm(i, 1)], i.immediate(2) as u8);
    let value = match i.mnemonic() {
        M::Pextrb => shuffle::pextrb(a, imm) as u64,
        M::Pextrw => shuffle::pextrw(a, imm) as u64,
        M::Pextrq => shuffle::pextrq(a, imm),
        _ => shuffle::pextrd(a, imm) as u64,
    };
    cpu.write_operand(bus, i, 0, value)
}

fn insertps(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let imm = i.immediate(2) as u8;
    let b = source(cpu, bus, i, 1)?;
    let lane = if i.op1_kind() == OpKind::Register {
        (b >> (32 * (imm as u32 >> 6))) as u32
    } else {
        b as u32
    };
    cpu.r.xmm[xmm(i, 0)] = shuffle::insertps(cpu.r.xmm[xmm(i, 0)], lane, imm);
    Ok(())
}

fn maskmovdqu(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let (value, mask) = (cpu.r.xmm[xmm(i, 1)], cpu.r.xmm[xmm(i, 2)]);
    masked_store(cpu, bus, i, &value.to_le_bytes(), &mask.to_le_bytes())
}

/// Stores the bytes whose mask byte has its sign bit set at the address in DI, EDI or RDI. Bytes that aren't stored
/// don't fault.
pub(crate) fn masked_store(
    cpu: &mut Vcpu,
    bus: &mut Bus,
    i: &Instruction,
    bytes: &[u8],
    mask: &[u8],
) -> Exec {
    let offset = match i.op0_kind() {
        OpKind::MemorySegDI => cpu.gpr[gpr::RDI] & 0xffff,
        OpKind::MemorySegEDI => cpu.gpr[gpr::RDI] & 0xffff_ffff,
        _ => cpu.gpr[gpr::RDI],
    };
    let segment = cpu.memory_segment(i);
    let chosen = || {
        bytes
            .iter()
            .zip(mask)
            .enumerate()
            .filter(|(_, (_, mask))| **mask >> 7 != 0)
    };
    for (n, _) in chosen() {
        let linear = cpu.linear(segment, offset.wrapping_add(n as u64), 1, true)?;
        cpu.check_writable(bus, linear, 1)?;
    }
    for (n, (byte, _)) in chosen() {
        let linear = cpu.linear(segment, offset.wrapping_add(n as u64), 1, true)?;
        cpu.store::<u8>(bus, linear, *byte)?;
    }
    Ok(())
}
