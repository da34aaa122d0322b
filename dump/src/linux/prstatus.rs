//! `struct elf_prstatus`: a processor's registers as a core file has them.

use hv_core::regs::{Registers, gpr, seg};

/// Its length for 64-bit processes (Linux `include/uapi/linux/elfcore.h` with x86-64's `user_regs_struct`).
pub(super) const LENGTH_64: usize = 336;
/// And for 32-bit ones.
pub(super) const LENGTH_32: usize = 144;

const PID_64: usize = 32;
const PID_32: usize = 24;
const REGISTERS_64: usize = 112;
const REGISTERS_32: usize = 72;

/// `pr_reg`'s order. Fields without a register in [`Registers`] are `None`.
enum Field {
    General(usize),
    Rip,
    Flags,
    Selector(usize),
    Base(usize),
    /// The number of the system call that a signal interrupted: none.
    OriginalRax,
}

use Field::{Base, Flags, General, OriginalRax, Rip, Selector};

const ORDER_64: [Field; 27] = [
    General(15),
    General(14),
    General(13),
    General(12),
    General(gpr::RBP),
    General(gpr::RBX),
    General(11),
    General(10),
    General(9),
    General(8),
    General(gpr::RAX),
    General(gpr::RCX),
    General(gpr::RDX),
    General(gpr::RSI),
    General(gpr::RDI),
    OriginalRax,
    Rip,
    Selector(seg::CS),
    Flags,
    General(gpr::RSP),
    Selector(seg::SS),
    Base(seg::FS),
    Base(seg::GS),
    Selector(seg::DS),
    Selector(seg::ES),
    Selector(seg::FS),
    Selector(seg::GS),
];

const ORDER_32: [Field; 17] = [
    General(gpr::RBX),
    General(gpr::RCX),
    General(gpr::RDX),
    General(gpr::RSI),
    General(gpr::RDI),
    General(gpr::RBP),
    General(gpr::RAX),
    Selector(seg::DS),
    Selector(seg::ES),
    Selector(seg::FS),
    Selector(seg::GS),
    OriginalRax,
    Rip,
    Selector(seg::CS),
    Flags,
    General(gpr::RSP),
    Selector(seg::SS),
];

fn value(registers: &Registers, field: &Field) -> u64 {
    match *field {
        General(n) => registers.gpr[n],
        Rip => registers.rip,
        Flags => registers.rflags,
        Selector(n) => registers.segments[n].selector.into(),
        Base(n) => registers.segments[n].base,
        OriginalRax => u64::MAX,
    }
}

fn set(registers: &mut Registers, field: &Field, value: u64) {
    match *field {
        General(n) => registers.gpr[n] = value,
        Rip => registers.rip = value,
        Flags => registers.rflags = value,
        Selector(n) => registers.segments[n].selector = value as u16,
        Base(n) => registers.segments[n].base = value,
        OriginalRax => {}
    }
}

/// The structure for the processor with this number; as QEMU, its number plus one stands for the process.
pub(super) fn write(registers: &Registers, number: u32, is_64_bit: bool) -> Vec<u8> {
    let pid = number.wrapping_add(1).to_le_bytes();
    if is_64_bit {
        let mut bytes = vec![0; LENGTH_64];
        bytes[PID_64..PID_64 + 4].copy_from_slice(&pid);
        for (slot, field) in bytes[REGISTERS_64..].chunks_exact_mut(8).zip(&ORDER_64) {
            slot.copy_from_slice(&value(registers, field).to_le_bytes());
        }
        bytes
    } else {
        let mut bytes = vec![0; LENGTH_32];
        bytes[PID_32..PID_32 + 4].copy_from_slice(&pid);
        for (slot, field) in bytes[REGISTERS_32..].chunks_exact_mut(4).zip(&ORDER_32) {
            slot.copy_from_slice(&(value(registers, field) as u32).to_le_bytes());
        }
        bytes
    }
}

/// Reads the registers that the structure has into `registers`. What is too short for either form is ignored.
pub(super) fn read(bytes: &[u8], registers: &mut Registers) -> bool {
    if bytes.len() >= LENGTH_64 {
        let (slots, _) = bytes[REGISTERS_64..].as_chunks::<8>();
        for (slot, field) in slots.iter().zip(&ORDER_64) {
            set(registers, field, u64::from_le_bytes(*slot));
        }
        return true;
    }
    if bytes.len() >= LENGTH_32 {
        let (slots, _) = bytes[REGISTERS_32..].as_chunks::<4>();
        for (slot, field) in slots.iter().zip(&ORDER_32) {
            set(registers, field, u32::from_le_bytes(*slot).into());
        }
        return true;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered() -> Registers {
        let mut registers = Registers::at_reset(true);
        registers.gpr = std::array::from_fn(|n| 0x1111 * (n as u64 + 1));
        (registers.rip, registers.rflags) = (0xabcd_ef01, 0x246);
        for (n, segment) in registers.segments.iter_mut().enumerate() {
            segment.selector = 0x10 + n as u16;
        }
        registers
    }

    #[test]
    fn registers_are_where_the_kernels_header_has_them() {
        let bytes = write(&numbered(), 1, true);
        let at = |offset: usize| u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap());
        assert_eq!(bytes.len(), 336);
        assert_eq!(bytes[32], 2);
        assert_eq!(
            (at(112), at(192), at(240), at(256)),
            (0x1111 * 16, 0x1111, 0xabcd_ef01, 0x246)
        );
        assert_eq!(
            (at(264), at(272), at(320), at(232)),
            (0x1111 * 5, 0x12, 0x15, u64::MAX)
        );
    }

    #[test]
    fn both_forms_are_read_as_they_were_written() {
        for is_64_bit in [true, false] {
            let mut read_back = Registers::at_reset(true);
            assert!(read(&write(&numbered(), 0, is_64_bit), &mut read_back));
            let mut expected = numbered();
            if !is_64_bit {
                expected.gpr[8..].fill(0);
            }
            assert_eq!(read_back, expected);
        }
        assert!(!read(&[0; 143], &mut numbered()));
    }
}
