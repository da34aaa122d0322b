//! makedumpfile's flattened form: any file as a stream of records that say where their bytes belong.
//!
//! ```text
//!  4096 bytes: "makedumpfile", type, version │ { offset, size: i64 big-endian │ bytes } … │ { -1, -1 }
//! ```
//! Records may come in any order; of two for one place the later counts. What no record fills is zero.

use crate::{Error, FileBytes, Result};
use std::collections::BTreeMap;

const SIGNATURE: [u8; 16] = *b"makedumpfile\0\0\0\0";
const START: usize = 4096;
const RECORD: usize = 16;
/// More records are refused. makedumpfile and QEMU write one for some pages each.
const RECORD_LIMIT: usize = 1 << 22;
/// Files that claim to be longer are refused.
const LENGTH_LIMIT: u64 = 1 << 52;

/// Whether a file that begins so is flattened.
pub fn is_flattened(start: &[u8]) -> bool {
    start.starts_with(&SIGNATURE)
}

/// The first bytes of a flattened file.
pub(crate) fn start() -> [u8; START] {
    let mut start = [0; START];
    start[..16].copy_from_slice(&SIGNATURE);
    start[16..24].copy_from_slice(&1_i64.to_be_bytes());
    start[24..32].copy_from_slice(&1_i64.to_be_bytes());
    start
}

/// What precedes bytes that belong at `at`.
pub(crate) fn record(at: u64, length: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..8].copy_from_slice(&at.to_be_bytes());
    record[8..].copy_from_slice(&length.to_be_bytes());
    record
}

/// What ends a flattened file.
pub(crate) fn end() -> [u8; RECORD] {
    [0xff; RECORD]
}

/// Bytes of the real file from `start` to `end`, which are in the flattened one from `at` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) at: u64,
}

/// Walks the records: pieces in rising order that don't overlap.
///
/// # Errors
/// [`Error::Damaged`], [`Error::Truncated`], [`Error::Unsupported`] for too many records.
pub(crate) fn index(file: &FileBytes) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut at = START as u64;
    let (mut sorted, mut highest) = (true, 0);
    for _ in 0..RECORD_LIMIT {
        let header: [u8; RECORD] = file.array("a record of the flattened file", at)?;
        let (words, _) = header.as_chunks::<8>();
        let [start, length] = [0, 1].map(|n| u64::from_be_bytes(words[n]));
        if start == u64::MAX && length == u64::MAX {
            return Ok(if sorted { pieces } else { untangle(pieces) });
        }
        let end = start.checked_add(length).filter(|&end| end <= LENGTH_LIMIT);
        let end = end.ok_or_else(|| {
            Error::damaged(
                at,
                format!("a record of {length:#x} bytes for byte {start:#x} of the real file"),
            )
        })?;
        let data = at + RECORD as u64;
        file.check("a record's bytes", data, length)?;
        if length > 0 {
            pieces.push(Piece { start, end, at: data });
            sorted &= start >= highest;
            highest = highest.max(end);
        }
        at = data + length;
    }
    Err(Error::Unsupported(format!(
        "more than {RECORD_LIMIT} records; 'makedumpfile -R' makes a plain file of it"
    )))
}

/// Sorts; where two overlap, the later stays whole.
fn untangle(mut pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.sort_unstable_by_key(|piece| piece.start);
    if pieces.is_sorted_by(|left, right| left.end <= right.start) {
        return pieces;
    }
    // In the order of the file again.
    pieces.sort_unstable_by_key(|piece| piece.at);
    // By start: end, and place in the flattened file.
    let mut map: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for new in pieces {
        if let Some((&start, &(end, at))) = map.range(..new.start).next_back()
            && end > new.start
        {
            map.insert(start, (new.start, at));
            if end > new.end {
                map.insert(new.end, (end, at + (new.end - start)));
            }
        }
        while let Some((&start, &(end, at))) = map.range(new.start..new.end).next() {
            map.remove(&start);
            if end > new.end {
                map.insert(new.end, (end, at + (new.end - start)));
            }
        }
        map.insert(new.start, (new.end, new.at));
    }
    map.into_iter()
        .map(|(start, (end, at))| Piece { start, end, at })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::file_of;
    use proptest::prelude::*;

    fn flat(records: &[(u64, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = start().to_vec();
        for (at, data) in records {
            bytes.extend(record(*at, data.len() as u64));
            bytes.extend(data);
        }
        bytes.extend(end());
        bytes
    }

    proptest! {
        #[test]
        fn later_records_win_and_gaps_are_zero(
            records in prop::collection::vec((0..200_u64, prop::collection::vec(1..=255_u8, 0..60)), 1..20),
        ) {
            let mut expected = Vec::new();
            for (at, data) in records.iter().filter(|(_, data)| !data.is_empty()) {
                let end = *at as usize + data.len();
                expected.resize(expected.len().max(end), 0);
                expected[*at as usize..end].copy_from_slice(data);
            }
            let file = file_of(&flat(&records)).unflatten().unwrap();
            prop_assert_eq!(file.len(), expected.len() as u64);
            prop_assert_eq!(file.vec("all", 0, file.len()).unwrap(), expected);
            prop_assert!(file.vec("more", 0, file.len() + 1).is_err());
        }
    }

    #[test]
    fn records_that_lie_are_refused() {
        for (at, length) in [(u64::MAX, 2), (1 << 60, 1), (0, 1 << 40)] {
            let mut bytes = start().to_vec();
            bytes.extend(record(at, length));
            bytes.extend([0; 64]);
            assert!(file_of(&bytes).unflatten().is_err());
        }
        assert!(file_of(&start()).unflatten().is_err(), "no end");
    }
}
