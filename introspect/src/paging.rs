//! The guest's page tables: 32-bit, PAE, 4-level and 5-level paging (SDM vol. 3A, chapter 4).
//!
//! A mode is a row of levels from the root down, each with the name of its entries and the part of the address
//! that indexes it. [`walk::Walker`] goes down one; its length bounds every walk, whatever the tables hold. [`runs::Runs`]
//! goes along a range.

mod reach;
pub(crate) mod runs;
pub(crate) mod walk;

pub use reach::{KernelHalf, PageTables};

use hv_core::regs::{Registers, cr0, cr4, efer};
use hv_core::{GuestPhysAddr, GuestVirtAddr};

/// How a vCPU translates linear addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum PagingMode {
    /// Paging is off: linear addresses are physical ones.
    None,
    /// 32-bit paging: two levels of 4-byte entries.
    Bits32 {
        /// 4 MiB pages, with physical addresses of up to 40 bits (PSE-36).
        pse: bool,
    },
    /// PAE paging: 32-bit addresses, three levels of 8-byte entries.
    Pae,
    /// 4-level paging: 48-bit addresses.
    Level4,
    /// 5-level paging: 57-bit addresses.
    Level5,
}

impl PagingMode {
    /// The mode that a vCPU with these registers is in (SDM vol. 3A, 4.1.1).
    pub fn of(registers: &Registers) -> PagingMode {
        if registers.cr0 & cr0::PG == 0 {
            PagingMode::None
        } else if registers.cr4 & cr4::PAE == 0 {
            PagingMode::Bits32 {
                pse: registers.cr4 & cr4::PSE != 0,
            }
        } else if registers.efer & efer::LMA == 0 {
            PagingMode::Pae
        } else if registers.cr4 & cr4::LA57 == 0 {
            PagingMode::Level4
        } else {
            PagingMode::Level5
        }
    }

    /// The root table that a CR3 value names.
    pub fn root(self, cr3: u64) -> GuestPhysAddr {
        GuestPhysAddr(match self {
            PagingMode::None => 0,
            PagingMode::Bits32 { .. } => cr3 & 0xffff_f000,
            // The four PDPTEs need only be aligned to their size (SDM vol. 3A, 4.4.1).
            PagingMode::Pae => cr3 & 0xffff_ffe0,
            PagingMode::Level4 | PagingMode::Level5 => cr3 & 0x000f_ffff_ffff_f000,
        })
    }

    /// The levels from the root down.
    fn levels(self) -> &'static [LevelSpec] {
        const LONG: [LevelSpec; 5] = [
            LevelSpec::new("PML5E", 48, 9, Large::Reserved),
            LevelSpec::new("PML4E", 39, 9, Large::Reserved),
            LevelSpec::new("PDPTE", 30, 9, Large::Page),
            LevelSpec::new("PDE", 21, 9, Large::Page),
            LevelSpec::new("PTE", 12, 9, Large::Ignored),
        ];
        const PAE: [LevelSpec; 3] = [
            LevelSpec::new("PDPTE", 30, 2, Large::PaeRoot),
            LevelSpec::new("PDE", 21, 9, Large::Page),
            LevelSpec::new("PTE", 12, 9, Large::Ignored),
        ];
        const BITS32: [LevelSpec; 2] = [
            LevelSpec::new("PDE", 22, 10, Large::Ignored),
            LevelSpec::new("PTE", 12, 10, Large::Ignored),
        ];
        const BITS32_PSE: [LevelSpec; 2] = [
            LevelSpec::new("PDE", 22, 10, Large::Pse36),
            LevelSpec::new("PTE", 12, 10, Large::Ignored),
        ];
        match self {
            PagingMode::None => &[],
            PagingMode::Bits32 { pse: false } => &BITS32,
            PagingMode::Bits32 { pse: true } => &BITS32_PSE,
            PagingMode::Pae => &PAE,
            PagingMode::Level4 => &LONG[1..],
            PagingMode::Level5 => &LONG,
        }
    }

    /// How many bytes of address space an entry of this name covers; a page where there is no such level.
    pub(crate) fn covers(self, name: &str) -> u64 {
        let level = self.levels().iter().find(|level| level.name == name);
        1 << level.map_or(12, |level| level.shift)
    }

    /// Bytes in a page-table entry.
    fn entry_size(self) -> usize {
        match self {
            PagingMode::Bits32 { .. } => 4,
            _ => 8,
        }
    }
}

/// One level of a paging mode.
struct LevelSpec {
    name: &'static str,
    /// The lowest address bit of the index, and the binary logarithm of what an entry covers.
    shift: u32,
    index_bits: u32,
    large: Large,
}

/// What bit 7 means in the entries of a level.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Large {
    /// Nothing about size: PAT in a last-level entry, or ignored.
    Ignored,
    /// The entry maps a page of its own size.
    Page,
    /// The entry maps a 4 MiB page, with the PSE-36 layout of the address (SDM vol. 3A, table 4-4).
    Pse36,
    /// It must be clear.
    Reserved,
    /// It must be clear, as other bits; and the entry has no rights of its own (SDM vol. 3A, table 4-8).
    PaeRoot,
}

impl LevelSpec {
    const fn new(name: &'static str, shift: u32, index_bits: u32, large: Large) -> LevelSpec {
        LevelSpec {
            name,
            shift,
            index_bits,
            large,
        }
    }

    fn index(&self, address: GuestVirtAddr) -> u64 {
        (address.0 >> self.shift) & ((1 << self.index_bits) - 1)
    }
}

/// A page-table entry met on a walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Level {
    /// What the SDM calls such an entry: `PML5E`, `PML4E`, `PDPTE`, `PDE` or `PTE`.
    pub name: &'static str,
    /// Its index in its table.
    pub index: u64,
    /// Where it is.
    pub entry_addr: GuestPhysAddr,
    /// Its value.
    pub entry: u64,
}

/// What a virtual address means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The physical address.
    pub phys: GuestPhysAddr,
    /// Bytes in the page, 4 KiB to 1 GiB; 4 KiB where nothing is translated.
    pub page_size: u64,
    /// Writable at every level.
    pub writable: bool,
    /// A user-mode address at every level.
    pub user: bool,
    /// No level forbids execution.
    pub executable: bool,
    /// The page's global bit.
    pub global: bool,
    /// The entries that led here, from the root down.
    pub levels: Vec<Level>,
}
