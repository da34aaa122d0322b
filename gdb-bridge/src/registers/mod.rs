//! The registers that a client sees, one numbering for every CPU mode.
//!
//! Numbers 0 to 0x41 are those of QEMU's x86-64 stub, because clients exist (WinDbg's EXDI server) that have them
//! built in; everything else follows. A register's number is its index in [`TABLE`]; the `g` packet holds all of
//! them in this order.

mod description;
mod set;
mod slot;
mod system;
mod table;

pub use description::description;
pub use set::{RegisterSet, SavedRegisters};
pub use slot::{Refused, SegmentName, Slot};
pub use system::{SYSTEM, SYSTEM_BYTES};
pub use table::TABLE;

use hv_core::addr::VcpuId;
use hv_core::introspect::Introspect;
use hv_core::regs::Registers;

/// The part of the description a register belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feature {
    /// `org.gnu.gdb.i386.core`: general registers, selectors, x87.
    Core,
    /// `org.gnu.gdb.i386.segments`: the FS and GS bases.
    Segments,
    /// `org.gnu.gdb.i386.sse`.
    Sse,
    /// Ours: control and model-specific registers, what `info registers system` shows (see [`SYSTEM`]).
    System,
}

/// One register of the description.
pub struct Register {
    /// The name that users type.
    pub name: &'static str,
    /// Its width on the wire.
    pub bits: u16,
    /// The type in the description.
    pub kind: &'static str,
    /// Where it is described.
    pub feature: Feature,
    /// Where its value is.
    pub slot: Slot,
}

impl Register {
    /// Its width in bytes.
    pub const fn bytes(&self) -> usize {
        self.bits as usize / 8
    }
}

/// The length of a `g` packet in bytes.
pub const FILE_LENGTH: usize = {
    let mut sum = 0;
    let mut i = 0;
    while i < TABLE.len() {
        sum += TABLE[i].bytes();
        i += 1;
    }
    sum
};

/// The number of RIP.
pub const RIP: usize = 0x10;

/// The registers that every stop carries: with these gdb and lldb need no `g` to show where they are.
pub const EXPEDITED: std::ops::RangeInclusive<usize> = 0..=0x19;

/// A vCPU's registers as clients see them.
pub struct View<'a> {
    domain: &'a dyn Introspect,
    vcpu: VcpuId,
    registers: Registers,
}

impl View<'_> {
    /// Reads a vCPU.
    ///
    /// # Errors
    /// As `ReadRegisters::registers`.
    pub fn read(domain: &dyn Introspect, vcpu: VcpuId) -> hv_core::introspect::Result<View<'_>> {
        let registers = domain.registers(vcpu)?;
        Ok(View {
            domain,
            vcpu,
            registers,
        })
    }

    /// All that the vCPU has.
    pub fn registers(&self) -> &Registers {
        &self.registers
    }

    /// One register, little-endian, appended.
    pub fn put(&self, register: &Register, out: &mut Vec<u8>) {
        let value = match register.slot {
            Slot::OtherMsr(msr) => {
                u128::from(self.domain.read_msr(self.vcpu, msr).ok().flatten().unwrap_or(0))
            }
            slot => slot.get(&self.registers),
        };
        out.extend_from_slice(&value.to_le_bytes()[..register.bytes()]);
    }

    /// Changes one register; `bytes` must be as many as it has.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the value.
    pub fn set(&mut self, register: &Register, bytes: &[u8]) -> Result<(), String> {
        if bytes.len() != register.bytes() {
            return Err(format!(
                "{} has {} bytes, not {}",
                register.name,
                register.bytes(),
                bytes.len()
            ));
        }
        let mut value = [0; 16];
        value[..bytes.len()].copy_from_slice(bytes);
        let value = u128::from_le_bytes(value);
        let Slot::OtherMsr(msr) = register.slot else {
            return register
                .slot
                .set(&mut self.registers, value)
                .map_err(|Refused(why)| format!("{}: {why}", register.name));
        };
        let write = self
            .domain
            .write_registers()
            .ok_or("this domain's registers can't be written")?;
        match write.write_msr(self.vcpu, msr, value as u64) {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!("{} cannot hold {value:#x}", register.name)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Changes those of `registers` whose values in `bytes`, one behind the other, differ from what they are. A
    /// client sends all back to change one, and those that are read by their numbers (the TSC) have moved on since:
    /// they are left alone.
    ///
    /// # Errors
    /// A sentence that says what is wrong with a value.
    pub fn set_changed(
        &mut self,
        registers: impl Iterator<Item = &'static Register>,
        bytes: &[u8],
    ) -> Result<(), String> {
        let mut rest = bytes;
        for register in registers {
            let Some((value, tail)) = rest.split_at_checked(register.bytes()) else {
                break;
            };
            rest = tail;
            let mut now = Vec::new();
            self.put(register, &mut now);
            if now != value && !matches!(register.slot, Slot::OtherMsr(_)) {
                self.set(register, value)?;
            }
        }
        Ok(())
    }

    /// Writes the vCPU.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn write(&self) -> Result<(), String> {
        let write = self
            .domain
            .write_registers()
            .ok_or("this domain's registers can't be written")?;
        write
            .set_registers(self.vcpu, &self.registers)
            .map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_numbers_are_those_of_qemu() {
        let expected = [
            (0, "rax"),
            (1, "rbx"),
            (4, "rsi"),
            (7, "rsp"),
            (0x10, "rip"),
            (0x11, "eflags"),
            (0x17, "gs"),
            (0x18, "fs_base"),
            (0x19, "gs_base"),
            (0x1a, "k_gs_base"),
            (0x1b, "cr0"),
            (0x1f, "cr8"),
            (0x20, "efer"),
            (0x21, "st0"),
            (0x29, "fctrl"),
            (0x30, "fop"),
            (0x31, "xmm0"),
            (0x41, "mxcsr"),
        ];
        for (number, name) in expected {
            assert_eq!(TABLE[number].name, name);
        }
    }

    #[test]
    fn gdb_alone_is_told_of_a_register_that_holds_the_system_group() {
        let field = "<field name=\"cr3\" type=\"uint64\"/>";
        assert!(description(true).contains(field) && description(true).contains("<reg name=\"system\""));
        assert!(!description(false).contains(field) && !description(false).contains("<reg name=\"system\""));
        assert!(TABLE.iter().all(|r| r.name != "system"), "the name must be free");
        let sum: usize = system::members().map(Register::bytes).sum();
        assert_eq!(sum, SYSTEM_BYTES);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = TABLE.iter().map(|r| r.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }

    #[test]
    fn every_register_that_is_plain_state_can_be_written_and_read_back() {
        let mut registers = Registers::at_reset(true);
        for register in TABLE.iter().filter(|r| !matches!(r.slot, Slot::OtherMsr(_))) {
            let odd = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdefu128 & (u128::MAX >> (128 - register.bits));
            // Some hold fewer bits than they show.
            let value = match register.name {
                "eflags" => 0x246,
                "cr8" => 5,
                "fop" => 0x7ab,
                "fctrl" | "fstat" | "ftag" | "fiseg" | "foseg" => 0x1200,
                "cs" | "ss" | "ds" | "es" | "fs" | "gs" | "ldtr" | "tr" | "gdtr_limit" | "idtr_limit" => 0x33,
                _ => odd,
            };
            register
                .slot
                .set(&mut registers, value)
                .unwrap_or_else(|_| panic!("{}", register.name));
            assert_eq!(register.slot.get(&registers), value, "{}", register.name);
        }
    }
}
