//! Looking for a pattern in memory that comes piece by piece.
//!
//! The finder looks for two bytes of the pattern, and compares the rest where it sees them; so it is fast where they
//! are rare. What is rare in text, which it takes for granted, may be everywhere in memory: it is told what the memory
//! looks like, from a sample of what has gone by.

use memchr::arch::all::packedpair::HeuristicFrequencyRank;
use memchr::memmem::{Finder, FinderBuilder};

/// Every so many bytes one is counted: a prime, so that no structure's stride hides behind it.
const STRIDE: usize = 251;
/// Bytes of which all are counted at the beginning.
const FIRST_LOOK: usize = 1 << 12;
/// After so many bytes the finder is told anew.
const AGE: usize = 2 << 20;

/// A search for the first occurrence of a pattern.
pub(super) struct Scan<'p> {
    pattern: &'p [u8],
    finder: Finder<'p>,
    counts: Counts,
    /// Bytes that the finder has seen.
    age: usize,
    /// The last bytes that came, one less than the pattern has.
    tail: Vec<u8>,
}

impl<'p> Scan<'p> {
    pub fn new(pattern: &'p [u8]) -> Scan<'p> {
        Scan {
            pattern,
            finder: Finder::new(pattern),
            counts: Counts([0; 256]),
            age: AGE,
            tail: Vec::new(),
        }
    }

    /// Takes the bytes that follow those before. How far before their end the first occurrence begins.
    pub fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        self.learn(bytes);
        let overlap = self.pattern.len().saturating_sub(1);
        let before = self.tail.len();
        self.tail.extend_from_slice(&bytes[..bytes.len().min(overlap)]);
        if before > 0
            && let Some(index) = self.finder.find(&self.tail)
        {
            return Some(before + bytes.len() - index);
        }
        if let Some(index) = self.finder.find(bytes) {
            return Some(bytes.len() - index);
        }
        if bytes.len() >= overlap {
            self.tail.clear();
            self.tail.extend_from_slice(&bytes[bytes.len() - overlap..]);
        } else {
            let old = self.tail.len().saturating_sub(overlap);
            self.tail.drain(..old);
        }
        None
    }

    /// What comes next doesn't follow what came before.
    pub fn forget(&mut self) {
        self.tail.clear();
    }

    fn learn(&mut self, bytes: &[u8]) {
        self.counts.add(bytes.iter().step_by(STRIDE));
        if self.age >= AGE {
            self.counts.add(bytes.iter().take(FIRST_LOOK));
            self.finder = FinderBuilder::new().build_forward_with_ranker(&self.counts, self.pattern);
            self.counts.fade();
            self.age = 0;
        }
        self.age += bytes.len();
    }
}

/// How often each byte was seen.
struct Counts([u32; 256]);

impl Counts {
    fn add<'b>(&mut self, bytes: impl Iterator<Item = &'b u8>) {
        for byte in bytes {
            self.0[usize::from(*byte)] += 1;
        }
    }

    /// What was seen long ago counts less.
    fn fade(&mut self) {
        for count in &mut self.0 {
            *count /= 4;
        }
    }
}

impl HeuristicFrequencyRank for &Counts {
    fn rank(&self, byte: u8) -> u8 {
        // What wasn't seen yet is what memory mostly holds, or it isn't.
        let usual = match byte {
            0 | 0xff => 24,
            b' '..=b'~' | 1..=8 => 8,
            _ => 0,
        };
        // 31 at most, times 7.
        let seen = (self.0[usize::from(byte)] + 1).ilog2() as u8 * 7;
        usual + seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memchr::memmem;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_first_occurrence_is_found_however_the_bytes_are_cut(
            bytes in prop::collection::vec(0u8..3, 0..200),
            pattern in prop::collection::vec(0u8..3, 1..7),
            cuts in prop::collection::vec(1usize..9, 1..200),
        ) {
            let mut scan = Scan::new(&pattern);
            let (mut at, mut found) = (0, None);
            for cut in cuts.iter().cycle() {
                let end = (at + cut).min(bytes.len());
                found = scan.take(&bytes[at..end]).map(|back| end - back);
                at = end;
                if found.is_some() || at == bytes.len() {
                    break;
                }
            }
            prop_assert_eq!(found, memmem::find(&bytes, &pattern));
        }
    }

    #[test]
    fn what_is_everywhere_in_memory_ranks_above_what_is_not() {
        let mut scan = Scan::new(b"ZZeQ");
        assert_eq!(scan.take(&[b'Z'; 4096]), None);
        let ranks = &scan.counts;
        assert!(ranks.rank(b'Z') > ranks.rank(b'e'));
        // As memory changes, so do they.
        for _ in 0..2 * AGE / 4096 {
            assert_eq!(scan.take(&[b'e'; 4096]), None);
        }
        let ranks = &scan.counts;
        assert!(ranks.rank(b'e') > ranks.rank(b'Z'));
    }

    #[test]
    fn what_was_forgotten_is_no_part_of_an_occurrence() {
        let mut scan = Scan::new(b"abcd");
        assert_eq!(scan.take(b"..ab"), None);
        scan.forget();
        assert_eq!(scan.take(b"cd.."), None);
        assert_eq!(scan.take(b"ab"), None);
        assert_eq!(scan.take(b"cd."), Some(5));
    }
}
