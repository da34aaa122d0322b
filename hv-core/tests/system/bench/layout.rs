//! Where things lie in the bench's machine, and the values that tables and the CPU give names to.

use hv_core::regs::Segment;

pub const GDT: u64 = 0x20_0000;
pub const IDT: u64 = 0x20_1000;
pub const TSS: u64 = 0x20_2000;
pub const HANDLERS: u64 = 0x20_4000;
pub const TABLES: u64 = 0x21_0000;
pub const CODE: u64 = 0x30_0000;
pub const DATA: u64 = 0x40_0000;
pub const STACK: u64 = 0x50_0000;

/// Selectors of the bench's GDT, laid out as SYSCALL, SYSRET, SYSENTER and SYSEXIT want them.
pub mod selector {
    pub const CODE64: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    pub const USER_CODE32: u16 = 0x18 | 3;
    pub const USER_DATA: u16 = 0x20 | 3;
    pub const USER_CODE64: u16 = 0x28 | 3;
    pub const TSS: u16 = 0x30;
    pub const CODE32: u16 = 0x40;
    pub const CODE16: u16 = 0x48;
    pub const DATA16: u16 = 0x50;
    /// The first that tests may define.
    pub const FREE: u16 = 0x60;
}

/// Bits of a paging entry.
#[allow(dead_code)]
pub mod page {
    pub const P: u64 = 1;
    pub const W: u64 = 2;
    pub const U: u64 = 4;
    pub const A: u64 = 0x20;
    pub const D: u64 = 0x40;
    pub const LARGE: u64 = 0x80;
    pub const GLOBAL: u64 = 0x100;
    pub const NX: u64 = 1 << 63;
}

/// Exception vectors.
#[allow(dead_code)]
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const AC: u8 = 17;
}

/// A code or data descriptor: access byte (bits 40..48) and flags (bits 52..56).
pub fn descriptor(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    let (base, limit) = (base as u64, limit as u64);
    (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | (access as u64) << 40
        | (limit >> 16 & 0xf) << 48
        | (flags as u64) << 52
        | (base >> 24) << 56
}

/// A call, interrupt, trap or task gate of 8 bytes; `access` is P, DPL and type.
pub fn gate(selector: u16, offset: u32, access: u8, parameters: u8) -> u64 {
    (offset & 0xffff) as u64
        | (selector as u64) << 16
        | (parameters as u64) << 32
        | (access as u64) << 40
        | (offset as u64 >> 16) << 48
}

pub fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17)
}

/// The hidden part of a null segment.
pub const NULL: Segment = Segment {
    selector: 0,
    base: 0,
    limit: 0,
    attributes: Segment::UNUSABLE,
};
