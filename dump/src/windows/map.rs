//! Which page is where in the file.

use super::bitmap::{self, BitmapHeader, PageSet};
use super::header::{MAX_RUNS32, MAX_RUNS64, assert_size};
use crate::pages::{PAGE_SIZE, PageRange, Pfn};
use crate::{Error, FileBytes, Result};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Page numbers are below this: physical addresses have 52 bits.
const MAX_PFN: u64 = 1 << 40;
/// More ranges of RAM than these aren't told apart.
const MAX_RANGES: usize = 1 << 16;

/// Where the pages are.
pub(super) enum Map {
    /// Ranges, in rising order, each with its place.
    Ranges(Vec<Placed>),
    /// A bit for each page that is there.
    Bits(Bits),
}

/// Consecutive pages that are consecutive in the file.
#[derive(Clone, Copy)]
pub(super) struct Placed {
    pub pages: PageRange,
    /// The first one's byte.
    pub at: u64,
}

impl Map {
    /// Where a page's bytes begin.
    pub(super) fn locate(&self, pfn: Pfn) -> Option<u64> {
        match self {
            Map::Ranges(ranges) => {
                let after = ranges.partition_point(|range| range.pages.first <= pfn);
                let range = ranges.get(after.checked_sub(1)?)?;
                range
                    .pages
                    .contains(pfn)
                    .then(|| range.at + (pfn.0 - range.pages.first.0) * PAGE_SIZE as u64)
            }
            Map::Bits(bits) => bits.locate(pfn),
        }
    }

    /// Pages that are there.
    pub(super) fn pages(&self) -> u64 {
        match self {
            Map::Ranges(ranges) => ranges.iter().map(|range| range.pages.count).sum(),
            Map::Bits(bits) => bits.count,
        }
    }

    /// The byte behind the last page.
    pub(super) fn end(&self) -> u64 {
        match self {
            Map::Ranges(ranges) => ranges
                .iter()
                .map(|range| range.at + range.pages.count * PAGE_SIZE as u64)
                .max()
                .unwrap_or_default(),
            Map::Bits(bits) => bits.first_page + bits.count * PAGE_SIZE as u64,
        }
    }

    /// The same as ranges; too many are taken as one.
    pub(super) fn ranges(&self) -> Vec<PageRange> {
        match self {
            Map::Ranges(ranges) => PageRange::normalise(ranges.iter().map(|range| range.pages).collect()),
            Map::Bits(bits) => {
                let some: Vec<PageRange> = bits.set.ranges().take(MAX_RANGES + 1).collect();
                match some.as_slice() {
                    [first, ..] if some.len() > MAX_RANGES => vec![PageRange {
                        first: first.first,
                        count: bits.set.bits() - first.first.0,
                    }],
                    _ => some,
                }
            }
        }
    }
}

/// Ranges whose pages follow each other in the file, with the byte that each one is told at.
pub(super) fn consecutive(
    file: &FileBytes,
    told: impl Iterator<Item = (u64, PageRange)>,
    first_page: u64,
) -> Result<Map> {
    let mut at = first_page;
    let mut placed = Vec::new();
    for (byte, pages) in told {
        let end = pages.first.0.checked_add(pages.count);
        if end.is_none_or(|end| end > MAX_PFN) {
            let why = format!("no memory has {:#x} pages from page {}", pages.count, pages.first);
            return Err(Error::damaged(byte, why));
        }
        if pages.count == 0 {
            continue;
        }
        let length = pages.count * PAGE_SIZE as u64;
        file.check("a range of pages", at, length)?;
        placed.push((byte, Placed { pages, at }));
        at += length;
    }
    placed.sort_by_key(|(_, range)| range.pages.first);
    for pair in placed.windows(2) {
        let [(_, one), (byte, other)] = pair else { continue };
        if other.pages.first < one.pages.end() {
            let why = format!("page {} is in two ranges", other.pages.first);
            return Err(Error::damaged(*byte, why));
        }
    }
    Ok(Map::Ranges(placed.into_iter().map(|(_, range)| range).collect()))
}

