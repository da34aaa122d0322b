//! A range of addresses as the runs of physical memory that it lies in.

use super::walk::{Entries, Page, Walker};
use crate::error::Fault;
use hv_core::{GuestPhysAddr, GuestVirtAddr};

/// Adjacent addresses that lie in adjacent physical ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    /// The first byte's address.
    pub(crate) phys: GuestPhysAddr,
    /// Bytes, at least one.
    pub(crate) length: u64,
}

/// Runs one after the other, to the end of the range, of the address space, or to the first fault.
///
/// Upper levels are read once for each table, and where more than one page of a last-level table is wanted, its
/// entries are read at once.
pub(crate) struct Runs<'w, 'a> {
    walker: &'w mut Walker<'a>,
    at: GuestVirtAddr,
    left: u64,
    entries: Option<Entries>,
    /// What comes behind the run that was given last.
    next: Option<Result<Page, Fault>>,
}

impl<'w, 'a> Runs<'w, 'a> {
    pub(super) fn new(walker: &'w mut Walker<'a>, address: GuestVirtAddr, length: u64) -> Runs<'w, 'a> {
        Runs {
            walker,
            at: address,
            left: length.min((u64::MAX - address.0).saturating_add(1)),
            entries: None,
            next: None,
        }
    }

    /// The page at the present address.
    fn page(&mut self) -> Result<Page, Fault> {
        if let Some(page) = self.by_entries() {
            return page;
        }
        let pages = (self.left + (self.at.0 & 0xfff)).div_ceil(1 << 12);
        self.entries = (pages > 1).then(|| self.walker.entries(self.at, pages)).flatten();
        match self.by_entries() {
            Some(page) => page,
            None => self.walker.page(self.at),
        }
    }

    fn by_entries(&self) -> Option<Result<Page, Fault>> {
        self.walker.page_by(self.entries.as_ref()?, self.at)
    }

    /// Passes `length` bytes.
    fn pass(&mut self, length: u64) {
        self.left -= length;
        // Nothing is left where the address space ends.
        self.at = self.at.wrapping_add(length);
    }
}

impl Iterator for Runs<'_, '_> {
    type Item = Result<Run, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let first = match self.next.take().unwrap_or_else(|| self.page()) {
            Ok(page) => page,
            Err(fault) => {
                self.left = 0;
                return Some(Err(fault));
            }
        };
        let mut run = Run {
            phys: first.phys,
            length: first.left.min(self.left),
        };
        self.pass(run.length);
        while self.left > 0 {
            match self.page() {
                Ok(page) if Some(page.phys) == run.phys.checked_add(run.length) => {
                    let length = page.left.min(self.left);
                    run.length += length;
                    self.pass(length);
                }
                behind => {
                    self.next = Some(behind);
                    break;
                }
            }
        }
        Some(Ok(run))
    }
}
