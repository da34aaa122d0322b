//! Walking page tables: one address, from the lowest table that is known.

use super::runs::Runs;
use super::{Large, Level, LevelSpec, PagingMode};
use crate::error::Fault;
use hv_core::introspect::{Error, ReadMemory};
use hv_core::{GuestPhysAddr, GuestVirtAddr};

pub(super) const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const PAGE_SIZE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51:12, the widest physical address the architecture allows.
pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bits of a PAE PDPTE that must be clear, apart from those above the physical address width.
const PAE_PDPTE_RESERVED: u64 = 0b1_1110_0110 | NO_EXECUTE;

/// Levels of the longest mode.
const MOST_LEVELS: usize = 5;

/// The page that an address is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Page {
    /// The address's physical one.
    pub(crate) phys: GuestPhysAddr,
    /// Bytes in the page.
    pub(crate) size: u64,
    /// Bytes from the address on that are contiguous, at least to the end of the page.
    pub(crate) left: u64,
    pub(crate) rights: Rights,
    pub(crate) global: bool,
}

/// What all levels so far allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rights {
    pub(crate) writable: bool,
    pub(crate) user: bool,
    pub(crate) executable: bool,
}

impl Rights {
    const ALL: Rights = Rights {
        writable: true,
        user: true,
        executable: true,
    };

    fn and(self, entry: u64) -> Rights {
        Rights {
            writable: self.writable && entry & WRITABLE != 0,
            user: self.user && entry & USER != 0,
            executable: self.executable && entry & NO_EXECUTE == 0,
        }
    }
}

/// Walks one set of page tables; it remembers the tables on the way, so that the next page costs one entry.
pub(crate) struct Walker<'a> {
    memory: &'a dyn ReadMemory,
    mode: PagingMode,
    root: GuestPhysAddr,
    /// The table of each level that was last gone through, from the root down.
    path: [Option<Table>; MOST_LEVELS],
}

/// The table of a level for a stretch of addresses.
#[derive(Clone, Copy)]
struct Table {
    /// The addresses' bits above the table's reach.
    stretch: u64,
    address: GuestPhysAddr,
    /// What the levels above allow.
    rights: Rights,
}

/// Entries of a last-level table.
pub(super) struct Entries {
    /// The page number that the first one maps.
    first: u64,
    table: Table,
    bytes: Vec<u8>,
}

