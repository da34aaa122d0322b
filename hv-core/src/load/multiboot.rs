//! Multiboot, version 1: hobby kernels and CPU test programs.
//!
//! Multiboot Specification 0.6.96, section 3. The kernel is an ELF file, or anything with the addresses in its
//! header (the "a.out kludge"); it is entered in 32-bit protected mode without paging. The initrd is its only module.

use super::layout::{self, RangeKind};
use super::{LoadContext, LoadError, elf};
use crate::regs::{Registers, gpr};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const HEADER_MAGIC: u32 = 0x1bad_b002;
const LOADER_MAGIC: u64 = 0x2bad_b002;
/// The header lies in this much of the file, 4-byte aligned.
const SEARCH_LENGTH: usize = 8192;

const HEADER_ALIGN_MODULES: u32 = 1 << 0;
const HEADER_WANT_MEMORY: u32 = 1 << 1;
/// A wish for a video mode: there is none, and the information says so.
const HEADER_WANT_VIDEO: u32 = 1 << 2;
const HEADER_HAS_ADDRESSES: u32 = 1 << 16;
/// Flags that a loader must understand or refuse.
const HEADER_REQUIRED: u32 = 0xffff;
const HEADER_KNOWN: u32 = HEADER_ALIGN_MODULES | HEADER_WANT_MEMORY | HEADER_WANT_VIDEO;

const INFO_MEMORY: u32 = 1 << 0;
const INFO_COMMAND_LINE: u32 = 1 << 2;
const INFO_MODULES: u32 = 1 << 3;
const INFO_MEMORY_MAP: u32 = 1 << 6;
const INFO_LOADER_NAME: u32 = 1 << 9;

/// What is at [`layout::MULTIBOOT`]: the information, then the map, the modules, the strings.
const MEMORY_MAP: u64 = layout::MULTIBOOT + 0x100;
const MODULES: u64 = layout::MULTIBOOT + 0x400;
const LOADER_NAME: u64 = layout::MULTIBOOT + 0x500;
const MODULE_NAME: u64 = layout::MULTIBOOT + 0x540;
const COMMAND_LINE: u64 = layout::MULTIBOOT + 0x1000;
const COMMAND_LINE_MAX: usize = (layout::LOW_MEMORY_END - COMMAND_LINE) as usize - 1;

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    magic: U32,
    flags: U32,
    checksum: U32,
}

/// What follows the header if [`HEADER_HAS_ADDRESSES`].
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Addresses {
    header: U32,
    load: U32,
    load_end: U32,
    bss_end: U32,
    entry: U32,
}

#[derive(IntoBytes, Immutable, Unaligned, Default)]
#[repr(C)]
struct Information {
    flags: U32,
    mem_lower: U32,
    mem_upper: U32,
    boot_device: U32,
    cmdline: U32,
    mods_count: U32,
    mods_addr: U32,
    syms: [U32; 4],
    mmap_length: U32,
    mmap_addr: U32,
    drives_length: U32,
    drives_addr: U32,
    config_table: U32,
    boot_loader_name: U32,
    apm_table: U32,
    vbe: [U32; 4],
    framebuffer: [U32; 7],
}
const _: () = assert!(size_of::<Information>() == 116);

#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct MapEntry {
    /// Of the entry without this field.
    size: U32,
    base: U64,
    length: U64,
    kind: U32,
}
const _: () = assert!(size_of::<MapEntry>() == 24);

#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct Module {
    start: U32,
    end: U32,
    string: U32,
    reserved: U32,
}
const _: () = assert!(size_of::<Module>() == 16);

/// The multiboot header and its offset, if the file has one.
pub(super) fn find_header(file: &[u8]) -> Option<(u64, &Header)> {
    let searched = file.get(..SEARCH_LENGTH).unwrap_or(file);
    (0..searched.len()).step_by(4).find_map(|offset| {
        let (header, _) = Header::ref_from_prefix(searched.get(offset..)?).ok()?;
        let sum = header
            .magic
            .get()
            .wrapping_add(header.flags.get())
            .wrapping_add(header.checksum.get());
        (header.magic.get() == HEADER_MAGIC && sum == 0).then_some((offset as u64, header))
    })
}

/// What goes where.
struct Plan<'a> {
    entry: u64,
    end: u64,
    parts: Vec<(u64, &'a [u8])>,
}

/// Loads a multiboot kernel.
pub(super) fn load(
    kernel: &[u8],
    initrd: Option<&[u8]>,
    command_line: &str,
    ctx: &mut LoadContext<'_>,
) -> Result<Registers, LoadError> {
    let Some((offset, header)) = find_header(kernel) else {
        return Err(super::error::not_a_kernel(kernel));
    };
    let flags = header.flags.get();
    let unknown = flags & HEADER_REQUIRED & !HEADER_KNOWN;
    if unknown != 0 {
        return Err(LoadError::MultibootFlags { flags, unknown });
    }
    let plan = if flags & HEADER_HAS_ADDRESSES != 0 {
        plan_by_addresses(kernel, offset)?
    } else {
        plan_by_elf(kernel)?
    };
    layout::check_room(ctx.memory_bytes, plan.end)?;
    for (address, bytes) in &plan.parts {
        layout::write(ctx, *address, bytes)?;
    }
    write_information(&plan, initrd, command_line, ctx)?;

    let mut registers = layout::flat_protected_mode(ctx, false)?;
    registers.rip = plan.entry;
    registers.gpr[gpr::RAX] = LOADER_MAGIC;
    registers.gpr[gpr::RBX] = layout::MULTIBOOT;
    Ok(registers)
}

