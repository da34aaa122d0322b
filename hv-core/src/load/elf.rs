//! ELF executables, 32 and 64 bit, as far as a loader needs them: the entry and the loadable segments.
//!
//! Layouts: System V ABI, "ELF Header" and "Program Header".

use super::LoadError;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

const MAGIC: &[u8] = b"\x7fELF";
const CLASS_32: u8 = 1;
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const MACHINE_386: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const TYPE_RELOCATABLE: u16 = 1;
const TYPE_EXECUTABLE: u16 = 2;
const TYPE_DYNAMIC: u16 = 3;
const TYPE_CORE: u16 = 4;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_INTERPRETER: u32 = 3;

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Ident {
    magic: [u8; 4],
    class: u8,
    data: u8,
    version: u8,
    abi: u8,
    padding: [u8; 8],
    kind: U16,
    machine: U16,
}
const _: () = assert!(size_of::<Ident>() == 20);

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header32 {
    ident: Ident,
    version: U32,
    entry: U32,
    phoff: U32,
    shoff: U32,
    flags: U32,
    ehsize: U16,
    phentsize: U16,
    phnum: U16,
    shentsize: U16,
    shnum: U16,
    shstrndx: U16,
}
const _: () = assert!(size_of::<Header32>() == 52);

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header64 {
    ident: Ident,
    version: U32,
    entry: U64,
    phoff: U64,
    shoff: U64,
    flags: U32,
    ehsize: U16,
    phentsize: U16,
    phnum: U16,
    shentsize: U16,
    shnum: U16,
    shstrndx: U16,
}
const _: () = assert!(size_of::<Header64>() == 64);

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Program32 {
    kind: U32,
    offset: U32,
    vaddr: U32,
    paddr: U32,
    filesz: U32,
    memsz: U32,
    flags: U32,
    align: U32,
}
const _: () = assert!(size_of::<Program32>() == 32);

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Program64 {
    kind: U32,
    flags: U32,
    offset: U64,
    vaddr: U64,
    paddr: U64,
    filesz: U64,
    memsz: U64,
    align: U64,
}
const _: () = assert!(size_of::<Program64>() == 56);

/// A segment that is loaded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment<'a> {
    pub(super) vaddr: u64,
    pub(super) paddr: u64,
    /// Bytes it takes in memory; never less than the data.
    pub(super) memory_size: u64,
    pub(super) data: &'a [u8],
}

impl Segment<'_> {
    /// The end in physical memory; known not to overflow.
    pub(super) fn end(&self) -> u64 {
        self.paddr + self.memory_size
    }
}

/// An executable, read and checked.
#[derive(Debug)]
pub(super) struct Executable<'a> {
    pub(super) entry: u64,
    pub(super) segments: Vec<Segment<'a>>,
    kind: u16,
    machine: u16,
    is_64: bool,
    has_interpreter: bool,
}

/// Whether a file begins as ELF files do.
pub(super) fn is_elf(file: &[u8]) -> bool {
    file.starts_with(MAGIC)
}

/// Fails unless the file is an ELF Linux kernel for x86-64.
pub(super) fn check_linux(file: &[u8]) -> Result<(), LoadError> {
    let elf = parse(file)?;
    check_machine(&elf)?;
    let not_bootable = |why| Err(LoadError::NotBootable { why });
    match elf.kind {
        TYPE_EXECUTABLE => {}
        TYPE_RELOCATABLE => {
            return not_bootable("it is an object file or a kernel module; give the kernel itself");
        }
        TYPE_CORE => return not_bootable("it is a core dump; open it with --dump"),
        TYPE_DYNAMIC => return not_bootable("it is a program or library for user space; give a kernel"),
        _ => return not_bootable("it is no executable; give a kernel"),
    }
    if !elf.is_64 {
        return not_bootable(
            "it is a 32-bit kernel without a multiboot header; give a 64-bit kernel, or one with a multiboot header in \
             its first 8 KiB",
        );
    }
    // Linux runs in the upper half of the address space; programs for user space in the lower.
    if elf.has_interpreter || !elf.segments.iter().any(|segment| segment.vaddr >> 63 == 1) {
        return not_bootable("it is a program for user space; give a kernel");
    }
    Ok(())
}

/// Fails unless the file is for this architecture.
pub(super) fn check_machine(elf: &Executable<'_>) -> Result<(), LoadError> {
    let found = match elf.machine {
        MACHINE_386 | MACHINE_X86_64 => return Ok(()),
        40 => "an ELF file for 32-bit ARM".to_string(),
        183 => "an ELF file for arm64".to_string(),
        243 => "an ELF file for RISC-V".to_string(),
        other => format!("an ELF file for machine number {other}"),
    };
    Err(LoadError::WrongArchitecture { found })
}

