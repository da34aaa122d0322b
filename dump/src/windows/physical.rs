//! A dump's physical memory, for what walks page tables.

use super::map::Map;
use super::triage::Triage;
use crate::image::Absent;
use crate::pages::{PAGE_SIZE, Page, PageRange, Pfn};
use crate::{FileBytes, Result};
use hv_core::introspect::{Error as DomainError, MemoryRegion, ReadMemory};
use hv_core::{DomId, GuestPhysAddr};

/// Pages of a file.
pub(super) struct Physical {
    pub(super) file: FileBytes,
    pub(super) pages: Pages,
    /// What RAM the machine had, in rising order.
    pub(super) ram: Vec<PageRange>,
}

/// Where pages come from.
pub(super) enum Pages {
    /// They are in the file.
    Mapped(Map),
    /// They are made up of pieces.
    Made(Triage),
}

impl Physical {
    /// Of pieces of virtual memory.
    #[cfg(test)]
    pub(super) fn of_triage(file: FileBytes, triage: Triage) -> Physical {
        let (first, count) = triage.extent();
        Physical {
            file,
            pages: Pages::Made(triage),
            ram: vec![PageRange { first, count }],
        }
    }

    /// Pages that the file has.
    pub(super) fn count(&self) -> u64 {
        match &self.pages {
            Pages::Mapped(map) => map.pages(),
            Pages::Made(triage) => triage.data_pages(),
        }
    }

    /// The byte behind the last page, where pages follow each other.
    pub(super) fn end(&self) -> u64 {
        match &self.pages {
            Pages::Mapped(map) => map.end(),
            Pages::Made(_) => 0,
        }
    }

    /// Reads a page.
    pub(super) fn read_page(&self, pfn: Pfn, page: &mut Page) -> Result<(), Absent> {
        let there = match &self.pages {
            Pages::Mapped(map) => match map.locate(pfn) {
                Some(at) => {
                    self.file.read("a page", at, page)?;
                    true
                }
                None => false,
            },
            Pages::Made(triage) => triage.read(&self.file, pfn, page)?,
        };
        if there {
            return Ok(());
        }
        let after = self.ram.partition_point(|range| range.first <= pfn);
        let range = after.checked_sub(1).and_then(|index| self.ram.get(index));
        Err(if range.is_some_and(|range| range.contains(pfn)) {
            Absent::LeftOut
        } else {
            Absent::NoMemory
        })
    }
}

impl ReadMemory for Physical {
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<(), DomainError> {
        let wanted = buffer.len();
        let mut page = [0; PAGE_SIZE];
        let mut done = 0;
        while done < wanted {
            let at = address.wrapping_add(done as u64);
            let length = (PAGE_SIZE - at.page_offset()).min(wanted - done);
            self.read_page(Pfn::of(at), &mut page)
                .map_err(|_| DomainError::NoMemory {
                    domain: DomId(0),
                    address: at,
                    done,
                    wanted,
                })?;
            buffer[done..done + length].copy_from_slice(&page[at.page_offset()..at.page_offset() + length]);
            done += length;
        }
        Ok(())
    }

    fn memory_regions(&self) -> Vec<MemoryRegion> {
        let region = |range: &PageRange| MemoryRegion {
            start: range.first.address(),
            length: range.count * PAGE_SIZE as u64,
            writable: true,
        };
        self.ram.iter().map(region).collect()
    }
}
