//! Pages of guest-physical memory by number.

use hv_core::GuestPhysAddr;
use std::fmt;

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;

/// The bytes of a page.
pub type Page = [u8; PAGE_SIZE];

/// The number of a page: its guest-physical address divided by [`PAGE_SIZE`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pfn(pub u64);

impl Pfn {
    /// The page that an address lies in.
    pub const fn of(address: GuestPhysAddr) -> Pfn {
        Pfn(address.0 / PAGE_SIZE as u64)
    }

    /// The page's first byte. Numbers of 2^52 and more have none; they never come from an [`Image`](crate::Image).
    pub const fn address(self) -> GuestPhysAddr {
        GuestPhysAddr(self.0.wrapping_mul(PAGE_SIZE as u64))
    }
}

impl fmt::Display for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Consecutive pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRange {
    /// The first.
    pub first: Pfn,
    /// How many.
    pub count: u64,
}

impl PageRange {
    /// The number after the last one. Ranges whose end doesn't fit never leave a reader.
    pub const fn end(&self) -> Pfn {
        Pfn(self.first.0 + self.count)
    }

    /// Whether a page is among them.
    pub const fn contains(&self, pfn: Pfn) -> bool {
        pfn.0 >= self.first.0 && pfn.0 - self.first.0 < self.count
    }

    /// Puts ranges in rising order and joins those that touch or overlap.
    pub fn normalise(mut ranges: Vec<PageRange>) -> Vec<PageRange> {
        ranges.retain(|range| range.count > 0);
        ranges.sort_by_key(|range| range.first);
        let mut joined: Vec<PageRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match joined.last_mut() {
                Some(last) if range.first <= last.end() => {
                    last.count = last.count.max(range.end().0 - last.first.0);
                }
                _ => joined.push(range),
            }
        }
        joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, count: u64) -> PageRange {
        PageRange {
            first: Pfn(first),
            count,
        }
    }

    #[test]
    fn ranges_that_touch_or_overlap_become_one_and_empty_ones_go() {
        let ranges = vec![
            range(8, 4),
            range(0, 2),
            range(2, 1),
            range(10, 1),
            range(20, 0),
            range(9, 9),
        ];
        assert_eq!(PageRange::normalise(ranges), [range(0, 3), range(8, 10)]);
    }

    #[test]
    fn a_range_holds_its_first_page_and_not_its_end() {
        let some = range(3, 2);
        assert!(some.contains(Pfn(3)) && some.contains(Pfn(4)));
        assert!(!some.contains(Pfn(2)) && !some.contains(some.end()));
    }
}
