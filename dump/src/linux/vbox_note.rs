//! The notes of a VirtualBox core (VirtualBox `include/VBox/vmm/dbgfcorefmt.h`).

use hv_core::regs::{DescriptorTable, Registers, Segment, gpr, seg};

/// `NT_VBOXCORE`, in a note named `VBCORE`.
pub(super) const CORE: u32 = 0xb00;
/// `NT_VBOXCPU`, in notes named `VBCPU`.
pub(super) const CPU: u32 = 0xb01;
/// `DBGFCORE_MAGIC`, the first word of the core's descriptor.
const MAGIC: u32 = 0xc01a_c0de;

/// Up to and with `APIC_BASE` of `DBGFCORECPU`.
const LENGTH: usize = 552;
const GENERAL: [usize; 14] = [
    gpr::RAX,
    gpr::RBX,
    gpr::RCX,
    gpr::RDX,
    gpr::RSI,
    gpr::RDI,
    8,
    9,
    10,
    11,
    12,
    13,
    14,
    15,
];
const SEGMENTS: [usize; 6] = [seg::CS, seg::DS, seg::ES, seg::FS, seg::GS, seg::SS];

pub(super) fn is_core(descriptor: &[u8]) -> bool {
    descriptor.starts_with(&MAGIC.to_le_bytes())
}

/// Reads `DBGFCORECPU`. What is too short is ignored.
pub(super) fn read(bytes: &[u8], registers: &mut Registers) -> bool {
    if bytes.len() < LENGTH {
        return false;
    }
    let (words, _) = bytes.as_chunks::<8>();
    let word = |offset: usize| u64::from_le_bytes(words[offset / 8]);
    for (n, slot) in GENERAL.into_iter().enumerate() {
        registers.gpr[slot] = word(8 * n);
    }
    registers.rip = word(112);
    registers.gpr[gpr::RSP] = word(120);
    registers.gpr[gpr::RBP] = word(128);
    registers.rflags = word(136);
    // Base, limit and attributes as VT-x has them, selector.
    let segment = |offset: usize| Segment {
        base: word(offset),
        limit: word(offset + 8) as u32,
        attributes: (word(offset + 8) >> 32) as u32 & (0xf0ff | Segment::UNUSABLE),
        selector: word(offset + 16) as u16,
    };
    for (n, slot) in SEGMENTS.into_iter().enumerate() {
        registers.segments[slot] = segment(144 + 24 * n);
    }
    (registers.cr0, registers.cr2) = (word(288), word(296));
    (registers.cr3, registers.cr4) = (word(304), word(312));
    registers.dr = [word(320), word(328), word(336), word(344)];
    (registers.dr6, registers.dr7) = (word(368), word(376));
    for (table, offset) in [(&mut registers.gdtr, 384), (&mut registers.idtr, 400)] {
        *table = DescriptorTable {
            base: word(offset),
            limit: word(offset + 8) as u16,
        };
    }
    (registers.ldtr, registers.tr) = (segment(416), segment(440));
    let msrs = &mut registers.msrs;
    (msrs.sysenter_cs, msrs.sysenter_eip, msrs.sysenter_esp) = (word(464), word(472), word(480));
    registers.efer = word(488);
    (msrs.star, msrs.pat, msrs.lstar, msrs.cstar) = (word(496), word(504), word(512), word(520));
    (msrs.sfmask, msrs.kernel_gs_base) = (word(528), word(536));
    registers.apic_base = word(544);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_follow_one_another_as_the_header_has_them() {
        let words: Vec<u8> = (0..69_u64).flat_map(u64::to_le_bytes).collect();
        let mut registers = Registers::at_reset(true);
        assert!(read(&words, &mut registers));
        assert_eq!(
            (registers.rip, registers.gpr[gpr::RSP], registers.rflags),
            (14, 15, 17)
        );
        assert_eq!(
            (
                registers.segments[seg::CS].base,
                registers.segments[seg::SS].selector
            ),
            (18, 35)
        );
        assert_eq!((registers.cr0, registers.cr3, registers.efer), (36, 38, 61));
        assert!(!read(&words[..words.len() - 1], &mut registers));
    }
}
