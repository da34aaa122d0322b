//! Linux's boot parameters, the "zero page", and the setup header that a bzImage brings for it.
//!
//! Layouts: Linux, Documentation/arch/x86/boot.rst and zero-page.rst.

use super::layout::{self, Range};
use super::{LoadContext, LoadError};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where the setup header is, in a bzImage and in the zero page alike.
const HEADER_OFFSET: usize = 0x1f1;
/// The zero page has other things from here on.
const HEADER_LIMIT: usize = 0x290;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: [u8; 4] = *b"HdrS";
const LOADER_UNDEFINED: u8 = 0xff;
const LOADED_HIGH: u8 = 1;
const SETUP_RNG_SEED: u32 = 9;
const E820_MAX: usize = 128;

/// The setup header as of boot protocol 2.15. Fields that an older kernel lacks are zero.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct SetupHeader {
    pub(super) setup_sects: u8,
    root_flags: U16,
    /// Size of the protected-mode part in units of 16 bytes.
    pub(super) syssize: U32,
    ram_size: U16,
    vid_mode: U16,
    root_dev: U16,
    boot_flag: U16,
    jump: [u8; 2],
    header: [u8; 4],
    pub(super) version: U16,
    realmode_swtch: U32,
    start_sys_seg: U16,
    kernel_version: U16,
    type_of_loader: u8,
    loadflags: u8,
    setup_move_size: U16,
    code32_start: U32,
    ramdisk_image: U32,
    ramdisk_size: U32,
    bootsect_kludge: U32,
    heap_end_ptr: U16,
    ext_loader_ver: u8,
    ext_loader_type: u8,
    cmd_line_ptr: U32,
    pub(super) initrd_addr_max: U32,
    pub(super) kernel_alignment: U32,
    pub(super) relocatable_kernel: u8,
    min_alignment: u8,
    pub(super) xloadflags: U16,
    pub(super) cmdline_size: U32,
    hardware_subarch: U32,
    hardware_subarch_data: U64,
    pub(super) payload_offset: U32,
    pub(super) payload_length: U32,
    setup_data: U64,
    pub(super) pref_address: U64,
    pub(super) init_size: U32,
    handover_offset: U32,
    kernel_info_offset: U32,
}
const _: () = assert!(HEADER_OFFSET + size_of::<SetupHeader>() == 0x26c);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct E820Entry {
    base: U64,
    size: U64,
    kind: U32,
}
const _: () = assert!(size_of::<E820Entry>() == 20);

/// The zero page. The screen stays all zeros: Linux takes that for "no VGA" and uses its dummy console.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ZeroPage {
    screen_info: [u8; 0x40],
    apm_ist: [u8; 0x30],
    acpi_rsdp_addr: U64,
    disks: [u8; 0x48],
    ext_ramdisk_image: U32,
    ext_ramdisk_size: U32,
    ext_cmd_line_ptr: U32,
    edid_efi: [u8; 0x11c],
    e820_entries: u8,
    misc: [u8; 8],
    header: SetupHeader,
    edd_signatures: [u8; 0x64],
    e820_table: [E820Entry; E820_MAX],
    edd: [u8; 0x330],
}
const _: () = assert!(size_of::<ZeroPage>() == 4096);

/// A node of the setup_data list, with the random seed.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct SeedNode {
    next: U64,
    kind: U32,
    length: U32,
    seed: [u8; 32],
}
const _: () = assert!(size_of::<SeedNode>() == 48);

/// Whether the file begins as a bzImage does.
pub(super) fn has_setup_header(file: &[u8]) -> bool {
    file.get(0x1fe..0x200) == Some(&BOOT_FLAG.to_le_bytes()) && file.get(0x202..0x206) == Some(&HEADER_MAGIC)
}

/// The zero page of one boot, before it is written.
pub(super) struct BootParams(Box<ZeroPage>);

impl BootParams {
    /// With the setup header of a bzImage.
    pub(super) fn from_bzimage(file: &[u8]) -> Result<BootParams, LoadError> {
        // The byte at 0x201 is the jump over the header, which counts from 0x202.
        let end = match file.get(0x201) {
            Some(jump) => (0x202 + usize::from(*jump)).min(HEADER_LIMIT),
            None => HEADER_LIMIT,
        };
        let header = file.get(HEADER_OFFSET..end).ok_or(LoadError::Truncated {
            what: "the setup header",
            needed: end as u64,
            length: file.len() as u64,
        })?;
        let mut page = Box::new(ZeroPage::new_zeroed());
        if let Some(place) = page.as_mut_bytes().get_mut(HEADER_OFFSET..end) {
            place.copy_from_slice(header);
        }
        Ok(BootParams(page))
    }

    /// For an ELF kernel, which has no setup header of its own.
    pub(super) fn for_vmlinux() -> BootParams {
        let mut page = Box::new(ZeroPage::new_zeroed());
        page.header.boot_flag = BOOT_FLAG.into();
        page.header.header = HEADER_MAGIC;
        page.header.version = 0x20f.into();
        page.header.loadflags = LOADED_HIGH;
        page.header.initrd_addr_max = 0x7fff_ffff.into();
        // COMMAND_LINE_SIZE of x86 Linux, less its NUL.
        page.header.cmdline_size = 2047.into();
        BootParams(page)
    }

    /// The setup header.
    pub(super) fn header(&self) -> &SetupHeader {
        &self.0.header
    }

    /// Where the initrd lies.
    pub(super) fn set_initrd(&mut self, start: u64, length: u64) {
        let page = &mut self.0;
        page.header.ramdisk_image = (start as u32).into();
        page.ext_ramdisk_image = ((start >> 32) as u32).into();
        page.header.ramdisk_size = (length as u32).into();
        page.ext_ramdisk_size = ((length >> 32) as u32).into();
    }

    /// Writes the command line, the random seed and the page itself; returns the page's address.
    pub(super) fn write(mut self, command_line: &str, ctx: &mut LoadContext<'_>) -> Result<u64, LoadError> {
        let limit = (self.header().cmdline_size.get() as usize).min(layout::COMMAND_LINE_MAX);
        if command_line.len() > limit {
            return Err(LoadError::CommandLineTooLong {
                length: command_line.len(),
                limit,
            });
        }
        let mut bytes = command_line.as_bytes().to_vec();
        bytes.push(0);
        layout::write(ctx, layout::COMMAND_LINE, &bytes)?;

        let seed = SeedNode {
            next: 0.into(),
            kind: SETUP_RNG_SEED.into(),
            length: 32.into(),
            seed: ctx.random_seed,
        };
        layout::write(ctx, layout::SETUP_DATA, seed.as_bytes())?;

        let page = &mut self.0;
        page.acpi_rsdp_addr = ctx.rsdp.map_or(0, |rsdp| rsdp.0).into();
        page.header.type_of_loader = LOADER_UNDEFINED;
        page.header.cmd_line_ptr = (layout::COMMAND_LINE as u32).into();
        page.header.setup_data = layout::SETUP_DATA.into();
        let map = layout::memory_map(ctx.memory_bytes);
        page.e820_entries = map.len() as u8;
        for (entry, range) in page.e820_table.iter_mut().zip(&map) {
            *entry = e820_entry(range);
        }
        layout::write(ctx, layout::BOOT_PARAMS, page.as_bytes())?;
        Ok(layout::BOOT_PARAMS)
    }
}

fn e820_entry(range: &Range) -> E820Entry {
    E820Entry {
        base: range.start.into(),
        size: range.length.into(),
        kind: (range.kind as u32).into(),
    }
}
