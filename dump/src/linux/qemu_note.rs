//! The note that QEMU adds for each processor: control registers and segments, which NT_PRSTATUS lacks.

use hv_core::regs::{Registers, Segment, gpr, seg};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// `QEMUCPUSegment` (QEMU `target/i386/arch_dump.c`).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
struct QemuSegment {
    selector: U32,
    limit: U32,
    /// The high half of the descriptor.
    flags: U32,
    pad: U32,
    base: U64,
}

/// `QEMUCPUState` (the same).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
struct QemuState {
    version: U32,
    size: U32,
    /// RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP, R8 to R15.
    general: [U64; 16],
    rip: U64,
    rflags: U64,
    /// CS, DS, ES, FS, GS, SS, LDT, TR, GDT, IDT.
    segments: [QemuSegment; 10],
    /// CR0 to CR4.
    control: [U64; 5],
    kernel_gs_base: U64,
}

const LENGTH: usize = 440;
const _: () = assert!(size_of::<QemuState>() == LENGTH);
/// Older versions of QEMU, before 4.1, ended without the last field.
const OLD_LENGTH: usize = 432;

const GENERAL: [usize; 16] = [
    gpr::RAX,
    gpr::RBX,
    gpr::RCX,
    gpr::RDX,
    gpr::RSI,
    gpr::RDI,
    gpr::RSP,
    gpr::RBP,
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
const PRESENT: u32 = 1 << 15;
const GRANULAR: u32 = 1 << 23;

impl QemuSegment {
    fn of(segment: &Segment) -> QemuSegment {
        let mut flags = (segment.attributes & 0xf0ff) << 8;
        if segment.unusable() {
            flags &= !PRESENT;
        }
        let limit_in_units = if flags & GRANULAR == 0 {
            segment.limit
        } else {
            segment.limit >> 12
        };
        flags |= limit_in_units & 0xf_0000;
        QemuSegment {
            selector: u32::from(segment.selector).into(),
            limit: segment.limit.into(),
            flags: flags.into(),
            pad: 0.into(),
            base: segment.base.into(),
        }
    }

    fn table(base: u64, limit: u16) -> QemuSegment {
        QemuSegment {
            limit: u32::from(limit).into(),
            base: base.into(),
            ..QemuSegment::new_zeroed()
        }
    }

    fn segment(&self) -> Segment {
        let flags = self.flags.get();
        let unusable = if flags & PRESENT == 0 {
            Segment::UNUSABLE
        } else {
            0
        };
        Segment {
            selector: self.selector.get() as u16,
            base: self.base.get(),
            limit: self.limit.get(),
            attributes: (flags >> 8) & 0xf0ff | unusable,
        }
    }
}

pub(super) fn write(registers: &Registers) -> Vec<u8> {
    let mut state = QemuState::new_zeroed();
    (state.version, state.size) = (1.into(), (LENGTH as u32).into());
    state.general = GENERAL.map(|n| registers.gpr[n].into());
    (state.rip, state.rflags) = (registers.rip.into(), registers.rflags.into());
    for (slot, n) in state.segments.iter_mut().zip(SEGMENTS) {
        *slot = QemuSegment::of(&registers.segments[n]);
    }
    state.segments[6] = QemuSegment::of(&registers.ldtr);
    state.segments[7] = QemuSegment::of(&registers.tr);
    state.segments[8] = QemuSegment::table(registers.gdtr.base, registers.gdtr.limit);
    state.segments[9] = QemuSegment::table(registers.idtr.base, registers.idtr.limit);
    state.control = [registers.cr0, 0, registers.cr2, registers.cr3, registers.cr4].map(U64::new);
    state.kernel_gs_base = registers.msrs.kernel_gs_base.into();
    state.as_bytes().to_vec()
}

/// Reads the registers that the note has. What isn't version 1 or is too short is ignored.
pub(super) fn read(bytes: &[u8], registers: &mut Registers) -> bool {
    if bytes.len() < OLD_LENGTH {
        return false;
    }
    let mut whole = [0; LENGTH];
    let length = bytes.len().min(LENGTH);
    whole[..length].copy_from_slice(&bytes[..length]);
    let state: QemuState = zerocopy::transmute!(whole);
    if state.version.get() != 1 {
        return false;
    }
    for (value, n) in state.general.iter().zip(GENERAL) {
        registers.gpr[n] = value.get();
    }
    (registers.rip, registers.rflags) = (state.rip.get(), state.rflags.get());
    for (segment, n) in state.segments.iter().zip(SEGMENTS) {
        registers.segments[n] = segment.segment();
    }
    (registers.ldtr, registers.tr) = (state.segments[6].segment(), state.segments[7].segment());
    for (table, from) in [(&mut registers.gdtr, 8), (&mut registers.idtr, 9)] {
        table.base = state.segments[from].base.get();
        table.limit = state.segments[from].limit.get() as u16;
    }
    let [cr0, _, cr2, cr3, cr4] = state.control.map(U64::get);
    (registers.cr0, registers.cr2, registers.cr3, registers.cr4) = (cr0, cr2, cr3, cr4);
    registers.msrs.kernel_gs_base = state.kernel_gs_base.get();
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut registers = Registers::at_reset(true);
        registers.gpr = std::array::from_fn(|n| 0x0123_4567_89ab_cdef_u64.rotate_left(n as u32 * 3));
        (registers.cr0, registers.cr2, registers.cr3, registers.cr4) = (0x8005_0033, 0x1234, 0x3000, 0x6f0);
        registers.msrs.kernel_gs_base = 0xffff_8880_0000_0000;
        registers.segments[seg::CS].attributes = 0xa09b;
        registers.segments[seg::GS].attributes = Segment::UNUSABLE;
        registers.gdtr.base = 0xffff_fe00_0000_1000;
        let mut read_back = Registers::at_reset(true);
        assert!(read(&write(&registers), &mut read_back));
        assert_eq!(read_back, registers);
    }

    #[test]
    fn a_64_bit_code_segment_has_qemus_flags() {
        let segment = Segment {
            selector: 0x10,
            base: 0,
            limit: u32::MAX,
            attributes: 0xa09b,
        };
        assert_eq!(QemuSegment::of(&segment).flags.get(), 0x00af_9b00);
    }

    #[test]
    fn the_older_shorter_note_is_read_too() {
        let note = write(&Registers::at_reset(true));
        let mut registers = Registers::at_reset(false);
        assert!(read(&note[..432], &mut registers) && registers.rip == 0xfff0);
        assert!(!read(&note[..431], &mut registers));
    }
}
