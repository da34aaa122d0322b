//! The kernel's image: from page tables to the range of addresses that it takes.

use super::space::Space;
use crate::paging::PagingMode;
use hv_core::introspect::ReadMemory;
use hv_core::{GuestPhysAddr, GuestVirtAddr};

/// `__START_KERNEL_map` (arch/x86/include/asm/page_64_types.h): the image is in the GiB from here on.
pub(super) const START_KERNEL_MAP: GuestVirtAddr = GuestVirtAddr(0xffff_ffff_8000_0000);
/// Where a kernel without KASLR is (CONFIG_PHYSICAL_START).
const LINKED: u64 = START_KERNEL_MAP.0 + (16 << 20);
/// The largest image that is looked at.
pub(super) const MAX_IMAGE: u64 = 256 << 20;
const LARGE_PAGE: u64 = 2 << 20;

const PRESENT: u64 = 1 << 0;
const PAGE_SIZE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The kernel's image in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelImage {
    /// `_text`.
    pub base: GuestVirtAddr,
    /// Bytes from there to the end of what is mapped.
    pub size: u64,
    /// Where `_text` is in physical memory.
    pub physical: GuestPhysAddr,
}

impl KernelImage {
    /// How far KASLR moved it (KERNELOFFSET).
    pub fn slide(&self) -> u64 {
        self.base.0.wrapping_sub(LINKED)
    }

    /// `phys_base`: what is added to an address of the image, less `__START_KERNEL_map`, for its physical one. It wraps.
    pub fn phys_base(&self) -> u64 {
        self.physical
            .0
            .wrapping_sub(self.base.0.wrapping_sub(START_KERNEL_MAP.0))
    }

    /// Whether an address lies in it.
    pub fn contains(&self, address: GuestVirtAddr) -> bool {
        address.0.wrapping_sub(self.base.0) < self.size
    }

    /// The physical address of one in the image.
    pub fn physical_of(&self, address: GuestVirtAddr) -> Option<GuestPhysAddr> {
        self.contains(address)
            .then(|| self.physical.wrapping_add(address.0 - self.base.0))
    }

    /// Its bytes, with zeros for what was freed after boot.
    pub(super) fn read(&self, space: &Space<'_>) -> Vec<u8> {
        let mut bytes = vec![0; self.size.min(MAX_IMAGE) as usize];
        space.read_some(self.base, &mut bytes);
        bytes
    }
}

/// What is mapped in the area of kernel images. At boot the kernel unmaps all of it but itself (`cleanup_highmap`), so the
/// first large page is `_text`'s.
pub(super) fn mapped(memory: &dyn ReadMemory, mode: PagingMode, root: GuestPhysAddr) -> Option<KernelImage> {
    let mut table = root;
    if mode == PagingMode::Level5 {
        table = next(memory, table, 511)?;
    }
    let table = next(memory, table, 511)?;
    let directory = next(memory, table, 510)?;
    let mut entries = [0; 4096];
    memory.read_physical(directory, &mut entries).ok()?;
    let mut range: Option<(u64, u64)> = None;
    for (index, entry) in (0..).zip(entries.chunks_exact(8)) {
        let entry = u64::from_le_bytes(entry.try_into().ok()?);
        let at = index * LARGE_PAGE;
        match range {
            Some((first, _)) if at - first >= MAX_IMAGE => break,
            _ if !maps_something(memory, entry) => {}
            Some((first, _)) => range = Some((first, at + LARGE_PAGE)),
            None => range = Some((at, at + LARGE_PAGE)),
        }
    }
    let (first, end) = range?;
    let base = START_KERNEL_MAP.wrapping_add(first);
    let space = Space::new(memory, mode, root);
    // The first 4 KiB page that is there; nearly always the first of all.
    let base = (0..LARGE_PAGE >> 12)
        .map(|page| base.wrapping_add(page << 12))
        .find(|&at| space.physical(at).is_some())?;
    Some(KernelImage {
        base,
        size: START_KERNEL_MAP.0 + end - base.0,
        physical: space.physical(base)?,
    })
}

