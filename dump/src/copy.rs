//! Copies guest memory into a file: large reads, runs of pages that are zero as holes.

use crate::output::Sink;
use crate::pages::{PAGE_SIZE, PageRange, Pfn};
use crate::source::{Observer, Source};
use crate::{Error, Result};

/// Pages that are read at once.
const CHUNK: usize = 256;

/// Whether all bytes are zero.
pub(crate) fn is_zero(page: &[u8]) -> bool {
    // Wide enough for vector instructions, narrow enough to end soon on a page that isn't.
    page.chunks(256)
        .all(|part| part.iter().fold(0, |all, &byte| all | byte) == 0)
}

/// Copies ranges of pages and keeps count.
pub(crate) struct Copier<'a, 'b> {
    source: &'a Source<'b>,
    observer: &'a mut dyn Observer,
    buffer: Vec<u8>,
    total: u64,
    /// Pages that were copied.
    pub(crate) done: u64,
    /// Of these, zeros.
    pub(crate) zero_pages: u64,
}

impl<'a, 'b> Copier<'a, 'b> {
    pub(crate) fn new(source: &'a Source<'b>, observer: &'a mut dyn Observer) -> Copier<'a, 'b> {
        Copier {
            source,
            observer,
            buffer: vec![0; CHUNK * PAGE_SIZE],
            total: source.page_count(),
            done: 0,
            zero_pages: 0,
        }
    }

    /// Copies a range; `what` names the work in errors.
    ///
    /// # Errors
    /// The sink's, the guest's, [`Error::Cancelled`].
    pub(crate) fn copy(&mut self, range: PageRange, sink: &mut dyn Sink, what: &'static str) -> Result<()> {
        let mut first = range.first;
        while first < range.end() {
            let count = (range.end().0 - first.0).min(CHUNK as u64) as usize;
            let buffer = &mut self.buffer[..count * PAGE_SIZE];
            self.source.read(first, buffer)?;
            self.zero_pages += write_runs(buffer, sink).map_err(Error::io(what))?;
            self.done += count as u64;
            first = Pfn(first.0 + count as u64);
            if self.observer.progress(self.done, self.total).is_break() {
                return Err(Error::Cancelled);
            }
        }
        Ok(())
    }
}

/// Writes pages, zeros as holes: how many those were.
fn write_runs(buffer: &[u8], sink: &mut dyn Sink) -> std::io::Result<u64> {
    let (mut rest, mut zeros) = (buffer, 0);
    while !rest.is_empty() {
        let zero = is_zero(&rest[..PAGE_SIZE]);
        let pages = rest
            .chunks(PAGE_SIZE)
            .take_while(|page| is_zero(page) == zero)
            .count();
        let (run, after) = rest.split_at(pages * PAGE_SIZE);
        if zero {
            sink.zeros(run.len() as u64)?;
            zeros += pages as u64;
        } else {
            sink.write_all(run)?;
        }
        rest = after;
    }
    Ok(zeros)
}
