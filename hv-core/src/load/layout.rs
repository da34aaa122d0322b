//! The machine's memory map as a guest is told it, and what a loader puts below 640 KiB.
//!
//! ```text
//! 0x00001000  GDT
//! 0x00007000  boot_params
//! 0x00008000  setup_data (the random seed)
//! 0x00009000  page tables: PML4, PDPT, four page directories for the low 4 GiB   .. 0xf000
//! 0x00020000  command line                                                       .. 0x30000
//! 0x00090000  multiboot information, memory map, strings                         .. 0x9f000
//! 0x0009f000  reserved: extended BIOS data area                                  .. 0xa0000
//! 0x000e0000  reserved: ACPI tables, BIOS                                        .. 0x100000
//! 0x00100000  kernel, initrd, all else
//! 0xc0000000  hole for devices                                                   .. 4 GiB
//! ```

use super::{LoadContext, LoadError};
use crate::addr::GuestPhysAddr;
use crate::regs::{DescriptorTable, Registers, Segment, cr0, seg};

pub(super) const GDT: u64 = 0x1000;
pub(super) const BOOT_PARAMS: u64 = 0x7000;
pub(super) const SETUP_DATA: u64 = 0x8000;
pub(super) const PAGE_TABLES: u64 = 0x9000;
pub(super) const COMMAND_LINE: u64 = 0x2_0000;
pub(super) const COMMAND_LINE_MAX: usize = 0xffff;
pub(super) const MULTIBOOT: u64 = 0x9_0000;
pub(super) const LOW_MEMORY_END: u64 = 0x9_f000;
/// Where memory goes on after the BIOS area.
pub(super) const HIGH_MEMORY: u64 = 0x10_0000;
/// The hole for devices begins here, and RAM goes on at [`FOUR_GIB`].
const HOLE: u64 = 0xc000_0000;
const FOUR_GIB: u64 = 1 << 32;

/// Code and data selectors at entry: what the Linux boot protocol calls __BOOT_CS and __BOOT_DS.
pub(super) const CODE_SELECTOR: u16 = 0x10;
pub(super) const DATA_SELECTOR: u16 = 0x18;

/// The kind of a range in the memory map; the numbers are e820's and multiboot's alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RangeKind {
    Usable = 1,
    Reserved = 2,
}

/// A range of the memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) kind: RangeKind,
}

/// The end of the RAM that begins at 0.
pub(super) fn low_ram_end(memory_bytes: u64) -> u64 {
    memory_bytes.min(HOLE)
}

/// The memory map of a machine with this much memory.
pub(super) fn memory_map(memory_bytes: u64) -> Vec<Range> {
    let range = |start: u64, end: u64, kind| Range {
        start,
        length: end - start,
        kind,
    };
    let low_end = low_ram_end(memory_bytes);
    let mut map = vec![
        range(0, LOW_MEMORY_END.min(low_end), RangeKind::Usable),
        range(LOW_MEMORY_END, 0xa_0000, RangeKind::Reserved),
        range(0xe_0000, HIGH_MEMORY, RangeKind::Reserved),
    ];
    if low_end > HIGH_MEMORY {
        map.push(range(HIGH_MEMORY, low_end, RangeKind::Usable));
    }
    if memory_bytes > HOLE {
        map.push(range(
            FOUR_GIB,
            FOUR_GIB.saturating_add(memory_bytes - HOLE),
            RangeKind::Usable,
        ));
    }
    map
}

/// All RAM of a machine with this much memory, with what is reserved of it.
pub(super) fn ram(memory_bytes: u64) -> Vec<std::ops::Range<u64>> {
    let above = memory_bytes.saturating_sub(HOLE);
    let low = 0..low_ram_end(memory_bytes);
    let high = FOUR_GIB..FOUR_GIB.saturating_add(above);
    [low, high]
        .into_iter()
        .filter(|range| !range.is_empty())
        .collect()
}

/// The RAM that a kernel may use.
pub(super) fn usable(memory_bytes: u64) -> Vec<std::ops::Range<u64>> {
    memory_map(memory_bytes)
        .iter()
        .filter(|range| range.kind == RangeKind::Usable)
        .map(|range| range.start..range.start + range.length)
        .collect()
}

/// Writes guest memory at `address`.
pub(super) fn write(ctx: &mut LoadContext<'_>, address: u64, bytes: &[u8]) -> Result<(), LoadError> {
    (ctx.write)(GuestPhysAddr(address), bytes)?;
    Ok(())
}

