//! PE32 and PE32+ images: headers, sections, base relocations, exports and imports, read from a file and laid out as in memory.
//!
//! Microsoft PE Format. Names and offsets are of that specification. A file may be damaged or made to hurt: every
//! offset, size and count is checked against the file or against the size of the image.

use super::super::LoadError;
use super::places::Arch;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

const PAGE: u32 = 0x1000;
/// The largest image that is taken: several times the largest Windows kernel.
const IMAGE_MAX: u32 = 64 << 20;
const MACHINE_AMD64: u16 = 0x8664;
const MACHINE_I386: u16 = 0x14c;
const MAGIC_PE32: u16 = 0x10b;
const MAGIC_PE32_PLUS: u16 = 0x20b;
const SECTIONS_MAX: u16 = 96;
/// Imported functions and exported names at most, of one image.
const SYMBOLS_MAX: u32 = 65536;

const SECTION_EXECUTE: u32 = 0x2000_0000;
const SECTION_WRITE: u32 = 0x8000_0000;

const DIRECTORY_EXPORT: usize = 0;
const DIRECTORY_IMPORT: usize = 1;
const DIRECTORY_EXCEPTION: usize = 3;
const DIRECTORY_RELOCATION: usize = 5;

const RELOCATION_ABSOLUTE: u16 = 0;
const RELOCATION_HIGHLOW: u16 = 3;
const RELOCATION_DIR64: u16 = 10;

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct FileHeader {
    signature: [u8; 4],
    machine: U16,
    section_count: U16,
    time_date_stamp: U32,
    symbols: [U32; 2],
    optional_header_size: U16,
    characteristics: U16,
}
const _: () = assert!(size_of::<FileHeader>() == 24);

/// IMAGE_OPTIONAL_HEADER up to where stack and heap sizes begin, which are as wide as a pointer.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct OptionalHeader {
    magic: U16,
    linker: [u8; 2],
    sizes: [U32; 3],
    entry: U32,
    base_of_code: U32,
    /// ImageBase; in PE32 its upper half alone, behind BaseOfData.
    base: [U32; 2],
    section_alignment: U32,
    file_alignment: U32,
    versions: [U16; 6],
    win32_version: U32,
    image_size: U32,
    header_size: U32,
    checksum: U32,
    subsystem: U16,
    dll_characteristics: U16,
}
const _: () = assert!(size_of::<OptionalHeader>() == 72);
/// Offset of `base`.
const OPTIONAL_BASE: usize = 24;

impl OptionalHeader {
    fn image_base(&self, arch: Arch) -> u64 {
        let [low, high] = self.base.map(|half| u64::from(half.get()));
        match arch {
            Arch::X64 => high << 32 | low,
            Arch::X86 => high,
        }
    }
}

