//! Fast forms of the instructions that kernels and compilers use most, in 64-bit mode with 64-bit addresses. Each does
//! what [`super::exec`] does for the same instruction; what has no fast form goes there.

mod sse;

use super::block::{Handler, Op};
use super::bus::Bus;
use super::exec::Flow;
use super::exec::arith::{Alu, alu, imul, increment};
use super::exec::control::condition_code;
use super::exec::operand::{default_segment, gpr_place};
use super::exec::shift::{Shift, by_mnemonic, shift};
use super::flags::Width;
use super::mmu::is_canonical;
use super::vcpu::{FS_BASE, GS_BASE, Vcpu, ZERO};
use crate::regs::{gpr, seg};
use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

/// Unwraps a memory access or aborts the instruction.
macro_rules! attempt {
    ($e:expr) => {
        match $e {
            Ok(value) => value,
            Err(_) => return Flow::Abort,
        }
    };
}

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
    reg(cpu, op.base).wrapping_add(reg(cpu, op.index) << (op.scale & 3)).wrapping_add(op.disp)
}

#[inline(always)]
fn ea(cpu: &Vcpu, op: &Op) -> u64 {
    offset(cpu, op).wrapping_add(reg(cpu, op.segment))
}

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

const CMP: u8 = Alu::Cmp as u8;

fn alu_rr<T: Width, const O: u8>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let (a, b) = (get::<T>(cpu, op.dst), get::<T>(cpu, op.src));
    let r = alu(&mut cpu.flags, alu_of(O), a, b);
    if O != CMP {
        put(cpu, op.dst, r);
    }
    Flow::Next
}

fn alu_ri<T: Width, const O: u8>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let a = get::<T>(cpu, op.dst);
    let r = alu(&mut cpu.flags, alu_of(O), a, T::from_u64(op.imm));
    if O != CMP {
        put(cpu, op.dst, r);
    }
    Flow::Next
}

fn alu_rm<T: Width, const O: u8>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
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

fn alu_mr<T: Width, const O: u8>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let b = get::<T>(cpu, op.src);
    alu_memory::<T, O>(cpu, bus, op, b)
}

fn alu_mi<T: Width, const O: u8>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    alu_memory::<T, O>(cpu, bus, op, T::from_u64(op.imm))
}

fn zero_register(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    cpu.flags.set_logic(0u64);
    cpu.gpr[(op.dst & 31) as usize] = 0;
    Flow::Next
}

fn test_rr<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let r = T::from_u64(reg(cpu, op.dst) & reg(cpu, op.src));
    cpu.flags.set_logic(r);
    Flow::Next
}

fn test_ri<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let r = T::from_u64(reg(cpu, op.dst) & op.imm);
    cpu.flags.set_logic(r);
    Flow::Next
}

fn test_mr<T: Width>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let a = attempt!(cpu.load::<T>(bus, ea(cpu, op)));
    cpu.flags.set_logic(T::from_u64(a.to_u64() & reg(cpu, op.src)));
    Flow::Next
}

fn test_mi<T: Width>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let a = attempt!(cpu.load::<T>(bus, ea(cpu, op)));
    cpu.flags.set_logic(T::from_u64(a.to_u64() & op.imm));
    Flow::Next
}

fn mov_rr<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let v = get::<T>(cpu, op.src);
    put(cpu, op.dst, v);
    Flow::Next
}

fn mov_ri<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    put(cpu, op.dst, T::from_u64(op.imm));
    Flow::Next
}

fn mov_rm<T: Width>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let v = attempt!(cpu.load::<T>(bus, ea(cpu, op)));
    put(cpu, op.dst, v);
    Flow::Next
}

/// A load through one base register without index and segment: the commonest address.
fn mov_rm_base<T: Width>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let v = attempt!(cpu.load::<T>(bus, reg(cpu, op.base).wrapping_add(op.disp)));
    put(cpu, op.dst, v);
    Flow::Next
}

fn mov_mr<T: Width>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let v = get::<T>(cpu, op.src);
    attempt!(cpu.store(bus, ea(cpu, op), v));
    Flow::Next
}

