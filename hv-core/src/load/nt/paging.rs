//! The page tables that the kernel finds at its entry, built in a table region of guest memory: four levels for x64,
//! PAE's three or the older two for x86.
//!
//! SDM vol. 3A, 4.3 to 4.5. The software bits are Windows': bit 11 ("Write") is set in every writable entry, so that a page
//! keeps its right when its dirty bit is managed by software.

use super::super::LoadError;
use super::pe::{Rights, damaged};
use std::collections::BTreeMap;

pub(super) const PAGE: u64 = 0x1000;
/// What Windows aligns to on x64, and what a page directory's entry maps there and with PAE.
pub(super) const LARGE_PAGE: u64 = 0x20_0000;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const SOFTWARE_WRITE: u64 = 1 << 11;
const NO_EXECUTE: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
const TABLE: u64 = PRESENT | WRITABLE | ACCESSED | DIRTY;

/// The shape of the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    /// Four levels.
    FourLevel,
    /// Four page directories under a page directory pointer table of four entries.
    Pae,
    /// One page directory, with entries of four bytes.
    TwoLevel,
}

impl Format {
    /// How much an entry of the root maps, as a power of two.
    fn top(self) -> u32 {
        match self {
            Format::FourLevel => 39,
            Format::Pae => 30,
            Format::TwoLevel => 22,
        }
    }

    /// How many bits of an address choose an entry of a table.
    fn bits(self) -> u32 {
        match self {
            Format::FourLevel | Format::Pae => 9,
            Format::TwoLevel => 10,
        }
    }

    /// Bytes of an entry.
    fn entry_size(self) -> usize {
        PAGE as usize >> self.bits()
    }

    /// What an entry of a page directory maps, as a power of two.
    fn directory(self) -> u32 {
        12 + self.bits()
    }

    /// An empty table.
    fn table(self) -> Box<[u64]> {
        vec![0; 1 << self.bits()].into()
    }

    /// The number of an address's entry in a table whose entries map `1 << shift` bytes.
    fn index(self, address: u64, shift: u32) -> usize {
        (address >> shift) as usize & ((1 << self.bits()) - 1)
    }
}

/// Page tables under construction.
pub(super) struct PageTables {
    format: Format,
    root: u64,
    next: u64,
    end: u64,
    tables: BTreeMap<u64, Box<[u64]>>,
}

impl PageTables {
    /// Tables in the physical range `root..end`; the root is the first of them. With PAE its four page directories
    /// follow at once: tools that search memory for the root expect that.
    pub(super) fn new(format: Format, root: u64, end: u64) -> PageTables {
        let mut tables = PageTables {
            format,
            root,
            next: root + PAGE,
            end,
            tables: BTreeMap::from([(root, format.table())]),
        };
        if format == Format::Pae {
            for n in 0..4 {
                let directory = tables.next;
                tables.next += PAGE;
                tables.tables.insert(directory, format.table());
                // Of a PDPT's entry only the present and the cache bits may be set.
                tables.set(root, n, directory | PRESENT);
            }
        }
        tables
    }

    /// The entries that map the tables themselves: one of the root; with PAE the first four of the last directory.
    pub(super) fn map_self(&mut self, index: usize) {
        match self.format {
            Format::FourLevel | Format::TwoLevel => {
                self.set(self.root, index, self.root | TABLE | NO_EXECUTE)
            }
            Format::Pae => {
                let directory = |n: u64| self.root + PAGE * (1 + n);
                let last = directory(3);
                for (n, entry) in (0..4).map(directory).enumerate().collect::<Vec<_>>() {
                    self.set(last, n, entry | TABLE | NO_EXECUTE);
                }
            }
        }
    }

    /// Maps one 4 KiB page.
    pub(super) fn map(&mut self, address: u64, physical: u64, rights: Rights) -> Result<(), LoadError> {
        let table = self.table(address, 12)?;
        self.set(table, self.format.index(address, 12), physical | leaf(rights));
        Ok(())
    }

    /// The size of a large page.
    pub(super) fn large_page(&self) -> u64 {
        1 << self.format.directory()
    }

    /// Maps one large page.
    pub(super) fn map_large(&mut self, address: u64, physical: u64, rights: Rights) -> Result<(), LoadError> {
        let shift = self.format.directory();
        let table = self.table(address, shift)?;
        let number = self.format.index(address, shift);
        self.set(table, number, physical | leaf(rights) | LARGE);
        Ok(())
    }

    /// Makes the table at the level whose entries map `1 << shift` bytes.
    pub(super) fn table(&mut self, address: u64, shift: u32) -> Result<u64, LoadError> {
        let mut table = self.root;
        let mut level = self.format.top();
        while level > shift {
            let number = self.format.index(address, level);
            let entry = self.tables.get(&table).map_or(0, |t| t[number]);
            table = if entry & PRESENT != 0 {
                entry & FRAME
            } else {
                let new = self.next;
                if new >= self.end {
                    return Err(damaged("page tables", format!("there is no room past {new:#x}")));
                }
                self.next += PAGE;
                self.tables.insert(new, self.format.table());
                self.set(table, number, new | TABLE);
                new
            };
            level -= self.format.bits();
        }
        Ok(table)
    }

    fn set(&mut self, table: u64, index: usize, entry: u64) {
        if let Some(place) = self.tables.get_mut(&table).and_then(|table| table.get_mut(index)) {
            *place = entry;
        }
    }

    /// The first physical page that isn't used.
    pub(super) fn first_free(&self) -> u64 {
        self.next
    }

    /// Each table's physical address and bytes.
    pub(super) fn pages(&self) -> impl Iterator<Item = (u64, Vec<u8>)> + '_ {
        // Of an entry of four bytes what doesn't fit, the right not to execute, is unknown to the CPU too.
        let size = self.format.entry_size();
        self.tables.iter().map(move |(at, table)| {
            let entries = table
                .iter()
                .flat_map(|entry| entry.to_le_bytes().into_iter().take(size));
            (*at, entries.collect())
        })
    }
}

fn leaf(rights: Rights) -> u64 {
    let write = if rights.write {
        WRITABLE | SOFTWARE_WRITE | DIRTY
    } else {
        0
    };
    let execute = if rights.execute { 0 } else { NO_EXECUTE };
    PRESENT | ACCESSED | GLOBAL | write | execute
}
