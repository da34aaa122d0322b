//! Fast forms of the instructions that kernels and compilers use most, in 64-bit mode with 64-bit addresses. Each does
//! what [`super::exec`] does for the same instruction; what has no fast form goes there.
//!
//! A form is a function of one instruction, made a [`Handler`] by [`handler!`] for each width and operation; [`lower`]
//! chooses it and fills in the operands.

/// Unwraps a memory access or aborts the instruction.
macro_rules! attempt {
    ($e:expr) => {
        match $e {
            Ok(value) => value,
            Err(_) => return Flow::Abort,
        }
    };
}

/// By operand size, a handler generic over the width.
macro_rules! widths {
    ($size:expr, $f:ident $(, $rest:tt)*) => {
        match $size {
            1 => handler!($f::<u8 $(, $rest)*>),
            2 => handler!($f::<u16 $(, $rest)*>),
            4 => handler!($f::<u32 $(, $rest)*>),
            _ => handler!($f::<u64 $(, $rest)*>),
        }
    };
}

/// By condition code, `$make!(… code)`: a handler generic over the condition.
macro_rules! by_condition {
    ($c:expr, $make:ident, $($args:tt)*) => {
        match $c {
            0 => $make!($($args)* 0),
            1 => $make!($($args)* 1),
            2 => $make!($($args)* 2),
            3 => $make!($($args)* 3),
            4 => $make!($($args)* 4),
            5 => $make!($($args)* 5),
            6 => $make!($($args)* 6),
            7 => $make!($($args)* 7),
            8 => $make!($($args)* 8),
            9 => $make!($($args)* 9),
            10 => $make!($($args)* 10),
            11 => $make!($($args)* 11),
            12 => $make!($($args)* 12),
            13 => $make!($($args)* 13),
            14 => $make!($($args)* 14),
            _ => $make!($($args)* 15),
        }
    };
}

mod arith;
mod branch;
mod moves;
mod sse;

pub(crate) use branch::fuse;

use super::block::{Handler, Op};
use super::exec::operand::{default_segment, gpr_place};
use super::flags::Width;
use super::vcpu::{FS_BASE, GS_BASE, Vcpu, ZERO};
use crate::regs::seg;
use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

#[inline(always)]
fn reg(cpu: &Vcpu, n: u8) -> u64 {
    cpu.gpr[(n & 31) as usize]
}

#[inline(always)]
fn get<T: Width>(cpu: &Vcpu, n: u8) -> T {
    T::from_u64(reg(cpu, n))
}

#[inline(always)]
fn put<T: Width>(cpu: &mut Vcpu, n: u8, value: T) {
    let slot = &mut cpu.gpr[(n & 31) as usize];
    *slot = match T::BYTES {
        8 | 4 => value.to_u64(),
        2 => *slot & !0xffff | value.to_u64(),
        _ => *slot & !0xff | value.to_u64(),
    };
}

#[inline(always)]
fn offset(cpu: &Vcpu, op: &Op) -> u64 {
    reg(cpu, op.base)
        .wrapping_add(reg(cpu, op.index) << (op.scale & 3))
        .wrapping_add(op.disp)
}

#[inline(always)]
fn ea(cpu: &Vcpu, op: &Op) -> u64 {
    offset(cpu, op).wrapping_add(reg(cpu, op.segment))
}

/// A whole or low general register's number; `None` for AH to BH and others.
fn plain(register: Register) -> Option<u8> {
    match gpr_place(register) {
        Some((n, 0, _)) => Some(n as u8),
        _ => None,
    }
}

fn is_register(i: &Instruction, n: u32) -> bool {
    i.op_kind(n) == OpKind::Register
}

/// The register operand `n`, where it has a fast form.
fn register(i: &Instruction, n: u32) -> Option<u8> {
    if is_register(i, n) {
        plain(i.op_register(n))
    } else {
        None
    }
}

fn is_memory(i: &Instruction, n: u32) -> bool {
    i.op_kind(n) == OpKind::Memory
}

fn immediate(i: &Instruction, n: u32) -> Option<u64> {
    match i.op_kind(n) {
        OpKind::Immediate8
        | OpKind::Immediate16
        | OpKind::Immediate32
        | OpKind::Immediate64
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => Some(i.immediate(n)),
        _ => None,
    }
}

/// Fills in the memory operand; `None` for addresses that need the general way.
fn address(op: &mut Op, i: &Instruction) -> Option<()> {
    let (base, index) = (i.memory_base(), i.memory_index());
    op.disp = i.memory_displacement64();
    match base {
        Register::None | Register::RIP => {}
        r if r.is_gpr64() => op.base = plain(r)?,
        _ => return None,
    }
    match index {
        Register::None => {}
        r if r.is_gpr64() => {
            op.index = plain(r)?;
            op.scale = i.memory_index_scale().trailing_zeros() as u8;
        }
        _ => return None,
    }
    if base == Register::None && index == Register::None && i.memory_displ_size() < 4 {
        return None;
    }
    op.segment = match i.memory_segment() {
        Register::FS => FS_BASE as u8,
        Register::GS => GS_BASE as u8,
        _ => ZERO as u8,
    };
    op.stack = op.segment == ZERO as u8 && default_segment(i) == seg::SS;
    Some(())
}

/// A form with a memory operand.
fn memory_op(i: &Instruction, handler: Handler) -> Option<Op> {
    let mut op = Op::new(handler);
    address(&mut op, i)?;
    Some(op)
}

fn size_of(i: &Instruction, n: u32) -> usize {
    Vcpu::operand_size(i, n)
}

/// The fast form of an instruction in 64-bit mode.
pub(crate) fn lower(i: &Instruction) -> Option<Op> {
    if i.has_rep_prefix() && !matches!(i.mnemonic(), M::Ret | M::Nop) {
        return None;
    }
    arith::lower(i)
        .or_else(|| moves::lower(i))
        .or_else(|| branch::lower(i))
        .or_else(|| sse::lower(i))
}
