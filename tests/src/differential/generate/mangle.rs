//! Encodings that no assembler makes: prefixes that mean nothing, in any number and order, and changed bytes. What they mean
//! is the decoder's business; an encoding that means nothing must be #UD on both sides.

use super::Builder;
use crate::differential::case::{Case, Line};
use crate::differential::known;
use iced_x86::{
    Code, Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, MemorySize, Mnemonic as M,
};

const PREFIXES: [u8; 12] = [
    0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0x66,
];

/// A case of one instruction of a form, with its encoding changed.
pub fn mangled(bits: u32, code: Code, seed: u64) -> Option<Case> {
    let mut builder = Builder::new(bits, seed);
    (builder.start.fs_base, builder.start.gs_base) = (0, 0);
    (builder.fs_base, builder.gs_base) = (Some(0), Some(0));
    if !builder.push_code(code) || builder.lines.len() != 1 {
        return None;
    }
    let line = builder.lines.pop()?;
    let rng = &mut builder.rng;
    let mut bytes = line.bytes;
    for _ in 0..rng.below(3) {
        let rex = bits == 64 && rng.chance(30);
        let prefix = if rex {
            0x40 + rng.below(16) as u8
        } else {
            rng.pick(&PREFIXES)
        };
        // Before the opcode, seldom before the first prefix only.
        let at = if rng.chance(70) {
            0
        } else {
            rng.below(bytes.len().min(2) as u64) as usize
        };
        bytes.insert(at, prefix);
    }
    if rng.chance(40) {
        let at = rng.below(bytes.len().min(5) as u64) as usize;
        bytes[at] ^= 1 << rng.below(8);
    }
    // Room for an instruction that became longer: its last bytes are these.
    let tail = rng.bits().to_le_bytes();
    let mut fetched = bytes.clone();
    fetched.extend_from_slice(&tail);
    let mut decoder = Decoder::with_ip(bits, &fetched, line.instruction.ip(), DecoderOptions::NONE);
    let instruction = decoder.decode();
    if decoder.last_error() == DecoderError::NoMoreBytes {
        return None;
    }
    let invalid = instruction.is_invalid();
    if invalid {
        if newer(&fetched) {
            return None;
        }
        fetched.truncate(15);
    } else {
        fetched.truncate(instruction.len());
        // 66h with a near branch differs between Intel and AMD in 64-bit mode.
        let branch = bits == 64 && instruction.flow_control() != FlowControl::Next && fetched.contains(&0x66);
        if branch || !comparable(&instruction, bits, builder.start.gpr[1]) {
            return None;
        }
    }
    let effect = known::flag_effect(
        &instruction,
        known::shift_count(&instruction, builder.start.gpr[1]),
    );
    builder.lines.push(Line {
        bytes: fetched,
        instruction,
        effect,
    });
    Some(builder.finish(format!("{bits}/mangled-{code:?}/{seed:#x}")))
}

/// Whether bytes that mean nothing to the model may mean something to the host: those of VEX, EVEX and XOP; and
/// AMD lets LOCK go with the group of 0F 00, takes it for CR8 with a move of CR0, and has
/// instructions of its own in the groups of 0F 01 and 0F C7.
fn newer(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .take(8)
        .any(|byte| matches!(byte, 0x62 | 0x8f | 0xc4 | 0xc5))
        || (bytes.contains(&0xf0)
            && bytes
                .windows(2)
                .any(|pair| pair[0] == 0x0f && matches!(pair[1], 0 | 0x20 | 0x22)))
        || bytes.windows(2).any(|pair| matches!(pair, [0x0f, 0x01 | 0xc7]))
}

/// Whether the result of an instruction with any operands is certain.
fn comparable(i: &Instruction, bits: u32, rcx: u64) -> bool {
    let code = i.code();
    let count = known::shift_count(i, rcx);
    let features = code.cpuid_features();
    let far = matches!(
        i.memory_size(),
        MemorySize::SegPtr16 | MemorySize::SegPtr32 | MemorySize::SegPtr64
    );
    let large = i.memory_size().size() >= 10 && i.memory_size().size() != 16;
    known::encoding_is_built(code.op_code().encoding())
        && known::not_run(code.op_code(), bits).is_none()
        && features.iter().all(|feature| known::model_has(*feature) && known::host_has(*feature))
        && known::is_exact(code)
        && !known::undefined_result(i, count)
        && !(far || large)
        && !matches!(
            i.mnemonic(),
            M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq | M::Retf | M::Iret | M::Iretd | M::Iretq | M::Popa | M::Popad
        )
        && !matches!(i.mnemonic(), M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd | M::Lsl | M::Bound)
        && !(i.mnemonic() == M::Int && i.immediate8() == 0x80)
        // AMD lets F2h and F3h choose the condition of LOOPcc.
        && !matches!(i.mnemonic(), M::Loope | M::Loopne)
        && !matches!(
            i.flow_control(),
            FlowControl::IndirectBranch | FlowControl::IndirectCall | FlowControl::Return
        )
        && !i.is_call_far()
        && !i.is_jmp_far()
}