/// The runs in a header, with the byte of each; `None` if there are none. `at` is the byte of the first, `size` of one.
pub(super) fn runs(
    number: u32,
    most: usize,
    at: u64,
    size: u64,
    run: impl Fn(usize) -> (u64, u64),
) -> Option<Vec<(u64, PageRange)>> {
    let number = usize::try_from(number)
        .ok()
        .filter(|number| (1..=most).contains(number))?;
    Some(
        (0..number)
            .map(|index| {
                let (first, count) = run(index);
                let first = Pfn(first);
                (at + size * index as u64, PageRange { first, count })
            })
            .collect(),
    )
}

/// Most runs that a 64-bit header can have, with the one too many that some write.
pub(super) const MOST_RUNS64: usize = MAX_RUNS64 + 1;
/// Most runs that a 32-bit one can have.
pub(super) const MOST_RUNS32: usize = MAX_RUNS32;

/// Present pages by their bits: pages lie in the file in rising order.
pub(super) struct Bits {
    set: PageSet,
    /// Bits that are set before each block of [`BLOCK`] words.
    before: Vec<u64>,
    count: u64,
    first_page: u64,
}

const BLOCK: usize = 8;

impl Bits {
    /// From the bitmap's bytes.
    fn new(bytes: &[u8], bits: u64, first_page: u64) -> Bits {
        let set = PageSet::from_bytes(bytes, bits);
        let mut count = 0;
        let ones = |block: &[u64]| block.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
        let before = set
            .as_words()
            .chunks(BLOCK)
            .map(|block| {
                let before = count;
                count += ones(block);
                before
            })
            .collect();
        Bits {
            set,
            before,
            count,
            first_page,
        }
    }

    fn locate(&self, pfn: Pfn) -> Option<u64> {
        let index = usize::try_from(pfn.0 / 64).ok()?;
        let word = *self.set.as_words().get(index)?;
        let bit = 1u64 << (pfn.0 % 64);
        if word & bit == 0 {
            return None;
        }
        let block = index / BLOCK;
        let earlier: u64 = self.set.as_words()[block * BLOCK..index]
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum();
        let rank = self.before[block] + earlier + u64::from((word & (bit - 1)).count_ones());
        Some(self.first_page + rank * PAGE_SIZE as u64)
    }
}

/// What a bitmap's header says beside the bitmap.
pub(super) struct BitmapFacts {
    /// The signature is [`bitmap::SUMMARY`].
    pub summary: bool,
    /// Pages that it says there are.
    pub told: u64,
}

/// The bitmap of types 5 and 6, behind a header of so many bytes.
pub(super) fn bitmap(file: &FileBytes, at: u64) -> Result<(Map, BitmapFacts)> {
    let header: BitmapHeader = wire(file.array::<0x38>("the bitmap's header", at)?);
    check_signature(at, header.signature, header.valid_dump)?;
    let map = bits(
        file,
        Place {
            told_at: at + 0x30,
            bitmap: at + size_of::<BitmapHeader>() as u64,
            bits: header.pages.get(),
            first_told_at: at + 0x20,
            first_page: header.first_page.get(),
        },
    )?;
    let facts = BitmapFacts {
        summary: header.signature == bitmap::SUMMARY,
        told: header.total_present_pages.get(),
    };
    Ok((map, facts))
}

/// SUMMARY_DUMP (Windows SDK `mindumpdef.h`): type 2. A bitmap's size, then its address, then the bitmap itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct SummaryHeader {
    signature: [u8; 4],
    valid_dump: [u8; 4],
    dump_options: U32,
    /// Bytes before the first page.
    header_size: U32,
    /// Bits of the bitmap.
    bitmap_size: U32,
    /// Pages in the file.
    pages: U32,
    size_of_bitmap: U32,
}
assert_size!(SummaryHeader = 0x1c);

/// The bitmap of type 2, behind a header of so many bytes.
pub(super) fn summary(file: &FileBytes, at: u64, pointer_size: u64) -> Result<(Map, BitmapFacts)> {
    let header: SummaryHeader = wire(file.array::<0x1c>("the summary header", at)?);
    check_signature(at, header.signature, header.valid_dump)?;
    let pointer = (0x1cu64).next_multiple_of(pointer_size);
    let map = bits(
        file,
        Place {
            told_at: at + 0x10,
            bitmap: at + pointer + pointer_size,
            bits: header.bitmap_size.get().into(),
            first_told_at: at + 0xc,
            first_page: header.header_size.get().into(),
        },
    )?;
    let facts = BitmapFacts {
        summary: true,
        told: header.pages.get().into(),
    };
    Ok((map, facts))
}

