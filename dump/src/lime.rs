//! LiME: ranges of memory, each behind a header (LiME `lime.h`).

use crate::image::{Absent, Description, Format, Image, Problem};
use crate::pages::{Page, PageRange, Pfn};
use crate::spans::{Span, Spans};
use crate::{Error, FileBytes, Result};
use hv_core::regs::Registers;
use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

/// `lime_mem_range_header`.
#[derive(FromBytes, Clone, Copy)]
#[repr(C)]
struct Header {
    magic: U32,
    version: U32,
    start: U64,
    /// The last byte's address, not the one behind it.
    last: U64,
    reserved: [u8; 8],
}

const HEADER_SIZE: usize = 32;
const _: () = assert!(size_of::<Header>() == HEADER_SIZE);
const MAGIC: u32 = 0x4c69_4d45;
/// More ranges are refused: no machine has so many.
const RANGE_LIMIT: usize = 1 << 16;
const PHYSICAL_LIMIT: u64 = 1 << 52;

/// Whether a file that begins so is LiME's.
pub fn is_lime(start: &[u8]) -> bool {
    start.starts_with(&MAGIC.to_le_bytes())
}

/// A LiME file that was opened. It has no processors.
pub struct LimeImage {
    bytes: FileBytes,
    description: Description,
    spans: Spans,
}

/// Opens a LiME file.
///
/// # Errors
/// [`Error::Unknown`] if it is none; [`Error::Truncated`], [`Error::Damaged`], [`Error::Io`].
pub fn open(bytes: FileBytes) -> Result<LimeImage> {
    let mut spans: Vec<Span> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let header: [u8; HEADER_SIZE] = bytes.array("a LiME header", at)?;
        // Some end with one of zeros.
        if header == [0; HEADER_SIZE] {
            break;
        }
        let header: Header = zerocopy::transmute!(header);
        if header.magic.get() != MAGIC {
            return Err(if at == 0 {
                Error::Unknown("no LiME file".into())
            } else {
                Error::damaged(at, "no LiME header")
            });
        }
        if header.version.get() != 1 {
            return Err(Error::Unsupported(format!(
                "LiME version {}; 1 is read",
                header.version
            )));
        }
        let (start, last) = (header.start.get(), header.last.get());
        let before = spans.last().map_or(0, |span| span.end);
        if last < start || last >= PHYSICAL_LIMIT || start < before {
            return Err(Error::damaged(
                at,
                format!("a range from {start:#x} to {last:#x} can't be here"),
            ));
        }
        if spans.len() == RANGE_LIMIT {
            return Err(Error::damaged(at, format!("more than {RANGE_LIMIT} ranges")));
        }
        let data = at + HEADER_SIZE as u64;
        let length = last - start + 1;
        bytes.check("a range of memory", data, length)?;
        spans.push(Span {
            start,
            end: last + 1,
            offset: data,
        });
        at = data + length;
    }
    if spans.is_empty() {
        return Err(Error::Unknown("a LiME file without memory".into()));
    }
    let spans = Spans::new(spans);
    let mut description = Description::new(Format::Lime);
    description.pages = spans.ram().iter().map(|range| range.count).sum();
    description
        .fields
        .push(("ranges".into(), spans.len().to_string()));
    description.problems.push(Problem {
        what: "no processor's registers, and nothing that tells which system it is".into(),
        readers: vec!["crash", "drgn", "gdb", "makedumpfile"],
    });
    Ok(LimeImage {
        bytes,
        description,
        spans,
    })
}

impl Image for LimeImage {
    fn description(&self) -> &Description {
        &self.description
    }

    fn ram(&self) -> &[PageRange] {
        self.spans.ram()
    }

    fn read_page(&self, pfn: Pfn, page: &mut Page) -> std::result::Result<(), Absent> {
        self.spans.read_page(&self.bytes, pfn, page)
    }

    fn processors(&self) -> &[Registers] {
        &[]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeMemory, assert_same_memory, damage, file_of};
    use crate::pages::PAGE_SIZE;
    use proptest::prelude::*;

    fn lime(memory: &FakeMemory) -> Vec<u8> {
        let mut bytes = Vec::new();
        for range in &memory.ram {
            let (start, end) = (range.first.address().0, range.end().address().0);
            bytes.extend(MAGIC.to_le_bytes());
            bytes.extend(1_u32.to_le_bytes());
            bytes.extend(start.to_le_bytes());
            bytes.extend((end - 1).to_le_bytes());
            bytes.extend([0; 8]);
            for pfn in range.first.0..range.end().0 {
                bytes.extend(memory.page(Pfn(pfn)));
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn every_page_is_where_its_header_says(memory in FakeMemory::any()) {
            assert_same_memory(&open(file_of(&lime(&memory))).unwrap(), &memory);
        }
    }

    #[test]
    fn a_header_of_zeros_ends_it_and_another_is_damage() {
        let memory = FakeMemory {
            ram: vec![PageRange {
                first: Pfn(4),
                count: 2,
            }],
            seeds: [(4, 3)].into(),
        };
        let mut bytes = lime(&memory);
        bytes.extend([0; 64]);
        assert_same_memory(&open(file_of(&bytes)).unwrap(), &memory);
        let end = bytes.len() - 64;
        bytes[end] = 1;
        assert!(matches!(open(file_of(&bytes)), Err(Error::Damaged { .. })));
        // The range again: they must rise.
        let twice = [lime(&memory), lime(&memory)].concat();
        assert!(matches!(open(file_of(&twice)), Err(Error::Damaged { .. })));
    }

    #[test]
    fn damaged_files_are_read_or_refused() {
        let ram = [(1, 2), (5, 1), (9, 3)].map(|(first, count)| PageRange {
            first: Pfn(first),
            count,
        });
        let memory = FakeMemory {
            ram: ram.to_vec(),
            seeds: [(1, 3)].into(),
        };
        damage(&lime(&memory), 2 * PAGE_SIZE + 64, open);
    }
}
