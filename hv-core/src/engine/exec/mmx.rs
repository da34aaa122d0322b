//! MMX instructions, those of SSE to SSSE3 on MMX registers among them.

use super::integer_vectors;
use crate::engine::bus::Bus;
use crate::engine::simd::{integer as int, shuffle};
use crate::engine::vcpu::{Exec, Vcpu, vector};
use crate::regs::cr0;
use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

/// What an instruction does to its operands.
#[derive(Clone, Copy)]
pub(crate) enum Operation {
    /// `op0 = f(op0, op1)`.
    Binary(fn(u64, u64) -> u64),
    /// `op0 = f(op0, count)`, the count from a register, memory or an immediate.
    Shift(fn(u64, u64) -> u64),
    /// `op0 = f(op0, op1, immediate)`.
    Immediate(fn(u64, u64, u8) -> u64),
    /// Something of its own.
    Special(fn(&mut Vcpu, &mut Bus, &Instruction) -> Exec),
}

/// The operation of an instruction whose operands are MMX registers.
pub(crate) fn operation(m: M) -> Option<Operation> {
    use Operation::{Binary, Immediate, Shift, Special};
    let alike = integer_vectors::operation(m, Binary, Shift);
    if alike.is_some() {
        return alike;
    }
    Some(match m {
        M::Palignr => Immediate(shuffle::palignr),
        M::Pshufw => Immediate(|_, b, imm| shuffle::pshuflw(b, imm)),
        M::Movd | M::Movq | M::Movntq => Special(moves),
        M::Pinsrw => Special(pinsrw),
        M::Pextrw => {
            Special(|cpu, _, i| to_register(cpu, i, |source| shuffle::pextrw(source, i.immediate(2) as u8)))
        }
        M::Pmovmskb => Special(|cpu, _, i| to_register(cpu, i, int::pmovmskb)),
        M::Maskmovq => Special(maskmovq),
        M::Emms => Special(|cpu, _, _| {
            cpu.r.x87.emms();
            Ok(())
        }),
        _ => return None,
    })
}

/// #UD, #NM or #MF before an instruction that touches MMX registers.
pub(crate) fn check(cpu: &mut Vcpu) -> Exec {
    if cpu.r.cr0 & cr0::EM != 0 {
        return Err(cpu.undefined());
    }
    if cpu.r.cr0 & cr0::TS != 0 {
        return Err(cpu.raise(vector::NM));
    }
    if cpu.r.x87.pending() {
        return Err(cpu.raise(vector::MF));
    }
    Ok(())
}

/// The number of the MMX register that operand `n` is.
pub(crate) fn mm(i: &Instruction, n: u32) -> usize {
    (i.op_register(n) as usize).wrapping_sub(Register::MM0 as usize) & 7
}

/// Reads operand `n`: an MMX or general register, or memory of up to eight bytes.
pub(crate) fn read(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction, n: u32) -> Exec<u64> {
    if i.op_kind(n) == OpKind::Register && i.op_register(n).is_mm() {
        return Ok(cpu.r.x87.mmx(mm(i, n)));
    }
    cpu.read_operand(bus, i, n)
}

/// Executes an instruction that [`operation`] knows.
pub(crate) fn execute(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction, operation: Operation) -> Exec {
    check(cpu)?;
    let result = match operation {
        Operation::Binary(f) | Operation::Shift(f) => {
            let b = read(cpu, bus, i, 1)?;
            f(cpu.r.x87.mmx(mm(i, 0)), b)
        }
        Operation::Immediate(f) => {
            let b = read(cpu, bus, i, 1)?;
            f(cpu.r.x87.mmx(mm(i, 0)), b, i.immediate(2) as u8)
        }
        Operation::Special(f) => return f(cpu, bus, i),
    };
    cpu.r.x87.set_mmx(mm(i, 0), result);
    Ok(())
}

/// MOVD, MOVQ, MOVNTQ in all directions: a narrower source is zero-extended.
fn moves(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let value = read(cpu, bus, i, 1)?;
    if i.op_kind(0) == OpKind::Register && i.op_register(0).is_mm() {
        cpu.r.x87.set_mmx(mm(i, 0), value);
        return Ok(());
    }
    cpu.write_operand(bus, i, 0, value)?;
    cpu.r.x87.enter_mmx();
    Ok(())
}

fn pinsrw(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let value = cpu.read_operand(bus, i, 1)?;
    let result = shuffle::pinsrw(cpu.r.x87.mmx(mm(i, 0)), value as u32, i.immediate(2) as u8);
    cpu.r.x87.set_mmx(mm(i, 0), result);
    Ok(())
}

fn to_register(cpu: &mut Vcpu, i: &Instruction, f: impl FnOnce(u64) -> u32) -> Exec {
    let value = f(cpu.r.x87.mmx(mm(i, 1)));
    cpu.set_register(i.op0_register(), value as u64);
    cpu.r.x87.enter_mmx();
    Ok(())
}

fn maskmovq(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let (source, mask) = (cpu.r.x87.mmx(mm(i, 1)), cpu.r.x87.mmx(mm(i, 2)));
    super::sse::moves::masked_store(cpu, bus, i, &source.to_le_bytes(), &mask.to_le_bytes())?;
    cpu.r.x87.enter_mmx();
    Ok(())
}
