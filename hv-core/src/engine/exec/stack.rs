//! Pushes and pops, at the width of the stack segment.

use super::operand::by_width;
use crate::engine::bus::Bus;
use crate::engine::flags::Width;
use crate::engine::vcpu::{Exec, Mode, Vcpu, vector};
use crate::regs::{gpr, rflags, seg};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

impl Vcpu {
    /// The bits of RSP that a push uses.
    pub(crate) fn stack_mask(&self) -> u64 {
        if self.mode == Mode::Long {
            u64::MAX
        } else if self.protected() && self.mode != Mode::Virtual8086 && self.r.segments[seg::SS].default_big()
        {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// Replaces the part of RSP that the stack uses.
    pub(crate) fn set_stack_pointer(&mut self, value: u64) {
        let m = self.stack_mask();
        let old = self.gpr[gpr::RSP];
        self.gpr[gpr::RSP] = match m {
            u64::MAX => value,
            0xffff_ffff => value & m,
            _ => (old & !m) | (value & m),
        };
    }

    /// Pushes `size` bytes.
    pub(crate) fn push(&mut self, bus: &mut Bus, value: u64, size: usize) -> Exec {
        let sp = self.gpr[gpr::RSP].wrapping_sub(size as u64) & self.stack_mask();
        let linear = self.linear(seg::SS, sp, size, true)?;
        self.store_sized(bus, linear, size, value)?;
        self.set_stack_pointer(sp);
        Ok(())
    }

    /// Reads `size` bytes at `offset` above the stack pointer.
    pub(crate) fn peek(&mut self, bus: &mut Bus, offset: u64, size: usize) -> Exec<u64> {
        let sp = self.gpr[gpr::RSP].wrapping_add(offset) & self.stack_mask();
        let linear = self.linear(seg::SS, sp, size, false)?;
        self.load_sized(bus, linear, size)
    }

    /// Pops `size` bytes.
    pub(crate) fn pop(&mut self, bus: &mut Bus, size: usize) -> Exec<u64> {
        let value = self.peek(bus, 0, size)?;
        self.set_stack_pointer(self.gpr[gpr::RSP].wrapping_add(size as u64));
        Ok(value)
    }
}

/// The bytes an instruction pushes or pops.
pub(crate) fn size_of_stack_operation(i: &Instruction) -> usize {
    i.stack_pointer_increment().unsigned_abs() as usize
}

pub(crate) fn push(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let size = size_of_stack_operation(i);
    let value = cpu.read_operand(bus, i, 0)?;
    cpu.push(bus, value, size)
}

pub(crate) fn pop(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let size = size_of_stack_operation(i);
    let sp = cpu.gpr[gpr::RSP];
    if i.op0_kind() == OpKind::Register && i.op0_register().is_segment_register() {
        let value = cpu.peek(bus, 0, size)?;
        let index = super::operand::segment_index(i.op0_register());
        cpu.load_segment(bus, index, value as u16)?;
        cpu.set_stack_pointer(sp.wrapping_add(size as u64));
        if index == seg::SS {
            cpu.r.interrupt_shadow = true;
        }
        return Ok(());
    }
    let value = cpu.pop(bus, size)?;
    // The address of a memory destination is computed with the incremented stack pointer.
    let result = cpu.write_operand(bus, i, 0, value);
    if result.is_err() {
        cpu.gpr[gpr::RSP] = sp;
    }
    result
}

/// PUSHA and POPA; outside 64-bit mode only.
pub(crate) fn all_registers(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let size = size_of_stack_operation(i) / 8;
    let pop = matches!(i.mnemonic(), Mnemonic::Popa | Mnemonic::Popad);
    if pop {
        let mut values = [0; 8];
        for (k, value) in values.iter_mut().enumerate() {
            *value = cpu.peek(bus, (k * size) as u64, size)?;
        }
        for (k, value) in values.iter().enumerate() {
            let n = 7 - k;
            if n != gpr::RSP {
                by_width!(size, T => {
                    let keep = if size == 2 { cpu.gpr[n] & !0xffff } else { 0 };
                    cpu.gpr[n] = keep | T::from_u64(*value).to_u64();
                });
            }
        }
        cpu.set_stack_pointer(cpu.gpr[gpr::RSP].wrapping_add(8 * size as u64));
    } else {
        let sp = cpu.gpr[gpr::RSP];
        for n in 0..8 {
            let value = if n == gpr::RSP { sp } else { cpu.gpr[n] };
            if let Err(abort) = cpu.push(bus, value, size) {
                cpu.gpr[gpr::RSP] = sp;
                return Err(abort);
            }
        }
    }
    Ok(())
}

/// PUSHF: VM and RF read as zero.
pub(crate) fn push_flags(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    if cpu.mode == Mode::Virtual8086 && cpu.rflags & rflags::IOPL != rflags::IOPL {
        return Err(cpu.general_protection());
    }
    let value = cpu.rflags() & !(rflags::VM | rflags::RF);
    cpu.push(bus, value, size_of_stack_operation(i))
}

/// POPF: which flags change depends on CPL and IOPL (SDM vol. 2, POPF).
pub(crate) fn pop_flags(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let iopl = (cpu.rflags >> 12 & 3) as u8;
    if cpu.mode == Mode::Virtual8086 && iopl < 3 {
        return Err(cpu.general_protection());
    }
    let size = size_of_stack_operation(i);
    let value = cpu.pop(bus, size)?;
    let mut change =
        rflags::STATUS | rflags::TF | rflags::DF | rflags::NT | rflags::RF | rflags::AC | rflags::ID;
    if cpu.cpl == 0 {
        change |= rflags::IOPL;
    }
    if cpu.cpl <= iopl || !cpu.protected() {
        change |= rflags::IF;
    }
    if size == 2 {
        change &= 0xffff;
    }
    let new = (cpu.rflags() & !change) | (value & change & !rflags::RF);
    let new = if size == 2 { new } else { new & !rflags::RF };
    cpu.set_rflags(new);
    Ok(())
}

/// ENTER and LEAVE.
pub(crate) fn enter(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let size = match i.mnemonic() {
        Mnemonic::Enter if cpu.mode == Mode::Long => {
            if i.code() == iced_x86::Code::Enterw_imm16_imm8 {
                2
            } else {
                8
            }
        }
        _ => match i.code() {
            iced_x86::Code::Enterw_imm16_imm8 => 2,
            _ => 4,
        },
    };
    let (allocate, level) = (i.immediate16() as u64, i.immediate8_2nd() as u64 & 31);
    let (sp, bp) = (cpu.gpr[gpr::RSP], cpu.gpr[gpr::RBP]);
    let m = cpu.stack_mask();
    let body = |cpu: &mut Vcpu, bus: &mut Bus| -> Exec {
        cpu.push(bus, bp, size)?;
        let frame = cpu.gpr[gpr::RSP];
        for k in 1..level {
            let at = bp.wrapping_sub(k * size as u64) & m;
            let linear = cpu.linear(seg::SS, at, size, false)?;
            let value = cpu.load_sized(bus, linear, size)?;
            cpu.push(bus, value, size)?;
        }
        if level > 0 {
            cpu.push(bus, frame, size)?;
        }
        cpu.set_stack_pointer(cpu.gpr[gpr::RSP].wrapping_sub(allocate));
        let at = cpu.gpr[gpr::RSP] & m;
        let linear = cpu.linear(seg::SS, at, size, true)?;
        cpu.check_alignment(linear, size)?;
        cpu.check_writable(bus, linear, size)?;
        cpu.gpr[gpr::RBP] = match size {
            2 => bp & !0xffff | frame & 0xffff,
            4 => frame & 0xffff_ffff,
            _ => frame,
        };
        Ok(())
    };
    let result = body(cpu, bus);
    if result.is_err() {
        cpu.gpr[gpr::RSP] = sp;
    }
    result
}

pub(crate) fn leave(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let size = match i.code() {
        iced_x86::Code::Leavew => 2,
        iced_x86::Code::Leaved => 4,
        _ => 8,
    };
    let bp = cpu.gpr[gpr::RBP] & cpu.stack_mask();
    let linear = cpu.linear(seg::SS, bp, size, false)?;
    let value = cpu.load_sized(bus, linear, size)?;
    cpu.set_stack_pointer(bp.wrapping_add(size as u64));
    cpu.set_register(
        match size {
            2 => Register::BP,
            4 => Register::EBP,
            _ => Register::RBP,
        },
        value,
    );
    Ok(())
}

/// BOUND.
pub(crate) fn bound(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let size = i.op0_register().size();
    let linear = cpu.memory_operand(i, 2 * size, false)?;
    let low = cpu.load_sized(bus, linear, size)?;
    let high = cpu.load_sized(bus, linear.wrapping_add(size as u64), size)?;
    let index = cpu.get_register(i.op0_register());
    let outside = by_width!(size, T => {
        let signed = |v: u64| T::from_u64(v).sign_extend() as i64;
        signed(index) < signed(low) || signed(index) > signed(high)
    });
    if outside {
        Err(cpu.raise(vector::BR))
    } else {
        Ok(())
    }
}
