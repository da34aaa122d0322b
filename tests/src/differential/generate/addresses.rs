//! Memory operands: an address worth accessing, and a form that leads there.

use super::{Builder, gpr64};
use crate::differential::layout::{CODE, DATA, READ_ONLY, STACK};
use iced_x86::{Instruction, MemorySize, Mnemonic as M, OpKind, Register};

/// Whether a memory operand must be aligned to its size (SSE's legacy forms).
fn wants_alignment(size: usize) -> bool {
    size >= 16
}

impl Builder {
    /// Points RSI or RDI at something; true for a 32-bit address in 64-bit mode or always in 32-bit mode.
    pub(super) fn string_pointer(&mut self, i: &Instruction, register: usize, n: u32, long: bool) -> bool {
        // Both pointers of an instruction have one address size.
        let before = (0..n).find_map(|k| match i.op_kind(k) {
            OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::MemorySegEDI => Some(true),
            OpKind::MemorySegRSI | OpKind::MemoryESRDI | OpKind::MemorySegRDI => Some(false),
            _ => None,
        });
        let narrow = before.unwrap_or_else(|| !long || self.rng.chance(15));
        let size = i.memory_size().size().max(1);
        let mut target = self.target(size);
        let second = matches!(i.mnemonic(), M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq) && register == 6;
        if second || matches!(i.mnemonic(), M::Maskmovq | M::Maskmovdqu) {
            // Which operand of CMPS is read first, and whether a masked byte may fault, is the CPU's own affair.
            target = DATA.start + 0x800 + self.rng.below(0x100) * 8;
        }
        if narrow && long {
            target = target & 0xffff_ffff | self.rng.bits() << 32;
        }
        self.force(register, target);
        narrow
    }

    /// An address worth accessing.
    pub(super) fn target(&mut self, size: usize) -> u64 {
        let size = size.max(1) as u64;
        let aligned = if wants_alignment(size as usize) { 88 } else { 50 };
        let align = if self.rng.chance(aligned) {
            size.next_power_of_two().min(64)
        } else {
            1
        };
        let into = |rng: &mut super::Rng, start: u64, length: u64| {
            start + (rng.below(length - size.min(length - 1)) & !(align - 1))
        };
        let across = |rng: &mut super::Rng, border: u64| border - rng.below(size + 1);
        // A fault ends a sequence: there they are rare.
        let kinds = if self.last || self.rng.chance(10) { 100 } else { 82 };
        match self.rng.below(kinds) {
            0..72 => into(&mut self.rng, DATA.start + 0x800, 0x1000),
            72..82 => across(&mut self.rng, DATA.start + 0x1000),
            82..86 => into(&mut self.rng, READ_ONLY.start, READ_ONLY.len() as u64),
            86..89 => across(&mut self.rng, READ_ONLY.start),
            89..91 => across(&mut self.rng, READ_ONLY.end()),
            91..93 => across(&mut self.rng, DATA.start),
            93..95 => into(&mut self.rng, STACK.start, STACK.len() as u64),
            95 => into(&mut self.rng, CODE.start, CODE.len() as u64),
            96 => self.rng.below(0x1_0000),
            97 if self.bits == 64 => across(&mut self.rng, 1 << 47),
            98 if self.bits == 64 => 0xffff_8000_0000_0000 - self.rng.below(size + 1),
            _ if self.bits == 64 => self.rng.bits(),
            _ => self.rng.bits() & 0xffff_ffff,
        }
    }

    /// Makes operand `n` a memory operand.
    pub(super) fn memory_operand(&mut self, i: &mut Instruction, n: u32, absolute: bool) -> Option<()> {
        i.set_op_kind(n, OpKind::Memory);
        let size = match i.memory_size() {
            MemorySize::Unknown => 8,
            size => size.size().min(512),
        };
        let mut target = self.target(size);
        let indirect = matches!(i.mnemonic(), M::Call | M::Jmp);
        if size >= 10 && size != 16 || indirect || is_far_pointer(i.memory_size()) {
            // Where in a large operand a fault is met first is the CPU's own affair, and whether a CALL's push or its
            // target is.
            target = DATA.start + 0x800 + self.rng.below(0x40) * 16;
        }
        self.prepare_memory(i, target);
        target = self.segment(i, target);
        if absolute {
            let narrow = self.bits == 32 || self.rng.chance(20);
            i.set_memory_displ_size(if narrow { 4 } else { 8 });
            i.set_memory_displacement64(if narrow { target & 0xffff_ffff } else { target });
            return Some(());
        }
        if self.bits == 32 {
            self.address_32(i, target)
        } else {
            self.address_64(i, target)
        }
    }

