//! ELF's structures (System V ABI, `elf.h`), in both classes.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub(super) const MAGIC: [u8; 4] = *b"\x7fELF";
pub(super) const CLASS_32: u8 = 1;
pub(super) const CLASS_64: u8 = 2;
pub(super) const LITTLE_ENDIAN: u8 = 1;
pub(super) const VERSION: u8 = 1;
pub(super) const ET_CORE: u16 = 4;
pub(super) const EM_386: u16 = 3;
pub(super) const EM_X86_64: u16 = 62;
pub(super) const PT_LOAD: u32 = 1;
pub(super) const PT_NOTE: u32 = 4;
/// `PF_R | PF_W | PF_X`.
pub(super) const ALL_RIGHTS: u32 = 7;
/// In `e_phnum`: the number of program headers is the first section header's `sh_info`.
pub(super) const PN_XNUM: u16 = 0xffff;

/// Whether a file that begins so is an ELF file.
pub fn is_elf(start: &[u8]) -> bool {
    start.starts_with(&MAGIC)
}

/// `Elf64_Ehdr`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Header64 {
    pub(super) ident: [u8; 16],
    pub(super) kind: U16,
    pub(super) machine: U16,
    pub(super) version: U32,
    pub(super) entry: U64,
    pub(super) phoff: U64,
    pub(super) shoff: U64,
    pub(super) flags: U32,
    pub(super) ehsize: U16,
    pub(super) phentsize: U16,
    pub(super) phnum: U16,
    pub(super) shentsize: U16,
    pub(super) shnum: U16,
    pub(super) shstrndx: U16,
}

/// `Elf32_Ehdr`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Header32 {
    pub(super) ident: [u8; 16],
    pub(super) kind: U16,
    pub(super) machine: U16,
    pub(super) version: U32,
    pub(super) entry: U32,
    pub(super) phoff: U32,
    pub(super) shoff: U32,
    pub(super) flags: U32,
    pub(super) ehsize: U16,
    pub(super) phentsize: U16,
    pub(super) phnum: U16,
    pub(super) shentsize: U16,
    pub(super) shnum: U16,
    pub(super) shstrndx: U16,
}

/// `Elf64_Phdr`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Program64 {
    pub(super) kind: U32,
    pub(super) flags: U32,
    pub(super) offset: U64,
    pub(super) vaddr: U64,
    pub(super) paddr: U64,
    pub(super) filesz: U64,
    pub(super) memsz: U64,
    pub(super) align: U64,
}

/// `Elf32_Phdr`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Program32 {
    pub(super) kind: U32,
    pub(super) offset: U32,
    pub(super) vaddr: U32,
    pub(super) paddr: U32,
    pub(super) filesz: U32,
    pub(super) memsz: U32,
    pub(super) flags: U32,
    pub(super) align: U32,
}

const _: () = assert!(size_of::<Header64>() == 64 && size_of::<Header32>() == 52);
const _: () = assert!(size_of::<Program64>() == 56 && size_of::<Program32>() == 32);

/// Byte of `sh_info` in a section header.
pub(super) const SH_INFO_64: u64 = 44;
/// The same in `Elf32_Shdr`.
pub(super) const SH_INFO_32: u64 = 28;

impl From<Header32> for Header64 {
    fn from(header: Header32) -> Header64 {
        let wide = |value: U32| U64::new(value.get().into());
        Header64 {
            ident: header.ident,
            kind: header.kind,
            machine: header.machine,
            version: header.version,
            entry: wide(header.entry),
            phoff: wide(header.phoff),
            shoff: wide(header.shoff),
            flags: header.flags,
            ehsize: header.ehsize,
            phentsize: header.phentsize,
            phnum: header.phnum,
            shentsize: header.shentsize,
            shnum: header.shnum,
            shstrndx: header.shstrndx,
        }
    }
}

impl From<Program32> for Program64 {
    fn from(header: Program32) -> Program64 {
        let wide = |value: U32| U64::new(value.get().into());
        Program64 {
            kind: header.kind,
            flags: header.flags,
            offset: wide(header.offset),
            vaddr: wide(header.vaddr),
            paddr: wide(header.paddr),
            filesz: wide(header.filesz),
            memsz: wide(header.memsz),
            align: wide(header.align),
        }
    }
}

impl Program64 {
    /// The 32-bit form, where every number fits.
    pub(super) fn narrow(&self) -> Option<Program32> {
        let narrow = |value: U64| u32::try_from(value.get()).ok().map(U32::new);
        Some(Program32 {
            kind: self.kind,
            offset: narrow(self.offset)?,
            vaddr: narrow(self.vaddr)?,
            paddr: narrow(self.paddr)?,
            filesz: narrow(self.filesz)?,
            memsz: narrow(self.memsz)?,
            flags: self.flags,
            align: narrow(self.align)?,
        })
    }
}
