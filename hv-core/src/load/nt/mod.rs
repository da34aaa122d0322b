//! An NT-shaped kernel: what winload does on a PC, from image bytes to the first instruction of the kernel.
//!
//! ```text
//!  kernel, hal, drivers ──pe──► images ──relocate, bind──► physical memory, 4 MiB up ──┐
//!  other files ─────────────────────────────────────────► behind them                 ├─► Registers: RIP = entry of
//!  memory, seed, options ──block──► loader parameter block, 1 MiB up                  │   the kernel; the block in RCX
//!                          paging─► page tables, the root at 0x1AA000 ────────────────┘   (x64), on the stack (x86)
//! ```
//!
//! The kernel's machine, x64 or x86, decides between long mode with four levels of page tables and protected mode
//! with PAE's three, or with two where the loader option NOPAE says so; addresses of either are in [`places`].
//!
//! Nothing here knows a Windows version: image bytes and plain parameters come in. What the kernel finds at its entry
//! is in [`block`]; `guests/nt/kernel/inc/loader.h` is the other side of it.
//!
//! Where things go in physical memory:
//!
//! ```text
//! 0x00001000  left alone: the kernel puts the start-up code of other processors there
//! 0x00100000  loader block, processor 0's KPCR, GDT, IDT, TSS, its first stack, the shared user page .. 0x180000
//! 0x001aa000  page tables, the root first: where tools that search memory expect it                 .. 0x400000
//! 0x00400000  images in load order, then files, page aligned
//! ```

mod block;
mod paging;
mod pe;
mod places;

use super::layout;
use super::{LoadContext, LoadError};
use crate::regs::{DescriptorTable, Registers, Segment, cr0, cr4, efer, gpr, rflags, seg};
use paging::{Format, PAGE, PageTables};
use pe::{Image, Rights, damaged};
use places::{Arch, Places};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;

const LOADER_DATA: u64 = 0x10_0000;
const LOADER_DATA_END: u64 = 0x18_0000;
const TABLES: u64 = 0x1a_a000;
const IMAGES: u64 = 0x40_0000;
/// Images and files at most.
const FILES_MAX: usize = 64;

/// A file that goes into memory.
#[derive(Clone, Serialize, Deserialize)]
pub struct NtFile {
    /// Its full name, as the loader block shows it: `\SystemRoot\system32\ntoskrnl.exe`.
    pub path: String,
    /// Its bytes.
    pub bytes: Arc<[u8]>,
}

/// An NT-shaped guest: files and the loader's choices.
#[derive(Clone, Serialize, Deserialize)]
pub struct NtBoot {
    /// Images that are mapped and linked before the kernel runs, in load order: the kernel, the HAL, boot drivers.
    pub images: Vec<NtFile>,
    /// Files that are only kept in memory: drivers to be loaded later, programs.
    pub files: Vec<NtFile>,
    /// The loader options, such as ` NODEBUG`.
    pub options: String,
    /// x64: kernel bases are multiples of 2 MiB (18362 and later); otherwise of 4 KiB.
    pub large_aligned: bool,
    /// x64: the page tables' own place in the address space is drawn (14393 and later); otherwise FFFFF680`00000000.
    pub random_pte_base: bool,
}

/// A part of physical memory that is taken.
struct Taken {
    kind: block::MemoryType,
    start: u64,
    end: u64,
}

/// An image and where it lies.
struct Placed {
    path: String,
    image: Image,
    base: u64,
    physical: u64,
}

/// A file that is only kept.
struct Kept {
    path: String,
    physical: u64,
    length: u64,
}

/// Puts the guest into memory and returns the registers of processor 0 at the kernel's entry.
///
/// # Errors
/// [`LoadError::NtImage`] for an image that can't be used, and what all loaders say of too little memory.
pub(crate) fn load(boot: &NtBoot, vcpus: u32, ctx: &mut LoadContext<'_>) -> Result<Registers, LoadError> {
    if boot.images.len() < 2 || boot.images.len() + boot.files.len() > FILES_MAX {
        return Err(damaged(
            "NT guest",
            "it takes a kernel, a HAL and at most 62 other files".to_string(),
        ));
    }
    let images = parse_images(boot)?;
    let places = Places::draw(boot, images[0].arch, &ctx.random_seed);
    let placed = place_images(boot, images, &places)?;
    let (kept, end) = place_files(boot, &placed);
    layout::check_room(ctx.memory_bytes, end)?;

    let mut tables = PageTables::new(places.paging, TABLES, IMAGES);
    map_all(&mut tables, &placed, &places, ctx.memory_bytes)?;
    for image in &placed {
        write_pages(ctx, image.physical, &image.image.bytes)?;
    }
    for (file, kept) in boot.files.iter().zip(&kept) {
        write_pages(ctx, kept.physical, &file.bytes)?;
    }
    for (physical, table) in tables.pages() {
        layout::write(ctx, physical, &table)?;
    }
    let taken = taken(&placed, &kept, tables.first_free());
    block::write(boot, &placed, &kept, &taken, &places, vcpus, ctx)?;
    Ok(registers(&places, &placed[0]))
}

