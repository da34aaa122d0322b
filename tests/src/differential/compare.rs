//! What differs between two outcomes, of all that the manuals define.

use super::case::Case;
use super::known::{self, Latitude, STATUS};
use super::layout::{image_address, selector::USER_CODE_32};
use super::state::{Event, GPR_NAMES, Outcome, Stop, code};
use iced_x86::Mnemonic as M;

/// C1 and PE of the x87 status word: whether and how a result was rounded.
const ROUNDING: u16 = 0x220;
/// MXCSR.MM, which only AMD has.
const MISALIGNED_MODE: u32 = 1 << 17;
const C1: u16 = 0x200;
const SEGMENT_NAMES: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];

/// Lines that each name one difference; empty if there is none.
pub fn differences(case: &Case, native: &Outcome, engine: &Outcome) -> Vec<String> {
    let mut found = Vec::new();
    if native.state.mxcsr & MISALIGNED_MODE != 0 {
        // AMD's bit; the engine's #GP is Intel's.
        return found;
    }
    let (n, e) = (&native.state, &engine.state);
    if normal(&native.stop) != normal(&engine.stop) {
        found.push(format!(
            "stop: host {}, engine {}",
            describe(&native.stop),
            describe(&engine.stop)
        ));
    }
    let latitude = case
        .lines
        .iter()
        .find_map(|line| known::latitude(&line.instruction));
    let mut check = |name: &str, host: u128, engine: u128| {
        if host != engine {
            found.push(format!("{name}: host {host:#x}, engine {engine:#x}"));
        }
    };
    for (index, name) in GPR_NAMES.iter().enumerate() {
        // SDM vol. 1, 3.4.1.1: a change of mode may lose the upper halves; AMD clears RSP's.
        let mask = if case.bits == 64 && n.selectors[1] == USER_CODE_32 {
            u32::MAX as u128
        } else {
            u128::MAX
        };
        check(name, n.gpr[index] as u128 & mask, e.gpr[index] as u128 & mask);
    }
    check("rip", n.rip as u128, e.rip as u128);
    let mut undefined = case.undefined_flags_at(n.rip);
    if divided(case, native) {
        undefined = STATUS;
    }
    check(
        "rflags",
        (n.rflags & !undefined) as u128,
        (e.rflags & !undefined) as u128,
    );
    for (index, name) in SEGMENT_NAMES.iter().enumerate() {
        check(name, n.selectors[index] as u128, e.selectors[index] as u128);
    }
    check("fs_base", n.fs_base as u128, e.fs_base as u128);
    check("gs_base", n.gs_base as u128, e.gs_base as u128);
    for index in 0..16 {
        if latitude != Some(Latitude::Estimate) || !known::same_estimate(n.xmm[index], e.xmm[index]) {
            check(&format!("xmm{index}"), n.xmm[index], e.xmm[index]);
        }
    }
    check("mxcsr", n.mxcsr as u128, e.mxcsr as u128);
    check("fcw", n.fcw as u128, e.fcw as u128);
    let status = match latitude {
        Some(Latitude::Transcendental) => !ROUNDING,
        Some(Latitude::ConditionOne) => !C1,
        _ => !0,
    };
    if latitude != Some(Latitude::MmxTransition) {
        check("fsw", (n.fsw & status) as u128, (e.fsw & status) as u128);
        check("ftw", n.ftw as u128, e.ftw as u128);
    }
    for index in 0..8 {
        let rounded = latitude == Some(Latitude::Transcendental);
        if latitude == Some(Latitude::MmxTransition) {
            continue;
        }
        if !rounded || !known::same_extended(n.st[index], e.st[index]) {
            check(&format!("st{index}"), n.st[index], e.st[index]);
        }
    }
    let different: Vec<_> = (0..native.memory.len())
        .filter(|offset| native.memory[*offset] != engine.memory[*offset])
        .collect();
    for offset in different.iter().take(8) {
        let (host, engine) = (native.memory[*offset], engine.memory[*offset]);
        found.push(format!(
            "[{:#x}]: host {host:#04x}, engine {engine:#04x}",
            image_address(*offset)
        ));
    }
    if different.len() > 8 {
        found.push(format!("… {} bytes of memory in all", different.len()));
    }
    found
}

/// Whether the run ended with a divide error: the flags are undefined then.
fn divided(case: &Case, outcome: &Outcome) -> bool {
    let divides = case
        .lines
        .iter()
        .any(|line| matches!(line.instruction.mnemonic(), M::Div | M::Idiv | M::Aam));
    divides && matches!(outcome.stop, Stop::Event(event) if event.signal == libc::SIGFPE)
}

/// An event without what isn't told of the engine's: which floating-point exception it was.
fn normal(stop: &Stop) -> Stop {
    match stop {
        Stop::Event(event) if event.signal == libc::SIGFPE && event.code != code::FPE_INTDIV => {
            Stop::Event(Event { code: 0, ..*event })
        }
        other => other.clone(),
    }
}

fn describe(stop: &Stop) -> String {
    match stop {
        Stop::Event(Event::BREAKPOINT) => "at an INT3".to_string(),
        Stop::Event(event) => {
            let name = match (event.signal, event.code) {
                (libc::SIGSEGV, 1) => "#PF (not present)",
                (libc::SIGSEGV, 2) => "#PF (protection)",
                (libc::SIGSEGV, _) => "#GP (or #OF, #BR, #TS)",
                (libc::SIGBUS, 0x80) => "#SS (or #NP)",
                (libc::SIGBUS, _) => "#AC",
                (libc::SIGILL, _) => "#UD",
                (libc::SIGFPE, code::FPE_INTDIV) => "#DE",
                (libc::SIGFPE, _) => "#MF or #XM",
                (libc::SIGTRAP, _) => "#DB",
                _ => "?",
            };
            format!(
                "{name} [signal {} code {}] address {:#x}",
                event.signal, event.code, event.address
            )
        }
        Stop::Endless => "does not end".to_string(),
        Stop::Broken(why) => format!("broken: {why}"),
    }
}
