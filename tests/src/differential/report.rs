//! Failing cases for people.

use super::case::Case;
use super::shrink::is_padding;
use super::state::GPR_NAMES;
use iced_x86::{Formatter, NasmFormatter};
use std::fmt::Write;

/// A case with its disassembly, its start state, and what differed.
pub fn describe(case: &Case, differences: &[String]) -> String {
    let mut text = String::new();
    let mut formatter = NasmFormatter::new();
    // Writing to a string doesn't fail.
    let _ = writeln!(
        text,
        "case {} ({} bit), again with KDD_DIFF_SEED={}",
        case.id, case.bits, case.id
    );
    for line in &case.lines {
        let mut disassembly = String::new();
        formatter.format(&line.instruction, &mut disassembly);
        if is_padding(line) {
            disassembly = format!("nop (×{})", line.bytes.len());
        }
        let bytes: String = line.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "  {:#x}  {bytes:<24} {disassembly}", line.instruction.ip());
    }
    let s = &case.start;
    let gpr: Vec<_> = GPR_NAMES
        .iter()
        .zip(s.gpr)
        .filter(|(_, value)| *value != 0)
        .map(|(name, value)| format!("{name}={value:#x}"))
        .collect();
    let _ = writeln!(
        text,
        "  start: {} rflags={:#x} fs_base={:#x} gs_base={:#x}",
        gpr.join(" "),
        s.rflags,
        s.fs_base,
        s.gs_base
    );
    let xmm: Vec<_> = (0..16)
        .filter(|i| s.xmm[*i] != 0)
        .map(|i| format!("xmm{i}={:#034x}", s.xmm[i]))
        .collect();
    if !xmm.is_empty() || s.mxcsr != 0x1f80 {
        let _ = writeln!(text, "  mxcsr={:#x} {}", s.mxcsr, xmm.join(" "));
    }
    if s.ftw != 0 || s.fcw != 0x37f || s.fsw != 0 {
        let st: Vec<_> = (0..8)
            .filter(|i| s.st[*i] != 0)
            .map(|i| format!("st{i}={:#022x}", s.st[i]))
            .collect();
        let _ = writeln!(
            text,
            "  fcw={:#x} fsw={:#x} ftw={:#x} {}",
            s.fcw,
            s.fsw,
            s.ftw,
            st.join(" ")
        );
    }
    let memory = case
        .memory
        .pool_offset
        .map_or("zeros".to_string(), |offset| format!("values from {offset:#x}"));
    let patches: Vec<_> = case
        .memory
        .patches
        .iter()
        .map(|(at, bytes)| format!("[{at:#x}]={bytes:02x?}"))
        .collect();
    let _ = writeln!(text, "  memory: {memory} {}", patches.join(" "));
    for difference in differences {
        let _ = writeln!(text, "    {difference}");
    }
    text
}
