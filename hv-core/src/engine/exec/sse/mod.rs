//! SSE to SSE4.2, AES and PCLMULQDQ: operands and memory around the functions of
//! [`engine::simd`](crate::engine::simd).
//!
//! [`operation`] finds what an instruction does, as a value that a decoder may keep; [`execute`] does it. MMX forms
//! are in [`mmx`](super::mmx).

pub(crate) mod convert;
pub(crate) mod float;
pub(crate) mod integer;
pub(crate) mod moves;
pub(crate) mod special;

use super::mmx;
use crate::engine::bus::Bus;
use crate::engine::simd::packed::{LaneOp, Shape};
use crate::engine::simd::{Env, env};
use crate::engine::vcpu::{Exec, Vcpu, vector};
use crate::regs::{cr0, cr4};
use iced_x86::{Code, Instruction, Mnemonic as M, OpKind, Register};

/// What an instruction does to its operands.
#[derive(Clone, Copy)]
pub(crate) enum Operation {
    /// `op0 = f(op0, op1)`.
    Binary(fn(u128, u128) -> u128),
    /// `op0 = f(op1)`.
    Unary(fn(u128) -> u128),
    /// `op0 = f(op0, count)`, the count from a register, memory or an immediate.
    Shift(fn(u128, u64) -> u128),
    /// `op0 = f(op0, op1, immediate)`.
    Immediate(fn(u128, u128, u8) -> u128),
    /// `op0 = f(op0, op1, xmm0)`.
    Blend(fn(u128, u128, u128) -> u128),
    /// `op0 = f(op0, op1)` under MXCSR.
    Float(fn(&mut Env, u128, u128) -> u128),
    /// The same lane by lane.
    Lanes(Shape, LaneOp),
    /// The same with an immediate.
    LanesImmediate(Shape, fn(u8) -> LaneOp),
    /// `op0 = f(op0, op1, immediate)` under MXCSR.
    FloatImmediate(fn(&mut Env, u128, u128, u8) -> u128),
    /// Something of its own, after the checks for SSE.
    Special(fn(&mut Vcpu, &mut Bus, &Instruction) -> Exec),
    /// Something of its own on general registers only, without checks.
    General(fn(&mut Vcpu, &mut Bus, &Instruction) -> Exec),
    /// An MMX instruction.
    Mmx(mmx::Operation),
}

/// The operation of an instruction, if it is one of these extensions'.
pub(crate) fn operation(i: &Instruction) -> Option<Operation> {
    let m = i.mnemonic();
    // The string instructions of the same names.
    if matches!(i.code(), Code::Movsd_m32_m32 | Code::Cmpsd_m32_m32) {
        return None;
    }
    let is_mm = |n: u32| n < i.op_count() && i.op_kind(n) == OpKind::Register && i.op_register(n).is_mm();
    let on_xmm = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && i.op_register(n).is_xmm());
    // CVTPS2PI and its like have an MMX register too, and aren't among those.
    if (m == M::Emms || (!on_xmm && (is_mm(0) || is_mm(1))))
        && let Some(operation) = mmx::operation(m)
    {
        return Some(Operation::Mmx(operation));
    }
    integer::operation(m)
        .or_else(|| moves::operation(m))
        .or_else(|| float::operation(m))
        .or_else(|| convert::operation(m))
        .or_else(|| special::operation(m))
}

/// #UD or #NM before an SSE instruction.
#[inline]
pub(crate) fn check(cpu: &mut Vcpu) -> Exec {
    if cpu.r.cr0 & (cr0::EM | cr0::TS) | !cpu.r.cr4 & cr4::OSFXSR == 0 {
        return Ok(());
    }
    if cpu.r.cr0 & cr0::EM != 0 || cpu.r.cr4 & cr4::OSFXSR == 0 {
        return Err(cpu.undefined());
    }
    Err(cpu.raise(vector::NM))
}

/// The number of the XMM register that operand `n` is.
#[inline]
pub(crate) fn xmm(i: &Instruction, n: u32) -> usize {
    (i.op_register(n) as usize).wrapping_sub(Register::XMM0 as usize) & 15
}

/// Reads operand `n`: an XMM register, or memory of up to 16 bytes, zero-extended. Sixteen bytes must be aligned.
#[inline]
pub(crate) fn source(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction, n: u32) -> Exec<u128> {
    if i.op_kind(n) == OpKind::Register {
        return Ok(cpu.r.xmm[xmm(i, n)]);
    }
    let size = i.memory_size().size();
    if size == 16 {
        let linear = cpu.aligned_operand(i, false)?;
        return cpu.load_u128(bus, linear);
    }
    let linear = cpu.memory_operand(i, size, false)?;
    cpu.load_sized(bus, linear, size).map(u128::from)
}

/// Runs a floating-point operation under MXCSR; an unmasked exception raises #XM, or #UD without CR4.OSXMMEXCPT.
#[inline]
pub(crate) fn under_mxcsr<T>(cpu: &mut Vcpu, operation: impl FnOnce(&mut Env) -> T) -> Exec<T> {
    match env::run(&mut cpu.r.mxcsr, operation) {
        Ok(value) => Ok(value),
        Err(env::Unmasked) if cpu.r.cr4 & cr4::OSXMMEXCPT != 0 => Err(cpu.raise(vector::XM)),
        Err(env::Unmasked) => Err(cpu.undefined()),
    }
}

/// Executes an instruction that [`operation`] knows.
#[inline]
pub(crate) fn run(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction, operation: Operation) -> Exec {
    match operation {
        Operation::Mmx(operation) => return mmx::execute(cpu, bus, i, operation),
        Operation::General(f) => return f(cpu, bus, i),
        _ => check(cpu)?,
    }
    let at = xmm(i, 0);
    let result = match operation {
        Operation::Special(f) => return f(cpu, bus, i),
        Operation::Shift(f) => {
            let count = if i.op_kind(1) == OpKind::Immediate8 {
                i.immediate(1)
            } else {
                source(cpu, bus, i, 1)? as u64
            };
            f(cpu.r.xmm[at], count)
        }
        _ => {
            let b = source(cpu, bus, i, 1)?;
            let a = cpu.r.xmm[at];
            match operation {
                Operation::Binary(f) => f(a, b),
                Operation::Unary(f) => f(b),
                Operation::Immediate(f) => f(a, b, i.immediate(2) as u8),
                Operation::Blend(f) => f(a, b, cpu.r.xmm[0]),
                Operation::Float(f) => under_mxcsr(cpu, |e| f(e, a, b))?,
                Operation::Lanes(shape, op) => {
                    under_mxcsr(cpu, |e| crate::engine::simd::packed::apply(e, shape, op, a, b))?
                }
                Operation::LanesImmediate(shape, op) => {
                    let op = op(i.immediate(2) as u8);
                    under_mxcsr(cpu, |e| crate::engine::simd::packed::apply(e, shape, op, a, b))?
                }
                Operation::FloatImmediate(f) => under_mxcsr(cpu, |e| f(e, a, b, i.immediate(2) as u8))?,
                _ => return Err(cpu.undefined()),
            }
        }
    };
    cpu.r.xmm[at] = result;
    Ok(())
}

/// Executes an SSE or MMX instruction; anything else is undefined.
pub(crate) fn execute(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    match operation(i) {
        Some(operation) => run(cpu, bus, i, operation),
        None => Err(cpu.undefined()),
    }
}
