//! ADD to CMP, TEST, INC, DEC, NEG, NOT, shifts, rotates and multiplications.

use super::{ea, get, immediate, is_memory, is_register, memory_op, put, reg, register, size_of};
use crate::engine::block::{Op, handler};
use crate::engine::bus::Bus;
use crate::engine::exec::Flow;
use crate::engine::exec::arith::{Alu, alu, imul, increment};
use crate::engine::exec::shift::{Shift, by_mnemonic, shift};
use crate::engine::flags::Width;
use crate::engine::vcpu::Vcpu;
use crate::regs::gpr;
use iced_x86::{Instruction, Mnemonic as M};

const fn alu_of(o: u8) -> Alu {
    match o {
        0 => Alu::Add,
        1 => Alu::Or,
        2 => Alu::Adc,
        3 => Alu::Sbb,
        4 => Alu::And,
        5 => Alu::Sub,
        6 => Alu::Xor,
        _ => Alu::Cmp,
    }
}

const fn shift_of(o: u8) -> Shift {
    match o {
        0 => Shift::Rol,
        1 => Shift::Ror,
        2 => Shift::Rcl,
        3 => Shift::Rcr,
        5 => Shift::Shr,
        7 => Shift::Sar,
        _ => Shift::Shl,
    }
}

pub(super) const CMP: u8 = Alu::Cmp as u8;

#[inline(always)]
pub(super) fn alu_rr<T: Width, const O: u8>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let (a, b) = (get::<T>(cpu, op.dst), get::<T>(cpu, op.src));
    let r = alu(&mut cpu.flags, alu_of(O), a, b);
    if O != CMP {
        put(cpu, op.dst, r);
    }
    Flow::Next
}

#[inline(always)]
pub(super) fn alu_ri<T: Width, const O: u8>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let a = get::<T>(cpu, op.dst);
    let r = alu(&mut cpu.flags, alu_of(O), a, T::from_u64(op.imm));
    if O != CMP {
        put(cpu, op.dst, r);
    }
    Flow::Next
}

#[inline(always)]
pub(super) fn alu_rm<T: Width, const O: u8>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let b = attempt!(cpu.load::<T>(bus, ea(cpu, op)));
    let a = get::<T>(cpu, op.dst);
    let r = alu(&mut cpu.flags, alu_of(O), a, b);
    if O != CMP {
        put(cpu, op.dst, r);
    }
    Flow::Next
}

#[inline(always)]
fn alu_memory<T: Width, const O: u8>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op, b: T) -> Flow {
    let linear = ea(cpu, op);
    if O == CMP {
        let a = attempt!(cpu.load::<T>(bus, linear));
        alu(&mut cpu.flags, Alu::Cmp, a, b);
        return Flow::Next;
    }
    let a = attempt!(cpu.load_for_write::<T>(bus, linear));
    let mut flags = cpu.flags;
    let r = alu(&mut flags, alu_of(O), a, b);
    attempt!(cpu.store(bus, linear, r));
    cpu.flags = flags;
    Flow::Next
}

#[inline(always)]
pub(super) fn alu_mr<T: Width, const O: u8>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let b = get::<T>(cpu, op.src);
    alu_memory::<T, O>(cpu, bus, op, b)
}

#[inline(always)]
pub(super) fn alu_mi<T: Width, const O: u8>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    alu_memory::<T, O>(cpu, bus, op, T::from_u64(op.imm))
}

#[inline(always)]
fn zero_register(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    cpu.flags.set_logic(0u64);
    cpu.gpr[(op.dst & 31) as usize] = 0;
    Flow::Next
}

#[inline(always)]
pub(super) fn test_rr<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let r = T::from_u64(reg(cpu, op.dst) & reg(cpu, op.src));
    cpu.flags.set_logic(r);
    Flow::Next
}

#[inline(always)]
pub(super) fn test_ri<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let r = T::from_u64(reg(cpu, op.dst) & op.imm);
    cpu.flags.set_logic(r);
    Flow::Next
}

#[inline(always)]
fn test_mr<T: Width>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let a = attempt!(cpu.load::<T>(bus, ea(cpu, op)));
    cpu.flags.set_logic(T::from_u64(a.to_u64() & reg(cpu, op.src)));
    Flow::Next
}

#[inline(always)]
pub(super) fn test_mi<T: Width>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let a = attempt!(cpu.load::<T>(bus, ea(cpu, op)));
    cpu.flags.set_logic(T::from_u64(a.to_u64() & op.imm));
    Flow::Next
}