/// Reads the images, which are all for the same machine.
fn parse_images(boot: &NtBoot) -> Result<Vec<Image>, LoadError> {
    let mut images: Vec<Image> = Vec::new();
    for file in &boot.images {
        let name = file.path.rsplit('\\').next().unwrap_or_default();
        let image = Image::parse(name, &file.bytes)?;
        if let Some(kernel) = images.first().filter(|kernel| kernel.arch != image.arch) {
            let why = format!("it is for {:?}, the kernel for {:?}", image.arch, kernel.arch);
            return Err(damaged(name, why));
        }
        images.push(image);
    }
    Ok(images)
}

/// Gives each image an address, and links them to each other.
fn place_images(boot: &NtBoot, images: Vec<Image>, places: &Places) -> Result<Vec<Placed>, LoadError> {
    let mut placed = Vec::new();
    let mut exports: HashMap<String, HashMap<String, u64>> = HashMap::new();
    let (mut base, mut physical) = (places.kernel, IMAGES);
    for (file, mut image) in boot.images.iter().zip(images) {
        image.relocate(base)?;
        let names = image.exports()?.into_iter();
        let names = names.map(|(name, rva)| (name, base + u64::from(rva)));
        exports.insert(image.name.clone(), names.collect());
        let length = image.bytes.len() as u64;
        placed.push(Placed {
            path: file.path.clone(),
            image,
            base,
            physical,
        });
        // A hole between images, so that running off one faults.
        base += length.next_multiple_of(0x1_0000) + 0x1_0000;
        if base > places.images_end {
            return Err(damaged(
                "NT guest",
                "the images don't fit into their address space".to_string(),
            ));
        }
        physical += length;
    }
    for image in &mut placed {
        image
            .image
            .bind(|module, function| exports.get(module)?.get(function).copied())?;
    }
    Ok(placed)
}

/// Gives each file pages behind the images; returns the end of them too.
fn place_files(boot: &NtBoot, placed: &[Placed]) -> (Vec<Kept>, u64) {
    let mut physical = placed
        .last()
        .map_or(IMAGES, |last| last.physical + last.image.bytes.len() as u64);
    let mut kept = Vec::new();
    for file in &boot.files {
        let length = file.bytes.len() as u64;
        kept.push(Kept {
            path: file.path.clone(),
            physical,
            length,
        });
        physical += length.next_multiple_of(PAGE);
    }
    (kept, physical)
}

fn map_all(
    tables: &mut PageTables,
    placed: &[Placed],
    places: &Places,
    memory_bytes: u64,
) -> Result<(), LoadError> {
    const WRITE: Rights = Rights {
        write: true,
        execute: false,
    };
    tables.map_self(places.self_map);
    for image in placed {
        for (n, rights) in image.image.rights.iter().enumerate() {
            let offset = n as u64 * PAGE;
            // Windows leaves the headers of boot images writable.
            let rights = if n == 0 { WRITE } else { *rights };
            tables.map(image.base + offset, image.physical + offset, rights)?;
        }
    }
    for physical in (LOADER_DATA..LOADER_DATA_END).step_by(PAGE as usize) {
        if physical != block::STACK_GUARD {
            tables.map(places.loader_address(physical), physical, WRITE)?;
        }
    }
    tables.map(places.shared_user_data, block::SHARED_USER_DATA, WRITE)?;
    for range in layout::ram(memory_bytes) {
        let (mut at, end) = (range.start, range.end.min(places.direct_map_size));
        while at < end & !(PAGE - 1) {
            let large = tables.large_page();
            if at.is_multiple_of(large) && end - at >= large {
                tables.map_large(places.direct_map + at, at, WRITE)?;
                at += large;
            } else {
                tables.map(places.direct_map + at, at, WRITE)?;
                at += PAGE;
            }
        }
    }
    for (address, shift) in places.shared_tables() {
        tables.table(address, shift)?;
    }
    Ok(())
}

/// Writes the pages that aren't zero; guest memory is zero already.
fn write_pages(ctx: &mut LoadContext<'_>, physical: u64, bytes: &[u8]) -> Result<(), LoadError> {
    for (n, page) in bytes.chunks(PAGE as usize).enumerate() {
        if page.iter().any(|byte| *byte != 0) {
            layout::write(ctx, physical + n as u64 * PAGE, page)?;
        }
    }
    Ok(())
}

