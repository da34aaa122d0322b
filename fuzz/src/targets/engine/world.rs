//! A mode with the tables that it needs, and damage to them.
//!
//! ```text
//! 0x1000 IVT ends below   0x2000 GDT   0x2800 LDT   0x3000 IDT   0x4000 handlers   0x5000 TSS
//! 0x6000 stack   0x7000 code   0x8000 data   0x10_0000 paging
//! ```

use crate::input::Input;
use hv_core::machine::Machine;
use hv_core::regs::{DescriptorTable, Registers, Segment, cr0, cr4, efer, gpr, rflags, seg};
use hv_core::{GuestPhysAddr, VcpuId};

/// Where the code is.
pub const CODE: u64 = 0x7000;
const GDT: u64 = 0x2000;
const LDT: u64 = 0x2800;
const IDT: u64 = 0x3000;
const HANDLERS: u64 = 0x4000;
const TSS: u64 = 0x5000;
const DATA: u64 = 0x8000;
const TABLES: u64 = 0x10_0000;

/// How many modes there are.
pub const MODES: usize = 12;

/// MSRs that do something.
pub const MSRS: [u32; 16] = [
    0x10,
    0x1b,
    0x174,
    0x175,
    0x1a0,
    0x250,
    0x277,
    0x2ff,
    0x6e0,
    0x802,
    0x80b,
    0x80f,
    0x830,
    0xc000_0080,
    0xc000_0081,
    0xc000_0102,
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Paging {
    None,
    Legacy,
    Pae,
    Long,
}

struct Kind {
    protected: bool,
    virtual_8086: bool,
    bits: u32,
    ring: u8,
    paging: Paging,
}

fn kind(mode: usize) -> Kind {
    let of = |bits, ring, paging| Kind {
        protected: true,
        virtual_8086: false,
        bits,
        ring,
        paging,
    };
    match mode {
        0 => Kind {
            protected: false,
            ..of(16, 0, Paging::None)
        },
        1 => Kind {
            virtual_8086: true,
            ..of(16, 3, Paging::Legacy)
        },
        2 => of(16, 0, Paging::None),
        3 => of(32, 0, Paging::None),
        4 => of(32, 0, Paging::Legacy),
        5 => of(32, 3, Paging::Legacy),
        6 => of(32, 0, Paging::Pae),
        7 => of(32, 3, Paging::Pae),
        8 => of(64, 0, Paging::Long),
        9 => of(64, 3, Paging::Long),
        10 => of(32, 3, Paging::Long),
        _ => of(16, 0, Paging::Long),
    }
}

/// The default operand size of a mode's code.
pub fn bits(mode: usize) -> u32 {
    kind(mode).bits
}

/// Descriptors by their number; the selector is eight times that.
const DESCRIPTORS: [u64; 18] = [
    0,
    0x00cf_9b00_0000_ffff, // 1 code, 32 bit
    0x00cf_9300_0000_ffff, // 2 data
    0x00af_9b00_0000_ffff, // 3 code, 64 bit
    0x00cf_fb00_0000_ffff, // 4 user code, 32 bit
    0x00cf_f300_0000_ffff, // 5 user data
    0x00af_fb00_0000_ffff, // 6 user code, 64 bit
    0x008f_9b00_0000_ffff, // 7 code, 16 bit
    0x008f_9300_0000_ffff, // 8 data, 16 bit
    0x0000_8900_5000_0fff, // 9 TSS, its upper half is 10
    0,
    0x0000_8200_2800_00ff, // 11 LDT, its upper half is 12
    0,
    0x0000_ec00_0008_4000, // 13 call gate to 32-bit code, its upper half is 14
    0,
    0x0000_8900_5800_0067, // 15 another TSS, its upper half is 16
    0,
    0x0000_e500_0078_0000, // 17 task gate
];

const CODE_32: u16 = 1;
const DATA_32: u16 = 2;
const CODE_64: u16 = 3;

/// A segment register as loading the descriptor would make it.
fn segment(number: u16, ring: u8) -> Segment {
    let d = DESCRIPTORS[usize::from(number)];
    let limit = (d & 0xffff) as u32 | (d >> 32) as u32 & 0xf_0000;
    Segment {
        selector: number << 3 | u16::from(ring),
        base: d >> 16 & 0xff_ffff | d >> 32 & 0xff00_0000,
        limit: if d >> 55 & 1 != 0 {
            limit << 12 | 0xfff
        } else {
            limit
        },
        attributes: (d >> 40) as u32 & 0xf0ff,
    }
}

fn real_segment(base: u64) -> Segment {
    Segment {
        selector: (base >> 4) as u16,
        base,
        limit: 0xffff,
        attributes: 0xf3,
    }
}

fn put(machine: &mut Machine, address: u64, bytes: &[u8]) {
    machine.write_physical(GuestPhysAddr(address), bytes);
}

fn put_u64(machine: &mut Machine, address: u64, value: u64) {
    put(machine, address, &value.to_le_bytes());
}

/// Identity maps of 4 GiB: with one 4 KiB table for the start, and large pages.
fn paging(machine: &mut Machine, paging: Paging) -> u64 {
    let leaf = |n: u64| n << 12 | 7;
    match paging {
        Paging::None => 0,
        Paging::Legacy => {
            let mut directory = Vec::new();
            for n in 0..1024_u32 {
                directory.extend_from_slice(&(n << 22 | 0x87).to_le_bytes());
            }
            put(machine, TABLES, &directory);
            put(machine, TABLES, &((TABLES as u32 + 0x1000) | 7).to_le_bytes());
            let table: Vec<u8> = (0..1024_u32).flat_map(|n| (n << 12 | 7).to_le_bytes()).collect();
            put(machine, TABLES + 0x1000, &table);
            TABLES
        }
        Paging::Pae | Paging::Long => {
            let directories: Vec<u8> = (0..2048_u64)
                .flat_map(|n| (n << 21 | 0x87).to_le_bytes())
                .collect();
            put(machine, TABLES + 0x2000, &directories);
            put_u64(machine, TABLES + 0x2000, (TABLES + 0x6000) | 7);
            let table: Vec<u8> = (0..512_u64).flat_map(|n| leaf(n).to_le_bytes()).collect();
            put(machine, TABLES + 0x6000, &table);
            let present = if paging == Paging::Pae { 1 } else { 7 };
            for n in 0..4 {
                put_u64(
                    machine,
                    TABLES + 0x1000 + 8 * n,
                    (TABLES + 0x2000 + (n << 12)) | present,
                );
            }
            // The upper half is the lower one again.
            put_u64(machine, TABLES, (TABLES + 0x1000) | 7);
            put_u64(machine, TABLES + 0xff8, (TABLES + 0x1000) | 7);
            put_u64(machine, TABLES + 0x1000 + 0xff8, (TABLES + 0x2000) | present);
            if paging == Paging::Pae {
                TABLES + 0x1000
            } else {
                TABLES
            }
        }
    }
}

fn gates(machine: &mut Machine, kind: &Kind) {
    let long = kind.paging == Paging::Long;
    for vector in 0..256_u64 {
        let handler = HANDLERS + vector % 32 * 16;
        if !kind.protected {
            put(machine, vector * 4, &(handler as u32).to_le_bytes());
            continue;
        }
        let code = if long { CODE_64 } else { CODE_32 };
        let what = if vector % 3 == 0 { 0xef00 } else { 0xee00 };
        let gate = handler & 0xffff | u64::from(code << 3) << 16 | what << 32;
        if long {
            put_u64(machine, IDT + vector * 16, gate | (vector % 8 / 6) << 32);
        } else {
            put_u64(machine, IDT + vector * 8, gate);
        }
    }
    for vector in 0..32_u64 {
        // Every fourth one hands the fault on; others skip an error code, count, and return.
        let has_code = matches!(vector, 8 | 10..=14 | 17) && kind.protected;
        let code: &[u8] = match (
            has_code,
            kind.bits.max(if kind.protected { 32 } else { 16 }),
            vector % 4,
        ) {
            (_, _, 3) => &[0xf4, 0xeb, 0xfd],
            (true, 64, _) => &[0x48, 0x83, 0xc4, 0x08, 0x48, 0xff, 0x04, 0x24, 0x48, 0xcf],
            (true, ..) => &[0x83, 0xc4, 0x04, 0xff, 0x04, 0x24, 0xcf],
            (false, 64, _) => &[0x48, 0xff, 0x04, 0x24, 0x48, 0xcf],
            (false, 16, _) => &[0x40, 0xcf],
            (false, ..) => &[0xff, 0x04, 0x24, 0xcf],
        };
        put(machine, HANDLERS + vector * 16, code);
    }
}

/// The page tables as they were laid, without the bits that the CPU sets.
#[derive(PartialEq, Eq)]
pub struct Tables(Vec<u64>);

impl Tables {
    /// As they are now.
    pub fn of(machine: &Machine) -> Tables {
        let mut bytes = vec![0; 0x7000];
        machine.read_physical(GuestPhysAddr(TABLES), &mut bytes);
        let entry = |bytes: &[u8]| {
            bytes
                .iter()
                .rev()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        };
        Tables(
            bytes
                .chunks(8)
                .map(|bytes| entry(bytes) & !0x0000_0060_0000_0060)
                .collect(),
        )
    }

    /// Whether a machine translates by these and no others, or not at all: then what its TLB holds can't be told.
    pub fn hold(&self, machine: &Machine) -> bool {
        (0..machine.vcpu_count()).all(|n| {
            let registers = machine.registers(VcpuId(n));
            let root = registers.cr3 & !0xfff;
            registers.cr0 & cr0::PG == 0
                || (root == TABLES || root == TABLES + 0x1000) && *self == Tables::of(machine)
        })
    }
}

/// Lays the tables, damages them as the input says, and sets the registers; the tables before the damage.
pub fn build(machine: &mut Machine, mode: usize, input: &mut Input<'_>) -> Tables {
    let kind = kind(mode);
    let root = paging(machine, kind.paging);
    gates(machine, &kind);
    for (n, descriptor) in DESCRIPTORS.iter().enumerate() {
        put_u64(machine, GDT + 8 * n as u64, *descriptor);
        put_u64(machine, LDT + 8 * n as u64, *descriptor);
    }
    // ESP0 or RSP0, SS0, and for the second one a task to switch to.
    put_u64(machine, TSS + 4, 0x6800);
    put(machine, TSS + 8, &(DATA_32 << 3).to_le_bytes());
    put(machine, TSS + 0x24, &[0, 0x6c]);
    put(machine, TSS + 0x66, &[0x68, 0]);
    for (offset, value) in [(0x1c, root as u32), (0x20, CODE as u32), (0x38, 0x6400)] {
        put(machine, TSS + 0x800 + offset, &value.to_le_bytes());
    }
    for (n, number) in [DATA_32, CODE_32, DATA_32, DATA_32].into_iter().enumerate() {
        put(machine, TSS + 0x848 + 4 * n as u64, &(number << 3).to_le_bytes());
    }
    let tables = Tables::of(machine);
    damage_tables(machine, input);
    let mut registers = registers(machine, &kind, root);
    let base = registers.clone();
    for _ in 0..input.below(8) {
        damage_registers(&mut registers, input);
    }
    if machine.set_registers(VcpuId(0), &registers).is_err() {
        let _ = machine.set_registers(VcpuId(0), &base);
    }
    tables
}

fn damage_tables(machine: &mut Machine, input: &mut Input<'_>) {
    for _ in 0..input.below(12) {
        let (what, at, value) = (input.u8(), u64::from(input.u16()), input.u64());
        match what % 8 {
            0 => put(machine, GDT + at % 0x100, &value.to_le_bytes()),
            1 => put(machine, IDT + at % 0x1000, &value.to_le_bytes()),
            2 => put(machine, TSS + at % 0x900, &value.to_le_bytes()),
            3 => put(machine, DATA + at % 0x1000, &value.to_le_bytes()),
            // The low memory's own entries, and a bit in one of them.
            4 => put_u64(machine, TABLES + 0x6000 + at % 16 * 8, value),
            5 => {
                let address = GuestPhysAddr(TABLES + at % 0x7000 / 8 * 8);
                let mut entry = [0; 8];
                machine.read_physical(address, &mut entry);
                machine.write_physical(
                    address,
                    &(u64::from_le_bytes(entry) ^ 1 << (value & 63)).to_le_bytes(),
                );
            }
            6 => put_u64(machine, TABLES + at % 4 * 0x1000 + value % 4 * 8, value),
            _ => put_u64(machine, TABLES + at % 0x7000, value),
        }
    }
}

fn registers(machine: &Machine, kind: &Kind, root: u64) -> Registers {
    let mut r = machine.registers(VcpuId(0));
    let long = kind.paging == Paging::Long;
    r.rip = CODE;
    r.rflags = rflags::FIXED | rflags::IF;
    r.gpr = [
        0x1234,
        4,
        0x3f8,
        DATA,
        0x6000,
        DATA + 0x800,
        DATA + 0x100,
        DATA + 0x200,
        8,
        9,
        10,
        11,
        12,
        13,
        14,
        DATA,
    ];
    r.gdtr = DescriptorTable {
        base: GDT,
        limit: 0xff,
    };
    r.idtr = DescriptorTable {
        base: IDT,
        limit: 0xfff,
    };
    r.cr0 = cr0::ET | cr0::NE | cr0::MP;
    r.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT;
    r.efer = efer::SCE;
    r.cr3 = root;
    r.msrs.star = 0x0013_0008_0000_0000;
    r.msrs.lstar = HANDLERS;
    r.msrs.sysenter_cs = 8;
    r.msrs.sysenter_esp = 0x6800;
    r.msrs.sysenter_eip = HANDLERS;
    if !kind.protected {
        r.idtr = DescriptorTable {
            base: 0,
            limit: 0x3ff,
        };
        r.segments = [real_segment(0); 6];
        r.segments[seg::CS].attributes = 0x9b;
        return r;
    }
    r.cr0 |= cr0::PE;
    r.tr = Segment {
        attributes: 0x8b,
        ..segment(9, 0)
    };
    r.ldtr = segment(11, 0);
    if kind.paging != Paging::None {
        r.cr0 |= cr0::PG | cr0::WP;
        r.cr4 |= cr4::PSE;
    }
    if kind.paging != Paging::None && kind.paging != Paging::Legacy {
        r.cr4 |= cr4::PAE;
        r.efer |= efer::NXE;
    }
    if long {
        r.efer |= efer::LME | efer::LMA;
    }
    let (code, data) = match (kind.bits, kind.ring) {
        (64, 0) => (CODE_64, DATA_32),
        (64, _) => (6, 5),
        (32, 0) => (CODE_32, DATA_32),
        (32, _) => (4, 5),
        _ => (7, 8),
    };
    r.segments = [segment(data, kind.ring); 6];
    r.segments[seg::CS] = segment(code, kind.ring);
    if kind.virtual_8086 {
        r.rflags |= rflags::VM | rflags::IOPL;
        r.segments = [real_segment(0); 6];
    }
    r
}

/// Changes one thing of the registers.
pub fn damage_registers(r: &mut Registers, input: &mut Input<'_>) {
    let (what, value) = (input.u8(), input.u32());
    let wide = i64::from(value as i32) as u64;
    let edge = [
        wide,
        u64::from(value),
        wide << 28,
        1 << (value & 63),
        DATA + (wide & 0xfff),
    ][usize::from(what >> 5) % 5];
    let number = value as usize % 6;
    match what & 31 {
        0..=5 => r.gpr[value as usize % 16] = edge,
        6 => r.gpr[gpr::RSP] = edge,
        7 => r.rip = edge,
        8 => r.rflags ^= (1 << (value % 22)) & rflags::WRITABLE,
        9 => r.segments[number].base = edge,
        10 => r.segments[number].limit = value >> (value & 31),
        11 => r.segments[number].attributes ^= 1 << (value >> 8 & 31) & 0x1_f0ff,
        12 => r.segments[number].selector = (value >> 16) as u16,
        13 => r.tr.limit = value & 0xfff,
        14 => r.tr.base = edge,
        15 => r.tr.attributes ^= 1 << (value & 15) & 0xf0ff,
        16 => {
            r.gdtr = DescriptorTable {
                base: edge,
                limit: value as u16,
            }
        }
        17 => {
            r.idtr = DescriptorTable {
                base: edge,
                limit: value as u16,
            }
        }
        18 => r.cr0 ^= 1 << (value & 31) & cr0::ALL,
        19 => r.cr3 = edge & 0xff_ffff_ffff,
        20 => r.cr4 ^= 1 << (value % 22),
        21 => r.efer ^= 1 << (value % 12) & efer::ALL,
        22 => r.dr[number % 4] = edge,
        23 => r.dr7 = u64::from(value),
        24 => r.mxcsr = value & 0xffff,
        25 => (r.x87.fcw, r.x87.fsw, r.x87.ftw) = (value as u16, (value >> 16) as u16, (value >> 8) as u16),
        26 => r.x87.r[number] = u128::from(edge) << (value >> 16 & 63) | u128::from(value),
        27 => r.xmm[value as usize % 16] = u128::from(edge) << 64 | u128::from(!edge),
        28 => r.msrs.star = edge,
        29 => r.ldtr.attributes ^= 1 << (value & 16),
        30 => r.interrupt_shadow = !r.interrupt_shadow,
        _ => (r.msrs.lstar, r.msrs.sysenter_eip, r.msrs.sysenter_cs) = (edge, edge, u64::from(value)),
    }
}
