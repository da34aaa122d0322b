//! A processor's registers from what the notes and VMCOREINFO tell.

use super::notes::{Cpu, Notes};
use super::{Vmcoreinfo, prstatus, qemu_note, vbox_note};
use hv_core::regs::{Activity, Registers, Segment, cr0, cr4, efer, seg};

/// The registers of each processor. NT_PRSTATUS has none that say how memory is translated: VMCOREINFO's root stands for
/// CR3 then, and the control registers are those of a kernel that runs with paging.
pub(crate) fn registers(notes: &Notes, is_64_bit: bool) -> Vec<Registers> {
    let info = Vmcoreinfo::new(&notes.vmcoreinfo);
    let one = |(number, cpu): (usize, &Cpu)| {
        let mut registers = Registers::at_reset(number == 0);
        registers.activity = Activity::Running;
        if cpu
            .vbox
            .as_ref()
            .is_some_and(|note| vbox_note::read(note, &mut registers))
        {
            return registers;
        }
        // QEMU's note has all that NT_PRSTATUS has.
        if !cpu
            .qemu
            .as_ref()
            .is_some_and(|note| qemu_note::read(note, &mut registers))
        {
            running_kernel(&mut registers, &info, is_64_bit);
            if let Some(note) = &cpu.prstatus {
                prstatus::read(note, &mut registers);
            }
            segments(&mut registers, is_64_bit);
        }
        set_efer(&mut registers, is_64_bit);
        registers
    };
    notes.cpus.iter().enumerate().map(one).collect()
}

fn running_kernel(registers: &mut Registers, info: &Vmcoreinfo<'_>, is_64_bit: bool) {
    registers.cr3 = info.root().unwrap_or(0);
    registers.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
    registers.cr4 = cr4::PSE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT;
    if is_64_bit {
        registers.cr4 |= cr4::PAE | if info.five_levels() { cr4::LA57 } else { 0 };
    }
}

/// No note has EFER.
fn set_efer(registers: &mut Registers, is_64_bit: bool) {
    if registers.cr0 & cr0::PG != 0 && registers.cr4 & cr4::PAE != 0 {
        let long = if is_64_bit {
            efer::SCE | efer::LME | efer::LMA
        } else {
            0
        };
        registers.efer = long | efer::NXE;
    }
}

/// `__USER32_CS` (Linux `arch/x86/include/asm/segment.h`): 32-bit code under a 64-bit kernel.
const USER32_CS: u16 = 0x23;

/// What Linux's selectors stand for.
fn segments(registers: &mut Registers, is_64_bit: bool) {
    let code = registers.segments[seg::CS].selector;
    let privilege = u32::from(code & 3) << 5;
    for (n, segment) in registers.segments.iter_mut().enumerate() {
        let base = if matches!(n, seg::FS | seg::GS) && is_64_bit {
            segment.base
        } else {
            0
        };
        let kind = match n {
            seg::CS if is_64_bit && code != USER32_CS => 0xa09b,
            seg::CS => 0xc09b,
            _ => 0xc093,
        };
        *segment = Segment {
            selector: segment.selector,
            base,
            limit: u32::MAX,
            attributes: kind | privilege,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LinuxFacts, build_notes};
    use super::*;

    const INFO: &[u8] = b"SYMBOL(swapper_pg_dir)=ffffffff89a10000\nNUMBER(phys_base)=67108864\n";

    fn note_less_qemu() -> Notes {
        let mut cpu = Registers::at_reset(true);
        cpu.rip = 0xffff_ffff_8100_0000;
        cpu.segments[seg::CS].selector = 0x33;
        cpu.segments[seg::GS].base = 0xffff_8880_0000_0000;
        let facts = LinuxFacts {
            vmcoreinfo: Some(INFO.to_vec()),
            ..LinuxFacts::default()
        };
        let mut notes = Notes::parse(&build_notes(&[cpu], &facts, true));
        notes.cpus[0].qemu = None;
        notes
    }

    #[test]
    fn without_control_registers_the_root_is_vmcoreinfos() {
        let cpu = &registers(&note_less_qemu(), true)[0];
        assert_eq!((cpu.rip, cpu.cr3), (0xffff_ffff_8100_0000, 0xda1_0000));
        assert!(cpu.cr0 & cr0::PG != 0 && cpu.cr4 & cr4::PAE != 0 && cpu.efer & efer::LMA != 0);
        assert!(cpu.segments[seg::CS].long() && cpu.cpl() == 3);
        assert_eq!(cpu.segments[seg::GS].base, 0xffff_8880_0000_0000);
    }

    #[test]
    fn with_qemus_note_the_control_registers_are_the_processors_own() {
        let mut cpu = Registers::at_reset(true);
        (cpu.cr0, cpu.cr3, cpu.cr4) = (0x8005_0033, 0x1234_5000, 0x6b0);
        let facts = LinuxFacts {
            vmcoreinfo: Some(INFO.to_vec()),
            ..LinuxFacts::default()
        };
        let notes = Notes::parse(&build_notes(&[cpu.clone()], &facts, true));
        let read = &registers(&notes, true)[0];
        assert_eq!((read.cr0, read.cr3, read.cr4), (cpu.cr0, cpu.cr3, cpu.cr4));
        assert!(read.efer & efer::LMA != 0);
    }
}