fn mov_mr_base<T: Width>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let v = get::<T>(cpu, op.src);
    attempt!(cpu.store(bus, reg(cpu, op.base).wrapping_add(op.disp), v));
    Flow::Next
}

fn mov_mi<T: Width>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    attempt!(cpu.store(bus, ea(cpu, op), T::from_u64(op.imm)));
    Flow::Next
}

fn extend_rr<S: Width, D: Width, const SIGNED: bool>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let v = get::<S>(cpu, op.src);
    put(cpu, op.dst, D::from_u64(if SIGNED { v.sign_extend() } else { v.to_u64() }));
    Flow::Next
}

fn extend_rm<S: Width, D: Width, const SIGNED: bool>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let v = attempt!(cpu.load::<S>(bus, ea(cpu, op)));
    put(cpu, op.dst, D::from_u64(if SIGNED { v.sign_extend() } else { v.to_u64() }));
    Flow::Next
}

fn lea<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let v = T::from_u64(offset(cpu, op));
    put(cpu, op.dst, v);
    Flow::Next
}

fn increment_r<T: Width, const DOWN: bool>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let a = get::<T>(cpu, op.dst);
    let r = increment(&mut cpu.flags, a, DOWN);
    put(cpu, op.dst, r);
    Flow::Next
}

fn increment_m<T: Width, const DOWN: bool>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let linear = ea(cpu, op);
    let a = attempt!(cpu.load_for_write::<T>(bus, linear));
    let mut flags = cpu.flags;
    let r = increment(&mut flags, a, DOWN);
    attempt!(cpu.store(bus, linear, r));
    cpu.flags = flags;
    Flow::Next
}

fn neg_r<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let a = get::<T>(cpu, op.dst);
    let r = alu(&mut cpu.flags, Alu::Sub, T::from_u64(0), a);
    put(cpu, op.dst, r);
    Flow::Next
}

fn not_r<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let a = !reg(cpu, op.dst);
    put(cpu, op.dst, T::from_u64(a));
    Flow::Next
}

fn shift_ri<T: Width, const O: u8>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let a = get::<T>(cpu, op.dst);
    let r = shift(&mut cpu.flags, shift_of(O), a, op.imm as u8);
    put(cpu, op.dst, r);
    Flow::Next
}

fn shift_rcl<T: Width, const O: u8>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let a = get::<T>(cpu, op.dst);
    let count = cpu.gpr[gpr::RCX] as u8;
    let r = shift(&mut cpu.flags, shift_of(O), a, count);
    put(cpu, op.dst, r);
    Flow::Next
}

fn imul_rr<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let (a, b) = (get::<T>(cpu, op.dst), get::<T>(cpu, op.src));
    let r = imul(&mut cpu.flags, a, b);
    put(cpu, op.dst, r);
    Flow::Next
}

fn imul_rm<T: Width>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let b = attempt!(cpu.load::<T>(bus, ea(cpu, op)));
    let a = get::<T>(cpu, op.dst);
    let r = imul(&mut cpu.flags, a, b);
    put(cpu, op.dst, r);
    Flow::Next
}

fn imul_rri<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let a = get::<T>(cpu, op.src);
    let r = imul(&mut cpu.flags, a, T::from_u64(op.imm));
    put(cpu, op.dst, r);
    Flow::Next
}

fn mul_r64(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let product = cpu.gpr[gpr::RAX] as u128 * reg(cpu, op.dst) as u128;
    let (low, high) = (product as u64, (product >> 64) as u64);
    cpu.gpr[gpr::RAX] = low;
    cpu.gpr[gpr::RDX] = high;
    cpu.flags.set_result(low, high != 0, high != 0);
    Flow::Next
}

fn push_r(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let sp = cpu.gpr[gpr::RSP].wrapping_sub(8);
    let v = reg(cpu, op.src);
    attempt!(cpu.store::<u64>(bus, sp, v));
    cpu.gpr[gpr::RSP] = sp;
    Flow::Next
}

fn push_i(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let sp = cpu.gpr[gpr::RSP].wrapping_sub(8);
    attempt!(cpu.store::<u64>(bus, sp, op.imm));
    cpu.gpr[gpr::RSP] = sp;
    Flow::Next
}

