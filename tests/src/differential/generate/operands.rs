//! Operands.

use super::{Builder, gpr_number, gpr64};
use crate::differential::layout::{CODE, DATA, READ_ONLY, STACK, selector};
use iced_x86::{Code, Instruction, MemorySize, Mnemonic as M, OpCodeOperandKind as K, OpKind, Register};

/// Whether a memory operand must be aligned to its size (SSE's legacy forms).
fn wants_alignment(size: usize) -> bool {
    size >= 16
}

/// Selectors worth trying: each of the user's, null ones, ring 0's, and some that don't exist.
const SELECTORS: [u16; 16] = [
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

    /// Points RSI or RDI at something; true for a 32-bit address in 64-bit mode or always in 32-bit mode.
    fn string_pointer(&mut self, i: &Instruction, register: usize, n: u32, long: bool) -> bool {
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
    fn memory_operand(&mut self, i: &mut Instruction, n: u32, absolute: bool) -> Option<()> {
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

    /// Values of registers and memory that make an instruction do something of interest.
    fn settle_values(&mut self, i: &mut Instruction) {
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
    fn prepare_memory(&mut self, i: &Instruction, target: u64) {
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

fn is_far_pointer(size: MemorySize) -> bool {
    matches!(
        size,
        MemorySize::SegPtr16 | MemorySize::SegPtr32 | MemorySize::SegPtr64
    )
}
