//! Where things go in the kernel's half of the address space, by architecture: what is fixed, and what is drawn.
//!
//! ```text
//! x64                                            x86
//! FFFFF680`00000000  page tables (or drawn)      80800000  the loader's own pages, then images  .. 8C000000
//! FFFFF780`00000000  shared user page            90000000  RAM, as much as fits                 .. C0000000
//! FFFFF800`00000000  images                      C0000000  page tables
//! drawn, 512 GiB     RAM, system PTEs            C8000000  system PTEs                          .. D8000000
//! FFFFFFFF`FFC00000  device registers            FFC00000  device registers, shared user page at FFDF0000
//! ```

use super::paging::{Format, LARGE_PAGE, PAGE};
use super::{LOADER_DATA, NtBoot};

/// How far below the kernel the loader's own pages are.
const X64_LOADER_DISTANCE: u64 = 0x220_0000;
const X64_IMAGES: u64 = 0xffff_f800_0000_0000;
const X64_IMAGES_END: u64 = 0xffff_f880_0000_0000;
/// Kernel bases are drawn from this much of the image space: addresses up to FFFFF807`FFFFFFFF.
const X64_IMAGES_USED: u64 = 0x7_0000_0000;
const X64_SELF_MAP: usize = 0x1ed;
const X64_SYSTEM_PTES: usize = 0x1f1;
const X64_DIRECT_MAP: usize = 0x1f5;

/// Hyperspace, paged pool, session space, dynamic addresses, and the PFN database of Windows 7 (CodeMachine, x64 kernel
/// address space): nothing is in them, but their tables exist, as tools that look for a root page expect.
const X64_REGIONS: [u64; 5] = [
    0xffff_f700_0000_0000,
    0xffff_f8a0_0000_0000,
    0xffff_f900_0000_0000,
    0xffff_f980_0000_0000,
    0xffff_fa80_0000_0000,
];

const X86_LOADER_DISTANCE: u64 = 0x100_0000;
const X86_IMAGES: u64 = 0x8180_0000;
const X86_IMAGES_END: u64 = 0x8c00_0000;
const X86_IMAGES_USED: u64 = 0x300_0000;
const X86_DIRECT_MAP: u64 = 0x9000_0000;
const X86_DIRECT_MAP_SIZE: u64 = 0x3000_0000;
const X86_PTE_BASE: u64 = 0xc000_0000;
const X86_SELF_MAP: usize = 0x300;
/// The loader option for an x86 kernel without PAE.
const NO_PAE: &str = "NOPAE";
const X86_SYSTEM_PTES: u64 = 0xc800_0000;
const X86_SYSTEM_PTES_END: u64 = 0xd800_0000;

/// What an image is made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arch {
    X64,
    X86,
}

impl Arch {
    /// Bytes of a pointer.
    pub(super) fn pointer(self) -> usize {
        match self {
            Arch::X64 => 8,
            Arch::X86 => 4,
        }
    }
}

/// The places of one boot.
pub(super) struct Places {
    pub(super) arch: Arch,
    /// The page tables' shape.
    pub(super) paging: Format,
    pub(super) kernel: u64,
    /// Images end before this.
    pub(super) images_end: u64,
    loader: u64,
    /// The root's entry for the page tables themselves; with PAE it is another level's.
    pub(super) self_map: usize,
    /// Where the page tables are seen.
    pub(super) pte_base: u64,
    pub(super) system_ptes: u64,
    pub(super) direct_map: u64,
    /// That much of RAM is mapped there, from 0 on.
    pub(super) direct_map_size: u64,
    pub(super) shared_user_data: u64,
}

impl Places {
    pub(super) fn draw(boot: &NtBoot, arch: Arch, seed: &[u8; 32]) -> Places {
        match arch {
            Arch::X64 => Places::draw_x64(boot, seed),
            Arch::X86 => Places::draw_x86(boot, seed),
        }
    }

