//! Operands: which registers, immediates and prefixes an instruction of a form gets.

use super::Builder;
use crate::differential::layout::selector;
use iced_x86::{Code, Instruction, Mnemonic as M, OpCodeOperandKind as K, OpKind, Register};

/// Selectors worth trying: each of the user's, null ones, ring 0's, and some that don't exist.
pub(super) const SELECTORS: [u16; 16] = [
    0,
    1,
    2,
    3,
    selector::USER_DATA,
    0x28,
    0x2a,
    selector::USER_CODE_32,
    selector::USER_CODE_64,
    0x10,
    0x18,
    0x1b,
    0x43,
    0x2c,
    0x87,
    0xfff8,
];

impl Builder {
    /// Builds an instruction of a form.
    pub(super) fn build(&mut self, code: Code) -> Option<Instruction> {
        let info = code.op_code();
        let mut i = Instruction::default();
        i.set_code(code);
        self.prepare(code);
        let (mut high_byte, mut immediates) = (false, 0);
        for operand in 0..info.op_count() {
            self.operand(
                &mut i,
                operand,
                info.op_kind(operand),
                &mut high_byte,
                &mut immediates,
            )?;
        }
        self.prefixes(&mut i);
        if !self.settle_count(&i) {
            return None;
        }
        self.settle_values(&mut i);
        self.settle_control(&mut i)?;
        Some(i)
    }

    fn register_in(&mut self, first: Register) -> Register {
        // RSP is everybody's stack: seldom anything else.
        loop {
            let number = self.rng.below(self.registers());
            if number != 4 || self.rng.chance(15) {
                return first + number as u32;
            }
        }
    }

    fn byte_register(&mut self) -> Register {
        if self.bits == 32 {
            return Register::AL + self.rng.below(8) as u32;
        }
        // Encodings with REX have no AH to BH; where one is needed the encoder refuses, and another try is made.
        if self.rng.chance(20) {
            Register::AH + self.rng.below(4) as u32
        } else {
            self.rng.pick(&BYTES)
        }
    }

    /// A selector worth trying.
    pub(super) fn selector(&mut self) -> u16 {
        self.rng.pick(&SELECTORS)
    }

    fn xmm(&mut self) -> Register {
        Register::XMM0 + self.rng.below(self.registers()) as u32
    }

    fn operand(
        &mut self,
        i: &mut Instruction,
        n: u32,
        kind: K,
        _high: &mut bool,
        immediates: &mut u32,
    ) -> Option<()> {
        let or_memory = match kind {
            K::r8_or_mem | K::r16_or_mem | K::r32_or_mem | K::r64_or_mem | K::mm_or_mem | K::xmm_or_mem => {
                true
            }
            K::mem | K::mem_offs => {
                return self.memory_operand(i, n, kind == K::mem_offs);
            }
            _ => false,
        };
        if or_memory && self.rng.chance(55) {
            return self.memory_operand(i, n, false);
        }
        let register = match kind {
            K::r8_or_mem | K::r8_reg | K::r8_opcode => self.byte_register(),
            K::r16_or_mem | K::r16_reg | K::r16_rm | K::r16_opcode => self.register_in(Register::AX),
            K::r32_or_mem | K::r32_reg | K::r32_rm | K::r32_opcode | K::r32_vvvv => {
                self.register_in(Register::EAX)
            }
            K::r64_or_mem | K::r64_reg | K::r64_rm | K::r64_opcode | K::r64_vvvv => {
                self.register_in(Register::RAX)
            }
            K::mm_or_mem | K::mm_reg | K::mm_rm => Register::MM0 + self.rng.below(8) as u32,
            K::xmm_or_mem | K::xmm_reg | K::xmm_rm => self.xmm(),
            K::seg_reg => {
                let to = [
                    Register::ES,
                    Register::SS,
                    Register::DS,
                    Register::FS,
                    Register::GS,
                ];
                if n == 0 {
                    self.rng.pick(&to)
                } else {
                    Register::ES + self.rng.below(6) as u32
                }
            }
            K::cr_reg => self
                .rng
                .pick(&[Register::CR0, Register::CR2, Register::CR3, Register::CR4]),
            K::dr_reg => self
                .rng
                .pick(&[Register::DR0, Register::DR3, Register::DR6, Register::DR7]),
            K::es => Register::ES,
            K::cs => Register::CS,
            K::ss => Register::SS,
            K::ds => Register::DS,
            K::fs => Register::FS,
            K::gs => Register::GS,
            K::al => Register::AL,
            K::cl => Register::CL,
            K::ax => Register::AX,
            K::dx => Register::DX,
            K::eax => Register::EAX,
            K::rax => Register::RAX,
            K::st0 => Register::ST0,
            K::sti_opcode => Register::ST0 + self.rng.below(8) as u32,
            _ => return self.other_operand(i, n, kind, immediates),
        };
        i.set_op_kind(n, OpKind::Register);
        i.set_op_register(n, register);
        Some(())
    }

