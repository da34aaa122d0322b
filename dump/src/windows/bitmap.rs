//! The bitmap of dump types 5 and 6: a bit for each page number.

use super::header::assert_size;
use crate::pages::{PageRange, Pfn};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Signature of a dump of all memory.
pub const FULL: [u8; 4] = *b"FDMP";
/// Signature of one of a part.
pub const SUMMARY: [u8; 4] = *b"SDMP";
/// What follows either.
pub const VALID: [u8; 4] = *b"DUMP";
/// DumpOptions: the kernel's virtual memory is there.
pub const KERNEL_VA_VALID: u32 = 1;
/// DumpOptions: the current process's, too.
pub const USER_VA_VALID: u32 = 2;
/// Most bits that readers take (LeechCore's limit): 8 TiB of memory.
pub const MAX_BITS: u64 = 0x7fff_ffc0;

/// What stands behind the header of types 5 and 6 (BITMAP_DUMP; kdmp-parser `kdmp-parser-structs.h`). The bitmap
/// follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct BitmapHeader {
    /// [`FULL`] or [`SUMMARY`].
    pub signature: [u8; 4],
    /// [`VALID`].
    pub valid_dump: [u8; 4],
    /// What is there.
    pub dump_options: U32,
    /// Zero.
    pub unused: [u8; 20],
    /// The file offset of the first page's bytes.
    pub first_page: U64,
    /// Bits that are set.
    pub total_present_pages: U64,
    /// Bits in all.
    pub pages: U64,
}
assert_size!(BitmapHeader = 0x38);

/// A set of page numbers.
pub struct PageSet {
    words: Vec<u64>,
}

impl PageSet {
    /// An empty set of numbers below `bits`.
    pub fn new(bits: u64) -> PageSet {
        PageSet {
            words: vec![0; usize::try_from(bits.div_ceil(64)).unwrap_or(usize::MAX)],
        }
    }

    /// A bitmap's first bits, of which there are enough.
    pub fn from_bytes(bytes: &[u8], bits: u64) -> PageSet {
        let mut set = PageSet::new(bits);
        for (word, bytes) in set.words.iter_mut().zip(bytes.chunks(8)) {
            let mut raw = [0; 8];
            raw[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_le_bytes(raw);
        }
        if let Some(last) = set.words.last_mut()
            && !bits.is_multiple_of(64)
        {
            *last &= (1 << (bits % 64)) - 1;
        }
        set
    }

    /// How many numbers there could be.
    pub fn bits(&self) -> u64 {
        self.words.len() as u64 * 64
    }

    /// Adds the numbers of a range; those that don't fit are left out.
    pub fn insert(&mut self, range: PageRange) {
        let end = range.first.0.saturating_add(range.count).min(self.bits());
        let mut at = range.first.0;
        while at < end {
            let (word, bit) = ((at / 64) as usize, at % 64);
            let here = (64 - bit).min(end - at);
            self.words[word] |= (u64::MAX >> (64 - here)) << bit;
            at += here;
        }
    }

    /// How many numbers are in it.
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Leaves only what is in `ranges`, which rise.
    pub fn retain(&mut self, ranges: &[PageRange]) {
        let mut only = PageSet::new(self.bits());
        for range in ranges {
            only.insert(*range);
        }
        for (word, mask) in self.words.iter_mut().zip(only.words) {
            *word &= mask;
        }
    }

    /// The numbers in rising order, joined.
    pub fn ranges(&self) -> impl Iterator<Item = PageRange> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let first = self.find(at, true)?;
            at = self.find(first, false).unwrap_or(self.bits());
            Some(PageRange {
                first: Pfn(first),
                count: at - first,
            })
        })
    }

    /// The first number from `at` on that is in the set, or isn't.
    fn find(&self, at: u64, present: bool) -> Option<u64> {
        let mut index = (at / 64) as usize;
        let mut mask = u64::MAX << (at % 64);
        loop {
            let word = *self.words.get(index)?;
            let wanted = (if present { word } else { !word }) & mask;
            if wanted != 0 {
                return Some(index as u64 * 64 + u64::from(wanted.trailing_zeros()));
            }
            index += 1;
            mask = u64::MAX;
        }
    }

    /// The bitmap's bytes as the file has them.
    pub fn as_words(&self) -> &[u64] {
        &self.words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_header_of_types_5_and_6_is_as_readers_have_it() {
        use std::mem::offset_of;
        assert_eq!(offset_of!(BitmapHeader, first_page), 0x20);
        assert_eq!(offset_of!(BitmapHeader, total_present_pages), 0x28);
        assert_eq!(offset_of!(BitmapHeader, pages), 0x30);
    }

    proptest! {
        #[test]
        fn a_set_has_what_was_put_in(ranges in prop::collection::vec((0u64..700, 0u64..200), 0..8), only in 0u64..500) {
            let mut set = PageSet::new(640);
            let mut reference = BTreeSet::new();
            for &(first, count) in &ranges {
                set.insert(PageRange { first: Pfn(first), count });
                reference.extend((first..first + count).filter(|&n| n < 640));
            }
            let members = |set: &PageSet| set.ranges().flat_map(|range| range.first.0..range.end().0).collect::<Vec<_>>();
            prop_assert_eq!(members(&set), reference.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.count(), reference.len() as u64);
            set.retain(&[PageRange { first: Pfn(only), count: 100 }]);
            reference.retain(|&n| (only..only + 100).contains(&n));
            prop_assert_eq!(members(&set), reference.into_iter().collect::<Vec<_>>());
        }
    }
}
