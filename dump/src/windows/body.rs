//! The pages themselves, front to back, zeros as holes.

use crate::pages::{PAGE_SIZE, PageRange, Pfn};
use crate::source::{Observer, Source, Written};
use crate::{Error, Result, Sink};

/// Pages that are read at once.
const CHUNK: u64 = 256;

/// Writes the pages of `ranges` (`total` in all), and counts them in `written`.
pub(super) fn write(
    source: &Source<'_>,
    ranges: impl Iterator<Item = PageRange>,
    total: u64,
    sink: &mut dyn Sink,
    observer: &mut dyn Observer,
    written: &mut Written,
) -> Result<()> {
    let mut buffer = vec![0; CHUNK as usize * PAGE_SIZE];
    let mut body = Body { sink, zeros: 0 };
    let mut done = 0;
    for range in ranges {
        let mut at = range.first.0;
        while at < range.end().0 {
            if observer.progress(done, total).is_break() {
                return Err(Error::Cancelled);
            }
            let count = CHUNK.min(range.end().0 - at);
            let chunk = &mut buffer[..count as usize * PAGE_SIZE];
            source.read(Pfn(at), chunk)?;
            written.zero_pages += body.chunk(chunk)?;
            at += count;
            done += count;
        }
    }
    body.flush()?;
    if observer.progress(total, total).is_break() {
        return Err(Error::Cancelled);
    }
    written.pages += done;
    written.length += done * PAGE_SIZE as u64;
    Ok(())
}

struct Body<'a> {
    sink: &'a mut dyn Sink,
    /// Bytes of zeros that aren't written yet.
    zeros: u64,
}

impl Body<'_> {
    /// Writes pages; how many of them are zeros.
    fn chunk(&mut self, pages: &[u8]) -> Result<u64> {
        let mut zero_pages = 0;
        let (mut start, mut at) = (0, 0);
        while at < pages.len() {
            let end = at + PAGE_SIZE;
            if is_zero(&pages[at..end]) {
                self.data(&pages[start..at])?;
                self.zeros += PAGE_SIZE as u64;
                zero_pages += 1;
                start = end;
            }
            at = end;
        }
        self.data(&pages[start..])?;
        Ok(zero_pages)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.flush()?;
        self.sink.write_all(bytes).map_err(Error::io("writing pages"))
    }

    fn flush(&mut self) -> Result<()> {
        if self.zeros > 0 {
            self.sink
                .zeros(std::mem::take(&mut self.zeros))
                .map_err(Error::io("writing pages"))?;
        }
        Ok(())
    }
}

/// Whether a page has only zeros. Most that don't show it in their first bytes.
fn is_zero(page: &[u8]) -> bool {
    page.as_chunks::<64>()
        .0
        .iter()
        .all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}