impl<'a> Walker<'a> {
    /// A walker of the tables under `root`, a page-table root or a CR3 value.
    pub(crate) fn new(memory: &'a dyn ReadMemory, mode: PagingMode, root: u64) -> Walker<'a> {
        Walker {
            memory,
            mode,
            root: mode.root(root),
            path: [None; MOST_LEVELS],
        }
    }

    /// The page that holds `address`.
    pub(crate) fn page(&mut self, address: GuestVirtAddr) -> Result<Page, Fault> {
        // What shares a table below the root's with an address that was walked is as canonical as that.
        for from in (1..self.mode.levels().len()).rev() {
            if let Some(table) = self.table(from, address) {
                return self.descend(from, table, address, |_| {});
            }
        }
        self.walk(address, |_| {})
    }

    /// Goes down from the root and shows every entry it reads.
    pub(crate) fn walk(&mut self, address: GuestVirtAddr, visit: impl FnMut(Level)) -> Result<Page, Fault> {
        self.check(address)?;
        let root = Table {
            stretch: self.mode.levels().first().map_or(0, |top| top.stretch(address)),
            address: self.root,
            rights: Rights::ALL,
        };
        self.descend(0, root, address, visit)
    }

    /// The physically contiguous runs that `length` bytes from `address` on lie in.
    pub(crate) fn runs(&mut self, address: GuestVirtAddr, length: u64) -> Runs<'_, 'a> {
        Runs::new(self, address, length)
    }

    /// The table of a level that `address` goes through, if it was gone through last.
    fn table(&self, level: usize, address: GuestVirtAddr) -> Option<Table> {
        let stretch = self.mode.levels().get(level)?.stretch(address);
        self.path[level].filter(|table| table.stretch == stretch)
    }

    /// Goes down from a table of the level `from`.
    fn descend(
        &mut self,
        from: usize,
        mut table: Table,
        address: GuestVirtAddr,
        mut visit: impl FnMut(Level),
    ) -> Result<Page, Fault> {
        let levels = self.mode.levels();
        for (n, spec) in levels.iter().enumerate().skip(from) {
            self.path[n] = Some(table);
            let level = self
                .entry(spec, table.address, address)
                .inspect_err(|fault| match fault {
                    Fault::NotPresent(level) | Fault::ReservedBits(level) => visit(*level),
                    _ => {}
                })?;
            visit(level);
            let rights = if spec.large == Large::PaeRoot {
                table.rights
            } else {
                table.rights.and(level.entry)
            };
            if spec.maps_page(level.entry) {
                return Ok(spec.page(level.entry, rights, address));
            }
            table = Table {
                stretch: levels.get(n + 1).map_or(0, |next| next.stretch(address)),
                address: GuestPhysAddr(level.entry & ADDRESS),
                rights,
            };
        }
        // Only without paging is there no level that maps a page.
        Ok(Page {
            phys: GuestPhysAddr(address.0),
            size: 1 << 12,
            left: (u64::MAX - address.0).saturating_add(1),
            rights: Rights::ALL,
            global: false,
        })
    }

    /// The entries of the last-level table that map `count` pages from `address` on, read at once: as many as the
    /// table has, if it was gone through last and is all there.
    pub(super) fn entries(&self, address: GuestVirtAddr, count: u64) -> Option<Entries> {
        let last = self.mode.levels().len().checked_sub(1)?;
        let spec = &self.mode.levels()[last];
        let table = self.table(last, address)?;
        let (index, size) = (spec.index(address), self.mode.entry_size());
        // An index has ten bits at most.
        let count = count.min((1 << spec.index_bits) - index) as usize;
        let mut bytes = vec![0; count * size];
        self.memory
            .read_physical(table.address.wrapping_add(index * size as u64), &mut bytes)
            .ok()?;
        Some(Entries {
            first: address.0 >> spec.shift,
            table,
            bytes,
        })
    }

    /// The page that holds `address`, by entries that are read already; `None` if its is none of them.
    pub(super) fn page_by(&self, entries: &Entries, address: GuestVirtAddr) -> Option<Result<Page, Fault>> {
        let spec = self.mode.levels().last()?;
        let size = self.mode.entry_size();
        let at = usize::try_from((address.0 >> spec.shift).checked_sub(entries.first)?).ok()? * size;
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(entries.bytes.get(at..at + size)?);
        let entry = u64::from_le_bytes(bytes);
        let level = self.checked(spec, entries.table.address, address, entry);
        Some(level.map(|_| spec.page(entry, entries.table.rights.and(entry), address)))
    }

    /// Whether the mode has such addresses.
    fn check(&self, address: GuestVirtAddr) -> Result<(), Fault> {
        let bits = match self.mode {
            PagingMode::None => return Ok(()),
            PagingMode::Bits32 { .. } | PagingMode::Pae if address.0 >> 32 != 0 => {
                return Err(Fault::Beyond4GiB);
            }
            PagingMode::Bits32 { .. } | PagingMode::Pae => return Ok(()),
            PagingMode::Level4 => 48,
            PagingMode::Level5 => 57,
        };
        let unused = 64 - bits;
        if ((address.0 << unused) as i64 >> unused) as u64 == address.0 {
            Ok(())
        } else {
            Err(Fault::NotCanonical { bits })
        }
    }

    /// Reads the entry for `address` in a table of a level: present, and without reserved bits.
    fn entry(&self, spec: &LevelSpec, table: GuestPhysAddr, address: GuestVirtAddr) -> Result<Level, Fault> {
        let size = self.mode.entry_size();
        let entry_addr = self.entry_addr(spec, table, address);
        let mut bytes = [0; 8];
        self.memory
            .read_physical(entry_addr, &mut bytes[..size])
            .map_err(|error| match error {
                Error::NoMemory { .. } => Fault::NoTable {
                    name: spec.name,
                    entry_addr,
                },
                error => Fault::Domain(error),
            })?;
        self.checked(spec, table, address, u64::from_le_bytes(bytes))
    }

    fn entry_addr(&self, spec: &LevelSpec, table: GuestPhysAddr, address: GuestVirtAddr) -> GuestPhysAddr {
        table.wrapping_add(spec.index(address) * self.mode.entry_size() as u64)
    }

    /// The entry for `address` in a table of a level, if it is present, and without reserved bits.
    fn checked(
        &self,
        spec: &LevelSpec,
        table: GuestPhysAddr,
        address: GuestVirtAddr,
        entry: u64,
    ) -> Result<Level, Fault> {
        let level = Level {
            name: spec.name,
            index: spec.index(address),
            entry_addr: self.entry_addr(spec, table, address),
            entry,
        };
        if entry & PRESENT == 0 {
            Err(Fault::NotPresent(level))
        } else if entry & spec.reserved(entry) != 0 {
            Err(Fault::ReservedBits(level))
        } else {
            Ok(level)
        }
    }
}

impl LevelSpec {
    fn is_last(&self) -> bool {
        self.shift == 12
    }

    /// The bits of an address that one table of this level doesn't tell apart.
    fn stretch(&self, address: GuestVirtAddr) -> u64 {
        address.0 >> (self.shift + self.index_bits)
    }

    /// Whether an entry of this level maps a page, and not a table.
    pub(super) fn maps_page(&self, entry: u64) -> bool {
        let large = matches!(self.large, Large::Page | Large::Pse36);
        self.is_last() || (large && entry & PAGE_SIZE != 0)
    }

    /// The page that an entry maps.
    fn page(&self, entry: u64, rights: Rights, address: GuestVirtAddr) -> Page {
        let size = 1 << self.shift;
        Page {
            phys: self.phys(entry, address),
            size,
            left: size - (address.0 & (size - 1)),
            rights,
            global: entry & GLOBAL != 0,
        }
    }

    /// The physical address of `address` in the page that an entry maps.
    pub(super) fn phys(&self, entry: u64, address: GuestVirtAddr) -> GuestPhysAddr {
        let size = 1 << self.shift;
        let base = match self.large {
            // Bits 20:13 hold bits 39:32 of the address.
            Large::Pse36 => (entry & 0xffc0_0000) | ((entry >> 13) & 0xff) << 32,
            _ => entry & ADDRESS & !(size - 1),
        };
        GuestPhysAddr(base | address.0 & (size - 1))
    }

    /// The bits that must be clear in such an entry. Light: what lies above the physical address width isn't
    /// known here, nor whether NX is enabled.
    fn reserved(&self, entry: u64) -> u64 {
        match self.large {
            Large::Reserved => PAGE_SIZE,
            Large::PaeRoot => PAE_PDPTE_RESERVED,
            // Below the page's address, except for bit 12: PAT.
            Large::Page if entry & PAGE_SIZE != 0 => ((1 << self.shift) - 1) & ADDRESS & !(1 << 12),
            Large::Pse36 if entry & PAGE_SIZE != 0 => 1 << 21,
            _ => 0,
        }
    }
}
