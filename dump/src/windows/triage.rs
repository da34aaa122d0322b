//! Small memory dumps (type 4): pieces of virtual memory, for which physical pages and page tables are made up.
//!
//! ```text
//!   piece: address, bytes in the file ─► page of the address ─► page number 1, 2, … ─► made-up page tables
//! ```
//!
//! So whatever walks page tables reads them as any other dump. What of a page no piece has is zeros.

use super::header::assert_size;
use super::kdbg;
use super::map::wire;
use crate::pages::{PAGE_SIZE, Page, Pfn};
use crate::{Error, FileBytes, Result};
use hv_core::{GuestPhysAddr, GuestVirtAddr};
use introspect::PagingMode;
use introspect::windows::Arch;
use std::collections::BTreeMap;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// TRIAGE_DUMP of both architectures up to TriageOptions (Windows SDK `mindumpdef.h`); offsets are the file's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
struct Common {
    service_pack_build: U32,
    size_of_dump: U32,
    /// Where the word `TRGD` is.
    valid_offset: U32,
    context: U32,
    exception: U32,
    mm: U32,
    unloaded_drivers: U32,
    prcb: U32,
    process: U32,
    thread: U32,
    call_stack: U32,
    size_of_call_stack: U32,
    driver_list: U32,
    driver_count: U32,
    string_pool: U32,
    string_pool_size: U32,
    broken_driver: U32,
    triage_options: U32,
}
assert_size!(Common = 0x48);

/// The rest of TRIAGE_DUMP64.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Rest64 {
    top_of_stack: U64,
    architecture: [u8; 16],
    data_page_address: U64,
    data_page: U32,
    data_page_size: U32,
    debugger_data: U32,
    debugger_data_size: U32,
    data_blocks: U32,
    data_blocks_count: U32,
}
assert_size!(Rest64 = 0x38);

/// The rest of TRIAGE_DUMP32.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Rest32 {
    top_of_stack: U32,
    data_page_address: U32,
    data_page: U32,
    data_page_size: U32,
    debugger_data: U32,
    debugger_data_size: U32,
    data_blocks: U32,
    data_blocks_count: U32,
}
assert_size!(Rest32 = 0x20);

/// TRIAGE_DATA_BLOCK: of both architectures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct DataBlock {
    address: U64,
    offset: U32,
    size: U32,
}
assert_size!(DataBlock = 16);

/// How often the file's bytes may be told as memory: pieces overlap.
const OVERLAP: u64 = 4;

/// The made-up memory.
pub(super) struct Triage {
    pages: Vec<Made>,
    root: Pfn,
    /// Pages that hold pieces.
    data: u64,
}

enum Made {
    Table(Box<Page>),
    Pieces(Vec<Piece>),
}

/// A part of a page, and its bytes' place in the file.
struct Piece {
    offset: usize,
    length: usize,
    at: u64,
}

/// Page number 0 isn't used: null is no address.
const FIRST: u64 = 1;

impl Triage {
    /// The pieces behind a header of so many bytes. `block` is the address of the debugger data.
    pub(super) fn open(
        file: &FileBytes,
        at: u64,
        arch: Arch,
        mode: PagingMode,
        block: GuestVirtAddr,
    ) -> Result<Triage> {
        let common: Common = wire(file.array::<0x48>("the triage header", at)?);
        let rest_at = at + size_of::<Common>() as u64;
        let rest = match arch {
            Arch::X64 => wire(file.array::<0x38>("the triage header", rest_at)?),
            Arch::X86 => {
                let rest: Rest32 = wire(file.array::<0x20>("the triage header", rest_at)?);
                Rest64 {
                    top_of_stack: u64::from(rest.top_of_stack.get()).into(),
                    architecture: [0; 16],
                    data_page_address: u64::from(rest.data_page_address.get()).into(),
                    data_page: rest.data_page,
                    data_page_size: rest.data_page_size,
                    debugger_data: rest.debugger_data,
                    debugger_data_size: rest.debugger_data_size,
                    data_blocks: rest.data_blocks,
                    data_blocks_count: rest.data_blocks_count,
                }
            }
        };
        let trailer = u64::from(common.valid_offset.get());
        if file.array::<4>("the last word, TRGD,", trailer)? != *b"TRGD" {
            let why = "the word TRGD isn't where the header says: the dump isn't complete";
            return Err(Error::damaged(trailer, why));
        }
        let mut builder = Builder {
            file,
            arch,
            spent: 0,
            pages: BTreeMap::new(),
        };
        let table = u64::from(rest.data_blocks.get());
        let count = u64::from(rest.data_blocks_count.get());
        let blocks = file.vec(
            "the table of data blocks",
            table,
            count * size_of::<DataBlock>() as u64,
        )?;
        let known = [
            (block, rest.debugger_data, rest.debugger_data_size),
            (
                arch.address(rest.top_of_stack.get()),
                common.call_stack,
                common.size_of_call_stack,
            ),
            (
                arch.address(rest.data_page_address.get()),
                rest.data_page,
                rest.data_page_size,
            ),
        ];
        for (address, offset, size) in known {
            if address.0 != 0 && offset.get() != 0 {
                builder.add(at, address, offset.get().into(), size.get().into())?;
            }
        }
        for (index, bytes) in (0u64..).zip(blocks.as_chunks::<16>().0) {
            let block: DataBlock = wire(*bytes);
            builder.add(
                table + 16 * index,
                arch.address(block.address.get()),
                block.offset.get().into(),
                block.size.get().into(),
            )?;
        }
        builder.add_thread(at, &common, block)?;
        Ok(builder.build(mode))
    }