    fn other_operand(&mut self, i: &mut Instruction, n: u32, kind: K, immediates: &mut u32) -> Option<()> {
        let value = self.rng.interesting();
        let long = self.bits == 64;
        match kind {
            K::imm8 => {
                let op = if *immediates == 0 {
                    OpKind::Immediate8
                } else {
                    OpKind::Immediate8_2nd
                };
                *immediates += 1;
                let mut value = value as u8;
                match i.mnemonic() {
                    // INT 80h would be a system call.
                    M::Int => value = self.rng.pick(&[3, 4, 0, 1, 13, 14, 0x20, 0x81, 0xff]),
                    M::Enter => value %= 40,
                    _ if self.rng.chance(40) => value = self.rng.below(70) as u8,
                    _ => {}
                }
                i.set_op_kind(n, op);
                if op == OpKind::Immediate8 {
                    i.set_immediate8(value)
                } else {
                    i.set_immediate8_2nd(value)
                }
            }
            K::imm8_const_1 => {
                i.set_op_kind(n, OpKind::Immediate8);
                i.set_immediate8(1);
            }
            K::imm8sex16 => {
                i.set_op_kind(n, OpKind::Immediate8to16);
                i.set_immediate8to16(value as i8 as i16);
            }
            K::imm8sex32 => {
                i.set_op_kind(n, OpKind::Immediate8to32);
                i.set_immediate8to32(value as i8 as i32);
            }
            K::imm8sex64 => {
                i.set_op_kind(n, OpKind::Immediate8to64);
                i.set_immediate8to64(value as i8 as i64);
            }
            K::imm16 => {
                *immediates += 1;
                let small = i.mnemonic() == M::Retf
                    || (matches!(i.mnemonic(), M::Enter | M::Ret) && self.rng.chance(80));
                i.set_op_kind(n, OpKind::Immediate16);
                i.set_immediate16(if small {
                    self.rng.below(64) as u16 * 8
                } else {
                    value as u16
                });
            }
            K::imm32 => {
                i.set_op_kind(n, OpKind::Immediate32);
                i.set_immediate32(value as u32);
            }
            K::imm32sex64 => {
                i.set_op_kind(n, OpKind::Immediate32to64);
                i.set_immediate32to64(value as i32 as i64);
            }
            K::imm64 => {
                i.set_op_kind(n, OpKind::Immediate64);
                i.set_immediate64(value);
            }
            K::seg_rSI => {
                let narrow = self.string_pointer(i, 6, n, long);
                i.set_op_kind(
                    n,
                    if narrow {
                        OpKind::MemorySegESI
                    } else {
                        OpKind::MemorySegRSI
                    },
                );
            }
            K::es_rDI | K::seg_rDI => {
                let narrow = self.string_pointer(i, 7, n, long);
                i.set_op_kind(
                    n,
                    match (kind, narrow) {
                        (K::es_rDI, true) => OpKind::MemoryESEDI,
                        (K::es_rDI, false) => OpKind::MemoryESRDI,
                        (_, true) => OpKind::MemorySegEDI,
                        (_, false) => OpKind::MemorySegRDI,
                    },
                );
            }
            K::seg_rBX_al => {
                let narrow = !long;
                let target = self.target(1).wrapping_sub(self.rng.below(256));
                self.force(3, target);
                i.set_op_kind(n, OpKind::Memory);
                i.set_memory_base(if narrow { Register::EBX } else { Register::RBX });
                i.set_memory_index(Register::AL);
            }
            K::farbr2_2 | K::farbr4_2 => {
                let wide = kind == K::farbr4_2;
                i.set_op_kind(
                    n,
                    if wide {
                        OpKind::FarBranch32
                    } else {
                        OpKind::FarBranch16
                    },
                );
            }
            K::br16_1 | K::br32_1 | K::br64_1 | K::br16_2 | K::br32_4 | K::br64_4 => {
                let op = match kind {
                    K::br16_1 | K::br16_2 => OpKind::NearBranch16,
                    K::br32_1 | K::br32_4 => OpKind::NearBranch32,
                    _ => OpKind::NearBranch64,
                };
                i.set_op_kind(n, op);
                i.set_near_branch64(self.ip + 16);
            }
            _ => return None,
        }
        Some(())
    }

    fn prefixes(&mut self, i: &mut Instruction) {
        let info = i.code().op_code();
        let memory =
            i.op_kind(0) == OpKind::Memory || (i.mnemonic() == M::Xchg && i.op_kind(1) == OpKind::Memory);
        if info.can_use_lock_prefix() && memory && self.rng.chance(30) {
            i.set_has_lock_prefix(true);
        }
        if info.can_use_rep_prefix() && i.is_string_instruction() && self.rng.chance(65) {
            let repne = info.can_use_repne_prefix() && self.rng.chance(40);
            if repne {
                i.set_has_repne_prefix(true)
            } else {
                i.set_has_rep_prefix(true)
            }
            // Whether INS and OUTS of no element check the port's permission is the CPU's own affair.
            let least = info.is_input_output() as u64;
            let count = least
                + if self.rng.chance(3) {
                    self.rng.interesting() & 0x3ff
                } else {
                    self.rng.below(40)
                };
            // With a 32-bit address only ECX counts.
            let narrow = (0..i.op_count()).any(|n| {
                matches!(
                    i.op_kind(n),
                    OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::MemorySegEDI
                )
            });
            let high = if narrow && self.rng.chance(50) {
                self.rng.bits() << 32
            } else {
                0
            };
            self.force(1, high | count);
        }
    }
}

/// The byte registers that need no REX or go with it.
const BYTES: [Register; 16] = [
    Register::AL,
    Register::CL,
    Register::DL,
    Register::BL,
    Register::SPL,
    Register::BPL,
    Register::SIL,
    Register::DIL,
    Register::R8L,
    Register::R9L,
    Register::R10L,
    Register::R11L,
    Register::R12L,
    Register::R13L,
    Register::R14L,
    Register::R15L,
];
