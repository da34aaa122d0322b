//! A failing case made small: instructions become NOPs or go, values become simple, as long as it still fails.

use super::case::{Case, FlagEffect, Line};
use iced_x86::{Decoder, DecoderOptions};

/// NOPs in place of an instruction, so that nothing behind it moves.
fn nops(line: &Line, bits: u32) -> Line {
    let bytes = vec![0x90; line.bytes.len()];
    let instruction = Decoder::with_ip(bits, &bytes, line.instruction.ip(), DecoderOptions::NONE).decode();
    Line {
        bytes,
        instruction,
        effect: FlagEffect::default(),
    }
}

/// Whether a line is padding.
pub fn is_padding(line: &Line) -> bool {
    line.bytes.iter().all(|byte| *byte == 0x90)
}

/// The smallest case found for which `fails` holds.
pub fn shrink(case: &Case, fails: &mut dyn FnMut(&Case) -> bool) -> Case {
    let mut best = case.clone();
    let mut attempt = |best: &mut Case, candidate: Case| {
        let better = fails(&candidate);
        if better {
            *best = candidate;
        }
        better
    };
    while best.lines.len() > 1 {
        let mut shorter = best.clone();
        shorter.lines.pop();
        if !attempt(&mut best, shorter) {
            break;
        }
    }
    for index in 0..best.lines.len() {
        let mut candidate = best.clone();
        candidate.lines[index] = nops(&best.lines[index], best.bits);
        attempt(&mut best, candidate);
    }
    while best.lines.first().is_some_and(is_padding) {
        let mut candidate = best.clone();
        let gone = candidate.lines.remove(0);
        candidate.start.rip += gone.bytes.len() as u64;
        if !attempt(&mut best, candidate) {
            break;
        }
    }
    let fresh = |change: &mut dyn FnMut(&mut Case),
                 best: &mut Case,
                 attempt: &mut dyn FnMut(&mut Case, Case) -> bool| {
        let mut candidate = best.clone();
        change(&mut candidate);
        attempt(best, candidate);
    };
    for index in 0..16 {
        for value in [1, 0] {
            fresh(&mut |case| case.start.gpr[index] = value, &mut best, &mut attempt);
        }
        fresh(&mut |case| case.start.xmm[index] = 0, &mut best, &mut attempt);
    }
    for index in 0..8 {
        fresh(&mut |case| case.start.st[index] = 0, &mut best, &mut attempt);
    }
    for bit in [0, 2, 4, 6, 7, 10, 11, 18] {
        fresh(
            &mut |case| case.start.rflags &= !(1 << bit),
            &mut best,
            &mut attempt,
        );
    }
    fresh(&mut |case| case.start.mxcsr = 0x1f80, &mut best, &mut attempt);
    fresh(&mut |case| case.start.fcw = 0x37f, &mut best, &mut attempt);
    fresh(
        &mut |case| (case.start.ftw, case.start.fsw) = (0, 0),
        &mut best,
        &mut attempt,
    );
    fresh(&mut |case| case.start.fs_base = 0, &mut best, &mut attempt);
    fresh(&mut |case| case.start.gs_base = 0, &mut best, &mut attempt);
    fresh(
        &mut |case| case.memory.pool_offset = None,
        &mut best,
        &mut attempt,
    );
    let mut index = 0;
    while index < best.memory.patches.len() {
        let mut candidate = best.clone();
        candidate.memory.patches.remove(index);
        if !attempt(&mut best, candidate) {
            index += 1;
        }
    }
    best
}
