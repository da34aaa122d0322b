//! What page tables lead to: the tables themselves, and the memory that they map.

use super::PagingMode;
use super::walk::{ADDRESS, PRESENT};
use crate::error::Fault;
use crate::paging::walk::Walker;
use hv_core::introspect::{Error, ReadMemory};
use hv_core::{GuestPhysAddr, GuestVirtAddr};
use std::collections::HashMap;

const TABLE: usize = 4096;

/// Virtual memory under one set of page tables, for whoever has only a guest's memory and no domain.
pub struct PageTables<'a> {
    memory: &'a dyn ReadMemory,
    walker: Walker<'a>,
}

impl<'a> PageTables<'a> {
    /// The tables under a root or CR3 value.
    pub fn new(memory: &'a dyn ReadMemory, mode: PagingMode, root: GuestPhysAddr) -> PageTables<'a> {
        PageTables {
            memory,
            walker: Walker::new(memory, mode, root.0),
        }
    }

    /// An address's physical one, and how many bytes from it on are contiguous.
    ///
    /// # Errors
    /// [`Fault`] if it isn't mapped.
    pub fn translate(&mut self, address: GuestVirtAddr) -> Result<(GuestPhysAddr, u64), Fault> {
        self.walker.page(address).map(|page| (page.phys, page.left))
    }

    /// Fills the whole buffer.
    ///
    /// # Errors
    /// [`Fault`] of the first page that isn't mapped to memory.
    pub fn read(&mut self, address: GuestVirtAddr, buffer: &mut [u8]) -> Result<(), Fault> {
        let mut done = 0;
        while done < buffer.len() {
            let (phys, left) = self.translate(address.wrapping_add(done as u64))?;
            let size = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len() - done);
            self.memory
                .read_physical(phys, &mut buffer[done..done + size])
                .map_err(|error| match error {
                    Error::NoMemory { address, .. } => Fault::NoMemory(address),
                    error => Fault::Domain(error),
                })?;
            done += size;
        }
        Ok(())
    }
}

/// Goes through the kernel's half of page tables. Tables that several roots share are looked at once.
pub struct KernelHalf<'a> {
    memory: &'a dyn ReadMemory,
    mode: PagingMode,
    /// The tables that were seen, for each level: the tables may lead anywhere, also to themselves.
    seen: Vec<Marks>,
}

