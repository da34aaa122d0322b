//! The format's structures (makedumpfile `diskdump_mod.h` and `IMPLEMENTATION`, crash `diskdump.h`).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

pub(super) const SIGNATURE: [u8; 8] = *b"KDUMP   ";
/// The newest version that is defined.
pub(super) const VERSION: u32 = 6;
pub(super) const BLOCK: u64 = 4096;
/// `status`: the disk was full.
pub(super) const INCOMPLETE: u32 = 8;

/// Whether a file that begins so is a kdump file.
pub fn is_kdump(start: &[u8]) -> bool {
    start.starts_with(&SIGNATURE)
}

/// `struct disk_dump_header` on 64-bit machines.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
pub(super) struct Header {
    pub(super) signature: [u8; 8],
    pub(super) version: U32,
    pub(super) utsname: [[u8; 65]; 6],
    pub(super) pad: [u8; 6],
    pub(super) seconds: U64,
    pub(super) microseconds: U64,
    pub(super) status: U32,
    pub(super) block_size: U32,
    /// In blocks.
    pub(super) sub_header_size: U32,
    /// Of both bitmaps together.
    pub(super) bitmap_blocks: U32,
    pub(super) max_mapnr: U32,
    pub(super) total_ram_blocks: U32,
    pub(super) device_blocks: U32,
    pub(super) written_blocks: U32,
    pub(super) current_cpu: U32,
    pub(super) cpu_count: U32,
}

/// The same on 32-bit machines.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
pub(super) struct Header32 {
    signature: [u8; 8],
    version: U32,
    utsname: [[u8; 65]; 6],
    pad: [u8; 2],
    seconds: U32,
    microseconds: U32,
    /// From `status` to `cpu_count`.
    rest: [U32; 10],
}

impl From<Header32> for Header {
    fn from(header: Header32) -> Header {
        let mut wide = Header::new_zeroed();
        (wide.signature, wide.version, wide.utsname) = (header.signature, header.version, header.utsname);
        wide.seconds = u64::from(header.seconds.get()).into();
        wide.microseconds = u64::from(header.microseconds.get()).into();
        [
            wide.status,
            wide.block_size,
            wide.sub_header_size,
            wide.bitmap_blocks,
            wide.max_mapnr,
            wide.total_ram_blocks,
            wide.device_blocks,
            wide.written_blocks,
            wide.current_cpu,
            wide.cpu_count,
        ] = header.rest;
        wide
    }
}

/// `struct kdump_sub_header` on 64-bit machines.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
pub(super) struct SubHeader {
    pub(super) phys_base: U64,
    /// Since version 1.
    pub(super) dump_level: U32,
    /// Since version 2, as the next two.
    pub(super) split: U32,
    pub(super) start_pfn: U64,
    pub(super) end_pfn: U64,
    /// Of the text. Since version 3.
    pub(super) vmcoreinfo_at: U64,
    pub(super) vmcoreinfo_size: U64,
    /// Since version 4.
    pub(super) notes_at: U64,
    pub(super) notes_size: U64,
    /// Since version 5.
    pub(super) erased_at: U64,
    pub(super) erased_size: U64,
    /// Since version 6.
    pub(super) start_pfn_64: U64,
    pub(super) end_pfn_64: U64,
    pub(super) max_mapnr_64: U64,
}

/// The same on 32-bit x86, where nothing is padded.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
pub(super) struct SubHeader32 {
    phys_base: U32,
    dump_level: U32,
    split: U32,
    start_pfn: U32,
    end_pfn: U32,
    vmcoreinfo_at: U64,
    vmcoreinfo_size: U32,
    notes_at: U64,
    notes_size: U32,
    erased_at: U64,
    erased_size: U32,
    start_pfn_64: U64,
    end_pfn_64: U64,
    max_mapnr_64: U64,
}

impl From<SubHeader32> for SubHeader {
    fn from(header: SubHeader32) -> SubHeader {
        let wide = |value: U32| U64::new(value.get().into());
        SubHeader {
            phys_base: wide(header.phys_base),
            dump_level: header.dump_level,
            split: header.split,
            start_pfn: wide(header.start_pfn),
            end_pfn: wide(header.end_pfn),
            vmcoreinfo_at: header.vmcoreinfo_at,
            vmcoreinfo_size: wide(header.vmcoreinfo_size),
            notes_at: header.notes_at,
            notes_size: wide(header.notes_size),
            erased_at: header.erased_at,
            erased_size: wide(header.erased_size),
            start_pfn_64: header.start_pfn_64,
            end_pfn_64: header.end_pfn_64,
            max_mapnr_64: header.max_mapnr_64,
        }
    }
}

/// `struct page_desc`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
pub(super) struct Descriptor {
    pub(super) offset: U64,
    /// Bytes in the file.
    pub(super) size: U32,
    /// How they are compressed.
    pub(super) flags: U32,
    pub(super) page_flags: U64,
}

pub(super) const HEADER_SIZE: usize = 464;
pub(super) const HEADER_32_SIZE: usize = 452;
pub(super) const SUB_HEADER_SIZE: usize = 104;
pub(super) const SUB_HEADER_32_SIZE: usize = 80;
pub(super) const DESCRIPTOR_SIZE: usize = 24;
const _: () = assert!(size_of::<Header>() == HEADER_SIZE && size_of::<Header32>() == HEADER_32_SIZE);
const _: () =
    assert!(size_of::<SubHeader>() == SUB_HEADER_SIZE && size_of::<SubHeader32>() == SUB_HEADER_32_SIZE);
const _: () = assert!(size_of::<Descriptor>() == DESCRIPTOR_SIZE);