/// Places `initrd_length` bytes, page aligned, as high as possible below `limit` and above `kernel_end`.
pub(super) fn place_initrd(
    memory_bytes: u64,
    kernel_end: u64,
    limit: u64,
    initrd_length: u64,
) -> Result<u64, LoadError> {
    let limit = limit.min(HOLE);
    let first = kernel_end.checked_next_multiple_of(0x1000);
    let needed = first
        .and_then(|start| start.checked_add(initrd_length))
        .and_then(|end| end.checked_next_multiple_of(0x1000))
        .filter(|needed| *needed <= limit)
        .ok_or(LoadError::InitrdTooLarge {
            initrd: initrd_length,
            limit: GuestPhysAddr(limit),
            kernel_end: GuestPhysAddr(kernel_end),
        })?;
    let top = low_ram_end(memory_bytes).min(limit);
    match top.checked_sub(initrd_length).map(|start| start & !0xfff) {
        Some(start) if start >= kernel_end => Ok(start),
        _ => Err(LoadError::InitrdDoesNotFit {
            initrd: initrd_length,
            needed,
            memory: memory_bytes,
        }),
    }
}

/// Fails unless a kernel that ends at `end` fits into the RAM that begins at 0.
pub(super) fn check_room(memory_bytes: u64, end: u64) -> Result<(), LoadError> {
    if end > HOLE {
        return Err(LoadError::BadHeader {
            why: format!("the kernel would reach up to {end:#x}, into the hole for devices at {HOLE:#x}"),
        });
    }
    if end > low_ram_end(memory_bytes) {
        return Err(LoadError::TooLittleMemory {
            needed: end,
            memory: memory_bytes,
        });
    }
    Ok(())
}

/// A flat segment: base 0, limit 4 GiB. `attributes` as [`Segment::attributes`].
fn flat(selector: u16, attributes: u32) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: 0xffff_ffff,
        attributes,
    }
}

/// The descriptor of a flat segment (SDM vol. 3A, 3.4.5).
fn flat_descriptor(attributes: u32) -> u64 {
    let attributes = u64::from(attributes);
    0xffff | (attributes & 0xff) << 40 | 0xf << 48 | (attributes >> 12 & 0xf) << 52
}

/// Registers in protected mode with flat segments, interrupts off and no IDT, and a GDT in memory that agrees.
pub(super) fn flat_protected_mode(ctx: &mut LoadContext<'_>, long: bool) -> Result<Registers, LoadError> {
    // Type 0xB (execute, read, accessed) or 3 (read, write, accessed), S, P, G, and either L or D/B.
    let code = if long { 0xa09b } else { 0xc09b };
    let data = 0xc093;
    let mut gdt = Vec::with_capacity(32);
    for descriptor in [0, 0, flat_descriptor(code), flat_descriptor(data)] {
        gdt.extend_from_slice(&u64::to_le_bytes(descriptor));
    }
    write(ctx, GDT, &gdt)?;

    let mut registers = Registers::at_reset(true);
    registers.gpr = [0; 16];
    registers.segments = [flat(DATA_SELECTOR, data); 6];
    registers.segments[seg::CS] = flat(CODE_SELECTOR, code);
    registers.gdtr = DescriptorTable {
        base: GDT,
        limit: gdt.len() as u16 - 1,
    };
    // Without an IDT an early exception ends in a triple fault at once, not in whatever lies at address 0.
    registers.idtr = DescriptorTable { base: 0, limit: 0 };
    registers.cr0 = cr0::PE | cr0::ET;
    // What firmware leaves: MTRRs on, write-back by default (SDM vol. 3A, 12.11.2.1). Linux needs it to use the PAT.
    registers.msrs.mtrr_def_type = 0x806;
    Ok(registers)
}

/// Writes page tables that map the low 4 GiB to themselves with 2 MiB pages; returns CR3.
pub(super) fn identity_map(ctx: &mut LoadContext<'_>) -> Result<u64, LoadError> {
    const TABLE: u64 = 0x1000;
    const PRESENT_WRITABLE: u64 = 0x3;
    const LARGE: u64 = 0x80;
    let pdpt = PAGE_TABLES + TABLE;
    let directories = pdpt + TABLE;
    write(ctx, PAGE_TABLES, &u64::to_le_bytes(pdpt | PRESENT_WRITABLE))?;
    for gib in 0..4 {
        let directory = directories + gib * TABLE;
        write(
            ctx,
            pdpt + gib * 8,
            &u64::to_le_bytes(directory | PRESENT_WRITABLE),
        )?;
        let entries: Vec<u8> = (0..512)
            .flat_map(|page| (gib << 30 | page << 21 | PRESENT_WRITABLE | LARGE).to_le_bytes())
            .collect();
        write(ctx, directory, &entries)?;
    }
    Ok(PAGE_TABLES)
}
