//! The loader parameter block and what else the kernel finds at its entry.
//!
//! The block begins as LOADER_PARAMETER_BLOCK of Windows 10 does (versions, the list heads, LoadOptions); its
//! Extension is this project's own: numbers that a Windows kernel would ask firmware for, each in eight bytes. Lists
//! and entries are the real ones: KLDR_DATA_TABLE_ENTRY (nt kernel public PDB 10.0.19041; the offsets used are the
//! same in every x64 version, and in every x86 one) and MEMORY_ALLOCATION_DESCRIPTOR.

use super::places::{Arch, Places, draw};
use super::{Kept, LOADER_DATA, NtBoot, Placed, TABLES, Taken, damaged};
use crate::addr::GuestPhysAddr;
use crate::load::{LoadContext, LoadError, layout};

pub(super) const LOADER_BLOCK: u64 = LOADER_DATA;
/// The block, its lists and its strings may reach up to here.
const LOADER_BLOCK_END: u64 = PCR;
/// 64 KiB for processor 0's KPCR.
pub(super) const PCR: u64 = 0x11_0000;
const PCR_SIZE: u64 = 0x1_0000;
pub(super) const GDT: u64 = 0x12_1000;
pub(super) const IDT: u64 = 0x12_0000;
pub(super) const TSS: u64 = 0x12_2000;
pub(super) const STACK_GUARD: u64 = 0x13_0000;
const STACK: u64 = 0x13_1000;
pub(super) const STACK_END: u64 = 0x13_9000;
pub(super) const SHARED_USER_DATA: u64 = 0x14_0000;

pub(super) const CODE_SELECTOR: u16 = 0x10;
pub(super) const DATA_SELECTOR: u16 = 0x18;
pub(super) const TSS_SELECTOR: u16 = 0x40;

pub(super) const X86_CODE: u16 = 0x08;
pub(super) const X86_DATA: u16 = 0x10;
pub(super) const X86_USER_DATA: u16 = 0x23;
pub(super) const X86_TSS: u16 = 0x28;
pub(super) const X86_PCR: u16 = 0x30;
/// A TSS with Windows' I/O permission maps.
pub(super) const X86_TSS_LIMIT: u32 = 0x20ab;
/// Where the kernel's return address would be, and the block's address behind it. Above is what a thread keeps at the
/// end of its stack: its floating-point registers (the kernel's STACK_CONTROL_SIZE), and V86_SIZE.
pub(super) const X86_ENTRY_STACK: u64 = STACK_END - 0x274;

pub(super) fn gdt_limit(arch: Arch) -> u16 {
    match arch {
        Arch::X64 => 0x57,
        Arch::X86 => 0x3ff,
    }
}

pub(super) fn idt_limit(arch: Arch) -> u16 {
    match arch {
        Arch::X64 => 0xfff,
        Arch::X86 => 0x7ff,
    }
}

/// Where the extension is: right behind the block.
const EXTENSION: u64 = LOADER_BLOCK + 0x100;
const EXTENSION_SIZE: u32 = 0xc0;
const EXTENSION_VERSION: u32 = 1;
const ENTRIES: u64 = LOADER_BLOCK + 0x800;
/// KLDR_DATA_TABLE_ENTRY, with room for the longest.
const KLDR_SIZE: u64 = 0xa0;
/// The name of a LOADER_FILE has so many bytes.
const FILE_NAME: u64 = 0x50;

/// 2024-01-01T00:00:00Z, the machine's time at tick 0, in 100 ns since 1601.
const BOOT_TIME: u64 = (1_704_067_200 + 11_644_473_600) * 10_000_000;

/// TYPE_OF_MEMORY of the loader's memory descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MemoryType {
    Free = 2,
    FirmwarePermanent = 6,
    OsloaderHeap = 7,
    SystemCode = 9,
    HalCode = 10,
    BootDriver = 11,
    MemoryData = 20,
}

/// Offsets of what depends on the width of a pointer.
struct Shape {
    load_order_list: u64,
    memory_list: u64,
    boot_driver_list: u64,
    kernel_stack: u64,
    kernel_stack_size: u64,
    arc_boot_name: u64,
    boot_path: u64,
    load_options: u64,
    extension: u64,
    kldr: Kldr,
}

/// KLDR_DATA_TABLE_ENTRY.
struct Kldr {
    exception_table: u64,
    exception_size: u64,
    base: u64,
    entry_point: u64,
    size_of_image: u64,
    full_name: u64,
    base_name: u64,
    flags: u64,
    load_count: u64,
    checksum: u64,
    size_not_rounded: u64,
    time_date_stamp: u64,
}

