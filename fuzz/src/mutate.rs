//! From a corpus entry to a new case.

use crate::random::Random;

/// Numbers that are the edge of something.
const EDGES: [u64; 16] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0xfff,
    0x1000,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// A case out of `corpus`, with `words` that mean something to the target; at most `longest` bytes.
pub fn case(random: &mut Random, corpus: &[Vec<u8>], words: &[&[u8]], longest: usize) -> Vec<u8> {
    let mut bytes = if corpus.is_empty() || random.below(16) == 0 {
        (0..random.below(longest.min(512)))
            .map(|_| random.next() as u8)
            .collect()
    } else {
        random.pick(corpus).clone()
    };
    let rounds = 1 << random.below(6);
    for _ in 0..random.below(rounds + 1) {
        change(random, &mut bytes, corpus, words);
    }
    bytes.truncate(longest);
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&[u8]]) {
    let at = random.below(bytes.len() + 1);
    match random.below(10) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
        2 => bytes.insert(at, random.next() as u8),
        3 => {
            let end = (at + 1 + random.below(16)).min(bytes.len());
            bytes.drain(at..end);
        }
        4 => {
            let edge = random
                .pick(&EDGES)
                .wrapping_add(random.below(5) as u64)
                .wrapping_sub(2);
            overwrite(bytes, at, &edge.to_le_bytes()[..1 << random.below(4)]);
        }
        5 | 6 if !words.is_empty() => {
            let word: &[u8] = random.pick::<&[u8]>(words);
            if random.below(2) == 0 {
                overwrite(bytes, at, word);
            } else {
                bytes.splice(at..at, word.iter().copied());
            }
        }
        7 if !corpus.is_empty() => {
            let other = random.pick(corpus);
            let start = random.below(other.len());
            let end = (start + 1 + random.below(64)).min(other.len());
            bytes.splice(at..at, other[start..end].iter().copied());
        }
        8 => {
            let end = (at + 1 + random.below(32)).min(bytes.len());
            let copy = bytes[at..end].to_vec();
            let to = random.below(bytes.len() + 1);
            bytes.splice(to..to, copy);
        }
        _ => overwrite(bytes, at, &random.next().to_le_bytes()),
    }
}

fn overwrite(bytes: &mut Vec<u8>, at: usize, with: &[u8]) {
    let end = (at + with.len()).min(bytes.len());
    bytes.splice(at..end, with.iter().copied());
}