/// The table that an entry of another one names.
fn next(memory: &dyn ReadMemory, table: GuestPhysAddr, index: u64) -> Option<GuestPhysAddr> {
    let mut bytes = [0; 8];
    memory
        .read_physical(table.wrapping_add(index * 8), &mut bytes)
        .ok()?;
    let entry = u64::from_le_bytes(bytes);
    (entry & PRESENT != 0 && entry & PAGE_SIZE == 0).then_some(GuestPhysAddr(entry & ADDRESS))
}

fn maps_something(memory: &dyn ReadMemory, entry: u64) -> bool {
    if entry & PRESENT == 0 || entry & PAGE_SIZE != 0 {
        return entry & PRESENT != 0;
    }
    let mut table = [0; 4096];
    memory
        .read_physical(GuestPhysAddr(entry & ADDRESS), &mut table)
        .is_ok()
        && table
            .chunks_exact(8)
            .any(|entry| u64::from(entry[0]) & PRESENT != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::introspect::{Error, MemoryRegion};
    use std::collections::BTreeMap;

    /// Memory of which all but some words is zero.
    struct Words(BTreeMap<u64, u64>);

    const SIZE: u64 = 0x10_0000;

    impl ReadMemory for Words {
        fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<(), Error> {
            if address.0.saturating_add(buffer.len() as u64) > SIZE {
                return Err(Error::Unsupported {
                    domain: hv_core::DomId(0),
                    what: "be read there",
                });
            }
            buffer.fill(0);
            for (&at, word) in self.0.range(address.0..address.0 + buffer.len() as u64) {
                let part = &mut buffer[(at - address.0) as usize..];
                let size = part.len().min(8);
                part[..size].copy_from_slice(&word.to_le_bytes()[..size]);
            }
            Ok(())
        }
        fn memory_regions(&self) -> Vec<MemoryRegion> {
            Vec::new()
        }
    }

    const TABLE: u64 = PRESENT | 2;
    const LARGE: u64 = TABLE | PAGE_SIZE;

    #[test]
    fn the_image_is_found_under_five_levels() {
        let four = [(0x2ff8, 0x3000 | TABLE), (0x3ff0, 0x4000 | TABLE)];
        let pages = [(0x4040, 0x60_0000 | LARGE), (0x4048, 0x80_0000 | LARGE)];
        let words = four.into_iter().chain(pages).chain([(0x1ff8, 0x2000 | TABLE)]);
        let memory = Words(words.collect());
        let found = KernelImage {
            base: GuestVirtAddr(0xffff_ffff_8100_0000),
            size: 0x40_0000,
            physical: GuestPhysAddr(0x60_0000),
        };
        assert_eq!(
            mapped(&memory, PagingMode::Level5, GuestPhysAddr(0x1000)),
            Some(found)
        );
        assert_eq!(
            mapped(&memory, PagingMode::Level4, GuestPhysAddr(0x2000)),
            Some(found)
        );
        assert_eq!(
            mapped(&memory, PagingMode::Level4, GuestPhysAddr(0x1000)),
            None,
            "a level too few"
        );
    }

    #[test]
    fn tables_that_lead_nowhere_or_to_themselves_end() {
        // Every entry that is looked at leads back to its own table.
        let own = Words([(0x1ff8, 0x1000 | TABLE), (0x1ff0, 0x1000 | TABLE)].into());
        let found = mapped(&own, PagingMode::Level5, GuestPhysAddr(0x1000));
        assert!(found.is_none_or(|image| image.size <= MAX_IMAGE + LARGE_PAGE));
        let outside = Words([(0x1ff8, SIZE | TABLE)].into());
        assert_eq!(mapped(&outside, PagingMode::Level4, GuestPhysAddr(0x1000)), None);
    }
}
