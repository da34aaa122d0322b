//! Moves, extensions, conditional moves and sets, stack operations, and single-register oddments.

use super::{ea, get, immediate, is_memory, is_register, memory_op, offset, put, reg, register, size_of};
use crate::engine::block::{Op, handler};
use crate::engine::bus::Bus;
use crate::engine::exec::Flow;
use crate::engine::exec::control::condition_code;
use crate::engine::flags::Width;
use crate::engine::vcpu::{Vcpu, ZERO};
use crate::regs::gpr;
use iced_x86::{Instruction, Mnemonic as M};

#[inline(always)]
fn mov_rr<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let v = get::<T>(cpu, op.src);
    put(cpu, op.dst, v);
    Flow::Next
}

#[inline(always)]
fn mov_ri<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    put(cpu, op.dst, T::from_u64(op.imm));
    Flow::Next
}

#[inline(always)]
fn mov_rm<T: Width>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let v = attempt!(cpu.load::<T>(bus, ea(cpu, op)));
    put(cpu, op.dst, v);
    Flow::Next
}

/// A load through one base register without index and segment: the commonest address.
#[inline(always)]
fn mov_rm_base<T: Width>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let v = attempt!(cpu.load::<T>(bus, reg(cpu, op.base).wrapping_add(op.disp)));
    put(cpu, op.dst, v);
    Flow::Next
}

#[inline(always)]
fn mov_mr<T: Width>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let v = get::<T>(cpu, op.src);
    attempt!(cpu.store(bus, ea(cpu, op), v));
    Flow::Next
}

#[inline(always)]
fn mov_mr_base<T: Width>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let v = get::<T>(cpu, op.src);
    attempt!(cpu.store(bus, reg(cpu, op.base).wrapping_add(op.disp), v));
    Flow::Next
}

#[inline(always)]
fn mov_mi<T: Width>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    attempt!(cpu.store(bus, ea(cpu, op), T::from_u64(op.imm)));
    Flow::Next
}

#[inline(always)]
fn extend_rr<S: Width, D: Width, const SIGNED: bool>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let v = get::<S>(cpu, op.src);
    put(
        cpu,
        op.dst,
        D::from_u64(if SIGNED { v.sign_extend() } else { v.to_u64() }),
    );
    Flow::Next
}

#[inline(always)]
fn extend_rm<S: Width, D: Width, const SIGNED: bool>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let v = attempt!(cpu.load::<S>(bus, ea(cpu, op)));
    put(
        cpu,
        op.dst,
        D::from_u64(if SIGNED { v.sign_extend() } else { v.to_u64() }),
    );
    Flow::Next
}

#[inline(always)]
fn lea<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let v = T::from_u64(offset(cpu, op));
    put(cpu, op.dst, v);
    Flow::Next
}

#[inline(always)]
fn setcc<const C: u8>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let v = cpu.flags.condition(C) as u8;
    put(cpu, op.dst, v);
    Flow::Next
}

#[inline(always)]
fn cmov_rr<T: Width, const C: u8>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let n = if cpu.flags.condition(C) { op.src } else { op.dst };
    let v = get::<T>(cpu, n);
    put(cpu, op.dst, v);
    Flow::Next
}

#[inline(always)]
fn cdqe(cpu: &mut Vcpu, _: &mut Bus, _: &Op) -> Flow {
    cpu.gpr[gpr::RAX] = cpu.gpr[gpr::RAX] as i32 as u64;
    Flow::Next
}

#[inline(always)]
fn bswap<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let v = reg(cpu, op.dst).swap_bytes() >> (64 - T::BITS);
    put(cpu, op.dst, T::from_u64(v));
    Flow::Next
}

#[inline(always)]
fn bt_ri<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let bit = reg(cpu, op.dst) >> (op.imm & (T::BITS as u64 - 1)) & 1 != 0;
    cpu.flags.set_cf(bit);
    Flow::Next
}

#[inline(always)]
fn bt_rr<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let bit = reg(cpu, op.dst) >> (reg(cpu, op.src) & (T::BITS as u64 - 1)) & 1 != 0;
    cpu.flags.set_cf(bit);
    Flow::Next
}

#[inline(always)]
fn push_r(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let sp = cpu.gpr[gpr::RSP].wrapping_sub(8);
    let v = reg(cpu, op.src);
    attempt!(cpu.store::<u64>(bus, sp, v));
    cpu.gpr[gpr::RSP] = sp;
    Flow::Next
}

#[inline(always)]
fn push_i(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let sp = cpu.gpr[gpr::RSP].wrapping_sub(8);
    attempt!(cpu.store::<u64>(bus, sp, op.imm));
    cpu.gpr[gpr::RSP] = sp;
    Flow::Next
}

#[inline(always)]
fn pop_r(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let sp = cpu.gpr[gpr::RSP];
    let v = attempt!(cpu.load::<u64>(bus, sp));
    cpu.gpr[gpr::RSP] = sp.wrapping_add(8);
    cpu.gpr[(op.dst & 31) as usize] = v;
    Flow::Next
}

#[inline(always)]
fn leave(cpu: &mut Vcpu, bus: &mut Bus, _: &Op) -> Flow {
    let sp = cpu.gpr[gpr::RBP];
    let v = attempt!(cpu.load::<u64>(bus, sp));
    cpu.gpr[gpr::RSP] = sp.wrapping_add(8);
    cpu.gpr[gpr::RBP] = v;
    Flow::Next
}

macro_rules! setcc_handler {
    ($c:tt) => {
        handler!(setcc::<$c>)
    };
}

