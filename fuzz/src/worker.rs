//! Runs cases in a process of their own, so that an abort, a stack overflow or a hang is a failure as a panic is.
//!
//! ```text
//!  drive ── starts ──► worker: case after case, the number of the present one in a file
//!    └── looks at the file: the same number for too long, or the worker gone ─► the case is kept, the next is begun
//! ```

use crate::mutate;
use crate::random::Random;
use crate::targets::{ALL, Target};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// The target of this name.
pub fn find(name: &str) -> Option<&'static Target> {
    ALL.iter().find(|target| target.name == name)
}

/// The bytes of case `index` under `seed`.
pub fn case(target: &Target, seeds: &[Vec<u8>], seed: u64, index: u64) -> Vec<u8> {
    match seeds.get(index as usize) {
        // The corpus itself comes first.
        Some(bytes) if seed & 1 != 0 => bytes.clone(),
        _ => mutate::case(&mut Random::new(seed, index), seeds, target.words, target.longest),
    }
}

/// The worker's loop: cases from `first` on, for `time`.
///
/// # Errors
/// The progress file's.
pub fn work(target: &Target, seed: u64, first: u64, time: Duration, progress: &File) -> std::io::Result<()> {
    let seeds = (target.seeds)();
    let end = Instant::now() + time;
    let mut index = first;
    while Instant::now() < end {
        progress.write_all_at(&index.to_le_bytes(), 0)?;
        (target.run)(&case(target, &seeds, seed, index));
        index += 1;
    }
    progress.write_all_at(&index.to_le_bytes(), 0)
}
