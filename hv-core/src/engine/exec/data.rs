//! Moves, exchanges and compare-and-exchanges.

use super::operand::{by_width, segment_index};
use crate::engine::bus::Bus;
use crate::engine::exec::arith::{Alu, alu};
use crate::engine::flags::{Flags, Width};
use crate::engine::vcpu::{Exec, Vcpu};
use crate::regs::{gpr, rflags, seg};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

pub(crate) fn mov(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    if i.op0_kind() == OpKind::Register && i.op0_register().is_segment_register() {
        let index = segment_index(i.op0_register());
        if index == seg::CS {
            return Err(cpu.undefined());
        }
        let selector = super::system::read_selector(cpu, bus, i, 1)?;
        cpu.load_segment(bus, index, selector)?;
        if index == seg::SS {
            cpu.r.interrupt_shadow = true;
        }
        return Ok(());
    }
    if i.op1_kind() == OpKind::Register
        && i.op1_register().is_segment_register()
        && i.op0_kind() == OpKind::Memory
    {
        let linear = cpu.memory_operand(i, 2, true)?;
        let selector = cpu.get_register(i.op1_register());
        return cpu.store_sized(bus, linear, 2, selector);
    }
    let value = cpu.read_operand(bus, i, 1)?;
    cpu.write_operand(bus, i, 0, value)
}

/// LDS, LES, LSS, LFS, LGS.
pub(crate) fn load_far_pointer(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let size = i.op0_register().size();
    let linear = cpu.memory_operand(i, size + 2, false)?;
    let offset = cpu.load_sized(bus, linear, size)?;
    let selector = cpu.load_sized(bus, linear.wrapping_add(size as u64), 2)? as u16;
    let index = match i.mnemonic() {
        Mnemonic::Lds => seg::DS,
        Mnemonic::Les => seg::ES,
        Mnemonic::Lss => seg::SS,
        Mnemonic::Lfs => seg::FS,
        _ => seg::GS,
    };
    cpu.load_segment(bus, index, selector)?;
    cpu.set_register(i.op0_register(), offset);
    Ok(())
}

/// MOVSX, MOVSXD.
pub(crate) fn move_sign_extended(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let value = cpu.read_operand(bus, i, 1)?;
    let value = by_width!(Vcpu::operand_size(i, 1), T => T::from_u64(value).sign_extend());
    cpu.set_register(i.op0_register(), value);
    Ok(())
}

pub(crate) fn move_zero_extended(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let value = cpu.read_operand(bus, i, 1)?;
    cpu.set_register(i.op0_register(), value);
    Ok(())
}

/// CMOVcc: the source is read in any case, and a 32-bit destination is zero-extended in any case.
pub(crate) fn conditional_move(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let value = cpu.read_operand(bus, i, 1)?;
    let taken = cpu
        .flags
        .condition(super::control::condition_code(i.condition_code()));
    let value = if taken {
        value
    } else {
        cpu.get_register(i.op0_register())
    };
    cpu.set_register(i.op0_register(), value);
    Ok(())
}

pub(crate) fn set_on_condition(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let value = cpu
        .flags
        .condition(super::control::condition_code(i.condition_code())) as u64;
    cpu.write_operand(bus, i, 0, value)
}

pub(crate) fn xchg(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let a = cpu.read_operand_for_write(bus, i, 0)?;
    if i.op1_kind() == OpKind::Memory {
        let b = cpu.read_operand_for_write(bus, i, 1)?;
        cpu.write_operand(bus, i, 1, a)?;
        cpu.set_register(i.op0_register(), b);
        return Ok(());
    }
    let b = cpu.get_register(i.op1_register());
    cpu.write_operand(bus, i, 0, b)?;
    cpu.set_register(i.op1_register(), a);
    Ok(())
}

pub(crate) fn xadd(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let a = cpu.read_operand_for_write(bus, i, 0)?;
    let b = cpu.get_register(i.op1_register());
    let mut flags = cpu.flags;
    let sum = by_width!(Vcpu::operand_size(i, 0), T => alu::<T>(&mut flags, Alu::Add, T::from_u64(a), T::from_u64(b)).to_u64());
    if i.op0_kind() == OpKind::Memory {
        cpu.write_operand(bus, i, 0, sum)?;
        cpu.set_register(i.op1_register(), a);
    } else {
        cpu.set_register(i.op1_register(), a);
        cpu.set_register(i.op0_register(), sum);
    }
    cpu.flags = flags;
    Ok(())
}

