//! What is not compared, and why: instructions that can't be, results that the manuals leave undefined, and what
//! Intel's CPUs (which the engine models) and AMD's may do differently.

use super::case::FlagEffect;
use iced_x86::{Code, CpuidFeature, EncodingKind, Instruction, Mnemonic as M, OpCodeInfo, RflagsBits};

/// CF, PF, AF, ZF, SF and OF.
pub const STATUS: u64 = 0x8d5;
const CF: u64 = 1;
const AF: u64 = 1 << 4;
const OF: u64 = 1 << 11;

/// Whether CPU model kdd64 has a feature; what it hasn't isn't tested here.
pub fn model_has(feature: CpuidFeature) -> bool {
    use CpuidFeature as F;
    matches!(
        feature,
        F::INTEL8086
            | F::INTEL186
            | F::INTEL286
            | F::INTEL386
            | F::INTEL486
            | F::X64
            | F::CPUID
            | F::CX8
            | F::CMOV
            | F::TSC
            | F::MSR
            | F::SYSCALL
            | F::PAUSE
            | F::MULTIBYTENOP
            | F::CLFSH
            | F::CET_IBT
            | F::PREFETCHW
            | F::SEP
            | F::POPCNT
            | F::MOVBE
            | F::CMPXCHG16B
            | F::RDRAND
            | F::BMI1
            | F::BMI2
            | F::LZCNT
            | F::ADX
            | F::FSGSBASE
            | F::INVPCID
            | F::RDSEED
            | F::SMAP
            | F::CLFLUSHOPT
            | F::RDPID
            | F::RDTSCP
            | F::XSAVE
            | F::XSAVEOPT
            | F::XSAVEC
            | F::XSAVES
            | F::FXSR
            | F::SSE
            | F::SSE2
            | F::SSE3
            | F::SSSE3
            | F::SSE4_1
            | F::SSE4_2
            | F::AES
            | F::PCLMULQDQ
            | F::MMX
            | F::FPU
            | F::FPU287
            | F::FPU387
    )
}

/// Whether the host has a feature; those without a question here are in every 64-bit CPU.
pub fn host_has(feature: CpuidFeature) -> bool {
    use CpuidFeature as F;
    match feature {
        F::POPCNT => is_x86_feature_detected!("popcnt"),
        F::MOVBE => is_x86_feature_detected!("movbe"),
        F::CMPXCHG16B => is_x86_feature_detected!("cmpxchg16b"),
        F::BMI1 => is_x86_feature_detected!("bmi1"),
        F::BMI2 => is_x86_feature_detected!("bmi2"),
        F::LZCNT => is_x86_feature_detected!("lzcnt"),
        F::ADX => is_x86_feature_detected!("adx"),
        F::SSE3 => is_x86_feature_detected!("sse3"),
        F::SSSE3 => is_x86_feature_detected!("ssse3"),
        F::SSE4_1 => is_x86_feature_detected!("sse4.1"),
        F::SSE4_2 => is_x86_feature_detected!("sse4.2"),
        F::AES => is_x86_feature_detected!("aes"),
        F::PCLMULQDQ => is_x86_feature_detected!("pclmulqdq"),
        // HWCAP2_FSGSBASE: the kernel must have enabled it.
        F::FSGSBASE => hwcap2() & 2 != 0,
        F::CLFLUSHOPT => structured_features() >> 23 & 1 != 0,
        _ => true,
    }
}

fn hwcap2() -> u64 {
    // The auxiliary vector as a file: pairs of words, 26 is AT_HWCAP2.
    let bytes = std::fs::read("/proc/self/auxv").unwrap_or_default();
    let mut words = bytes
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
    while let (Some(kind), Some(value)) = (words.next(), words.next()) {
        if kind == 26 {
            return value;
        }
    }
    0
}

fn structured_features() -> u32 {
    std::arch::x86_64::__cpuid_count(7, 0).ebx
}