    /// The root of the made-up page tables.
    pub(super) fn root(&self) -> GuestPhysAddr {
        self.root.address()
    }

    /// The first page and how many there are.
    pub(super) fn extent(&self) -> (Pfn, u64) {
        (Pfn(FIRST), self.pages.len() as u64)
    }

    /// Pages that hold pieces of the file.
    pub(super) fn data_pages(&self) -> u64 {
        self.data
    }

    /// Reads a page, if it is one.
    pub(super) fn read(&self, file: &FileBytes, pfn: Pfn, page: &mut Page) -> Result<bool> {
        let index = pfn
            .0
            .checked_sub(FIRST)
            .and_then(|index| usize::try_from(index).ok());
        match index.and_then(|index| self.pages.get(index)) {
            None => return Ok(false),
            Some(Made::Table(table)) => page.copy_from_slice(table.as_slice()),
            Some(Made::Pieces(pieces)) => {
                page.fill(0);
                for piece in pieces {
                    let place = &mut page[piece.offset..piece.offset + piece.length];
                    file.read("a piece of memory", piece.at, place)?;
                }
            }
        }
        Ok(true)
    }
}

/// Collects pieces by the page that they are in.
struct Builder<'a> {
    file: &'a FileBytes,
    arch: Arch,
    /// Bytes that were told.
    spent: u64,
    pages: BTreeMap<u64, Vec<Piece>>,
}