#[inline(always)]
pub(super) fn increment_r<T: Width, const DOWN: bool>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let a = get::<T>(cpu, op.dst);
    let r = increment(&mut cpu.flags, a, DOWN);
    put(cpu, op.dst, r);
    Flow::Next
}

#[inline(always)]
fn increment_m<T: Width, const DOWN: bool>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let linear = ea(cpu, op);
    let a = attempt!(cpu.load_for_write::<T>(bus, linear));
    let mut flags = cpu.flags;
    let r = increment(&mut flags, a, DOWN);
    attempt!(cpu.store(bus, linear, r));
    cpu.flags = flags;
    Flow::Next
}

#[inline(always)]
fn neg_r<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let a = get::<T>(cpu, op.dst);
    let r = alu(&mut cpu.flags, Alu::Sub, T::from_u64(0), a);
    put(cpu, op.dst, r);
    Flow::Next
}

#[inline(always)]
fn not_r<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let a = !reg(cpu, op.dst);
    put(cpu, op.dst, T::from_u64(a));
    Flow::Next
}

#[inline(always)]
fn shift_ri<T: Width, const O: u8>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let a = get::<T>(cpu, op.dst);
    let r = shift(&mut cpu.flags, shift_of(O), a, op.imm as u8);
    put(cpu, op.dst, r);
    Flow::Next
}

#[inline(always)]
fn shift_rcl<T: Width, const O: u8>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let a = get::<T>(cpu, op.dst);
    let count = cpu.gpr[gpr::RCX] as u8;
    let r = shift(&mut cpu.flags, shift_of(O), a, count);
    put(cpu, op.dst, r);
    Flow::Next
}

#[inline(always)]
fn imul_rr<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let (a, b) = (get::<T>(cpu, op.dst), get::<T>(cpu, op.src));
    let r = imul(&mut cpu.flags, a, b);
    put(cpu, op.dst, r);
    Flow::Next
}

#[inline(always)]
fn imul_rm<T: Width>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let b = attempt!(cpu.load::<T>(bus, ea(cpu, op)));
    let a = get::<T>(cpu, op.dst);
    let r = imul(&mut cpu.flags, a, b);
    put(cpu, op.dst, r);
    Flow::Next
}

#[inline(always)]
fn imul_rri<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let a = get::<T>(cpu, op.src);
    let r = imul(&mut cpu.flags, a, T::from_u64(op.imm));
    put(cpu, op.dst, r);
    Flow::Next
}

#[inline(always)]
fn mul_r64(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let product = cpu.gpr[gpr::RAX] as u128 * reg(cpu, op.dst) as u128;
    let (low, high) = (product as u64, (product >> 64) as u64);
    cpu.gpr[gpr::RAX] = low;
    cpu.gpr[gpr::RDX] = high;
    cpu.flags.set_result(low, high != 0, high != 0);
    Flow::Next
}

macro_rules! by_alu {
    ($op:expr, $size:expr, $f:ident) => {
        match $op {
            Alu::Add => widths!($size, $f, 0),
            Alu::Or => widths!($size, $f, 1),
            Alu::Adc => widths!($size, $f, 2),
            Alu::Sbb => widths!($size, $f, 3),
            Alu::And => widths!($size, $f, 4),
            Alu::Sub => widths!($size, $f, 5),
            Alu::Xor => widths!($size, $f, 6),
            Alu::Cmp => widths!($size, $f, 7),
        }
    };
}

macro_rules! by_shift {
    ($op:expr, $size:expr, $f:ident) => {
        match $op {
            Shift::Rol => widths!($size, $f, 0),
            Shift::Ror => widths!($size, $f, 1),
            Shift::Rcl => widths!($size, $f, 2),
            Shift::Rcr => widths!($size, $f, 3),
            Shift::Shr => widths!($size, $f, 5),
            Shift::Sar => widths!($size, $f, 7),
            Shift::Shl => widths!($size, $f, 4),
        }
    };
}