fn taken(placed: &[Placed], kept: &[Kept], tables_end: u64) -> Vec<Taken> {
    use block::MemoryType as Kind;
    let part = |kind, start, end| Taken { kind, start, end };
    let mut taken = vec![
        part(Kind::FirmwarePermanent, 0, PAGE),
        part(Kind::OsloaderHeap, LOADER_DATA, LOADER_DATA_END),
        part(Kind::MemoryData, TABLES, tables_end),
    ];
    for (n, image) in placed.iter().enumerate() {
        let kind = match n {
            0 => Kind::SystemCode,
            1 => Kind::HalCode,
            _ => Kind::BootDriver,
        };
        let end = image.physical + image.image.bytes.len() as u64;
        taken.push(part(kind, image.physical, end));
    }
    for file in kept.iter().filter(|file| file.length > 0) {
        let end = file.physical + file.length.next_multiple_of(PAGE);
        taken.push(part(Kind::MemoryData, file.physical, end));
    }
    taken
}

/// Interrupts off, paging on, the selectors that Windows uses: what both architectures begin with.
fn registers(places: &Places, kernel: &Placed) -> Registers {
    let mut registers = Registers::at_reset(true);
    registers.gdtr = DescriptorTable {
        base: places.loader_address(block::GDT),
        limit: block::gdt_limit(places.arch),
    };
    registers.idtr = DescriptorTable {
        base: places.loader_address(block::IDT),
        limit: block::idt_limit(places.arch),
    };
    registers.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
    registers.cr3 = TABLES;
    let paging = match places.paging {
        Format::FourLevel | Format::Pae => cr4::PAE,
        Format::TwoLevel => cr4::PSE,
    };
    registers.cr4 = paging | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT;
    registers.rflags = rflags::FIXED;
    registers.msrs.mtrr_def_type = 0x806;
    registers.gpr = [0; 16];
    registers.rip = kernel.base + u64::from(kernel.image.entry);
    match places.arch {
        Arch::X64 => enter_x64(places, &mut registers),
        Arch::X86 => enter_x86(places, &mut registers),
    }
    registers
}

/// A flat data segment.
const DATA: Segment = Segment {
    selector: 0,
    base: 0,
    limit: 0xffff_ffff,
    attributes: 0xc093,
};

/// 64-bit mode, the loader block in RCX.
fn enter_x64(places: &Places, registers: &mut Registers) {
    registers.segments = [Segment {
        selector: block::DATA_SELECTOR,
        ..DATA
    }; 6];
    registers.segments[seg::CS] = Segment {
        selector: block::CODE_SELECTOR,
        attributes: 0xa09b,
        ..DATA
    };
    registers.tr = Segment {
        selector: block::TSS_SELECTOR,
        base: places.loader_address(block::TSS),
        limit: 0x67,
        attributes: 0x8b,
    };
    registers.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    registers.gpr[gpr::RCX] = places.loader_address(block::LOADER_BLOCK);
    // As after a call: a return address and the callee's four home slots are above.
    registers.gpr[gpr::RSP] = places.loader_address(block::STACK_END) - 0x28;
}

/// Protected mode with paging, the loader block on the stack.
fn enter_x86(places: &Places, registers: &mut Registers) {
    registers.segments = [Segment {
        selector: block::X86_USER_DATA,
        attributes: 0xc0f3,
        ..DATA
    }; 6];
    registers.segments[seg::CS] = Segment {
        selector: block::X86_CODE,
        attributes: 0xc09b,
        ..DATA
    };
    registers.segments[seg::SS] = Segment {
        selector: block::X86_DATA,
        ..DATA
    };
    registers.segments[seg::FS] = Segment {
        selector: block::X86_PCR,
        base: places.loader_address(block::PCR),
        limit: 0xffff,
        attributes: 0x4093,
    };
    registers.segments[seg::GS] = Segment {
        attributes: Segment::UNUSABLE,
        limit: 0,
        ..DATA
    };
    registers.tr = Segment {
        selector: block::X86_TSS,
        base: places.loader_address(block::TSS),
        limit: block::X86_TSS_LIMIT,
        attributes: 0x8b,
    };
    // Without PAE there is no bit for it in the page tables.
    registers.efer = match places.paging {
        Format::TwoLevel => 0,
        Format::FourLevel | Format::Pae => efer::NXE,
    };
    registers.gpr[gpr::RSP] = places.loader_address(block::X86_ENTRY_STACK);
}

#[cfg(test)]
mod tests;