    /// Chooses a segment prefix; the offset in that segment that is `target`.
    fn segment(&mut self, i: &mut Instruction, target: u64) -> u64 {
        // (The AMD host checks the offset for canonical form before it adds the base.)
        if !self.rng.chance(12) || target >> 47 != 0 {
            return target;
        }
        let segment = if self.rng.chance(70) {
            self.rng.pick(&[Register::FS, Register::GS])
        } else {
            self.rng
                .pick(&[Register::ES, Register::CS, Register::SS, Register::DS])
        };
        let base = match segment {
            Register::FS => self.fs_base,
            Register::GS => self.gs_base,
            _ => Some(0),
        };
        match base {
            Some(base) => {
                i.set_segment_prefix(segment);
                target.wrapping_sub(base)
            }
            None => target,
        }
    }

    fn scale(&mut self) -> u32 {
        self.rng.pick(&[1, 2, 4, 8])
    }

    fn displacement(&mut self) -> i64 {
        match self.rng.below(4) {
            0 => 0,
            1 => self.rng.bits() as i8 as i64,
            2 => self.rng.interesting() as i8 as i64,
            _ => self.rng.bits() as i32 as i64,
        }
    }

    /// A base register that is not `not`.
    fn base_register(&mut self, i: &Instruction, not: Option<usize>) -> usize {
        let far_call = i.is_call_far_indirect();
        loop {
            let number = self.rng.below(self.registers()) as usize;
            // Not RSP for a far call: which mode's stack it pushes to is not the same everywhere.
            if Some(number) != not && (number != 4 || (!far_call && self.rng.chance(20))) {
                return number;
            }
        }
    }

    fn address_64(&mut self, i: &mut Instruction, target: u64) -> Option<()> {
        let reachable = target as i64 == target as i32 as i64;
        let form = self.rng.below(100);
        i.set_memory_displ_size(1);
        match form {
            0..15 if reachable => {
                i.set_memory_base(Register::RIP);
                i.set_memory_displ_size(8);
                i.set_memory_displacement64(target);
            }
            15..22 if reachable => {
                i.set_memory_displ_size(8);
                i.set_memory_displacement64(target);
            }
            22..32 if target >> 32 == 0 => {
                // A 32-bit address.
                let (index, scale, displacement) = (self.index(), self.scale(), self.displacement() as i32);
                let base = self.base_register(i, index);
                let mut rest = (target as u32).wrapping_sub(displacement as u32);
                if let Some(index) = index {
                    rest = rest.wrapping_sub((self.value_of(index) as u32).wrapping_mul(scale));
                    i.set_memory_index(Register::EAX + index as u32);
                    i.set_memory_index_scale(scale);
                }
                let high = self.rng.bits() << 32;
                self.force(base, high | rest as u64);
                i.set_memory_base(Register::EAX + base as u32);
                i.set_memory_displacement64(displacement as u32 as u64);
            }
            _ => {
                let (index, scale, displacement) = (self.index(), self.scale(), self.displacement());
                let base = self.base_register(i, index);
                let mut rest = target.wrapping_sub(displacement as u64);
                if let Some(index) = index {
                    rest = rest.wrapping_sub(self.value_of(index).wrapping_mul(scale as u64));
                    i.set_memory_index(gpr64(index));
                    i.set_memory_index_scale(scale);
                }
                self.force(base, rest);
                i.set_memory_base(gpr64(base));
                i.set_memory_displacement64(displacement as u64);
            }
        }
        Some(())
    }

    fn address_32(&mut self, i: &mut Instruction, target: u64) -> Option<()> {
        i.set_memory_displ_size(1);
        let target = target as u32;
        if self.rng.chance(15) {
            i.set_memory_displ_size(4);
            i.set_memory_displacement64(target as u64);
            return Some(());
        }
        let (index, scale, displacement) = (self.index(), self.scale(), self.displacement() as i32);
        let base = self.base_register(i, index);
        let mut rest = target.wrapping_sub(displacement as u32);
        if let Some(index) = index {
            rest = rest.wrapping_sub((self.value_of(index) as u32).wrapping_mul(scale));
            i.set_memory_index(Register::EAX + index as u32);
            i.set_memory_index_scale(scale);
        }
        self.force(base, rest as u64);
        i.set_memory_base(Register::EAX + base as u32);
        i.set_memory_displacement64(displacement as u32 as u64);
        Some(())
    }

    /// An index register, half the time.
    fn index(&mut self) -> Option<usize> {
        if !self.rng.chance(50) {
            return None;
        }
        let number = self.rng.below(self.registers()) as usize;
        (number != 4).then_some(number)
    }
}

fn is_far_pointer(size: MemorySize) -> bool {
    matches!(
        size,
        MemorySize::SegPtr16 | MemorySize::SegPtr32 | MemorySize::SegPtr64
    )
}