/// CMPXCHG: the destination is written in any case.
pub(crate) fn cmpxchg(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let size = Vcpu::operand_size(i, 0);
    let accumulator = match size {
        1 => Register::AL,
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    };
    let old = cpu.read_operand_for_write(bus, i, 0)?;
    let expected = cpu.get_register(accumulator);
    let new = cpu.get_register(i.op1_register());
    let equal = old == expected;
    let memory = i.op0_kind() == OpKind::Memory;
    if equal {
        cpu.write_operand(bus, i, 0, new)?;
    } else {
        if memory {
            cpu.write_operand(bus, i, 0, old)?;
        }
        cpu.set_register(accumulator, old);
    }
    by_width!(size, T => {
        alu::<T>(&mut cpu.flags, Alu::Cmp, T::from_u64(expected), T::from_u64(old));
    });
    Ok(())
}

/// CMPXCHG8B and CMPXCHG16B.
pub(crate) fn cmpxchg_pair(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let wide = i.mnemonic() == Mnemonic::Cmpxchg16b;
    let size = if wide { 8 } else { 4 };
    let linear = if wide {
        cpu.aligned_operand(i, true)?
    } else {
        cpu.memory_operand(i, 8, true)?
    };
    cpu.check_alignment(linear, 2 * size)?;
    cpu.check_writable(bus, linear, 2 * size)?;
    let low = cpu.load_sized(bus, linear, size)?;
    let high = cpu.load_sized(bus, linear.wrapping_add(size as u64), size)?;
    let m = if wide { u64::MAX } else { 0xffff_ffff };
    let equal = low == cpu.gpr[gpr::RAX] & m && high == cpu.gpr[gpr::RDX] & m;
    let (new_low, new_high) = if equal {
        (cpu.gpr[gpr::RBX] & m, cpu.gpr[gpr::RCX] & m)
    } else {
        (low, high)
    };
    let mut bytes = [0; 16];
    bytes[..size].copy_from_slice(&new_low.to_le_bytes()[..size]);
    bytes[size..2 * size].copy_from_slice(&new_high.to_le_bytes()[..size]);
    cpu.store_bytes(bus, linear, &bytes[..2 * size])?;
    if !equal {
        cpu.gpr[gpr::RAX] = low;
        cpu.gpr[gpr::RDX] = high;
    }
    let f = cpu.flags.to_rflags() & !rflags::ZF | if equal { rflags::ZF } else { 0 };
    cpu.flags = Flags::from_rflags(f);
    Ok(())
}

pub(crate) fn bswap(cpu: &mut Vcpu, i: &Instruction) {
    let r = i.op0_register();
    let value = cpu.get_register(r);
    let swapped = match r.size() {
        8 => value.swap_bytes(),
        4 => (value as u32).swap_bytes() as u64,
        // Undefined for 16 bits; real CPUs give zero.
        _ => 0,
    };
    cpu.set_register(r, swapped);
}

pub(crate) fn movbe(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let value = cpu.read_operand(bus, i, 1)?;
    let size = Vcpu::operand_size(i, 0);
    let swapped = value.swap_bytes() >> (64 - 8 * size as u32);
    cpu.write_operand(bus, i, 0, swapped)
}

pub(crate) fn xlat(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let base = i.memory_base();
    let address = cpu.get_register(base).wrapping_add(cpu.gpr[gpr::RAX] & 0xff);
    let address = cpu.wrap_address(i, address);
    let linear = cpu.linear(cpu.memory_segment(i), address, 1, false)?;
    let value = cpu.load_sized(bus, linear, 1)?;
    cpu.set_register(Register::AL, value);
    Ok(())
}

/// LAHF, SAHF, CLC, STC, CMC, CLD, STD, SALC, CLAC, STAC.
pub(crate) fn flag(cpu: &mut Vcpu, i: &Instruction) -> Exec {
    match i.mnemonic() {
        Mnemonic::Lahf => {
            let f = cpu.flags.to_rflags() & 0xff | 2;
            cpu.set_register(Register::AH, f);
        }
        Mnemonic::Sahf => {
            let low = cpu.get_register(Register::AH) & 0xd5;
            let f = cpu.flags.to_rflags() & rflags::OF | low;
            cpu.flags = Flags::from_rflags(f);
        }
        Mnemonic::Clc => cpu.flags.set_cf(false),
        Mnemonic::Stc => cpu.flags.set_cf(true),
        Mnemonic::Cmc => {
            let cf = cpu.flags.cf();
            cpu.flags.set_cf(!cf);
        }
        Mnemonic::Cld => cpu.rflags &= !rflags::DF,
        Mnemonic::Std => cpu.rflags |= rflags::DF,
        Mnemonic::Salc => {
            let value = if cpu.flags.cf() { 0xff } else { 0 };
            cpu.set_register(Register::AL, value);
        }
        m => {
            if cpu.cpl != 0 {
                return Err(cpu.undefined());
            }
            if m == Mnemonic::Stac {
                cpu.rflags |= rflags::AC;
            } else {
                cpu.rflags &= !rflags::AC;
            }
            cpu.update_mode();
        }
    }
    Ok(())
}
