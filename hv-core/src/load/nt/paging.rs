//! The page tables that the kernel finds at its entry, built in a table region of guest memory: four levels for x64,
//! PAE's three for x86.
//!
//! SDM vol. 3A, 4.4 and 4.5. The software bits are Windows': bit 11 ("Write") is set in every writable entry, so that a page
//! keeps its right when its dirty bit is managed by software.

use super::super::LoadError;
use super::pe::{Rights, damaged};
use std::collections::BTreeMap;

pub(super) const PAGE: u64 = 0x1000;
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
}

impl Format {
    /// How much an entry of the root maps, as a power of two.
    fn top(self) -> u32 {
        match self {
            Format::FourLevel => 39,
            Format::Pae => 30,
        }
    }
}

/// Page tables under construction.
pub(super) struct PageTables {
    format: Format,
    root: u64,
    next: u64,
    end: u64,
    tables: BTreeMap<u64, Box<[u64; 512]>>,
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
            tables: BTreeMap::from([(root, Box::new([0; 512]))]),
        };
        if format == Format::Pae {
            for n in 0..4 {
                let directory = tables.next;
                tables.next += PAGE;
                tables.tables.insert(directory, Box::new([0; 512]));
                // Of a PDPT's entry only the present and the cache bits may be set.
                tables.set(root, n, directory | PRESENT);
            }
        }
        tables
    }

    /// The entries that map the tables themselves: one of the root; with PAE the first four of the last directory.
    pub(super) fn map_self(&mut self, index: usize) {
        match self.format {
            Format::FourLevel => self.set(self.root, index, self.root | TABLE | NO_EXECUTE),
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
        self.set(table, index(address, 12), physical | leaf(rights));
        Ok(())
    }

    /// Maps one 2 MiB page.
    pub(super) fn map_large(&mut self, address: u64, physical: u64, rights: Rights) -> Result<(), LoadError> {
        let table = self.table(address, 21)?;
        self.set(table, index(address, 21), physical | leaf(rights) | LARGE);
        Ok(())
    }

    /// Makes the table at the level whose entries map `1 << shift` bytes.
    pub(super) fn table(&mut self, address: u64, shift: u32) -> Result<u64, LoadError> {
        let mut table = self.root;
        let mut level = self.format.top();
        while level > shift {
            let number = index(address, level);
            let entry = self.tables.get(&table).map_or(0, |t| t[number]);
            table = if entry & PRESENT != 0 {
                entry & FRAME
            } else {
                let new = self.next;
                if new >= self.end {
                    return Err(damaged("page tables", format!("there is no room past {new:#x}")));
                }
                self.next += PAGE;
                self.tables.insert(new, Box::new([0; 512]));
                self.set(table, number, new | TABLE);
                new
            };
            level -= 9;
        }
        Ok(table)
    }

    fn set(&mut self, table: u64, index: usize, entry: u64) {
        if let Some(table) = self.tables.get_mut(&table) {
            table[index] = entry;
        }
    }

    /// The first physical page that isn't used.
    pub(super) fn first_free(&self) -> u64 {
        self.next
    }

    /// Each table's physical address and bytes.
    pub(super) fn pages(&self) -> impl Iterator<Item = (u64, Vec<u8>)> + '_ {
        self.tables
            .iter()
            .map(|(at, table)| (*at, table.iter().flat_map(|entry| entry.to_le_bytes()).collect()))
    }
}

fn index(address: u64, shift: u32) -> usize {
    (address >> shift & 0x1ff) as usize
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
