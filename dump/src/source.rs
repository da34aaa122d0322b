//! What a writer reads: the memory of a machine that stands still, with the pages that differ in the file.

use crate::pages::{PAGE_SIZE, Page, PageRange, Pfn};
use crate::{Error, Result};
use hv_core::GuestPhysAddr;
use hv_core::introspect::ReadMemory;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Memory as it goes into a file.
pub struct Source<'a> {
    memory: &'a dyn ReadMemory,
    ram: Vec<PageRange>,
    patches: BTreeMap<Pfn, Box<Page>>,
}

impl<'a> Source<'a> {
    /// The whole RAM of a domain that stands still. ROM is left out, as are pages that a region holds in part.
    pub fn new(memory: &'a dyn ReadMemory) -> Source<'a> {
        let whole_pages = |region: &hv_core::introspect::MemoryRegion| {
            let first = region.start.0.div_ceil(PAGE_SIZE as u64);
            let end = (region.start.0 + region.length) / PAGE_SIZE as u64;
            PageRange {
                first: Pfn(first),
                count: end.saturating_sub(first),
            }
        };
        let regions = memory.memory_regions();
        let ram = regions.iter().filter(|region| region.writable).map(whole_pages);
        Source {
            memory,
            ram: PageRange::normalise(ram.collect()),
            patches: BTreeMap::new(),
        }
    }

    /// The RAM, in rising order.
    pub fn ram(&self) -> &[PageRange] {
        &self.ram
    }

    /// Pages in all.
    pub fn page_count(&self) -> u64 {
        self.ram.iter().map(|range| range.count).sum()
    }

    /// The pages that differ in the file, in rising order.
    pub fn patched(&self) -> impl Iterator<Item = Pfn> + '_ {
        self.patches.keys().copied()
    }

    /// Lets bytes differ in the file from what the guest has there.
    ///
    /// # Errors
    /// [`Error::Guest`] where there is no RAM.
    pub fn patch(&mut self, address: GuestPhysAddr, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let at = GuestPhysAddr(address.0.wrapping_add(done as u64));
            let (pfn, offset) = (Pfn::of(at), at.page_offset());
            let length = (PAGE_SIZE - offset).min(bytes.len() - done);
            if !self.patches.contains_key(&pfn) {
                let mut page = Box::new([0; PAGE_SIZE]);
                self.read_guest(pfn, page.as_mut_slice())?;
                self.patches.insert(pfn, page);
            }
            if let Some(page) = self.patches.get_mut(&pfn) {
                page[offset..offset + length].copy_from_slice(&bytes[done..done + length]);
            }
            done += length;
        }
        Ok(())
    }

    /// Fills `buffer`, whole pages, from page `first` on, as the file shall have them.
    ///
    /// # Errors
    /// [`Error::Guest`].
    pub fn read(&self, first: Pfn, buffer: &mut [u8]) -> Result<()> {
        self.read_guest(first, buffer)?;
        let end = Pfn(first.0 + (buffer.len() / PAGE_SIZE) as u64);
        for (pfn, page) in self.patches.range(first..end) {
            let at = (pfn.0 - first.0) as usize * PAGE_SIZE;
            buffer[at..at + PAGE_SIZE].copy_from_slice(page.as_slice());
        }
        Ok(())
    }

    fn read_guest(&self, first: Pfn, buffer: &mut [u8]) -> Result<()> {
        self.memory
            .read_physical(first.address(), buffer)
            .map_err(|source| Error::Guest { pfn: first, source })
    }
}

/// Is told how far the work is, and may end it.
pub trait Observer {
    /// `done` of `total` pages were looked at. `Break` ends the work with [`Error::Cancelled`].
    fn progress(&mut self, done: u64, total: u64) -> ControlFlow<()>;
}

/// An observer that only lets it go on.
pub struct Ignore;

impl Observer for Ignore {
    fn progress(&mut self, _done: u64, _total: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// What a writer did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Written {
    /// The file's length in bytes, holes and all.
    pub length: u64,
    /// Pages that are in the file.
    pub pages: u64,
    /// Of these, pages of zeros that take no space.
    pub zero_pages: u64,
    /// Pages of RAM that were left out by a filter.
    pub excluded: u64,
    /// What isn't as a reader would wish, for people.
    pub warnings: Vec<String>,
}
