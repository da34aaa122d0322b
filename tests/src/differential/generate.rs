//! From a seed to a case.
//!
//! A [`Builder`] appends instructions and keeps track of which registers have a known value. A memory operand is built from
//! its target backwards: an address of interest is chosen, then an addressing form, and then a register is given the value
//! that leads there: at the start if no instruction has used it yet, by a MOV otherwise.

mod addresses;
mod control;
mod mangle;
mod operands;
mod stack;
mod values;

pub use mangle::mangled;

use super::case::{Case, Line, Memory};
use super::known;
use super::layout::{CODE, STACK, selector};
use super::rng::Rng;
use super::state::State;
use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, Instruction, InstructionInfoFactory, Mnemonic as M, OpAccess,
    OpKind, Register,
};

/// An instruction form that cases are made of.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// The form.
    pub code: Code,
}

/// Why a form isn't run.
pub type Skipped = (Code, &'static str);

/// All forms for a mode, and those that aren't run.
pub fn candidates(bits: u32) -> (Vec<Candidate>, Vec<Skipped>) {
    let (mut run, mut skipped) = (Vec::new(), Vec::new());
    for code in Code::values() {
        let info = code.op_code();
        let in_mode = if bits == 64 { info.mode64() } else { info.mode32() };
        let features = code.cpuid_features();
        if !info.is_instruction()
            || !in_mode
            || !known::encoding_is_built(info.encoding())
            || !features.iter().all(|feature| known::model_has(*feature))
        {
            continue;
        }
        if let Some(why) = known::not_run(info, bits) {
            skipped.push((code, why));
        } else if !features.iter().all(|feature| known::host_has(*feature)) {
            skipped.push((code, "the host doesn't have it"));
        } else {
            run.push(Candidate { code });
        }
    }
    (run, skipped)
}

/// Makes one case.
pub struct Builder {
    pub(super) bits: u32,
    pub(super) rng: Rng,
    pub(super) start: State,
    memory: Memory,
    /// Values of the general registers that are certain at this point.
    known: [Option<u64>; 16],
    /// Registers whose start value has been used: it can't be changed any more.
    used: [bool; 16],
    fs_base: Option<u64>,
    gs_base: Option<u64>,
    undefined: u64,
    /// The instruction that is built is the case's last.
    pub last: bool,
    lines: Vec<Line>,
    ip: u64,
    factory: InstructionInfoFactory,
}

/// The number of a general register of any size; `None` for other registers.
pub(super) fn gpr_number(register: Register) -> Option<usize> {
    if register.is_gpr8() {
        // AH, CH, DH and BH belong to the first four.
        let number = register as usize - Register::AL as usize;
        return Some(match number {
            0..=3 => number,
            4..=7 => number - 4,
            _ => number - 4,
        });
    }
    register.is_gpr().then(|| register.number())
}

/// The 64-bit register of a number.
pub(super) fn gpr64(number: usize) -> Register {
    Register::RAX + number as u32
}

const MOST_CODE: u64 = 0x600;

impl Builder {
    /// An empty case.
    pub fn new(bits: u32, seed: u64) -> Builder {
        let mut rng = Rng::new(seed);
        let start = start_state(bits, &mut rng);
        let memory = Memory::random(&mut rng);
        let known = start.gpr.map(Some);
        Builder {
            bits,
            known,
            used: [false; 16],
            fs_base: Some(start.fs_base),
            gs_base: Some(start.gs_base),
            undefined: 0,
            last: false,
            lines: Vec::new(),
            ip: start.rip,
            factory: InstructionInfoFactory::new(),
            rng,
            start,
            memory,
        }
    }

    /// The finished case.
    pub fn finish(self, id: String) -> Case {
        Case {
            id,
            bits: self.bits,
            start: self.start,
            memory: self.memory,
            lines: self.lines,
        }
    }

    pub(super) fn registers(&self) -> u64 {
        if self.bits == 64 { 16 } else { 8 }
    }

    /// Appends one instruction of a form, with what it needs before it. False if this form can't be built now.
    pub fn push_code(&mut self, code: Code) -> bool {
        if self.ip - CODE.start > CODE.len() as u64 - MOST_CODE {
            return false;
        }
        for _ in 0..8 {
            if let Some(instruction) = self.build(code)
                && self.push(&instruction)
            {
                return true;
            }
        }
        false
    }

    /// Gives a register a value: at the start of the case, or by a MOV here.
    pub(super) fn force(&mut self, register: usize, value: u64) {
        let value = if self.bits == 64 {
            value
        } else {
            value & 0xffff_ffff
        };
        if self.known[register] == Some(value) {
            return;
        }
        if !self.used[register] {
            self.start.gpr[register] = value;
            self.known[register] = Some(value);
            return;
        }
        let instruction = if self.bits == 64 {
            Instruction::with2(Code::Mov_r64_imm64, gpr64(register), value)
        } else {
            Instruction::with2(Code::Mov_r32_imm32, Register::EAX + register as u32, value as u32)
        };
        if let Ok(instruction) = instruction {
            self.push(&instruction);
        }
        self.known[register] = Some(value);
    }

    /// A register's value, made known if it isn't.
    pub(super) fn value_of(&mut self, register: usize) -> u64 {
        if self.known[register].is_none() {
            let value = self.rng.interesting();
            self.force(register, value);
        }
        self.used[register] = true;
        self.known[register].unwrap_or(0)
    }

    pub(super) fn patch(&mut self, address: u64, bytes: &[u8]) {
        self.memory.patches.push((address, bytes.to_vec()));
    }

    pub(super) fn encode(&self, instruction: &Instruction) -> Option<Vec<u8>> {
        let mut encoder = Encoder::new(self.bits);
        encoder.encode(instruction, self.ip).ok()?;
        Some(encoder.take_buffer())
    }

    /// Appends an instruction whose operands are settled.
    pub(super) fn push(&mut self, instruction: &Instruction) -> bool {
        let Some(bytes) = self.encode(instruction) else {
            return false;
        };
        self.push_bytes(bytes)
    }

    /// Appends an encoding.
    pub fn push_bytes(&mut self, bytes: Vec<u8>) -> bool {
        let decode = |ip| Decoder::with_ip(self.bits, &bytes, ip, DecoderOptions::NONE).decode();
        let instruction = decode(self.ip);
        if instruction.len() != bytes.len() {
            return false;
        }
        if known::rflags(instruction.rflags_read()) & self.undefined != 0 {
            // Flags that may be read must be defined: CMP EAX, EAX defines all.
            let clean = vec![0x39, 0xc0];
            self.append(
                clean.clone(),
                &Decoder::with_ip(self.bits, &clean, self.ip, DecoderOptions::NONE).decode(),
            );
            let instruction = Decoder::with_ip(self.bits, &bytes, self.ip, DecoderOptions::NONE).decode();
            // What is relative to RIP has moved.
            let moved = instruction.is_ip_rel_memory_operand() || instruction.near_branch_target() != 0;
            if moved {
                return false;
            }
            self.append(bytes, &instruction);
            return true;
        }
        self.append(bytes, &instruction);
        true
    }

    fn append(&mut self, bytes: Vec<u8>, instruction: &Instruction) {
        let count = self.count_of(instruction);
        let effect = known::flag_effect(instruction, count);
        self.undefined = effect.after(self.undefined);
        self.note_registers(instruction);
        self.ip += bytes.len() as u64;
        self.lines.push(Line {
            bytes,
            instruction: *instruction,
            effect,
        });
    }

    /// The shift count of a shift, if it is certain.
    fn count_of(&mut self, i: &Instruction) -> u64 {
        if !known::shifts(i) {
            return 0;
        }
        known::shift_count(i, self.known[1].unwrap_or(0))
    }

    /// Whether a shift's count and result are certain; makes CL known where it isn't.
    pub(super) fn settle_count(&mut self, i: &Instruction) -> bool {
        if !known::shifts(i) {
            return true;
        }
        let last = i.op_count() - 1;
        if i.op_kind(last) == OpKind::Register {
            let value = if self.rng.chance(70) {
                self.rng.below(70)
            } else {
                self.rng.bits()
            };
            if self.known[1].is_none() || !self.used[1] {
                self.force(1, value);
            }
            self.used[1] = true;
        }
        let count = self.count_of(i);
        !known::undefined_result(i, count)
    }

    fn note_registers(&mut self, instruction: &Instruction) {
        let info = self.factory.info(instruction);
        let mut written = Vec::new();
        for used in info.used_registers() {
            let register = used.register();
            if let Some(number) = gpr_number(register) {
                self.used[number] = true;
                if !matches!(
                    used.access(),
                    OpAccess::Read | OpAccess::CondRead | OpAccess::None
                ) {
                    written.push(number);
                }
            }
            if register == Register::FS && used.access() != OpAccess::Read {
                self.fs_base = None;
            }
            if register == Register::GS && used.access() != OpAccess::Read {
                self.gs_base = None;
            }
        }
        for number in written {
            self.known[number] = None;
        }
        match instruction.mnemonic() {
            M::Wrfsbase => self.fs_base = None,
            M::Wrgsbase => self.gs_base = None,
            _ => {}
        }
        if instruction.op0_kind() == OpKind::Register && instruction.op0_register() == Register::FS {
            self.fs_base = None;
        }
        if instruction.op0_kind() == OpKind::Register && instruction.op0_register() == Register::GS {
            self.gs_base = None;
        }
    }
}

fn start_state(bits: u32, rng: &mut Rng) -> State {
    let mask = if bits == 64 { u64::MAX } else { 0xffff_ffff };
    let mut gpr: [u64; 16] = std::array::from_fn(|_| rng.interesting() & mask);
    if bits == 32 {
        gpr[8..].fill(0);
    }
    gpr[4] = STACK.start + 0x1000 + rng.below(64) * 8;
    let mut rflags = 2;
    for flag in [0, 2, 4, 6, 7, 11] {
        rflags |= rng.below(2) << flag;
    }
    if rng.chance(25) {
        rflags |= 1 << 10; // DF
    }
    if rng.chance(2) {
        rflags |= 1 << 18; // AC
    }
    let (code, fs) = if bits == 64 {
        (selector::USER_CODE_64, 0)
    } else {
        (selector::USER_CODE_32, selector::USER_DATA)
    };
    let base = |rng: &mut Rng| match (bits, rng.below(3)) {
        (32, _) | (_, 0) => 0,
        (_, 1) => rng.below(1 << 16) * 16,
        _ => rng.bits() & 0x7fff_ffff_f000,
    };
    let data = selector::USER_DATA;
    // Most code lies within a page; some crosses.
    let offset = if rng.chance(10) {
        0x1000 - 1 - rng.below(24)
    } else {
        0x100 + rng.below(0x800)
    };
    let mut st = std::array::from_fn(|_| rng.interesting_extended());
    let ftw = if rng.chance(20) { rng.bits() as u8 } else { 0 };
    let top = rng.below(8) as u16;
    let conditions = rng.bits() as u16 & 0x4700;
    let fsw = if ftw == 0 { 0 } else { top << 11 | conditions };
    if ftw == 0 {
        st = [0; 8];
    }
    State {
        gpr,
        rip: CODE.start + offset,
        rflags,
        selectors: [data, code, data, data, fs, fs],
        fs_base: base(rng),
        gs_base: base(rng),
        xmm: std::array::from_fn(|_| {
            let half = |rng: &mut Rng| {
                if rng.chance(50) {
                    rng.interesting_double()
                } else {
                    rng.interesting()
                }
            };
            (half(rng) as u128) << 64 | half(rng) as u128
        }),
        mxcsr: if rng.chance(60) {
            0x1f80
        } else {
            (rng.bits() as u32 & 0xe07f) | 0x1f80
        },
        fcw: if rng.chance(60) {
            0x37f
        } else {
            0x7f | (rng.bits() as u16 & 0xf00)
        },
        fsw,
        ftw,
        st,
    }
}