/// Why an instruction isn't run at all; `None` if it is.
pub fn not_run(info: &OpCodeInfo, bits: u32) -> Option<&'static str> {
    let code = info.code();
    match info.mnemonic() {
        M::Syscall | M::Sysenter | M::Sysexit | M::Sysexitq | M::Sysret | M::Sysretq => {
            Some("enters the host's kernel, or differs between Intel and AMD")
        }
        M::Cpuid | M::Rdtsc | M::Rdtscp | M::Rdpid | M::Rdpmc | M::Rdrand | M::Rdseed | M::Xgetbv => {
            Some("its result is the machine's own")
        }
        M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw => Some("Linux emulates it in user mode"),
        M::Int1 => Some("Linux tells a debugger's INT1 in its own way"),
        M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64 => {
            Some("directed cases instead: the image has reserved bytes")
        }
        M::Xsave
        | M::Xsave64
        | M::Xsaveopt
        | M::Xsaveopt64
        | M::Xsavec
        | M::Xsavec64
        | M::Xrstor
        | M::Xrstor64 => Some("directed cases instead: the area has the host's other states"),
        M::Rsm | M::Getsec | M::Xbegin | M::Xabort | M::Xend | M::Xtest => Some("not in the model"),
        M::Ud0 | M::Ud1 if code != Code::Ud1_r32_rm32 => {
            Some("whether UD0 has a ModRM byte differs between Intel and AMD")
        }
        M::Fstpnce => Some("an undocumented alias of FSTP"),
        M::Movsxd if code == Code::Movsxd_r16_rm16 => {
            Some("its memory operand has 16 bits at Intel, 32 at AMD")
        }
        M::Reservednop => Some("which opcodes are hint NOPs differs between generations"),
        _ if info.fwait() => Some("two instructions: WAIT and one that is run by itself"),
        // SDM vol. 2, "near branch": in 64-bit mode Intel ignores 66h, AMD truncates RIP.
        _ if bits == 64 && is_16_bit_branch(code) => {
            Some("66h with a near branch differs between Intel and AMD")
        }
        // Intel loads a 64-bit offset with REX.W, AMD a 32-bit one.
        M::Lss | M::Lfs | M::Lgs | M::Jmp | M::Call if far_with_64_bit_offset(code) => {
            Some("REX.W far pointers differ between Intel and AMD")
        }
        _ => None,
    }
}

fn is_16_bit_branch(code: Code) -> bool {
    let name = format!("{code:?}");
    let relative = name.contains("_rel8_16") || name.ends_with("_rel16");
    relative
        || matches!(
            code,
            Code::Jmp_rm16 | Code::Call_rm16 | Code::Retnw | Code::Retnw_imm16
        )
}

fn far_with_64_bit_offset(code: Code) -> bool {
    format!("{code:?}").contains("m1664")
}

/// What of a result differs between CPUs though the instruction is the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Latitude {
    /// RCPSS and RSQRTSS, and their packed forms: a relative error of 1.5 * 2^-12 is allowed (SDM vol. 2).
    Estimate,
    /// x87 transcendental functions: the last place and what rounding did (C1, PE) are the CPU's own (SDM vol. 1, 8.3.10).
    Transcendental,
    /// CVTPI2PS with a memory operand: Intel turns the x87 registers into MMX registers (SDM vol. 2), AMD doesn't.
    MmxTransition,
    /// FCOMI and its like: Intel clears C1 (SDM vol. 2), AMD leaves it.
    ConditionOne,
}

/// The latitude that an instruction's result has.
pub fn latitude(i: &Instruction) -> Option<Latitude> {
    match i.mnemonic() {
        M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss => Some(Latitude::Estimate),
        M::F2xm1 | M::Fyl2x | M::Fyl2xp1 | M::Fptan | M::Fpatan | M::Fsin | M::Fcos | M::Fsincos => {
            Some(Latitude::Transcendental)
        }
        M::Cvtpi2ps if i.op1_kind() == iced_x86::OpKind::Memory => Some(Latitude::MmxTransition),
        M::Fcomi | M::Fcomip | M::Fucomi | M::Fucomip => Some(Latitude::ConditionOne),
        _ => None,
    }
}

/// Whether a form's results are exact, so that others may follow it.
pub fn is_exact(code: Code) -> bool {
    let mut i = Instruction::default();
    i.set_code(code);
    // FNSTENV and FNSAVE store the last opcode, which AMD always notes and Intel only at an unmasked exception (SDM vol. 1,
    // 8.1.9.1).
    let opcode = matches!(code.mnemonic(), M::Fnstenv | M::Fnsave);
    // Whether MASKMOVQ checks alignment isn't known either.
    let masked = matches!(code.mnemonic(), M::Maskmovq | M::Maskmovdqu);
    latitude(&i).is_none() && !masked && code.mnemonic() != M::Cvtpi2ps && !opcode
}