fn pop_r(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let sp = cpu.gpr[gpr::RSP];
    let v = attempt!(cpu.load::<u64>(bus, sp));
    cpu.gpr[gpr::RSP] = sp.wrapping_add(8);
    cpu.gpr[(op.dst & 31) as usize] = v;
    Flow::Next
}

fn leave(cpu: &mut Vcpu, bus: &mut Bus, _: &Op) -> Flow {
    let sp = cpu.gpr[gpr::RBP];
    let v = attempt!(cpu.load::<u64>(bus, sp));
    cpu.gpr[gpr::RSP] = sp.wrapping_add(8);
    cpu.gpr[gpr::RBP] = v;
    Flow::Next
}

fn call_i(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let sp = cpu.gpr[gpr::RSP].wrapping_sub(8);
    attempt!(cpu.store::<u64>(bus, sp, op.disp));
    cpu.gpr[gpr::RSP] = sp;
    cpu.rip = op.imm;
    Flow::Branch
}

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

fn jmp_i(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    cpu.rip = op.imm;
    Flow::Branch
}

fn jcc<const C: u8>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    cpu.rip = if cpu.flags.condition(C) { op.imm } else { op.disp };
    Flow::Branch
}

fn setcc<const C: u8>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let v = cpu.flags.condition(C) as u8;
    put(cpu, op.dst, v);
    Flow::Next
}

fn cmov_rr<T: Width, const C: u8>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let n = if cpu.flags.condition(C) { op.src } else { op.dst };
    let v = get::<T>(cpu, n);
    put(cpu, op.dst, v);
    Flow::Next
}

fn nop(_: &mut Vcpu, _: &mut Bus, _: &Op) -> Flow {
    Flow::Next
}

fn cdqe(cpu: &mut Vcpu, _: &mut Bus, _: &Op) -> Flow {
    cpu.gpr[gpr::RAX] = cpu.gpr[gpr::RAX] as i32 as u64;
    Flow::Next
}

fn bswap<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let v = reg(cpu, op.dst).swap_bytes() >> (64 - T::BITS);
    put(cpu, op.dst, T::from_u64(v));
    Flow::Next
}

fn bt_ri<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let bit = reg(cpu, op.dst) >> (op.imm & (T::BITS as u64 - 1)) & 1 != 0;
    cpu.flags.set_cf(bit);
    Flow::Next
}

fn bt_rr<T: Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let bit = reg(cpu, op.dst) >> (reg(cpu, op.src) & (T::BITS as u64 - 1)) & 1 != 0;
    cpu.flags.set_cf(bit);
    Flow::Next
}

/// By operand size, a handler generic over the width.
macro_rules! widths {
    ($size:expr, $f:ident) => {
        match $size {
            1 => $f::<u8> as Handler,
            2 => $f::<u16>,
            4 => $f::<u32>,
            _ => $f::<u64>,
        }
    };
    ($size:expr, $f:ident, $($rest:tt),+) => {
        match $size {
            1 => $f::<u8, $($rest),+> as Handler,
            2 => $f::<u16, $($rest),+>,
            4 => $f::<u32, $($rest),+>,
            _ => $f::<u64, $($rest),+>,
        }
    };
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
            Shift::Shl | Shift::Sal => widths!($size, $f, 4),
        }
    };
}

