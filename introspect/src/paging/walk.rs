//! Walking page tables, without allocating.

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

/// Walks one set of page tables; it remembers the last-level table, so that the next page costs one entry.
pub(crate) struct Walker<'a> {
    memory: &'a dyn ReadMemory,
    mode: PagingMode,
    root: GuestPhysAddr,
    last_table: Option<LastTable>,
}

/// The table of PTEs for a stretch of addresses.
struct LastTable {
    /// The addresses' bits above the table's reach.
    stretch: u64,
    table: GuestPhysAddr,
    rights: Rights,
}

impl<'a> Walker<'a> {
    /// A walker of the tables under `root`, a page-table root or a CR3 value.
    pub(crate) fn new(memory: &'a dyn ReadMemory, mode: PagingMode, root: u64) -> Walker<'a> {
        Walker {
            memory,
            mode,
            root: mode.root(root),
            last_table: None,
        }
    }

    /// The page that holds `address`.
    pub(crate) fn page(&mut self, address: GuestVirtAddr) -> Result<Page, Fault> {
        if let (Some(last), Some(pte)) = (&self.last_table, self.mode.levels().last())
            && last.stretch == pte.stretch(address)
        {
            let level = self.entry(pte, last.table, address)?;
            return Ok(pte.page(level.entry, last.rights.and(level.entry), address));
        }
        self.walk(address, |_| {})
    }

    /// Goes down from the root and shows every entry it reads.
    pub(crate) fn walk(
        &mut self,
        address: GuestVirtAddr,
        mut visit: impl FnMut(Level),
    ) -> Result<Page, Fault> {
        self.check(address)?;
        let (mut table, mut rights) = (self.root, Rights::ALL);
        for spec in self.mode.levels() {
            if spec.is_last() {
                self.last_table = Some(LastTable {
                    stretch: spec.stretch(address),
                    table,
                    rights,
                });
            }
            let level = self
                .entry(spec, table, address)
                .inspect_err(|fault| match fault {
                    Fault::NotPresent(level) | Fault::ReservedBits(level) => visit(*level),
                    _ => {}
                })?;
            visit(level);
            if spec.large != Large::PaeRoot {
                rights = rights.and(level.entry);
            }
            if spec.maps_page(level.entry) {
                return Ok(spec.page(level.entry, rights, address));
            }
            table = GuestPhysAddr(level.entry & ADDRESS);
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
        let index = spec.index(address);
        let size = self.mode.entry_size();
        let entry_addr = table.wrapping_add(index * size as u64);
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
        let level = Level {
            name: spec.name,
            index,
            entry_addr,
            entry: u64::from_le_bytes(bytes),
        };
        if level.entry & PRESENT == 0 {
            Err(Fault::NotPresent(level))
        } else if level.entry & spec.reserved(level.entry) != 0 {
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