const X64_SHAPE: Shape = Shape {
    load_order_list: 0x10,
    memory_list: 0x20,
    boot_driver_list: 0x30,
    kernel_stack: 0x80,
    kernel_stack_size: 0xa0,
    arc_boot_name: 0xb8,
    boot_path: 0xc8,
    load_options: 0xd8,
    extension: 0xf0,
    kldr: Kldr {
        exception_table: 0x10,
        exception_size: 0x18,
        base: 0x30,
        entry_point: 0x38,
        size_of_image: 0x40,
        full_name: 0x48,
        base_name: 0x58,
        flags: 0x68,
        load_count: 0x6c,
        checksum: 0x78,
        size_not_rounded: 0x98,
        time_date_stamp: 0x9c,
    },
};

const X86_SHAPE: Shape = Shape {
    load_order_list: 0x10,
    memory_list: 0x18,
    boot_driver_list: 0x20,
    kernel_stack: 0x48,
    kernel_stack_size: 0x58,
    arc_boot_name: 0x68,
    boot_path: 0x70,
    load_options: 0x78,
    extension: 0x84,
    kldr: Kldr {
        exception_table: 0x08,
        exception_size: 0x0c,
        base: 0x18,
        entry_point: 0x1c,
        size_of_image: 0x20,
        full_name: 0x24,
        base_name: 0x2c,
        flags: 0x34,
        load_count: 0x38,
        checksum: 0x40,
        size_not_rounded: 0x54,
        time_date_stamp: 0x58,
    },
};

fn shape(arch: Arch) -> &'static Shape {
    match arch {
        Arch::X64 => &X64_SHAPE,
        Arch::X86 => &X86_SHAPE,
    }
}

/// The region under construction, and where the next string or entry goes.
struct Writer<'a> {
    places: &'a Places,
    bytes: Vec<u8>,
    next: u64,
}

impl Writer<'_> {
    fn put(&mut self, physical: u64, value: &[u8]) -> Result<(), LoadError> {
        let at = physical.checked_sub(LOADER_BLOCK).map(|at| at as usize);
        let target = at.and_then(|at| self.bytes.get_mut(at..at.checked_add(value.len())?));
        target
            .ok_or_else(|| damaged("NT guest", "names and options don't fit into 64 KiB".to_string()))?
            .copy_from_slice(value);
        Ok(())
    }
    fn u16(&mut self, physical: u64, value: u16) -> Result<(), LoadError> {
        self.put(physical, &value.to_le_bytes())
    }
    fn u32(&mut self, physical: u64, value: u32) -> Result<(), LoadError> {
        self.put(physical, &value.to_le_bytes())
    }
    fn u64(&mut self, physical: u64, value: u64) -> Result<(), LoadError> {
        self.put(physical, &value.to_le_bytes())
    }
    /// A number as wide as a pointer.
    fn pointer(&mut self, physical: u64, value: u64) -> Result<(), LoadError> {
        let width = self.width() as usize;
        self.put(physical, &value.to_le_bytes()[..width])
    }
    /// Bytes of a pointer.
    fn width(&self) -> u64 {
        self.places.arch.pointer() as u64
    }
    fn address(&self, physical: u64) -> u64 {
        self.places.loader_address(physical)
    }
    fn take(&mut self, size: u64) -> u64 {
        let at = self.next;
        self.next += size.next_multiple_of(8);
        at
    }
    /// A NUL-terminated string; returns its address.
    fn text(&mut self, text: &str) -> Result<u64, LoadError> {
        let at = self.take(text.len() as u64 + 1);
        self.put(at, text.as_bytes())?;
        Ok(self.address(at))
    }
    /// A UNICODE_STRING at `field`.
    fn unicode(&mut self, field: u64, text: &str) -> Result<(), LoadError> {
        let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let length = u16::try_from(units.len())
            .ok()
            .filter(|length| *length <= 512)
            .ok_or_else(|| damaged("NT guest", format!("the name '{text}' is too long")))?;
        let at = self.take(u64::from(length) + 2);
        self.put(at, &units)?;
        self.u16(field, length)?;
        self.u16(field + 2, length + 2)?;
        let address = self.address(at);
        self.pointer(field + self.width(), address)
    }
    /// Links entries, by their first fields, into the list at `head`.
    fn link(&mut self, head: u64, entries: &[u64]) -> Result<(), LoadError> {
        let ring: Vec<u64> = std::iter::once(head).chain(entries.iter().copied()).collect();
        for (n, entry) in ring.iter().enumerate() {
            let forward = self.address(ring[(n + 1) % ring.len()]);
            let back = self.address(ring[(n + ring.len() - 1) % ring.len()]);
            self.pointer(*entry, forward)?;
            self.pointer(*entry + self.width(), back)?;
        }
        Ok(())
    }
}

