//! Where branches go: to the instruction behind them, or over one that is short.

use super::{Builder, gpr_number};
use crate::differential::layout::selector;
use iced_x86::{Code, Instruction, Mnemonic as M, OpKind, Register};

/// Bytes of the MOV that branches jump over.
const SKIPPED: u64 = 5;

impl Builder {
    /// Appends a form that isn't the last of its sequence; after a branch the instruction that it may jump over.
    pub fn push_with_landing(&mut self, code: Code) -> bool {
        if !self.push_code(code) {
            return false;
        }
        let Some(line) = self.lines.last() else {
            return false;
        };
        let target = line.instruction.near_branch_target();
        if target == self.ip + SKIPPED {
            let register = Register::EAX + self.rng.pick(&[0u32, 1, 2, 3, 5, 6, 7]);
            let value = self.rng.interesting() as u32;
            if let Ok(skipped) = Instruction::with2(Code::Mov_r32_imm32, register, value) {
                self.push(&skipped);
                if let Some(number) = gpr_number(register) {
                    self.known[number] = None;
                }
            }
        }
        true
    }

    /// Gives a control transfer its target.
    pub(super) fn settle_control(&mut self, i: &mut Instruction) -> Option<()> {
        let next = |this: &Self, i: &Instruction| this.encode(i).map(|bytes| this.ip + bytes.len() as u64);
        match i.op0_kind() {
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 if i.op_count() == 1 => {
                let mut target = next(self, i)?;
                if self.rng.chance(60) {
                    target += SKIPPED;
                }
                i.set_near_branch64(target);
                return Some(());
            }
            OpKind::FarBranch16 | OpKind::FarBranch32 => {
                let target = next(self, i)?;
                if i.op0_kind() == OpKind::FarBranch32 {
                    i.set_far_branch32(target as u32);
                } else {
                    i.set_far_branch16(target as u16);
                }
                i.set_far_branch_selector(self.code_selector());
                return Some(());
            }
            _ => {}
        }
        match i.mnemonic() {
            M::Jmp | M::Call if i.op0_kind() == OpKind::Register => {
                let register = gpr_number(i.op0_register())?;
                if register == 4 {
                    return None;
                }
                let length = next(self, i)? - self.ip;
                let (moves, bytes) = if self.bits == 64 { (10, 8) } else { (5, 4) };
                let _ = bytes;
                let at = self.ip + if self.used[register] { moves } else { 0 };
                self.force(register, at + length);
            }
            M::Jmp | M::Call if i.op0_kind() == OpKind::Memory => {
                let target = next(self, i)?;
                let address = self.address_of(i)?;
                let size = i.memory_size().size();
                if i.is_jmp_far_indirect() || i.is_call_far_indirect() {
                    let mut bytes = target.to_le_bytes()[..size - 2].to_vec();
                    bytes.extend(self.code_selector().to_le_bytes());
                    self.patch(address, &bytes);
                } else {
                    self.patch(address, &target.to_le_bytes()[..size.min(8)]);
                }
            }
            M::Ret => {
                let (target, rsp) = (next(self, i)?, self.value_of(4));
                let size = if self.bits == 64 { 8 } else { 4 };
                self.patch(rsp, &target.to_le_bytes()[..size]);
            }
            M::Retf | M::Iret | M::Iretd | M::Iretq => {
                let (target, rsp) = (next(self, i)?, self.value_of(4));
                let size = match i.code() {
                    Code::Retfw | Code::Retfw_imm16 | Code::Iretw => 2,
                    Code::Retfq | Code::Retfq_imm16 | Code::Iretq => 8,
                    _ => 4,
                };
                let rflags = (self.rng.bits() & 0x24_4cd5) | 2;
                let stack = rsp.wrapping_add(0x40);
                let words = [
                    target,
                    self.code_selector() as u64,
                    rflags,
                    stack,
                    selector::USER_DATA as u64,
                ];
                let bytes: Vec<u8> = words
                    .iter()
                    .flat_map(|word| word.to_le_bytes()[..size].to_vec())
                    .collect();
                self.patch(rsp, &bytes);
            }
            _ => {}
        }
        Some(())
    }

    /// A selector for a far transfer; to another mode only where nothing comes after it.
    fn code_selector(&mut self) -> u16 {
        let own = if self.bits == 64 {
            selector::USER_CODE_64
        } else {
            selector::USER_CODE_32
        };
        if !self.last {
            return own;
        }
        match self.rng.below(10) {
            0 => selector::USER_CODE_32,
            1 => selector::USER_CODE_64,
            2 => self
                .rng
                .pick(&[0, 3, selector::USER_DATA, 0x10, 0x13, 0x30, 0x87, 0x2c]),
            _ => own,
        }
    }

    /// The linear address of a memory operand, where all its registers are known.
    fn address_of(&mut self, i: &Instruction) -> Option<u64> {
        let (fs, gs) = (self.fs_base, self.gs_base);
        let known = self.known;
        i.virtual_address(0, 0, |register, _, _| match register {
            Register::FS => fs,
            Register::GS => gs,
            _ if register.is_segment_register() => Some(0),
            _ => {
                let value = known[gpr_number(register)?]?;
                Some(if register.is_gpr32() {
                    value & 0xffff_ffff
                } else {
                    value
                })
            }
        })
    }
}