fn check_signature(at: u64, signature: [u8; 4], valid: [u8; 4]) -> Result<()> {
    if (signature == bitmap::FULL || signature == bitmap::SUMMARY) && valid == bitmap::VALID {
        return Ok(());
    }
    Err(Error::damaged(at, "there is no bitmap's signature"))
}

/// Where a bitmap and its pages are, and where the file says so.
struct Place {
    told_at: u64,
    bitmap: u64,
    bits: u64,
    first_told_at: u64,
    first_page: u64,
}

fn bits(file: &FileBytes, place: Place) -> Result<Map> {
    if place.bits > bitmap::MAX_BITS {
        let why = format!("a bitmap of {:#x} bits is too large", place.bits);
        return Err(Error::damaged(place.told_at, why));
    }
    let bytes = file.vec("the bitmap", place.bitmap, place.bits.div_ceil(8))?;
    if place.first_page < place.bitmap + bytes.len() as u64 {
        let why = format!(
            "the first page can't be at byte {:#x}: the bitmap is there",
            place.first_page
        );
        return Err(Error::damaged(place.first_told_at, why));
    }
    let bits = Bits::new(&bytes, place.bits, place.first_page);
    file.check("the pages", place.first_page, bits.count * PAGE_SIZE as u64)?;
    Ok(Map::Bits(bits))
}

/// The start of what types 8 to 10 have behind the header (kdmp-parser `structs.rs`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct LiveHeader {
    marker: U32,
    signature: [u8; 4],
    valid_dump: [u8; 4],
    unknown: U32,
    metadata_size: U64,
    first_page: U64,
    /// Type 10: a number of ranges, two words, a number of pages.
    number_of_ranges: U32,
    unknown2: U32,
    total_pages: U64,
}
assert_size!(LiveHeader = 0x30);

/// A range of types 8 to 10.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct LiveRange {
    first: U64,
    count: U64,
}
assert_size!(LiveRange = 16);

const LIVE_MARKER: u32 = 0x40;

/// The ranges of types 8 to 10, behind a header of so many bytes. Those of type 10 (`counted`) have their number.
pub(super) fn live(file: &FileBytes, at: u64, counted: bool) -> Result<Map> {
    let header: LiveHeader = wire(file.array::<0x30>("the ranges' header", at)?);
    if header.marker.get() != LIVE_MARKER || header.signature != *b"RDMP" || header.valid_dump != *b"DUMP" {
        return Err(Error::damaged(at, "there is no signature of ranges (RDMP)"));
    }
    let (metadata, first_page) = (header.metadata_size.get(), header.first_page.get());
    if metadata.checked_sub(0x20).is_none() || metadata.checked_sub(0x20) != first_page.checked_sub(at + 0x40)
    {
        let why = format!("{metadata:#x} bytes of ranges don't end at the first page, {first_page:#x}");
        return Err(Error::damaged(at + 0x10, why));
    }
    let table = at + size_of::<LiveHeader>() as u64;
    let bytes = file.vec("the ranges", table, first_page.saturating_sub(table))?;
    let ranges = bytes.chunks_exact(size_of::<LiveRange>()).map(|bytes| {
        let mut raw = [0; 16];
        raw.copy_from_slice(bytes);
        let range: LiveRange = wire(raw);
        PageRange {
            first: Pfn(range.first.get()),
            count: range.count.get(),
        }
    });
    let mut left = if counted {
        header.total_pages.get()
    } else {
        u64::MAX
    };
    let told = (0u64..)
        .map(|index| table + 16 * index)
        .zip(ranges)
        .take_while(|(_, range)| range.first.0 != 0 && range.count != 0)
        .take_while(|(_, range)| {
            let more = left > 0;
            left = left.saturating_sub(range.count);
            more
        });
    consecutive(file, told, first_page)
}

/// Bytes as what they are.
pub(super) fn wire<T: FromBytes + IntoBytes, const N: usize>(bytes: [u8; N]) -> T {
    const { assert!(size_of::<T>() == N) };
    let mut value = T::new_zeroed();
    value.as_mut_bytes().copy_from_slice(&bytes);
    value
}
