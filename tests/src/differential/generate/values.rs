//! Values of registers and memory that make an instruction do something of interest.

use super::operands::SELECTORS;
use super::{Builder, gpr_number};
use iced_x86::{Instruction, MemorySize, Mnemonic as M, OpKind, Register};

impl Builder {
    /// Values of registers and memory that make an instruction do something of interest.
    pub(super) fn settle_values(&mut self, i: &mut Instruction) {
        let second = if i.op_count() > 1 && i.op_kind(1) == OpKind::Register {
            gpr_number(i.op1_register())
        } else {
            None
        };
        match i.mnemonic() {
            M::Bt | M::Bts | M::Btr | M::Btc if i.op0_kind() == OpKind::Memory => {
                let Some(register) = second else { return };
                if gpr_number(i.memory_base()) != Some(register)
                    && gpr_number(i.memory_index()) != Some(register)
                {
                    let bit = (self.rng.below(2048) as i64 - 1024) as u64;
                    self.force(register, bit);
                } else if i.has_segment_prefix() {
                    // Far away and with a base: see `segment`.
                    i.set_segment_prefix(Register::None);
                }
            }
            M::Div | M::Idiv if self.rng.chance(70) => {
                let high = self.rng.pick(&[0, 0, 1, u64::MAX]);
                let low = if self.rng.chance(30) {
                    self.rng.below(256)
                } else {
                    self.rng.interesting()
                };
                for (register, value) in [(2, high), (0, low)] {
                    if gpr_number(i.memory_base()) != Some(register)
                        && gpr_number(i.memory_index()) != Some(register)
                    {
                        self.force(register, value);
                    }
                }
            }
            M::Verr | M::Verw | M::Lar | M::Lsl | M::Mov | M::Lldt | M::Ltr => {
                let selector_source = match i.mnemonic() {
                    M::Verr | M::Verw | M::Lldt | M::Ltr => Some(0),
                    M::Lar | M::Lsl => Some(1),
                    _ => i.op0_register().is_segment_register().then_some(1),
                };
                if let Some(n) = selector_source
                    && i.op_kind(n) == OpKind::Register
                    && let Some(register) = gpr_number(i.op_register(n))
                    && (i.mnemonic() == M::Lsl || self.rng.chance(85))
                {
                    let value = self.rng.pick(&SELECTORS) as u64 | self.rng.interesting() << 16;
                    self.force(register, value);
                }
            }
            // Whether alignment is checked for bytes that aren't written, too.
            M::Maskmovq | M::Maskmovdqu => self.start.rflags &= !(1 << 18),
            // Outside their domain the results are undefined.
            M::F2xm1 => self.limit_st0(0x3ffe),
            M::Fyl2xp1 => self.limit_st0(0x3ffc),
            _ => {}
        }
    }

    /// Makes ST(0) smaller than the power of two with this exponent, or zero.
    fn limit_st0(&mut self, exponent: u128) {
        let st0 = &mut self.start.st[0];
        if *st0 >> 64 & 0x7fff > exponent {
            *st0 = *st0 & (1 << 79 | u64::MAX as u128) | exponent << 64;
        }
    }

    /// Memory contents that make an instruction do something of interest.
    pub(super) fn prepare_memory(&mut self, i: &Instruction, target: u64) {
        let low = |this: &mut Self, register: usize, bytes: usize| {
            this.value_of(register).to_le_bytes()[..bytes].to_vec()
        };
        match i.mnemonic() {
            M::Cmpxchg if self.rng.chance(50) => {
                let bytes = low(self, 0, 8);
                self.patch(target, &bytes);
            }
            M::Cmpxchg8b | M::Cmpxchg16b if self.rng.chance(50) => {
                let half = if i.mnemonic() == M::Cmpxchg8b { 4 } else { 8 };
                let mut bytes = low(self, 0, half);
                bytes.extend(low(self, 2, half));
                self.patch(target, &bytes);
            }
            M::Mov if i.memory_size() == MemorySize::UInt16 && self.rng.chance(50) => {
                let value = self.rng.pick(&SELECTORS);
                self.patch(target, &value.to_le_bytes());
            }
            M::Lar | M::Lsl | M::Verr | M::Verw => {
                let value = self.rng.pick(&SELECTORS);
                self.patch(target, &value.to_le_bytes());
            }
            M::Lss | M::Lfs | M::Lgs | M::Lds | M::Les => {
                let value = self.rng.pick(&SELECTORS);
                let offset = i.memory_size().size() as u64 - 2;
                self.patch(target.wrapping_add(offset), &value.to_le_bytes());
            }
            M::Ldmxcsr if self.rng.chance(80) => {
                let value = self.rng.bits() as u32 & 0xffff;
                self.patch(target, &value.to_le_bytes());
            }
            _ => {}
        }
    }
}