impl Builder<'_> {
    /// Adds a piece that byte `told` of the file tells of.
    fn add(&mut self, told: u64, address: GuestVirtAddr, offset: u64, size: u64) -> Result<()> {
        self.file.check("a piece of memory", offset, size)?;
        self.spent += size;
        if self.spent > self.file.len() * OVERLAP {
            return Err(Error::damaged(told, "the pieces are more than the file holds"));
        }
        let last = match self.arch {
            Arch::X64 => u64::MAX,
            Arch::X86 => u64::from(u32::MAX),
        };
        if size > 0 && address.0.checked_add(size - 1).is_none_or(|end| end > last) {
            let why = format!("no memory has {size:#x} bytes from {address}");
            return Err(Error::damaged(told, why));
        }
        let mut done = 0;
        while done < size {
            let at = address.wrapping_add(done);
            let within = at.page_offset();
            let length = ((PAGE_SIZE - within) as u64).min(size - done);
            self.pages.entry(at.frame()).or_default().push(Piece {
                offset: within,
                length: length as usize,
                at: offset + done,
            });
            done += length;
        }
        Ok(())
    }

    /// The current thread and process, whose addresses only other structures tell.
    fn add_thread(&mut self, told: u64, common: &Common, block: GuestVirtAddr) -> Result<()> {
        let mut bytes = vec![0; PAGE_SIZE];
        let Some(data) = self.bytes(block, &mut bytes) else {
            return Ok(());
        };
        let Some(data) = kdbg::DebuggerBlock::new(self.arch, data) else {
            return Ok(());
        };
        let (thread_size, process_size) = (data.thread_size(), data.process_size());
        let current = match self.arch {
            Arch::X64 => 8,
            Arch::X86 => 4,
        };
        let Some(thread) = self.pointer(common.prcb, current) else {
            return Ok(());
        };
        if let Some(size) = thread_size.filter(|_| common.thread.get() != 0) {
            self.add_if_there(told, thread, common.thread, size)?;
            let process = data
                .apc_process()
                .and_then(|offset| self.pointer(common.thread, offset));
            if let (Some(process), Some(size)) = (process, process_size.filter(|_| common.process.get() != 0))
            {
                self.add_if_there(told, process, common.process, size)?;
            }
        }
        Ok(())
    }

    fn add_if_there(&mut self, told: u64, address: GuestVirtAddr, offset: U32, size: u64) -> Result<()> {
        let offset = u64::from(offset.get());
        match self.file.check("a structure", offset, size) {
            Ok(()) => self.add(told, address, offset, size),
            Err(_) => Ok(()),
        }
    }

    /// The bytes of memory from an address on that one piece has.
    fn bytes<'b>(&self, address: GuestVirtAddr, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        let mut done = 0;
        while done < buffer.len() {
            let at = address.wrapping_add(done as u64);
            let within = at.page_offset();
            let pieces = self.pages.get(&at.frame()).into_iter().flatten();
            let piece = pieces
                .filter(|piece| (piece.offset..piece.offset + piece.length).contains(&within))
                .max_by_key(|piece| piece.offset + piece.length);
            let Some(piece) = piece else { break };
            let skip = within - piece.offset;
            let length = (piece.length - skip).min(buffer.len() - done);
            let place = &mut buffer[done..done + length];
            self.file
                .read("a piece of memory", piece.at + skip as u64, place)
                .ok()?;
            done += length;
        }
        Some(&buffer[..done])
    }

    /// A pointer into the kernel's half, `offset` bytes into a structure in the file.
    fn pointer(&self, structure: U32, offset: u64) -> Option<GuestVirtAddr> {
        let mut bytes = [0; 8];
        let size = self.arch.pointer_size();
        let at = u64::from(structure.get()) + offset;
        if structure.get() == 0 {
            return None;
        }
        self.file.read("a pointer", at, &mut bytes[..size]).ok()?;
        let address = GuestVirtAddr(u64::from_le_bytes(bytes));
        let kernel = match self.arch {
            Arch::X64 => address.0 >> 47 == 0x1_ffff,
            Arch::X86 => address.0 >> 31 == 1,
        };
        kernel.then_some(address)
    }

    fn build(self, mode: PagingMode) -> Triage {
        let data = self.pages.len() as u64;
        let mut pages = Vec::new();
        let mut tables = Tables::new(mode);
        for (page, pieces) in self.pages {
            pages.push(Made::Pieces(pieces));
            tables.map(page << 12, Pfn(FIRST + pages.len() as u64 - 1));
        }
        let root = tables.finish(&mut pages);
        Triage { pages, root, data }
    }
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;

/// Page tables in the making.
struct Tables {
    /// Of each level from the root down: the lowest address bit of its index, and bits in it.
    levels: &'static [(u32, u32)],
    entry_size: usize,
    /// Tables by level and by the address bits above their reach: entries by index.
    tables: Vec<BTreeMap<u64, BTreeMap<u64, Pfn>>>,
}

impl Tables {
    fn new(mode: PagingMode) -> Tables {
        let levels: &[(u32, u32)] = match mode {
            PagingMode::None | PagingMode::Bits32 { .. } => &[(22, 10), (12, 10)],
            PagingMode::Pae => &[(30, 2), (21, 9), (12, 9)],
            PagingMode::Level4 => &[(39, 9), (30, 9), (21, 9), (12, 9)],
            PagingMode::Level5 => &[(48, 9), (39, 9), (30, 9), (21, 9), (12, 9)],
        };
        Tables {
            levels,
            entry_size: if levels.len() == 2 { 4 } else { 8 },
            tables: vec![BTreeMap::new(); levels.len()],
        }
    }

    fn index(&self, level: usize, address: u64) -> u64 {
        let (shift, bits) = self.levels[level];
        address >> shift & ((1 << bits) - 1)
    }

    /// The bits of an address that tell a table of a level.
    fn table(&self, level: usize, address: u64) -> u64 {
        let (shift, bits) = self.levels[level];
        let canonical = address & ((1 << (self.levels[0].0 + self.levels[0].1)) - 1);
        canonical >> (shift + bits)
    }