fn lower_alu(i: &Instruction, kind: Alu) -> Option<Op> {
    let size = size_of(i, 0);
    if is_memory(i, 0) {
        if let Some(imm) = immediate(i, 1) {
            let mut op = memory_op(i, by_alu!(kind, size, alu_mi))?;
            op.imm = imm;
            return Some(op);
        }
        let src = register(i, 1)?;
        let mut op = memory_op(i, by_alu!(kind, size, alu_mr))?;
        op.src = src;
        return Some(op);
    }
    let dst = register(i, 0)?;
    if is_memory(i, 1) {
        let mut op = memory_op(i, by_alu!(kind, size, alu_rm))?;
        op.dst = dst;
        return Some(op);
    }
    if let Some(imm) = immediate(i, 1) {
        return Some(Op {
            dst,
            imm,
            ..Op::new(by_alu!(kind, size, alu_ri))
        });
    }
    let src = register(i, 1)?;
    if kind == Alu::Xor && src == dst && size >= 4 {
        return Some(Op {
            dst,
            ..Op::new(handler!(zero_register))
        });
    }
    Some(Op {
        dst,
        src,
        ..Op::new(by_alu!(kind, size, alu_rr))
    })
}

fn lower_test(i: &Instruction) -> Option<Op> {
    let size = size_of(i, 0);
    if is_memory(i, 0) {
        if let Some(imm) = immediate(i, 1) {
            let mut op = memory_op(i, widths!(size, test_mi))?;
            op.imm = imm;
            return Some(op);
        }
        let src = register(i, 1)?;
        let mut op = memory_op(i, widths!(size, test_mr))?;
        op.src = src;
        return Some(op);
    }
    let dst = register(i, 0)?;
    if let Some(imm) = immediate(i, 1) {
        return Some(Op {
            dst,
            imm,
            ..Op::new(widths!(size, test_ri))
        });
    }
    Some(Op {
        dst,
        src: register(i, 1)?,
        ..Op::new(widths!(size, test_rr))
    })
}

fn lower_increment(i: &Instruction) -> Option<Op> {
    let size = size_of(i, 0);
    let down = i.mnemonic() == M::Dec;
    if is_memory(i, 0) {
        return memory_op(
            i,
            if down {
                widths!(size, increment_m, true)
            } else {
                widths!(size, increment_m, false)
            },
        );
    }
    let handler = if down {
        widths!(size, increment_r, true)
    } else {
        widths!(size, increment_r, false)
    };
    Some(Op {
        dst: register(i, 0)?,
        ..Op::new(handler)
    })
}

fn lower_shift(i: &Instruction) -> Option<Op> {
    let (dst, size, kind) = (register(i, 0)?, size_of(i, 0), by_mnemonic(i.mnemonic()));
    if let Some(imm) = immediate(i, 1) {
        return Some(Op {
            dst,
            imm,
            ..Op::new(by_shift!(kind, size, shift_ri))
        });
    }
    Some(Op {
        dst,
        ..Op::new(by_shift!(kind, size, shift_rcl))
    })
}

fn lower_imul(i: &Instruction) -> Option<Op> {
    let size = size_of(i, 0);
    if i.op_count() == 1 || size == 1 {
        return None;
    }
    let dst = register(i, 0)?;
    if i.op_count() == 3 {
        let imm = immediate(i, 2)?;
        return Some(Op {
            dst,
            src: register(i, 1)?,
            imm,
            ..Op::new(widths!(size, imul_rri))
        });
    }
    if is_memory(i, 1) {
        let mut op = memory_op(i, widths!(size, imul_rm))?;
        op.dst = dst;
        return Some(op);
    }
    Some(Op {
        dst,
        src: register(i, 1)?,
        ..Op::new(widths!(size, imul_rr))
    })
}

/// The fast form, if the instruction is of this group and has one.
pub(super) fn lower(i: &Instruction) -> Option<Op> {
    match i.mnemonic() {
        M::Add => lower_alu(i, Alu::Add),
        M::Or => lower_alu(i, Alu::Or),
        M::Adc => lower_alu(i, Alu::Adc),
        M::Sbb => lower_alu(i, Alu::Sbb),
        M::And => lower_alu(i, Alu::And),
        M::Sub => lower_alu(i, Alu::Sub),
        M::Xor => lower_alu(i, Alu::Xor),
        M::Cmp => lower_alu(i, Alu::Cmp),
        M::Test => lower_test(i),
        M::Inc | M::Dec => lower_increment(i),
        M::Neg | M::Not => {
            let dst = register(i, 0)?;
            let size = size_of(i, 0);
            let handler = if i.mnemonic() == M::Neg {
                widths!(size, neg_r)
            } else {
                widths!(size, not_r)
            };
            Some(Op {
                dst,
                ..Op::new(handler)
            })
        }
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror => lower_shift(i),
        M::Imul => lower_imul(i),
        M::Mul if is_register(i, 0) && size_of(i, 0) == 8 => Some(Op {
            dst: register(i, 0)?,
            ..Op::new(handler!(mul_r64))
        }),
        _ => None,
    }
}
