//! Jumps, calls, returns and NOPs, and comparisons that take the conditional branch after them along.

use super::arith::{CMP, alu_mi, alu_mr, alu_ri, alu_rm, alu_rr, increment_r, test_mi, test_ri, test_rr};
use super::{immediate, is_memory, size_of};
use crate::engine::block::{Handler, Op, handler};
use crate::engine::bus::Bus;
use crate::engine::exec::Flow;
use crate::engine::exec::control::condition_code;
use crate::engine::mmu::is_canonical;
use crate::engine::vcpu::Vcpu;
use crate::regs::gpr;
use iced_x86::{Instruction, Mnemonic as M, OpKind};

#[inline(always)]
fn call_i(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let sp = cpu.gpr[gpr::RSP].wrapping_sub(8);
    attempt!(cpu.store::<u64>(bus, sp, op.disp));
    cpu.gpr[gpr::RSP] = sp;
    cpu.rip = op.imm;
    Flow::Branch
}

#[inline(always)]
fn ret(cpu: &mut Vcpu, bus: &mut Bus, _: &Op) -> Flow {
    let sp = cpu.gpr[gpr::RSP];
    let target = attempt!(cpu.load::<u64>(bus, sp));
    if !is_canonical(target) {
        let _ = cpu.general_protection();
        return Flow::Abort;
    }
    cpu.gpr[gpr::RSP] = sp.wrapping_add(8);
    cpu.rip = target;
    Flow::Branch
}

#[inline(always)]
fn jmp_i(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    cpu.rip = op.imm;
    Flow::Branch
}

#[inline(always)]
fn jcc<const C: u8>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    cpu.rip = if cpu.flags.condition(C) { op.imm } else { op.disp };
    Flow::Branch
}

#[inline(always)]
fn nop(_: &mut Vcpu, _: &mut Bus, _: &Op) -> Flow {
    Flow::Next
}

macro_rules! jcc_handler {
    ($c:tt) => {
        handler!(jcc::<$c>)
    };
}

/// A comparison that goes on with the conditional branch after it; alone if the run ends between them.
macro_rules! fused_handler {
    ($f:ident, $t:ty, ($($rest:tt)*), $c:tt) => {{
        fn fused(cpu: &mut Vcpu, bus: &mut Bus, op: &Op, rest: &[Op]) -> Flow {
            match $f::<$t $($rest)*>(cpu, bus, op) {
                Flow::Next => match rest.first() {
                    Some(branch) => {
                        cpu.rip = if cpu.flags.condition($c) { branch.imm } else { branch.disp };
                        Flow::Branch
                    }
                    None => Flow::Next,
                },
                flow => {
                    cpu.stopped_at = op.number;
                    flow
                }
            }
        }
        fused as Handler
    }};
}

macro_rules! fused_widths {
    ($size:expr, $c:expr, $f:ident, ($($rest:tt)*)) => {
        match $size {
            1 => by_condition!($c, fused_handler, $f, u8, ($($rest)*),),
            4 => by_condition!($c, fused_handler, $f, u32, ($($rest)*),),
            8 => by_condition!($c, fused_handler, $f, u64, ($($rest)*),),
            _ => return None,
        }
    };
}

/// The handler of `first` when the conditional branch `second` follows it: both in one.
pub(crate) fn fuse(first: &Instruction, second: &Instruction, branch: &Op) -> Option<Handler> {
    if !second.is_jcc_short_or_near() || branch.instruction.is_some() || first.has_lock_prefix() {
        return None;
    }
    // Only where the first has a fast form of its own.
    super::lower(first)?;
    let c = condition_code(second.condition_code());
    let size = size_of(first, 0);
    let (memory, immediate) = (is_memory(first, 0), immediate(first, 1).is_some());
    Some(match first.mnemonic() {
        M::Cmp if memory && immediate => fused_widths!(size, c, alu_mi, (, CMP)),
        M::Cmp if memory => fused_widths!(size, c, alu_mr, (, CMP)),
        M::Cmp if is_memory(first, 1) => fused_widths!(size, c, alu_rm, (, CMP)),
        M::Cmp if immediate => fused_widths!(size, c, alu_ri, (, CMP)),
        M::Cmp => fused_widths!(size, c, alu_rr, (, CMP)),
        M::Test if memory && immediate => fused_widths!(size, c, test_mi, ()),
        M::Test if !memory && immediate => fused_widths!(size, c, test_ri, ()),
        M::Test if !memory => fused_widths!(size, c, test_rr, ()),
        M::Dec if !memory && matches!(c, 4 | 5) => fused_widths!(size, c, increment_r, (, true)),
        M::Sub if !memory && immediate && matches!(c, 4 | 5) => fused_widths!(size, c, alu_ri, (, 5)),
        M::Add if !memory && immediate && matches!(c, 4 | 5) => fused_widths!(size, c, alu_ri, (, 0)),
        M::And if !memory && immediate && matches!(c, 4 | 5) => fused_widths!(size, c, alu_ri, (, 4)),
        _ => return None,
    })
}

/// The fast form, if the instruction is of this group and has one.
pub(super) fn lower(i: &Instruction) -> Option<Op> {
    match i.mnemonic() {
        M::Call if i.code() == iced_x86::Code::Call_rel32_64 => {
            let target = i.near_branch_target();
            is_canonical(target).then(|| Op {
                imm: target,
                disp: i.next_ip(),
                stack: true,
                ..Op::new(handler!(call_i))
            })
        }
        M::Ret if i.code() == iced_x86::Code::Retnq => Some(Op {
            stack: true,
            ..Op::new(handler!(ret))
        }),
        M::Jmp if i.op0_kind() == OpKind::NearBranch64 => {
            let target = i.near_branch_target();
            is_canonical(target).then(|| Op {
                imm: target,
                ..Op::new(handler!(jmp_i))
            })
        }
        M::Nop
        | M::Endbr64
        | M::Endbr32
        | M::Prefetcht0
        | M::Prefetchnta
        | M::Prefetchw
        | M::Lfence
        | M::Mfence
        | M::Sfence => Some(Op::new(handler!(nop))),
        _ if i.is_jcc_short_or_near() => {
            let (target, next) = (i.near_branch_target(), i.next_ip());
            let c = condition_code(i.condition_code());
            (i.op0_kind() == OpKind::NearBranch64 && is_canonical(target) && is_canonical(next)).then(|| Op {
                imm: target,
                disp: next,
                ..Op::new(by_condition!(c, jcc_handler,))
            })
        }
        _ => None,
    }
}