    fn map(&mut self, address: u64, pfn: Pfn) {
        let last = self.levels.len() - 1;
        let (table, index) = (self.table(last, address), self.index(last, address));
        self.tables[last].entry(table).or_default().insert(index, pfn);
        // What leads to a table is filled in when the tables have numbers.
        for level in 0..last {
            let (table, index) = (self.table(level, address), self.index(level, address));
            self.tables[level].entry(table).or_default().insert(index, Pfn(0));
        }
    }

    /// Makes pages of the tables, from the last level up; the root's number.
    fn finish(self, pages: &mut Vec<Made>) -> Pfn {
        let mut below: BTreeMap<u64, Pfn> = BTreeMap::new();
        for level in (0..self.levels.len()).rev() {
            let last = level + 1 == self.levels.len();
            let mut numbers = BTreeMap::new();
            let bits = self.levels[level].1;
            for (&table, entries) in &self.tables[level] {
                let mut page = Box::new([0; PAGE_SIZE]);
                for (&index, &pfn) in entries {
                    let to = if last {
                        Some(pfn)
                    } else {
                        below.get(&(table << bits | index)).copied()
                    };
                    let Some(to) = to else { continue };
                    // PAE's root entries have no rights.
                    let rights = if bits == 2 { PRESENT } else { PRESENT | WRITABLE };
                    let entry = (to.address().0 | rights).to_le_bytes();
                    let at = index as usize * self.entry_size;
                    page[at..at + self.entry_size].copy_from_slice(&entry[..self.entry_size]);
                }
                pages.push(Made::Table(page));
                numbers.insert(table, Pfn(FIRST + pages.len() as u64 - 1));
            }
            below = numbers;
        }
        // Nothing is mapped: an empty root.
        below.get(&0).copied().unwrap_or_else(|| {
            pages.push(Made::Table(Box::new([0; PAGE_SIZE])));
            Pfn(FIRST + pages.len() as u64 - 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::windows::physical::Physical;
    use introspect::PageTables;
    use proptest::prelude::*;
    use std::io::Write;

    fn triage(mode: PagingMode, arch: Arch, pieces: &[(u64, Vec<u8>)]) -> (FileBytes, Triage) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for (_, bytes) in pieces {
            file.write_all(bytes).unwrap();
        }
        let bytes = FileBytes::open(file.path()).unwrap();
        let mut builder = Builder {
            file: &bytes,
            arch,
            spent: 0,
            pages: BTreeMap::new(),
        };
        let mut at = 0;
        for (address, piece) in pieces {
            builder
                .add(0, GuestVirtAddr(*address), at, piece.len() as u64)
                .unwrap();
            at += piece.len() as u64;
        }
        let triage = builder.build(mode);
        (bytes, triage)
    }

    proptest! {
        #[test]
        fn pieces_are_read_through_the_tables_that_are_made(
            mode in 0usize..4,
            pieces in prop::collection::vec((any::<u32>(), prop::collection::vec(any::<u8>(), 1..9000)), 1..5),
        ) {
            let modes = [PagingMode::Level4, PagingMode::Level5, PagingMode::Pae, PagingMode::Bits32 { pse: true }];
            let mode = modes[mode];
            let arch = if matches!(mode, PagingMode::Level4 | PagingMode::Level5) { Arch::X64 } else { Arch::X86 };
            // Far enough from each other.
            let pieces: Vec<(u64, Vec<u8>)> = (0u64..).zip(pieces).map(|(n, (address, bytes))| {
                let low = u64::from(address) & 0x00ff_ffff | n << 26 | 0x8000_0000;
                let address = if arch == Arch::X64 { low | 0xffff_f000_0000_0000 | n << 40 } else { low };
                (address, bytes)
            }).collect();
            let (file, triage) = triage(mode, arch, &pieces);
            let root = triage.root();
            let physical = Physical::of_triage(file, triage);
            let mut tables = PageTables::new(&physical, mode, root);
            for (address, bytes) in &pieces {
                let mut read = vec![0; bytes.len()];
                tables.read(GuestVirtAddr(*address), &mut read).unwrap();
                prop_assert_eq!(&read, bytes);
            }
            prop_assert!(tables.translate(GuestVirtAddr(0x1000)).is_err());
        }
    }
}
