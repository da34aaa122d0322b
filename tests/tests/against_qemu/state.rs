//! The registers of one machine by name, in the form in which the two are compared.

use hv_core::regs::{Registers, Segment, efer, rflags, seg};
use std::collections::BTreeMap;

/// What a machine shows. A register without a meaning at the moment isn't there.
pub type State = BTreeMap<String, u128>;

/// In the order of QEMU's `g` packet (its gdb-xml/i386-64bit.xml), with the bytes that each takes. An empty name is a
/// register that it shows wrongly or not at all.
pub const LAYOUT: &[(&str, usize)] = &[
    ("rax", 8),
    ("rbx", 8),
    ("rcx", 8),
    ("rdx", 8),
    ("rsi", 8),
    ("rdi", 8),
    ("rbp", 8),
    ("rsp", 8),
    ("r8", 8),
    ("r9", 8),
    ("r10", 8),
    ("r11", 8),
    ("r12", 8),
    ("r13", 8),
    ("r14", 8),
    ("r15", 8),
    ("rip", 8),
    ("rflags", 4),
    ("cs", 4),
    ("ss", 4),
    ("ds", 4),
    ("es", 4),
    ("fs", 4),
    ("gs", 4),
    ("fs_base", 8),
    ("gs_base", 8),
    ("kernel_gs_base", 8),
    ("cr0", 8),
    ("cr2", 8),
    ("cr3", 8),
    ("cr4", 8),
    ("cr8", 8),
    ("efer", 8),
    ("", 10), // ST: before version 9 it shows another one
    ("", 10),
    ("", 10),
    ("", 10),
    ("", 10),
    ("", 10),
    ("", 10),
    ("", 10),
    ("fcw", 4),
    ("fsw", 4),
    ("", 4), // the tag word, and what the last instruction was
    ("", 4),
    ("", 4),
    ("", 4),
    ("", 4),
    ("", 4),
    ("xmm0", 16),
    ("xmm1", 16),
    ("xmm2", 16),
    ("xmm3", 16),
    ("xmm4", 16),
    ("xmm5", 16),
    ("xmm6", 16),
    ("xmm7", 16),
    ("xmm8", 16),
    ("xmm9", 16),
    ("xmm10", 16),
    ("xmm11", 16),
    ("xmm12", 16),
    ("xmm13", 16),
    ("xmm14", 16),
    ("xmm15", 16),
    ("mxcsr", 4),
];

/// Names of registers with a hidden part, as [`hidden`] takes them.
pub const SEGMENTS: [&str; 8] = ["es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"];

/// Adds the hidden part of a segment register, or of LDTR or TR.
pub fn hidden(state: &mut State, name: &str, segment: Segment) {
    state.insert(format!("{name}.base"), segment.base.into());
    state.insert(format!("{name}.limit"), segment.limit.into());
    state.insert(format!("{name}.attributes"), segment.attributes.into());
}

/// Whether code is of 64 bits.
pub fn is_wide(r: &Registers) -> bool {
    r.efer & efer::LMA != 0 && r.segments[seg::CS].long()
}

/// All that hv-core's registers and QEMU's have in common.
pub fn of_registers(r: &Registers) -> State {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, high @ ..] = r.gpr;
    let mut values: Vec<u128> = [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp].map(u128::from).to_vec();
    values.extend(high.map(u128::from));
    values.extend([r.rip, r.rflags].map(u128::from));
    let selectors = [seg::CS, seg::SS, seg::DS, seg::ES, seg::FS, seg::GS];
    values.extend(selectors.map(|n| u128::from(r.segments[n].selector)));
    let bases = [
        r.segments[seg::FS].base,
        r.segments[seg::GS].base,
        r.msrs.kernel_gs_base,
    ];
    values.extend(bases.map(u128::from));
    values.extend([r.cr0, r.cr2, r.cr3, r.cr4, r.cr8, r.efer].map(u128::from));
    values.extend([0; 8]);
    values.extend([r.x87.fcw, r.x87.fsw].map(u128::from));
    values.extend([0; 6]);
    values.extend(r.xmm);
    values.push(r.mxcsr.into());
    let names = LAYOUT.iter().map(|(name, _)| (*name).to_owned());
    let mut state: State = names.zip(values).collect();
    for (name, segment) in SEGMENTS.iter().zip(r.segments.iter().chain([&r.ldtr, &r.tr])) {
        // The hidden part of what can't be used is nobody's business.
        if !segment.unusable() {
            hidden(&mut state, name, *segment);
        }
    }
    for (name, table) in [("gdtr", r.gdtr), ("idtr", r.idtr)] {
        state.insert(format!("{name}.base"), table.base.into());
        state.insert(format!("{name}.limit"), table.limit.into());
    }
    for (n, address) in r.dr.into_iter().enumerate() {
        state.insert(format!("dr{n}"), address.into());
    }
    for (n, value) in r.x87.r.into_iter().enumerate() {
        state.insert(format!("x87.r{n}"), value);
    }
    state.insert("dr6".to_owned(), r.dr6.into());
    state.insert("dr7".to_owned(), r.dr7.into());
    let full = (0..8).filter(|n| r.x87.ftw >> (2 * n) & 3 != 3);
    state.insert("ftw".to_owned(), full.map(|n| 1 << n).sum());
    cut(&mut state, is_wide(r));
    state
}

/// Cuts the values down to what has a meaning in the mode: outside 64-bit code the upper halves and R8 to R15 are
/// undefined (SDM vol. 1, 3.4.1.1), and QEMU's stub shows zeros (x86_cpu_gdb_read_register in target/i386/gdbstub.c).
pub fn cut(state: &mut State, wide: bool) {
    state.remove("");
    // AF is undefined after logic, shifts, multiplication and division.
    state
        .entry("rflags".to_owned())
        .and_modify(|flags| *flags &= !u128::from(rflags::AF));
    if wide {
        return;
    }
    for n in 8..16 {
        state.remove(&format!("r{n}"));
    }
    for (name, value) in state.iter_mut() {
        let general =
            ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip"].contains(&name.as_str());
        if general || name.ends_with(".base") {
            *value &= 0xffff_ffff;
        }
    }
}