    fn draw_x64(boot: &NtBoot, seed: &[u8; 32]) -> Places {
        let alignment = if boot.large_aligned { LARGE_PAGE } else { PAGE };
        let low = draw(seed, "kernel base") % X64_IMAGES_USED + 2 * X64_LOADER_DISTANCE;
        let kernel = X64_IMAGES + low / alignment * alignment;
        let (mut self_map, mut system_ptes, mut direct_map) = (X64_SELF_MAP, X64_SYSTEM_PTES, X64_DIRECT_MAP);
        if boot.random_pte_base {
            // Three different slots of 512 GiB below the fixed ones, each drawn from a third of its own.
            let slot = |label, n| 0x102 + n * 0x4e + (draw(seed, label) % 0x4e) as usize;
            let order = (draw(seed, "order of the slots") % 3) as usize;
            self_map = slot("page tables", order);
            system_ptes = slot("system PTEs", (order + 1) % 3);
            direct_map = slot("memory", (order + 2) % 3);
        }
        let slot_base = |index: usize| 0xffff_0000_0000_0000 | (index as u64) << 39;
        Places {
            arch: Arch::X64,
            paging: Format::FourLevel,
            kernel,
            images_end: X64_IMAGES_END,
            loader: (kernel - X64_LOADER_DISTANCE) / PAGE * PAGE,
            self_map,
            pte_base: slot_base(self_map),
            system_ptes: slot_base(system_ptes),
            direct_map: slot_base(direct_map),
            direct_map_size: 1 << 39,
            shared_user_data: 0xffff_f780_0000_0000,
        }
    }

    fn draw_x86(boot: &NtBoot, seed: &[u8; 32]) -> Places {
        let plain = boot.options.split_whitespace().any(|word| word == NO_PAE);
        let kernel = X86_IMAGES + draw(seed, "kernel base") % X86_IMAGES_USED / PAGE * PAGE;
        Places {
            arch: Arch::X86,
            paging: if plain { Format::TwoLevel } else { Format::Pae },
            kernel,
            images_end: X86_IMAGES_END,
            loader: kernel - X86_LOADER_DISTANCE,
            self_map: X86_SELF_MAP,
            pte_base: X86_PTE_BASE,
            system_ptes: X86_SYSTEM_PTES,
            direct_map: X86_DIRECT_MAP,
            direct_map_size: X86_DIRECT_MAP_SIZE,
            shared_user_data: 0xffdf_0000,
        }
    }

    /// RAM ends here for this kernel: page tables' entries of four bytes reach no further.
    pub(super) fn physical_end(&self) -> u64 {
        match self.paging {
            Format::TwoLevel => 1 << 32,
            Format::FourLevel | Format::Pae => u64::MAX,
        }
    }

    /// The kernel's address of something among the loader's own pages.
    pub(super) fn loader_address(&self, physical: u64) -> u64 {
        self.loader + (physical - LOADER_DATA)
    }

    /// Addresses whose tables exist from the start, since the kernel fills them for all processes alike; and the
    /// size, as a power of two, of what an entry of such a table maps.
    pub(super) fn shared_tables(&self) -> Vec<(u64, u32)> {
        match self.arch {
            Arch::X64 => X64_REGIONS
                .into_iter()
                .map(|region| (region, 30))
                .chain([(self.system_ptes, 30), (0xffff_ffff_ffc0_0000, 12)])
                .collect(),
            // Each process has a last page directory of its own, so all page tables under it must be there.
            Arch::X86 => [self.system_ptes..X86_SYSTEM_PTES_END, 0xffc0_0000..0x1_0000_0000]
                .into_iter()
                .flat_map(|range| range.step_by(LARGE_PAGE as usize))
                .map(|at| (at, 12))
                .collect(),
        }
    }
}

/// A random number that depends on the guest's seed and on what it is for.
pub(super) fn draw(seed: &[u8; 32], label: &str) -> u64 {
    let hash = blake3::Hasher::new_keyed(seed)
        .update(label.as_bytes())
        .finalize();
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap_or([0; 8]))
}
