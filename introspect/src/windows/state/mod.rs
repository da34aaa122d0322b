//! A vCPU's registers as Windows writes them, and back: CONTEXT and KSPECIAL_REGISTERS of both machines.
//!
//! The debugger's wire and crash dumps have the same blocks. Debug registers are those of the [`Registers`] that are
//! given; who shows others puts them there.

pub mod amd64;
mod fpu;
pub mod x86;

use super::facts::Arch;
use hv_core::regs::{Registers, Segment};
use zerocopy::IntoBytes;

/// The selectors that a CONTEXT has, in the order of [`Registers::segments`]; `None`: it doesn't say.
pub type Selectors = [Option<u16>; 6];

/// The bytes of a vCPU's CONTEXT.
pub fn context(arch: Arch, registers: &Registers) -> Vec<u8> {
    match arch {
        Arch::X64 => amd64::context(registers).as_bytes().to_vec(),
        Arch::X86 => x86::context(registers).as_bytes().to_vec(),
    }
}

/// The bytes of a vCPU's KSPECIAL_REGISTERS, as long as the newest version's.
pub fn special(arch: Arch, registers: &Registers) -> Vec<u8> {
    match arch {
        Arch::X64 => amd64::special(registers).as_bytes().to_vec(),
        Arch::X86 => x86::special(registers).as_bytes().to_vec(),
    }
}

/// The segment that a descriptor of a GDT or LDT describes (SDM vol. 3A, 3.4.5).
pub fn segment(selector: u16, descriptor: [u8; 8]) -> Segment {
    let descriptor = u64::from_le_bytes(descriptor);
    let attributes = (descriptor >> 40) as u32 & 0xf0ff;
    let limit = (descriptor & 0xffff) as u32 | (descriptor >> 32) as u32 & 0xf_0000;
    Segment {
        selector,
        base: descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000,
        limit: if attributes & 1 << 15 != 0 {
            limit << 12 | 0xfff
        } else {
            limit
        },
        attributes,
    }
}