macro_rules! by_condition {
    ($c:expr, $f:ident) => {
        by_condition!(@ $c, $f, )
    };
    ($c:expr, $f:ident, $t:ty) => {
        by_condition!(@ $c, $f, $t,)
    };
    (@ $c:expr, $f:ident, $($t:ty,)?) => {
        match $c {
            0 => $f::<$($t,)? 0> as Handler,
            1 => $f::<$($t,)? 1>,
            2 => $f::<$($t,)? 2>,
            3 => $f::<$($t,)? 3>,
            4 => $f::<$($t,)? 4>,
            5 => $f::<$($t,)? 5>,
            6 => $f::<$($t,)? 6>,
            7 => $f::<$($t,)? 7>,
            8 => $f::<$($t,)? 8>,
            9 => $f::<$($t,)? 9>,
            10 => $f::<$($t,)? 10>,
            11 => $f::<$($t,)? 11>,
            12 => $f::<$($t,)? 12>,
            13 => $f::<$($t,)? 13>,
            14 => $f::<$($t,)? 14>,
            _ => $f::<$($t,)? 15>,
        }
    };
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
    if is_register(i, n) { plain(i.op_register(n)) } else { None }
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
        M::Mov => lower_mov(i),
        M::Movzx => lower_extend(i, false),
        M::Movsx | M::Movsxd => lower_extend(i, true),
        M::Lea => {
            let dst = register(i, 0)?;
            let mut op = memory_op(i, widths!(size_of(i, 0), lea))?;
            op.dst = dst;
            Some(op)
        }
        M::Inc | M::Dec => lower_increment(i),
        M::Neg | M::Not => {
            let dst = register(i, 0)?;
            let size = size_of(i, 0);
            let handler = if i.mnemonic() == M::Neg { widths!(size, neg_r) } else { widths!(size, not_r) };
            Some(Op { dst, ..Op::new(handler) })
        }
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror => lower_shift(i),
        M::Imul => lower_imul(i),
        M::Mul if is_register(i, 0) && size_of(i, 0) == 8 => {
            Some(Op { dst: register(i, 0)?, ..Op::new(mul_r64) })
        }
        M::Push => lower_push(i),
        M::Pop if is_register(i, 0) && i.op0_register().is_gpr64() => {
            Some(Op { dst: register(i, 0)?, stack: true, ..Op::new(pop_r) })
        }
        M::Leave if i.code() == iced_x86::Code::Leaveq => Some(Op { stack: true, ..Op::new(leave) }),
        M::Call if i.op0_kind() == OpKind::NearBranch64 && i.code() == iced_x86::Code::Call_rel32_64 => {
            let target = i.near_branch_target();
            is_canonical(target)
                .then(|| Op { imm: target, disp: i.next_ip(), stack: true, ..Op::new(call_i) })
        }
        M::Ret if i.code() == iced_x86::Code::Retnq => Some(Op { stack: true, ..Op::new(ret) }),
        M::Jmp if i.op0_kind() == OpKind::NearBranch64 => {
            let target = i.near_branch_target();
            is_canonical(target).then(|| Op { imm: target, ..Op::new(jmp_i) })
        }
        M::Nop | M::Endbr64 | M::Endbr32 | M::Prefetcht0 | M::Prefetchnta | M::Prefetchw | M::Lfence | M::Mfence
        | M::Sfence => Some(Op::new(nop)),
        M::Cdqe => Some(Op::new(cdqe)),
        M::Bswap if size_of(i, 0) >= 4 => {
            let dst = register(i, 0)?;
            Some(Op { dst, ..Op::new(widths!(size_of(i, 0), bswap)) })
        }
        M::Bt if is_register(i, 0) => {
            let (dst, size) = (register(i, 0)?, size_of(i, 0));
            if let Some(imm) = immediate(i, 1) {
                return Some(Op { dst, imm, ..Op::new(widths!(size, bt_ri)) });
            }
            Some(Op { dst, src: register(i, 1)?, ..Op::new(widths!(size, bt_rr)) })
        }
        _ if i.is_jcc_short_or_near() => {
            let (target, next) = (i.near_branch_target(), i.next_ip());
            let c = condition_code(i.condition_code());
            (i.op0_kind() == OpKind::NearBranch64 && is_canonical(target) && is_canonical(next))
                .then(|| Op { imm: target, disp: next, ..Op::new(by_condition!(c, jcc)) })
        }
        m if (M::Cmova as u32..=M::Cmovs as u32).contains(&(m as u32)) => {
            let c = condition_code(i.condition_code());
            let (dst, src) = (register(i, 0)?, register(i, 1)?);
            let handler = match size_of(i, 0) {
                2 => by_condition!(c, cmov_rr, u16),
                4 => by_condition!(c, cmov_rr, u32),
                _ => by_condition!(c, cmov_rr, u64),
            };
            Some(Op { dst, src, ..Op::new(handler) })
        }
        m if (M::Seta as u32..=M::Sets as u32).contains(&(m as u32))
            && i.condition_code() != iced_x86::ConditionCode::None =>
        {
            let c = condition_code(i.condition_code());
            Some(Op { dst: register(i, 0)?, ..Op::new(by_condition!(c, setcc)) })
        }
        _ => sse::lower(i),
    }
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
        return Some(Op { dst, imm, ..Op::new(by_alu!(kind, size, alu_ri)) });
    }
    let src = register(i, 1)?;
    if kind == Alu::Xor && src == dst && size >= 4 {
        return Some(Op { dst, ..Op::new(zero_register) });
    }
    Some(Op { dst, src, ..Op::new(by_alu!(kind, size, alu_rr)) })
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
        return Some(Op { dst, imm, ..Op::new(widths!(size, test_ri)) });
    }
    Some(Op { dst, src: register(i, 1)?, ..Op::new(widths!(size, test_rr)) })
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
        return Some(Op { dst, imm, ..Op::new(widths!(size, mov_ri)) });
    }
    Some(Op { dst, src: register(i, 1)?, ..Op::new(widths!(size, mov_rr)) })
}