/// Writes the block, the GDT and processor 0's first descriptors.
pub(super) fn write(
    boot: &NtBoot,
    placed: &[Placed],
    kept: &[Kept],
    taken: &[Taken],
    places: &Places,
    vcpus: u32,
    ctx: &mut LoadContext<'_>,
) -> Result<(), LoadError> {
    let mut out = Writer {
        places,
        bytes: vec![0; (LOADER_BLOCK_END - LOADER_BLOCK) as usize],
        next: ENTRIES,
    };
    out.u32(LOADER_BLOCK, 10)?;
    out.u32(LOADER_BLOCK + 8, (EXTENSION - LOADER_BLOCK) as u32)?;
    let shape = shape(places.arch);
    let modules = modules(placed, shape, &mut out)?;
    out.link(LOADER_BLOCK + shape.load_order_list, &modules)?;
    let descriptors = descriptors(taken, ctx.memory_bytes, &mut out)?;
    out.link(LOADER_BLOCK + shape.memory_list, &descriptors)?;
    out.link(LOADER_BLOCK + shape.boot_driver_list, &[])?;
    let stack = out.address(STACK_END);
    out.pointer(LOADER_BLOCK + shape.kernel_stack, stack)?;
    out.u32(LOADER_BLOCK + shape.kernel_stack_size, (STACK_END - STACK) as u32)?;
    let names = [
        (shape.arc_boot_name, "multi(0)disk(0)rdisk(0)partition(1)"),
        (shape.boot_path, "\\Windows\\"),
        (shape.load_options, boot.options.as_str()),
    ];
    for (field, name) in names {
        let address = out.text(name)?;
        out.pointer(LOADER_BLOCK + field, address)?;
    }
    let extension = out.address(EXTENSION);
    out.pointer(LOADER_BLOCK + shape.extension, extension)?;
    self::extension(kept, places, vcpus, ctx, &mut out)?;
    (ctx.write)(GuestPhysAddr(LOADER_BLOCK), &out.bytes)?;
    match places.arch {
        Arch::X64 => write_x64_gdt(places, ctx),
        Arch::X86 => {
            let block = places.loader_address(LOADER_BLOCK) as u32;
            layout::write(ctx, X86_ENTRY_STACK + 4, &block.to_le_bytes())?;
            write_x86_gdt(places, ctx)
        }
    }
}

/// KLDR_DATA_TABLE_ENTRY for each image.
fn modules(placed: &[Placed], shape: &Shape, out: &mut Writer<'_>) -> Result<Vec<u64>, LoadError> {
    let mut entries = Vec::new();
    let kldr = &shape.kldr;
    for module in placed {
        let entry = out.take(KLDR_SIZE);
        let image = &module.image;
        if image.exceptions.1 > 0 {
            out.pointer(
                entry + kldr.exception_table,
                module.base + u64::from(image.exceptions.0),
            )?;
            out.u32(entry + kldr.exception_size, image.exceptions.1)?;
        }
        out.pointer(entry + kldr.base, module.base)?;
        out.pointer(entry + kldr.entry_point, module.base + u64::from(image.entry))?;
        out.u32(entry + kldr.size_of_image, image.bytes.len() as u32)?;
        out.unicode(entry + kldr.full_name, &module.path)?;
        let base_name = module.path.rsplit('\\').next().unwrap_or_default();
        out.unicode(entry + kldr.base_name, base_name)?;
        // LDRP_ENTRY_PROCESSED and, as winload leaves it, the bit of images that it loaded itself.
        out.u32(entry + kldr.flags, 0x0800_4000)?;
        out.u16(entry + kldr.load_count, 1)?;
        out.u32(entry + kldr.checksum, image.checksum)?;
        out.u32(entry + kldr.size_not_rounded, image.image_size)?;
        out.u32(entry + kldr.time_date_stamp, image.time_date_stamp)?;
        entries.push(entry);
    }
    Ok(entries)
}