macro_rules! cmov_handler {
    ($t:ty, $c:tt) => {
        handler!(cmov_rr::<$t, $c>)
    };
}

macro_rules! extensions {
    ($from:expr, $to:expr, $signed:tt, $f:ident) => {
        match ($from, $to) {
            (1, 2) => handler!($f::<u8, u16, $signed>),
            (1, 4) => handler!($f::<u8, u32, $signed>),
            (1, 8) => handler!($f::<u8, u64, $signed>),
            (2, 4) => handler!($f::<u16, u32, $signed>),
            (2, 8) => handler!($f::<u16, u64, $signed>),
            (4, 8) => handler!($f::<u32, u64, $signed>),
            _ => return None,
        }
    };
}

fn lower_mov(i: &Instruction) -> Option<Op> {
    let size = size_of(i, 0);
    if is_memory(i, 0) {
        if let Some(imm) = immediate(i, 1) {
            let mut op = memory_op(i, widths!(size, mov_mi))?;
            op.imm = imm;
            return Some(op);
        }
        let src = register(i, 1)?;
        let mut op = memory_op(i, widths!(size, mov_mr))?;
        if op.index == ZERO as u8 && op.segment == ZERO as u8 {
            op.handler = widths!(size, mov_mr_base);
        }
        op.src = src;
        return Some(op);
    }
    let dst = register(i, 0)?;
    if is_memory(i, 1) {
        let mut op = memory_op(i, widths!(size, mov_rm))?;
        if op.index == ZERO as u8 && op.segment == ZERO as u8 {
            op.handler = widths!(size, mov_rm_base);
        }
        op.dst = dst;
        return Some(op);
    }
    if let Some(imm) = immediate(i, 1) {
        return Some(Op {
            dst,
            imm,
            ..Op::new(widths!(size, mov_ri))
        });
    }
    Some(Op {
        dst,
        src: register(i, 1)?,
        ..Op::new(widths!(size, mov_rr))
    })
}

fn lower_extend(i: &Instruction, signed: bool) -> Option<Op> {
    let (from, to) = (size_of(i, 1), size_of(i, 0));
    let dst = register(i, 0)?;
    if is_memory(i, 1) {
        let handler = if signed {
            extensions!(from, to, true, extend_rm)
        } else {
            extensions!(from, to, false, extend_rm)
        };
        let mut op = memory_op(i, handler)?;
        op.dst = dst;
        return Some(op);
    }
    let src = register(i, 1)?;
    let handler = if signed {
        extensions!(from, to, true, extend_rr)
    } else {
        extensions!(from, to, false, extend_rr)
    };
    Some(Op {
        dst,
        src,
        ..Op::new(handler)
    })
}

fn lower_push(i: &Instruction) -> Option<Op> {
    if i.stack_pointer_increment() != -8 {
        return None;
    }
    if is_register(i, 0) && i.op0_register().is_gpr64() {
        return Some(Op {
            src: register(i, 0)?,
            stack: true,
            ..Op::new(handler!(push_r))
        });
    }
    immediate(i, 0).map(|imm| Op {
        imm,
        stack: true,
        ..Op::new(handler!(push_i))
    })
}

/// The fast form, if the instruction is of this group and has one.
pub(super) fn lower(i: &Instruction) -> Option<Op> {
    match i.mnemonic() {
        M::Mov => lower_mov(i),
        M::Movzx => lower_extend(i, false),
        M::Movsx | M::Movsxd => lower_extend(i, true),
        M::Lea => {
            let dst = register(i, 0)?;
            let mut op = memory_op(i, widths!(size_of(i, 0), lea))?;
            op.dst = dst;
            Some(op)
        }
        M::Push => lower_push(i),
        M::Pop if is_register(i, 0) && i.op0_register().is_gpr64() => Some(Op {
            dst: register(i, 0)?,
            stack: true,
            ..Op::new(handler!(pop_r))
        }),
        M::Leave if i.code() == iced_x86::Code::Leaveq => Some(Op {
            stack: true,
            ..Op::new(handler!(leave))
        }),
        M::Cdqe => Some(Op::new(handler!(cdqe))),
        M::Bswap if size_of(i, 0) >= 4 => {
            let dst = register(i, 0)?;
            Some(Op {
                dst,
                ..Op::new(widths!(size_of(i, 0), bswap))
            })
        }
        M::Bt if is_register(i, 0) => {
            let (dst, size) = (register(i, 0)?, size_of(i, 0));
            if let Some(imm) = immediate(i, 1) {
                return Some(Op {
                    dst,
                    imm,
                    ..Op::new(widths!(size, bt_ri))
                });
            }
            Some(Op {
                dst,
                src: register(i, 1)?,
                ..Op::new(widths!(size, bt_rr))
            })
        }
        m if (M::Cmova as u32..=M::Cmovs as u32).contains(&(m as u32)) => {
            let c = condition_code(i.condition_code());
            let (dst, src) = (register(i, 0)?, register(i, 1)?);
            let handler = match size_of(i, 0) {
                2 => by_condition!(c, cmov_handler, u16,),
                4 => by_condition!(c, cmov_handler, u32,),
                _ => by_condition!(c, cmov_handler, u64,),
            };
            Some(Op {
                dst,
                src,
                ..Op::new(handler)
            })
        }
        m if (M::Seta as u32..=M::Sets as u32).contains(&(m as u32))
            && i.condition_code() != iced_x86::ConditionCode::None =>
        {
            let c = condition_code(i.condition_code());
            Some(Op {
                dst: register(i, 0)?,
                ..Op::new(by_condition!(c, setcc_handler,))
            })
        }
        _ => None,
    }
}
