//! A bugcheck as KeBugCheckEx is given it, and as KiBugCheckData has it.

use super::facts::{Arch, Bugcheck};
use hv_core::GuestVirtAddr;
use hv_core::regs::{Registers, gpr};

impl Bugcheck {
    /// The bugcheck that a vCPU is just about to begin: it is at the first instruction of KeBugCheckEx, which notes the
    /// code and the parameters down in KiBugCheckData. `read` fills a buffer from the vCPU's memory, or says that it
    /// can't; then there is none.
    pub fn at_entry(
        arch: Arch,
        registers: &Registers,
        mut read: impl FnMut(GuestVirtAddr, &mut [u8]) -> bool,
    ) -> Option<Bugcheck> {
        let size = arch.pointer_size();
        let mut argument = |offset: u64| {
            let mut bytes = [0; 8];
            let at = arch.address(registers.gpr[gpr::RSP].wrapping_add(offset));
            read(at, &mut bytes[..size]).then_some(u64::from_le_bytes(bytes))
        };
        let (code, parameters) = match arch {
            // Microsoft's x64 calling convention: four in registers, the fifth behind the return address and their homes.
            Arch::X64 => {
                let register = |index: usize| registers.gpr[index];
                let parameters = [register(gpr::RDX), register(8), register(9), argument(0x28)?];
                (register(gpr::RCX), parameters)
            }
            Arch::X86 => {
                let parameters = [argument(8)?, argument(12)?, argument(16)?, argument(20)?];
                (argument(4)?, parameters)
            }
        };
        Some(Bugcheck {
            code: code as u32,
            parameters,
        })
    }

    /// The bytes that KiBugCheckData has once they are noted down.
    pub fn data(&self, arch: Arch) -> Vec<u8> {
        let words = std::iter::once(u64::from(self.code)).chain(self.parameters);
        let size = arch.pointer_size();
        words
            .flat_map(|word| word.to_le_bytes().into_iter().take(size))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory in which each byte is the low byte of its address.
    fn read(address: GuestVirtAddr, buffer: &mut [u8]) -> bool {
        for (at, byte) in (address.0..).zip(buffer) {
            *byte = at as u8;
        }
        true
    }

    #[test]
    fn arguments_are_where_each_calling_convention_has_them() {
        let mut registers = Registers::at_reset(true);
        registers.gpr = std::array::from_fn(|index| 0x1_0000_0000 + index as u64);
        registers.gpr[gpr::RSP] = 0xffff_f800_0000_0000;
        let x64 = Bugcheck::at_entry(Arch::X64, &registers, read).unwrap();
        assert_eq!(x64.code, gpr::RCX as u32);
        assert_eq!(x64.parameters[1], 0x1_0000_0008);
        assert_eq!(x64.parameters[3], 0x2f2e_2d2c_2b2a_2928);
        assert_eq!(x64.data(Arch::X64).len(), 40);
        let x86 = Bugcheck::at_entry(Arch::X86, &registers, read).unwrap();
        assert_eq!((x86.code, x86.parameters[3]), (0x0706_0504, 0x1716_1514));
        assert_eq!(x86.data(Arch::X86)[..8], [4, 5, 6, 7, 8, 9, 10, 11]);
    }

    #[test]
    fn without_its_stack_there_is_none() {
        let registers = Registers::at_reset(true);
        for arch in [Arch::X64, Arch::X86] {
            assert_eq!(Bugcheck::at_entry(arch, &registers, |_, _| false), None);
        }
    }
}
