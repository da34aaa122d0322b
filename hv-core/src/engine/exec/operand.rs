//! Operands of a decoded instruction, in any mode: registers, immediates, and memory through segmentation.

use crate::engine::bus::Bus;
use crate::engine::flags::Width;
use crate::engine::mmu::is_canonical;
use crate::engine::vcpu::{Abort, Exec, Mode, Vcpu, vector};
use crate::regs::{Segment, seg};
use iced_x86::{Instruction, OpKind, Register};

/// Runs an expression with `$t` bound to the unsigned type of `$size` bytes.
macro_rules! by_width {
    ($size:expr, $t:ident => $body:expr) => {
        match $size {
            1 => {
                type $t = u8;
                $body
            }
            2 => {
                type $t = u16;
                $body
            }
            4 => {
                type $t = u32;
                $body
            }
            _ => {
                type $t = u64;
                $body
            }
        }
    };
}
pub(crate) use by_width;

/// Number, first bit and bytes of a general register.
pub(crate) fn gpr_place(register: Register) -> Option<(usize, u32, usize)> {
    let r = register as usize;
    let within = |base: Register, count: usize| {
        let first = base as usize;
        (r >= first && r < first + count).then(|| r - first)
    };
    if let Some(n) = within(Register::AL, 4) {
        return Some((n, 0, 1));
    }
    if let Some(n) = within(Register::AH, 4) {
        return Some((n, 8, 1));
    }
    if let Some(n) = within(Register::SPL, 12) {
        return Some((n + 4, 0, 1));
    }
    if let Some(n) = within(Register::AX, 16) {
        return Some((n, 0, 2));
    }
    if let Some(n) = within(Register::EAX, 16) {
        return Some((n, 0, 4));
    }
    within(Register::RAX, 16).map(|n| (n, 0, 8))
}

/// The index of a segment register in encoding order.
pub(crate) fn segment_index(register: Register) -> usize {
    match register {
        Register::ES => seg::ES,
        Register::CS => seg::CS,
        Register::SS => seg::SS,
        Register::FS => seg::FS,
        Register::GS => seg::GS,
        _ => seg::DS,
    }
}

fn mask(size: usize) -> u64 {
    if size >= 8 {
        u64::MAX
    } else {
        (1 << (8 * size)) - 1
    }
}

impl Vcpu {
    /// A general register, zero-extended.
    pub(crate) fn get_register(&self, register: Register) -> u64 {
        match gpr_place(register) {
            Some((n, shift, size)) => (self.gpr[n] >> shift) & mask(size),
            None => match register {
                Register::EIP => self.rip & 0xffff_ffff,
                Register::RIP => self.rip,
                Register::ES | Register::CS | Register::SS | Register::DS | Register::FS | Register::GS => {
                    self.r.segments[segment_index(register)].selector as u64
                }
                _ => 0,
            },
        }
    }

    /// Writes a general register; a 32-bit write clears the upper half.
    pub(crate) fn set_register(&mut self, register: Register, value: u64) {
        if let Some((n, shift, size)) = gpr_place(register) {
            let m = mask(size) << shift;
            self.gpr[n] = if size == 4 {
                value & m
            } else {
                (self.gpr[n] & !m) | ((value << shift) & m)
            };
        }
    }

    /// Bytes of operand `n`.
    pub(crate) fn operand_size(i: &Instruction, n: u32) -> usize {
        match i.op_kind(n) {
            OpKind::Register => i.op_register(n).size(),
            OpKind::Immediate8 | OpKind::Immediate8_2nd => 1,
            OpKind::Immediate16 | OpKind::Immediate8to16 => 2,
            OpKind::Immediate32 | OpKind::Immediate8to32 => 4,
            OpKind::Immediate64 | OpKind::Immediate8to64 | OpKind::Immediate32to64 => 8,
            _ => i.memory_size().size(),
        }
    }

    /// Reads operand `n`, zero-extended from its size.
    pub(crate) fn read_operand(&mut self, bus: &mut Bus, i: &Instruction, n: u32) -> Exec<u64> {
        match i.op_kind(n) {
            OpKind::Register => Ok(self.get_register(i.op_register(n))),
            OpKind::Memory => {
                let size = i.memory_size().size();
                let linear = self.memory_operand(i, size, false)?;
                self.load_sized(bus, linear, size)
            }
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => Ok(i.near_branch_target()),
            _ => Ok(i.immediate(n)),
        }
    }

    /// Reads operand `n`, which the instruction writes too.
    pub(crate) fn read_operand_for_write(&mut self, bus: &mut Bus, i: &Instruction, n: u32) -> Exec<u64> {
        if i.op_kind(n) == OpKind::Memory {
            let size = i.memory_size().size();
            let linear = self.memory_operand(i, size, true)?;
            by_width!(size, T => self.load_for_write::<T>(bus, linear).map(Width::to_u64))
        } else {
            Ok(self.get_register(i.op_register(n)))
        }
    }

    /// Writes operand `n`.
    pub(crate) fn write_operand(&mut self, bus: &mut Bus, i: &Instruction, n: u32, value: u64) -> Exec {
        if i.op_kind(n) == OpKind::Memory {
            let size = i.memory_size().size();
            let linear = self.memory_operand(i, size, true)?;
            self.store_sized(bus, linear, size, value)
        } else {
            self.set_register(i.op_register(n), value);
            Ok(())
        }
    }