/// IMAGE_DATA_DIRECTORY: a part of the image.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct Directory {
    rva: U32,
    size: U32,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct SectionHeader {
    name: [u8; 8],
    virtual_size: U32,
    rva: U32,
    raw_size: U32,
    raw_offset: U32,
    relocations: [U32; 3],
    characteristics: U32,
}
const _: () = assert!(size_of::<SectionHeader>() == 40);

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RelocationBlock {
    page: U32,
    size: U32,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ImportDescriptor {
    lookup: U32,
    time_date_stamp: U32,
    forwarder: U32,
    name: U32,
    address_table: U32,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ExportDirectory {
    flags: U32,
    time_date_stamp: U32,
    version: [U16; 2],
    name: U32,
    ordinal_base: U32,
    function_count: U32,
    name_count: U32,
    functions: U32,
    names: U32,
    ordinals: U32,
}

/// What a page of an image may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rights {
    pub(super) write: bool,
    pub(super) execute: bool,
}

impl Rights {
    pub(super) const READ: Rights = Rights {
        write: false,
        execute: false,
    };
}

/// An image as it lies in memory.
#[derive(Debug)]
pub(super) struct Image {
    /// The file's name without a path, for messages and for imports.
    pub(super) name: String,
    /// The image from its header to its last section; a multiple of the page size long.
    pub(super) bytes: Vec<u8>,
    /// Rights of each page.
    pub(super) rights: Vec<Rights>,
    /// RVA of the entry point.
    pub(super) entry: u32,
    /// SizeOfImage of the header.
    pub(super) image_size: u32,
    pub(super) checksum: u32,
    pub(super) time_date_stamp: u32,
    /// RVA and size of the exception directory.
    pub(super) exceptions: (u32, u32),
    pub(super) arch: Arch,
    preferred_base: u64,
    directories: Vec<Directory>,
}

impl Image {
    /// Lays out `file`.
    pub(super) fn parse(name: &str, file: &[u8]) -> Result<Image, LoadError> {
        let bad = |why: String| damaged(name, why);
        if !file.starts_with(b"MZ") {
            return Err(bad("it has no MZ header".into()));
        }
        let at: &U32 = part(file, 0x3c, "the DOS header").map_err(bad)?;
        let at = at.get() as usize;
        let header: &FileHeader = part(file, at, "the PE header").map_err(bad)?;
        if header.signature != *b"PE\0\0" {
            return Err(bad(format!("there is no PE signature at {at:#x}")));
        }
        let optional_at = at + size_of::<FileHeader>();
        let optional: &OptionalHeader = part(file, optional_at, "the optional header").map_err(bad)?;
        let arch = match (header.machine.get(), optional.magic.get()) {
            (MACHINE_AMD64, MAGIC_PE32_PLUS) => Arch::X64,
            (MACHINE_I386, MAGIC_PE32) => Arch::X86,
            (MACHINE_AMD64 | MACHINE_I386, magic) => {
                return Err(bad(format!("a header of type {magic:#x} isn't its machine's")));
            }
            (machine, _) => return Err(bad(format!("it is for machine {machine:#06x}, not x86"))),
        };
        let image_size = optional.image_size.get();
        if image_size == 0 || image_size > IMAGE_MAX || optional.section_alignment.get() < PAGE {
            return Err(bad(format!(
                "an image of {image_size:#x} bytes with sections aligned to {:#x} is not taken",
                optional.section_alignment.get()
            )));
        }
        let length = image_size.next_multiple_of(PAGE) as usize;
        let mut image = Image {
            name: name.to_ascii_lowercase(),
            bytes: vec![0; length],
            rights: vec![Rights::READ; length / PAGE as usize],
            entry: optional.entry.get(),
            image_size,
            checksum: optional.checksum.get(),
            time_date_stamp: header.time_date_stamp.get(),
            exceptions: (0, 0),
            arch,
            preferred_base: optional.image_base(arch),
            directories: Vec::new(),
        };
        let header_size = optional.header_size.get() as usize;
        let headers = file
            .get(..header_size)
            .filter(|h| h.len() <= length)
            .ok_or_else(|| bad(format!("its headers of {header_size:#x} bytes don't fit")))?;
        image.bytes[..header_size].copy_from_slice(headers);

        // Four sizes of stack and heap, LoaderFlags, then the number of directories.
        let count_at = optional_at + size_of::<OptionalHeader>() + 4 * arch.pointer() + 4;
        let directory_count: &U32 = part(file, count_at, "the optional header").map_err(bad)?;
        let directories_at = count_at + 4;
        for n in 0..directory_count.get().min(16) as usize {
            let directory: &Directory =
                part(file, directories_at + n * 8, "a data directory").map_err(bad)?;
            image.directories.push(*directory);
        }
        let sections_at = optional_at + usize::from(header.optional_header_size.get());
        if header.section_count.get() > SECTIONS_MAX {
            return Err(bad(format!("{} sections", header.section_count.get())));
        }
        for n in 0..usize::from(header.section_count.get()) {
            let at = sections_at + n * size_of::<SectionHeader>();
            let section: &SectionHeader = part(file, at, "a section header").map_err(bad)?;
            image.place_section(section, file)?;
        }
        if image.entry as usize >= length {
            return Err(bad(format!(
                "the entry point {:#x} is outside of it",
                image.entry
            )));
        }
        let exceptions = image.directory(DIRECTORY_EXCEPTION);
        image.exceptions = (exceptions.rva.get(), exceptions.size.get());
        Ok(image)
    }

    fn place_section(&mut self, section: &SectionHeader, file: &[u8]) -> Result<(), LoadError> {
        let name = String::from_utf8_lossy(&section.name)
            .trim_end_matches('\0')
            .to_string();
        let rva = section.rva.get() as usize;
        let raw_size = section.raw_size.get();
        let size = match section.virtual_size.get() {
            0 => raw_size,
            size => size,
        };
        let end = rva
            .checked_add(size as usize)
            .filter(|end| *end <= self.bytes.len())
            .ok_or_else(|| self.bad(format!("section {name} reaches past the end of the image")))?;
        if !rva.is_multiple_of(PAGE as usize) {
            return Err(self.bad(format!("section {name} is at {rva:#x}, not on a page of its own")));
        }
        let stored = raw_size.min(size) as usize;
        if stored > 0 {
            let from = section.raw_offset.get() as usize;
            let data = from
                .checked_add(stored)
                .and_then(|to| file.get(from..to))
                .ok_or_else(|| self.bad(format!("the file ends within section {name}")))?;
            self.bytes[rva..rva + stored].copy_from_slice(data);
        }
        let flags = section.characteristics.get();
        let rights = Rights {
            write: flags & SECTION_WRITE != 0,
            execute: flags & SECTION_EXECUTE != 0,
        };
        self.rights[rva / PAGE as usize..end.div_ceil(PAGE as usize)].fill(rights);
        Ok(())
    }

    /// Applies the base relocations for an image that will lie at `base`.
    pub(super) fn relocate(&mut self, base: u64) -> Result<(), LoadError> {
        let delta = base.wrapping_sub(self.preferred_base);
        let directory = self.directory(DIRECTORY_RELOCATION);
        let (mut at, mut left) = (directory.rva.get() as usize, directory.size.get() as usize);
        while left >= size_of::<RelocationBlock>() {
            let block: &RelocationBlock = self.in_image(at, "a relocation block")?;
            let (page, size) = (block.page.get() as usize, block.size.get() as usize);
            if size < size_of::<RelocationBlock>() || size > left {
                return Err(self.bad(format!("a relocation block of {size:#x} bytes at {at:#x}")));
            }
            let entries: Vec<u16> = self
                .range(at + 8, size - 8, "relocations")?
                .chunks_exact(2)
                .map(|e| u16::from_le_bytes([e[0], e[1]]))
                .collect();
            for entry in entries {
                match entry >> 12 {
                    RELOCATION_ABSOLUTE => {}
                    RELOCATION_DIR64 if self.arch == Arch::X64 => {
                        let target = page + usize::from(entry & 0xfff);
                        let old: &U64 = self.in_image(target, "a relocated pointer")?;
                        let new = old.get().wrapping_add(delta);
                        self.bytes[target..target + 8].copy_from_slice(&new.to_le_bytes());
                    }
                    RELOCATION_HIGHLOW => {
                        let target = page + usize::from(entry & 0xfff);
                        let old: &U32 = self.in_image(target, "a relocated pointer")?;
                        let new = old.get().wrapping_add(delta as u32);
                        self.bytes[target..target + 4].copy_from_slice(&new.to_le_bytes());
                    }
                    other => return Err(self.bad(format!("a relocation of type {other}"))),
                }
            }
            at += size;
            left -= size;
        }
        self.set_image_base(base);
        Ok(())
    }

    /// Lets the header in memory name the real base, as winload does.
    fn set_image_base(&mut self, base: u64) {
        let optional = match self.in_image::<U32>(0x3c, "the DOS header") {
            Ok(at) => at.get() as usize + size_of::<FileHeader>(),
            Err(_) => return,
        };
        let width = self.arch.pointer();
        let at = optional + OPTIONAL_BASE + 8 - width;
        if let Some(field) = at.checked_add(width).and_then(|end| self.bytes.get_mut(at..end)) {
            field.copy_from_slice(&base.to_le_bytes()[..width]);
        }
    }

    /// The exported names and the RVAs that they stand for.
    pub(super) fn exports(&self) -> Result<Vec<(String, u32)>, LoadError> {
        let directory = self.directory(DIRECTORY_EXPORT);
        let (first, size) = (directory.rva.get(), directory.size.get());
        if size == 0 {
            return Ok(Vec::new());
        }
        let exports: &ExportDirectory = self.in_image(first as usize, "the export directory")?;
        let count = exports.name_count.get();
        if count > SYMBOLS_MAX {
            return Err(self.bad(format!("{count} exported names")));
        }
        let mut found = Vec::with_capacity(count as usize);
        for n in 0..count as usize {
            let name: &U32 = self.in_image(exports.names.get() as usize + n * 4, "an export's name")?;
            let ordinal: &U16 = self.in_image(exports.ordinals.get() as usize + n * 2, "an ordinal")?;
            if u32::from(ordinal.get()) >= exports.function_count.get() {
                return Err(self.bad(format!("an export with ordinal {}", ordinal.get())));
            }
            let function = exports.functions.get() as usize + usize::from(ordinal.get()) * 4;
            let rva = self.in_image::<U32>(function, "an export's address")?.get();
            // Inside of the directory lies the name of a forwarder.
            if rva < first || rva - first >= size {
                found.push((self.text(name.get() as usize)?, rva));
            }
        }
        Ok(found)
    }

    /// Fills the import address tables; `resolve` finds the address of a function of a module.
    pub(super) fn bind(&mut self, resolve: impl Fn(&str, &str) -> Option<u64>) -> Result<(), LoadError> {
        let directory = self.directory(DIRECTORY_IMPORT);
        let mut at = directory.rva.get() as usize;
        let end = at + directory.size.get() as usize;
        while at + size_of::<ImportDescriptor>() <= end {
            let import: &ImportDescriptor = self.in_image(at, "an import descriptor")?;
            if import.name.get() == 0 {
                break;
            }
            let module = self.text(import.name.get() as usize)?.to_ascii_lowercase();
            let (lookup, table) = (import.lookup.get() as usize, import.address_table.get() as usize);
            let lookup = if lookup == 0 { table } else { lookup };
            let width = self.arch.pointer();
            for n in 0..=SYMBOLS_MAX as usize {
                let (entry, by_ordinal) = self.thunk(lookup + n * width)?;
                if entry == 0 {
                    break;
                }
                if by_ordinal || n == SYMBOLS_MAX as usize {
                    return Err(self.bad(format!("an import of {module} by ordinal; only names are taken")));
                }
                let function = self.text((entry as u32 & 0x7fff_ffff) as usize + 2)?;
                let address = resolve(&module, &function)
                    .ok_or_else(|| self.bad(format!("it needs {module}!{function}, which nobody exports")))?;
                let slot = table + n * width;
                self.thunk(slot)?;
                self.bytes[slot..slot + width].copy_from_slice(&address.to_le_bytes()[..width]);
            }
            at += size_of::<ImportDescriptor>();
        }
        Ok(())
    }

    /// An entry of an import table, and whether it asks for an ordinal.
    fn thunk(&self, rva: usize) -> Result<(u64, bool), LoadError> {
        Ok(match self.arch {
            Arch::X64 => {
                let entry = self.in_image::<U64>(rva, "an import")?.get();
                (entry, entry >> 63 != 0)
            }
            Arch::X86 => {
                let entry = self.in_image::<U32>(rva, "an import")?.get();
                (u64::from(entry), entry >> 31 != 0)
            }
        })
    }

    fn directory(&self, number: usize) -> Directory {
        self.directories.get(number).copied().unwrap_or(Directory {
            rva: 0.into(),
            size: 0.into(),
        })
    }

    fn in_image<T>(&self, rva: usize, what: &'static str) -> Result<&T, LoadError>
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        part(&self.bytes, rva, what).map_err(|why| self.bad(why))
    }

    fn range(&self, rva: usize, length: usize, what: &'static str) -> Result<&[u8], LoadError> {
        rva.checked_add(length)
            .and_then(|end| self.bytes.get(rva..end))
            .ok_or_else(|| self.bad(format!("{what} at {rva:#x} reach past the end of the image")))
    }

    /// A NUL-terminated name of at most 511 bytes.
    fn text(&self, rva: usize) -> Result<String, LoadError> {
        let rest = self.bytes.get(rva..).unwrap_or_default();
        let length = rest.iter().take(512).position(|byte| *byte == 0);
        length
            .map(|length| String::from_utf8_lossy(&rest[..length]).into_owned())
            .ok_or_else(|| self.bad(format!("there is no name at {rva:#x}")))
    }

    fn bad(&self, why: String) -> LoadError {
        damaged(&self.name, why)
    }
}

/// A structure at `offset` of `bytes`.
fn part<'a, T>(bytes: &'a [u8], offset: usize, what: &'static str) -> Result<&'a T, String>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    bytes
        .get(offset..)
        .and_then(|rest| T::ref_from_prefix(rest).ok())
        .map(|(value, _)| value)
        .ok_or_else(|| format!("{what} at {offset:#x} reaches past its end at {:#x}", bytes.len()))
}

/// The error for an image that can't be used.
pub(super) fn damaged(name: &str, why: String) -> LoadError {
    LoadError::NtImage {
        name: name.to_string(),
        why,
    }
}