macro_rules! extensions {
    ($from:expr, $to:expr, $signed:tt, $f:ident) => {
        match ($from, $to) {
            (1, 2) => $f::<u8, u16, $signed> as Handler,
            (1, 4) => $f::<u8, u32, $signed>,
            (1, 8) => $f::<u8, u64, $signed>,
            (2, 4) => $f::<u16, u32, $signed>,
            (2, 8) => $f::<u16, u64, $signed>,
            (4, 8) => $f::<u32, u64, $signed>,
            _ => return None,
        }
    };
}

fn lower_extend(i: &Instruction, signed: bool) -> Option<Op> {
    let (from, to) = (size_of(i, 1), size_of(i, 0));
    let dst = register(i, 0)?;
    if is_memory(i, 1) {
        let handler =
            if signed { extensions!(from, to, true, extend_rm) } else { extensions!(from, to, false, extend_rm) };
        let mut op = memory_op(i, handler)?;
        op.dst = dst;
        return Some(op);
    }
    let src = register(i, 1)?;
    let handler =
        if signed { extensions!(from, to, true, extend_rr) } else { extensions!(from, to, false, extend_rr) };
    Some(Op { dst, src, ..Op::new(handler) })
}

fn lower_increment(i: &Instruction) -> Option<Op> {
    let size = size_of(i, 0);
    let down = i.mnemonic() == M::Dec;
    if is_memory(i, 0) {
        return memory_op(
            i,
            if down { widths!(size, increment_m, true) } else { widths!(size, increment_m, false) },
        );
    }
    let handler = if down { widths!(size, increment_r, true) } else { widths!(size, increment_r, false) };
    Some(Op { dst: register(i, 0)?, ..Op::new(handler) })
}

fn lower_shift(i: &Instruction) -> Option<Op> {
    let (dst, size, kind) = (register(i, 0)?, size_of(i, 0), by_mnemonic(i.mnemonic()));
    if let Some(imm) = immediate(i, 1) {
        return Some(Op { dst, imm, ..Op::new(by_shift!(kind, size, shift_ri)) });
    }
    Some(Op { dst, ..Op::new(by_shift!(kind, size, shift_rcl)) })
}

fn lower_imul(i: &Instruction) -> Option<Op> {
    let size = size_of(i, 0);
    if i.op_count() == 1 || size == 1 {
        return None;
    }
    let dst = register(i, 0)?;
    if i.op_count() == 3 {
        let imm = immediate(i, 2)?;
        return Some(Op { dst, src: register(i, 1)?, imm, ..Op::new(widths!(size, imul_rri)) });
    }
    if is_memory(i, 1) {
        let mut op = memory_op(i, widths!(size, imul_rm))?;
        op.dst = dst;
        return Some(op);
    }
    Some(Op { dst, src: register(i, 1)?, ..Op::new(widths!(size, imul_rr)) })
}

fn lower_push(i: &Instruction) -> Option<Op> {
    if i.stack_pointer_increment() != -8 {
        return None;
    }
    if is_register(i, 0) && i.op0_register().is_gpr64() {
        return Some(Op { src: register(i, 0)?, stack: true, ..Op::new(push_r) });
    }
    immediate(i, 0).map(|imm| Op { imm, stack: true, ..Op::new(push_i) })
}
