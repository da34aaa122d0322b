//! Memory that lies in a file as it is, piece by piece.

use crate::image::Absent;
use crate::pages::{PAGE_SIZE, Page, PageRange, Pfn};
use crate::{FileBytes, Result};

/// Addresses from `start` to `end`, which are in the file from `offset` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) offset: u64,
}

/// Spans in rising order that don't overlap, and the RAM that they are of.
#[derive(Debug)]
pub(crate) struct Spans {
    spans: Vec<Span>,
    ram: Vec<PageRange>,
    /// Whether spans overlapped before they were cut.
    pub(crate) overlapped: bool,
}

impl Spans {
    /// Sorts spans, and cuts away what another has too. All of them end below 2^52.
    pub(crate) fn new(mut spans: Vec<Span>) -> Spans {
        spans.sort_by_key(|span| (span.start, std::cmp::Reverse(span.end)));
        let (mut covered, mut overlapped) = (0, false);
        spans.retain_mut(|span| {
            if span.start < covered {
                overlapped = true;
                span.offset += covered.min(span.end) - span.start;
                span.start = covered;
            }
            covered = covered.max(span.end);
            span.start < span.end
        });
        let ram = spans.iter().map(|span| pages(span.start, span.end)).collect();
        Spans {
            spans,
            ram: PageRange::normalise(ram),
            overlapped,
        }
    }

    /// As many spans as there are.
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// The pages that they are of, in whole or in part.
    pub(crate) fn ram(&self) -> &[PageRange] {
        &self.ram
    }

    /// Reads a page; what of it no span has is zero.
    ///
    /// # Errors
    /// [`Absent::NoMemory`], [`Absent::Broken`].
    pub(crate) fn read_page(
        &self,
        bytes: &FileBytes,
        pfn: Pfn,
        page: &mut Page,
    ) -> std::result::Result<(), Absent> {
        if !is_in(&self.ram, pfn) {
            return Err(Absent::NoMemory);
        }
        Ok(self.fill(bytes, pfn, page)?)
    }

    /// Fills a page that some RAM is at; what of it no span has is zero.
    pub(crate) fn fill(&self, bytes: &FileBytes, pfn: Pfn, page: &mut Page) -> Result<()> {
        let start = pfn.address().0;
        let end = start + PAGE_SIZE as u64;
        let first = self.spans.partition_point(|span| span.end <= start);
        page.fill(0);
        for span in self.spans[first..].iter().take_while(|span| span.start < end) {
            let (from, to) = (span.start.max(start), span.end.min(end));
            let part = &mut page[(from - start) as usize..(to - start) as usize];
            bytes.read("a page", span.offset + (from - span.start), part)?;
        }
        Ok(())
    }
}

/// The pages that addresses lie in.
pub(crate) fn pages(start: u64, end: u64) -> PageRange {
    let first = start / PAGE_SIZE as u64;
    PageRange {
        first: Pfn(first),
        count: end.div_ceil(PAGE_SIZE as u64) - first,
    }
}

/// Whether ranges in rising order have a page.
pub(crate) fn is_in(ram: &[PageRange], pfn: Pfn) -> bool {
    let at = ram.partition_point(|range| range.end() <= pfn);
    ram.get(at).is_some_and(|range| range.contains(pfn))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u64, end: u64, offset: u64) -> Span {
        Span { start, end, offset }
    }

    #[test]
    fn overlapping_spans_are_cut_so_that_each_byte_has_one_place() {
        let spans = vec![
            span(0x1000, 0x3000, 0),
            span(0, 0x2000, 0x8000),
            span(0x100, 0x200, 0x9000),
        ];
        let spans = Spans::new(spans);
        assert!(spans.overlapped);
        assert_eq!(
            spans.spans,
            [span(0, 0x2000, 0x8000), span(0x2000, 0x3000, 0x1000)]
        );
        assert!(!Spans::new(spans.spans).overlapped);
    }
}