/// MEMORY_ALLOCATION_DESCRIPTORs for all RAM, in order of address.
fn descriptors(taken: &[Taken], memory_bytes: u64, out: &mut Writer<'_>) -> Result<Vec<u64>, LoadError> {
    let mut entries = Vec::new();
    let mut add = |kind: MemoryType, start: u64, end: u64, out: &mut Writer<'_>| -> Result<(), LoadError> {
        let (start, end) = (start >> 12, end >> 12);
        if start < end {
            // ListEntry, MemoryType, BasePage, PageCount.
            let width = out.width();
            let entry = out.take(5 * width);
            out.u32(entry + 2 * width, kind as u32)?;
            out.pointer(entry + 3 * width, start)?;
            out.pointer(entry + 4 * width, end - start)?;
            entries.push(entry);
        }
        Ok(())
    };
    let end = out.places.physical_end();
    for range in layout::usable(memory_bytes)
        .into_iter()
        .filter(|range| range.start < end)
    {
        let mut at = range.start;
        for part in taken
            .iter()
            .filter(|part| range.start <= part.start && part.start < range.end)
        {
            add(MemoryType::Free, at, part.start, out)?;
            add(part.kind, part.start, part.end, out)?;
            at = part.end;
        }
        add(MemoryType::Free, at, range.end, out)?;
    }
    Ok(entries)
}

/// The project's own part of the block.
fn extension(
    kept: &[Kept],
    places: &Places,
    vcpus: u32,
    ctx: &LoadContext<'_>,
    out: &mut Writer<'_>,
) -> Result<(), LoadError> {
    let size = FILE_NAME + 2 * out.width();
    let files = out.take(size * kept.len() as u64);
    for (n, file) in kept.iter().enumerate() {
        let at = files + n as u64 * size;
        let name = file.path.as_bytes();
        if name.len() as u64 >= FILE_NAME {
            return Err(damaged(
                "NT guest",
                format!("the name '{}' is too long", file.path),
            ));
        }
        out.put(at, name)?;
        out.pointer(at + FILE_NAME, places.direct_map + file.physical)?;
        out.pointer(at + FILE_NAME + out.width(), file.length)?;
    }
    out.u32(EXTENSION, EXTENSION_SIZE)?;
    out.u32(EXTENSION + 4, EXTENSION_VERSION)?;
    let address = |physical| places.loader_address(physical);
    let numbers = [
        places.direct_map,
        places.pte_base,
        TABLES,
        u64::from(vcpus),
        address(PCR),
        PCR_SIZE,
        address(GDT),
        address(IDT),
        address(TSS),
        address(STACK),
        SHARED_USER_DATA,
        BOOT_TIME,
        crate::machine::TSC_HZ,
        places.system_ptes,
        kept.len() as u64,
        address(files),
        ctx.rsdp.map_or(0, |rsdp| rsdp.0),
        draw(&ctx.random_seed, "kernel seed 0"),
        draw(&ctx.random_seed, "kernel seed 1"),
        places.direct_map_size,
    ];
    for (n, number) in numbers.into_iter().enumerate() {
        out.u64(EXTENSION + 8 + n as u64 * 8, number)?;
    }
    Ok(())
}

/// The descriptors of an x64 Windows: kernel code and data at 10 and 18, user ones at 20 to 30, the TSS at 40.
fn write_x64_gdt(places: &Places, ctx: &mut LoadContext<'_>) -> Result<(), LoadError> {
    let tss = places.loader_address(TSS);
    let descriptors: [u64; 11] = [
        0,
        0,
        0x0020_9b00_0000_0000,
        0x00cf_9300_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x0020_fb00_0000_0000,
        0,
        0x0000_8b00_0000_0067 | (tss & 0xff_ffff) << 16 | (tss >> 24 & 0xff) << 56,
        tss >> 32,
        0x0040_f300_0000_3c00,
    ];
    let bytes: Vec<u8> = descriptors.iter().flat_map(|d| d.to_le_bytes()).collect();
    layout::write(ctx, GDT, &bytes)
}

/// The descriptors of an x86 Windows: kernel code and data at 8 and 10, user ones at 18 and 20, the TSS at 28, the
/// KPCR at 30.
fn write_x86_gdt(places: &Places, ctx: &mut LoadContext<'_>) -> Result<(), LoadError> {
    let based = |base: u64, rest: u64| rest | (base & 0xff_ffff) << 16 | (base >> 24 & 0xff) << 56;
    let descriptors: [u64; 7] = [
        0,
        0x00cf_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        based(
            places.loader_address(TSS),
            0x0000_8b00_0000_0000 | u64::from(X86_TSS_LIMIT),
        ),
        based(places.loader_address(PCR), 0x0040_9300_0000_ffff),
    ];
    let bytes: Vec<u8> = descriptors.iter().flat_map(|d| d.to_le_bytes()).collect();
    layout::write(ctx, GDT, &bytes)
}