fn plan_by_elf(kernel: &[u8]) -> Result<Plan<'_>, LoadError> {
    if !elf::is_elf(kernel) {
        return Err(LoadError::BadHeader {
            why: "the multiboot header has no addresses (flag 16), and the file isn't ELF".to_string(),
        });
    }
    let elf = elf::parse(kernel)?;
    elf::check_machine(&elf)?;
    Ok(Plan {
        entry: elf.physical_entry()?,
        end: elf.check_placement(layout::HIGH_MEMORY)?,
        parts: elf.segments.iter().map(|s| (s.paddr, s.data)).collect(),
    })
}

fn plan_by_addresses(kernel: &[u8], header_offset: u64) -> Result<Plan<'_>, LoadError> {
    const WHAT: &str = "the multiboot header";
    let addresses: &Addresses = elf::header(kernel, header_offset + size_of::<Header>() as u64, WHAT)?;
    let (header, load, load_end, bss_end, entry) = (
        u64::from(addresses.header.get()),
        u64::from(addresses.load.get()),
        u64::from(addresses.load_end.get()),
        u64::from(addresses.bss_end.get()),
        u64::from(addresses.entry.get()),
    );
    let bad = |why: String| Err(LoadError::BadHeader { why });
    let Some(start) = header
        .checked_sub(load)
        .and_then(|before| header_offset.checked_sub(before))
    else {
        return bad(format!(
            "the multiboot header at file offset {header_offset:#x} names address {header:#x} for itself and {load:#x} \
             for what is loaded"
        ));
    };
    // A load end of 0 means the rest of the file; a bss end of 0 means no bss.
    let length = match load_end {
        0 => (kernel.len() as u64).saturating_sub(start),
        end if end >= load => end - load,
        end => {
            return bad(format!(
                "the multiboot load address {load:#x} is after its end {end:#x}"
            ));
        }
    };
    let end = bss_end.max(load + length);
    if load < layout::HIGH_MEMORY {
        return bad(format!(
            "the multiboot load address is {load:#x}; memory below {:#x} is taken",
            layout::HIGH_MEMORY
        ));
    }
    if !(load..end).contains(&entry) {
        return bad(format!(
            "the multiboot entry {entry:#x} is outside of what is loaded, {load:#x} to {end:#x}"
        ));
    }
    let data = elf::slice(kernel, start, length, "the part that the multiboot header names")?;
    Ok(Plan {
        entry,
        end,
        parts: vec![(load, data)],
    })
}

/// Writes the multiboot information and what it refers to.
fn write_information(
    plan: &Plan<'_>,
    initrd: Option<&[u8]>,
    command_line: &str,
    ctx: &mut LoadContext<'_>,
) -> Result<(), LoadError> {
    if command_line.len() > COMMAND_LINE_MAX {
        return Err(LoadError::CommandLineTooLong {
            length: command_line.len(),
            limit: COMMAND_LINE_MAX,
        });
    }
    layout::write(ctx, COMMAND_LINE, &nul_terminated(command_line))?;
    layout::write(ctx, LOADER_NAME, &nul_terminated("kdd"))?;

    let map = layout::memory_map(ctx.memory_bytes);
    let mut entries = Vec::new();
    for range in &map {
        let entry = MapEntry {
            size: (size_of::<MapEntry>() as u32 - 4).into(),
            base: range.start.into(),
            length: range.length.into(),
            kind: (range.kind as u32).into(),
        };
        entries.extend_from_slice(entry.as_bytes());
    }
    layout::write(ctx, MEMORY_MAP, &entries)?;

    let upper = map
        .iter()
        .find(|range| range.start == layout::HIGH_MEMORY && range.kind == RangeKind::Usable)
        .map_or(0, |range| range.length);
    let mut information = Information {
        flags: (INFO_MEMORY | INFO_COMMAND_LINE | INFO_MEMORY_MAP | INFO_LOADER_NAME).into(),
        mem_lower: ((layout::LOW_MEMORY_END >> 10) as u32).into(),
        mem_upper: ((upper >> 10) as u32).into(),
        cmdline: (COMMAND_LINE as u32).into(),
        mmap_length: (entries.len() as u32).into(),
        mmap_addr: (MEMORY_MAP as u32).into(),
        boot_loader_name: (LOADER_NAME as u32).into(),
        ..Information::default()
    };
    if let Some(initrd) = initrd {
        let module = place_module(plan.end, initrd, ctx)?;
        layout::write(ctx, MODULE_NAME, &nul_terminated("initrd"))?;
        layout::write(ctx, MODULES, module.as_bytes())?;
        information.flags = (information.flags.get() | INFO_MODULES).into();
        information.mods_count = 1.into();
        information.mods_addr = (MODULES as u32).into();
    }
    layout::write(ctx, layout::MULTIBOOT, information.as_bytes())
}

/// Writes the module right after the kernel, page aligned, as kernels that count on a loader's habits expect it.
fn place_module(kernel_end: u64, initrd: &[u8], ctx: &mut LoadContext<'_>) -> Result<Module, LoadError> {
    let length = initrd.len() as u64;
    // This also tells whether there is room at all.
    layout::place_initrd(ctx.memory_bytes, kernel_end, 1 << 32, length)?;
    let start = kernel_end.next_multiple_of(0x1000);
    layout::write(ctx, start, initrd)?;
    Ok(Module {
        start: (start as u32).into(),
        end: ((start + length) as u32).into(),
        string: (MODULE_NAME as u32).into(),
        reserved: 0.into(),
    })
}

fn nul_terminated(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}