impl<'a> KernelHalf<'a> {
    /// For tables of one mode.
    pub fn new(memory: &'a dyn ReadMemory, mode: PagingMode) -> KernelHalf<'a> {
        KernelHalf {
            memory,
            mode,
            seen: mode.levels().iter().map(|_| Marks::default()).collect(),
        }
    }

    /// Tells `found` the physical ranges of the tables under `root` and of what they map, start and length, each at
    /// least once and whether there is memory or not; it ends the walk with false. Tables that can't be read lead
    /// nowhere.
    pub fn visit(&mut self, root: GuestPhysAddr, found: &mut dyn FnMut(GuestPhysAddr, u64) -> bool) -> bool {
        let root = self.mode.root(root.0);
        found(root.page_base(), TABLE as u64) && self.table(0, root, found)
    }

    fn table(
        &mut self,
        depth: usize,
        table: GuestPhysAddr,
        found: &mut dyn FnMut(GuestPhysAddr, u64) -> bool,
    ) -> bool {
        let Some(spec) = self.mode.levels().get(depth) else {
            return true;
        };
        let size = self.mode.entry_size();
        let entries = 1usize << spec.index_bits;
        // PAE's roots share pages.
        if !self.seen[depth].mark(table.0 / (size * entries) as u64) {
            return true;
        }
        let mut bytes = [0; TABLE];
        let bytes = &mut bytes[..size * entries];
        if self.memory.read_physical(table, bytes).is_err() {
            return true;
        }
        let kernel = if depth == 0 { entries / 2 } else { 0 };
        for entry in bytes.chunks_exact(size).skip(kernel) {
            let mut value = [0; 8];
            value[..size].copy_from_slice(entry);
            let entry = u64::from_le_bytes(value);
            if entry & PRESENT == 0 {
                continue;
            }
            let on = if spec.maps_page(entry) {
                let page = spec.phys(entry, GuestVirtAddr(0));
                found(page, 1 << spec.shift)
            } else {
                let next = GuestPhysAddr(entry & ADDRESS);
                found(next, TABLE as u64) && self.table(depth + 1, next, found)
            };
            if !on {
                return false;
            }
        }
        true
    }
}

/// A set of numbers, a bit each where there are any.
#[derive(Default)]
struct Marks(HashMap<u64, Box<[u64; 512]>>);

impl Marks {
    /// Adds a number; whether it is new.
    fn mark(&mut self, number: u64) -> bool {
        let words = self.0.entry(number >> 15).or_insert_with(|| Box::new([0; 512]));
        let word = &mut words[(number >> 6) as usize & 511];
        let bit = 1 << (number & 63);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::DomId;
    use hv_core::introspect::{MemoryRegion, Result};

    /// Memory of tables alone.
    struct Memory(Vec<u8>);

    impl Memory {
        fn set(&mut self, at: u64, entry: u64) {
            self.0[at as usize..at as usize + 8].copy_from_slice(&entry.to_le_bytes());
        }
    }

    impl ReadMemory for Memory {
        fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<()> {
            let start = usize::try_from(address.0).unwrap_or(usize::MAX);
            let bytes = self.0.get(start..start.saturating_add(buffer.len()));
            let bytes = bytes.ok_or(Error::NoMemory {
                domain: DomId(1),
                address,
                done: 0,
                wanted: buffer.len(),
            })?;
            buffer.copy_from_slice(bytes);
            Ok(())
        }

        fn memory_regions(&self) -> Vec<MemoryRegion> {
            Vec::new()
        }
    }

    fn visited(memory: &Memory, mode: PagingMode, roots: &[u64]) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        let mut half = KernelHalf::new(memory, mode);
        for root in roots {
            half.visit(GuestPhysAddr(*root), &mut |start, length| {
                found.push((start.0, length));
                found.len() < 1_000_000
            });
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    #[test]
    fn the_kernels_half_is_followed_and_the_users_is_not() {
        let mut memory = Memory(vec![0; 0x9000]);
        memory.set(0x1000, 0x8003);
        memory.set(0x1000 + 8 * 256, 0x2003);
        memory.set(0x2000, 0x3003);
        memory.set(0x2008, 0x4000_0083);
        memory.set(0x3000, 0x4003);
        memory.set(0x3008, 0x60_0083);
        memory.set(0x4000, 0x5003);
        memory.set(0x4008, 0x6002);
        let expected = [
            (0x1000, 0x1000),
            (0x2000, 0x1000),
            (0x3000, 0x1000),
            (0x4000, 0x1000),
            (0x5000, 0x1000),
            (0x60_0000, 0x20_0000),
            (0x4000_0000, 0x4000_0000),
        ];
        assert_eq!(visited(&memory, PagingMode::Level4, &[0x1002]), expected);
    }

    #[test]
    fn tables_that_lead_to_themselves_end() {
        let mut memory = Memory(vec![0; 0x3000]);
        for index in 0..512 {
            memory.set(0x1000 + 8 * index, 0x1003 + (index & 1) * 0x1000);
            memory.set(0x2000 + 8 * index, 0x2003 - (index & 1) * 0x1000);
        }
        let both = [(0x1000, 0x1000), (0x2000, 0x1000)];
        for mode in [PagingMode::Level4, PagingMode::Level5] {
            assert_eq!(visited(&memory, mode, &[0x1000, 0x2000]), both);
        }
    }

    #[test]
    fn the_roots_of_pae_share_pages() {
        let mut memory = Memory(vec![0; 0x9000]);
        for (root, directory) in [(0x1000, 0x3001), (0x1020, 0x4001)] {
            memory.set(root + 16, directory);
        }
        memory.set(0x3000, 0x5003);
        memory.set(0x4000, 0x6003);
        let found = visited(&memory, PagingMode::Pae, &[0x1000, 0x1020]);
        let pages: Vec<u64> = found.iter().map(|(start, _)| *start).collect();
        assert_eq!(pages, [0x1000, 0x3000, 0x4000, 0x5000, 0x6000]);
    }
}