/// Whether two packed floats are the same estimate.
pub fn same_estimate(a: u128, b: u128) -> bool {
    (0..4).all(|lane| {
        let (a, b) = ((a >> (32 * lane)) as u32, (b >> (32 * lane)) as u32);
        let (x, y) = (f32::from_bits(a) as f64, f32::from_bits(b) as f64);
        a == b || (x - y).abs() <= x.abs() * 3.0 / 4096.0
    })
}

/// Whether two extended values are the same but for the last places.
pub fn same_extended(a: u128, b: u128) -> bool {
    a.abs_diff(b) <= 2
}

/// Whether the encodings of a kind are built here.
pub fn encoding_is_built(kind: EncodingKind) -> bool {
    matches!(kind, EncodingKind::Legacy | EncodingKind::VEX)
}

/// iced's flag bits as RFLAGS bits, the status flags only.
pub fn rflags(bits: u32) -> u64 {
    [
        (RflagsBits::CF, CF),
        (RflagsBits::PF, 1 << 2),
        (RflagsBits::AF, AF),
        (RflagsBits::ZF, 1 << 6),
        (RflagsBits::SF, 1 << 7),
        (RflagsBits::OF, OF),
    ]
    .iter()
    .filter(|(bit, _)| bits & bit != 0)
    .map(|(_, flag)| flag)
    .sum()
}

/// Bytes of a shift's or rotation's first operand.
fn operand_bytes(i: &Instruction) -> u64 {
    match i.op0_kind() {
        iced_x86::OpKind::Register => i.op0_register().size() as u64,
        _ => i.memory_size().size() as u64,
    }
}

/// The count of a shift or rotation by CL, an immediate or 1.
pub fn shift_count(i: &Instruction, cl: u64) -> u64 {
    match i.op_kind(i.op_count().max(1) - 1) {
        iced_x86::OpKind::Register => cl & 0xff,
        iced_x86::OpKind::Immediate8 => i.immediate8() as u64,
        _ => 1,
    }
}

/// Whether an instruction shifts or rotates by a count that decides what flags it changes.
pub fn shifts(i: &Instruction) -> bool {
    matches!(
        i.mnemonic(),
        M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shl | M::Sal | M::Shr | M::Sar | M::Shld | M::Shrd
    )
}

/// The count that a shift uses of `count`.
pub fn masked_count(i: &Instruction, count: u64) -> u64 {
    count & if operand_bytes(i) == 8 { 63 } else { 31 }
}

/// Whether the whole result of a double shift is undefined (SDM vol. 2, SHLD: a count greater than the size).
pub fn undefined_result(i: &Instruction, count: u64) -> bool {
    matches!(i.mnemonic(), M::Shld | M::Shrd) && masked_count(i, count) > operand_bytes(i) * 8
}

/// What an instruction does to the status flags. `count` is the shift count.
pub fn flag_effect(i: &Instruction, count: u64) -> FlagEffect {
    if shifts(i) {
        let count = masked_count(i, count);
        if count == 0 {
            return FlagEffect::default();
        }
        let bits = operand_bytes(i) * 8;
        // SDM vol. 2: OF is defined for a count of 1 only.
        let of = if count == 1 { 0 } else { OF };
        return match i.mnemonic() {
            M::Rol | M::Ror | M::Rcl | M::Rcr => FlagEffect {
                defines: CF | OF,
                undefines: of,
            },
            M::Shl | M::Sal | M::Shr if count > bits => FlagEffect {
                defines: STATUS,
                undefines: AF | CF | of,
            },
            _ => FlagEffect {
                defines: STATUS,
                undefines: AF | of,
            },
        };
    }
    if i.is_string_instruction() && (i.has_rep_prefix() || i.has_repne_prefix()) {
        // With a count of 0 it does nothing.
        return FlagEffect::default();
    }
    FlagEffect {
        defines: rflags(i.rflags_written() | i.rflags_cleared() | i.rflags_set()),
        undefines: rflags(i.rflags_undefined()),
    }
}