/// Reads the headers; every segment's data is in the file and its addresses don't overflow.
pub(super) fn parse(file: &[u8]) -> Result<Executable<'_>, LoadError> {
    let ident: &Ident = header(file, 0, "the ELF header")?;
    if ident.data != LITTLE_ENDIAN {
        return Err(LoadError::WrongArchitecture {
            found: "a big-endian ELF file".to_string(),
        });
    }
    let (kind, machine) = (ident.kind.get(), ident.machine.get());
    let is_64 = match ident.class {
        CLASS_32 => false,
        CLASS_64 => true,
        other => return Err(bad(format!("ELF class {other} is neither 32 nor 64 bit"))),
    };
    let (entry, phoff, phentsize, phnum, expected) = if is_64 {
        let elf: &Header64 = header(file, 0, "the ELF header")?;
        let size = size_of::<Program64>();
        (
            elf.entry.get(),
            elf.phoff.get(),
            elf.phentsize.get(),
            elf.phnum.get(),
            size,
        )
    } else {
        let elf: &Header32 = header(file, 0, "the ELF header")?;
        let size = size_of::<Program32>();
        (
            elf.entry.get().into(),
            elf.phoff.get().into(),
            elf.phentsize.get(),
            elf.phnum.get(),
            size,
        )
    };
    if phnum > 0 && usize::from(phentsize) < expected {
        return Err(bad(format!(
            "ELF program headers of {phentsize} bytes, {expected} are needed"
        )));
    }

    let mut elf = Executable {
        entry,
        segments: Vec::new(),
        kind,
        machine,
        is_64,
        has_interpreter: false,
    };
    for index in 0..u64::from(phnum) {
        // Both factors have 16 bits: only adding the offset can overflow.
        let offset = phoff.checked_add(index * u64::from(phentsize)).ok_or_else(|| {
            bad(format!(
                "the ELF program headers are said to be at offset {phoff:#x}"
            ))
        })?;
        elf.add(file, offset)?;
    }
    Ok(elf)
}

impl<'a> Executable<'a> {
    /// Reads the program header at `offset` and keeps what is loaded.
    fn add(&mut self, file: &'a [u8], offset: u64) -> Result<(), LoadError> {
        const WHAT: &str = "an ELF program header";
        let (kind, offset, vaddr, paddr, file_size, memory_size) = if self.is_64 {
            let p: &Program64 = header(file, offset, WHAT)?;
            (
                p.kind.get(),
                p.offset.get(),
                p.vaddr.get(),
                p.paddr.get(),
                p.filesz.get(),
                p.memsz.get(),
            )
        } else {
            let p: &Program32 = header(file, offset, WHAT)?;
            (
                p.kind.get(),
                p.offset.get().into(),
                p.vaddr.get().into(),
                p.paddr.get().into(),
                p.filesz.get().into(),
                p.memsz.get().into(),
            )
        };
        if kind == SEGMENT_INTERPRETER {
            self.has_interpreter = true;
        }
        if kind != SEGMENT_LOAD || memory_size == 0 {
            return Ok(());
        }
        if file_size > memory_size {
            return Err(bad(format!(
                "an ELF segment has {file_size:#x} bytes in the file but {memory_size:#x} in memory"
            )));
        }
        if paddr.checked_add(memory_size).is_none() || vaddr.checked_add(memory_size - 1).is_none() {
            return Err(bad(format!(
                "an ELF segment of {memory_size:#x} bytes at {paddr:#x} (virtual {vaddr:#x}) passes the end of memory"
            )));
        }
        let data = slice(file, offset, file_size, "an ELF segment")?;
        self.segments.push(Segment {
            vaddr,
            paddr,
            memory_size,
            data,
        });
        Ok(())
    }

    /// Checks that the segments don't overlap each other or memory below `first`; returns where they end.
    pub(super) fn check_placement(&self, first: u64) -> Result<u64, LoadError> {
        let mut ranges: Vec<(u64, u64)> = self.segments.iter().map(|s| (s.paddr, s.end())).collect();
        ranges.sort_unstable();
        let mut end = first;
        for (start, segment_end) in ranges {
            if start < first {
                return Err(bad(format!(
                    "an ELF segment is to be loaded at {start:#x}; memory below {first:#x} is taken"
                )));
            }
            if start < end {
                return Err(bad(format!("two ELF segments overlap at {start:#x}")));
            }
            end = segment_end;
        }
        Ok(end)
    }

    /// The entry's physical address: some kernels state it as a virtual one.
    pub(super) fn physical_entry(&self) -> Result<u64, LoadError> {
        let within = |start: u64, segment: &Segment<'_>| {
            self.entry
                .checked_sub(start)
                .is_some_and(|offset| offset < segment.memory_size)
        };
        if self.segments.iter().any(|s| within(s.paddr, s)) {
            return Ok(self.entry);
        }
        match self.segments.iter().find(|s| within(s.vaddr, s)) {
            Some(segment) => Ok(segment.paddr + (self.entry - segment.vaddr)),
            None => Err(bad(format!(
                "the ELF entry {:#x} lies in no loaded segment",
                self.entry
            ))),
        }
    }
}

fn bad(why: String) -> LoadError {
    LoadError::BadHeader { why }
}

/// The wire structure at `offset`.
pub(super) fn header<'a, T: FromBytes + KnownLayout + Immutable + Unaligned>(
    file: &'a [u8],
    offset: u64,
    what: &'static str,
) -> Result<&'a T, LoadError> {
    let bytes = slice(file, offset, size_of::<T>() as u64, what)?;
    // The length is exact and T is unaligned, so this can't fail; no reason to panic if it did.
    T::ref_from_bytes(bytes).map_err(|_| bad(format!("{what} can't be read")))
}

/// `length` bytes of the file at `offset`.
pub(super) fn slice<'a>(
    file: &'a [u8],
    offset: u64,
    length: u64,
    what: &'static str,
) -> Result<&'a [u8], LoadError> {
    let end = offset.saturating_add(length);
    let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
    range
        .and_then(|(start, end)| file.get(start..end))
        .ok_or(LoadError::Truncated {
            what,
            needed: end,
            length: file.len() as u64,
        })
}