    pub(crate) fn load_sized(&mut self, bus: &mut Bus, linear: u64, size: usize) -> Exec<u64> {
        by_width!(size, T => self.load::<T>(bus, linear).map(Width::to_u64))
    }

    pub(crate) fn store_sized(&mut self, bus: &mut Bus, linear: u64, size: usize, value: u64) -> Exec {
        by_width!(size, T => self.store::<T>(bus, linear, T::from_u64(value)))
    }

    /// The offset part of the memory operand, wrapped at the address size.
    pub(crate) fn effective_address(&self, i: &Instruction) -> u64 {
        let base = i.memory_base();
        if base == Register::RIP || base == Register::EIP {
            let address = i.memory_displacement64();
            return if base == Register::EIP {
                address & 0xffff_ffff
            } else {
                address
            };
        }
        let index = i.memory_index();
        let mut address = i.memory_displacement64();
        let mut bits = 64;
        if base != Register::None {
            address = address.wrapping_add(self.get_register(base));
            bits = 8 * base.size();
        }
        if index != Register::None {
            address = address.wrapping_add(
                self.get_register(index)
                    .wrapping_mul(i.memory_index_scale() as u64),
            );
            bits = 8 * index.size();
        }
        if base == Register::None && index == Register::None {
            bits = match i.memory_displ_size() {
                2 => 16,
                4 => 32,
                _ => 64,
            };
            if self.mode != Mode::Long && bits == 64 {
                bits = 32;
            }
            // A 32-bit displacement in 64-bit mode is sign-extended; a 67h prefix truncates.
            if self.mode == Mode::Long && bits == 32 {
                return i.memory_displacement64();
            }
        }
        match bits {
            16 => address & 0xffff,
            32 => address & 0xffff_ffff,
            _ => address,
        }
    }

    /// The segment of the memory operand. In 64-bit mode a CS, DS, ES or SS prefix is ignored: it doesn't even turn a #GP
    /// into an #SS (SDM vol. 1, 3.3.7.1).
    pub(crate) fn memory_segment(&self, i: &Instruction) -> usize {
        let ignored = self.mode == Mode::Long
            && matches!(
                i.segment_prefix(),
                Register::ES | Register::CS | Register::SS | Register::DS
            );
        if ignored {
            default_segment(i)
        } else {
            segment_index(i.memory_segment())
        }
    }

    /// The linear address of the memory operand, for an access of `size` bytes.
    pub(crate) fn memory_operand(&mut self, i: &Instruction, size: usize, write: bool) -> Exec<u64> {
        let offset = self.effective_address(i);
        self.linear(self.memory_segment(i), offset, size, write)
    }

    /// The linear address of a memory operand of 16 bytes that must be aligned: if it isn't, that is a #GP whatever else is
    /// wrong with it.
    pub(crate) fn aligned_operand(&mut self, i: &Instruction, write: bool) -> Exec<u64> {
        let segment = self.memory_segment(i);
        let base = if self.mode == Mode::Long && segment < seg::FS {
            0
        } else {
            self.r.segments[segment].base
        };
        if base.wrapping_add(self.effective_address(i)) & 15 != 0 {
            return Err(self.general_protection());
        }
        self.memory_operand(i, 16, write)
    }

    /// Segmentation: checks an access and gives its linear address (SDM vol. 3A, 3.4, 5.3 and 5.4).
    pub(crate) fn linear(&mut self, segment: usize, offset: u64, size: usize, write: bool) -> Exec<u64> {
        if self.mode == Mode::Long {
            let base = if segment >= seg::FS {
                self.r.segments[segment].base
            } else {
                0
            };
            let linear = base.wrapping_add(offset);
            if !is_canonical(linear) || !is_canonical(linear.wrapping_add(size as u64 - 1)) {
                return Err(self.segment_fault(segment));
            }
            return Ok(linear);
        }
        let s = &self.r.segments[segment];
        if self.protected() && self.mode != Mode::Virtual8086 && !access_allowed(s, write) {
            return Err(self.segment_fault(segment));
        }
        let last = offset.wrapping_add(size as u64 - 1);
        let limit = s.limit as u64;
        let expand_down = s.is_code_or_data() && s.kind() & 0xc == 4 && self.protected();
        let inside = if expand_down {
            let top = if s.default_big() { 0xffff_ffff } else { 0xffff };
            offset > limit && last <= top
        } else {
            last <= limit && last >= offset
        };
        let linear = s.base.wrapping_add(offset) & 0xffff_ffff;
        if !inside {
            return Err(self.segment_fault(segment));
        }
        Ok(linear)
    }

    fn segment_fault(&mut self, segment: usize) -> Abort {
        self.raise_error(
            if segment == seg::SS {
                vector::SS
            } else {
                vector::GP
            },
            0,
        )
    }
}

/// The segment of a memory operand without a prefix.
pub(crate) fn default_segment(i: &Instruction) -> usize {
    match i.memory_base() {
        Register::RSP | Register::RBP | Register::ESP | Register::EBP => seg::SS,
        _ => seg::DS,
    }
}

fn access_allowed(s: &Segment, write: bool) -> bool {
    if s.unusable() || !s.present() {
        return false;
    }
    let code = s.kind() & 8 != 0;
    if write {
        !code && s.kind() & 2 != 0
    } else {
        !code || s.kind() & 2 != 0
    }
}
