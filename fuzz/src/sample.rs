//! A file that is damaged for a case and put right again: to copy all of it for each would be most of the work.

use crate::patch::Patch;
use rustix::fs::{MemfdFlags, memfd_create};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const CHUNK: usize = 4096;

/// A file in memory, with a name for as long as this lives.
pub struct Sample {
    file: File,
    path: PathBuf,
    length: u64,
    /// Where it isn't zeros.
    chunks: Vec<(u64, Vec<u8>)>,
}

impl Sample {
    /// With these bytes.
    ///
    /// # Errors
    /// The operating system's.
    pub fn new(bytes: &[u8]) -> io::Result<Sample> {
        let file = File::from(memfd_create("kdd-fuzz", MemfdFlags::CLOEXEC)?);
        let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
        let offsets = (0_u64..).step_by(CHUNK);
        let used = offsets
            .zip(bytes.chunks(CHUNK))
            .filter(|(_, chunk)| chunk.iter().any(|byte| *byte != 0));
        let sample = Sample {
            file,
            path,
            length: bytes.len() as u64,
            chunks: used.map(|(at, chunk)| (at, chunk.to_vec())).collect(),
        };
        sample.restore(0, &BTreeMap::new())?;
        Ok(sample)
    }

    /// Shows it with damage: bytes that are changed, and another length, which is a 65536th part of its own.
    ///
    /// # Errors
    /// The operating system's.
    pub fn damaged(&self, patches: &[Patch], cut: Option<u16>, look: impl FnOnce(&Path)) -> io::Result<()> {
        let mut changed = BTreeMap::new();
        for patch in patches {
            let index = patch.chunk(self.chunks.len());
            if let Some((_, whole)) = self.chunks.get(index) {
                patch.apply(changed.entry(index).or_insert_with(|| whole.clone()));
            }
        }
        for (index, chunk) in &changed {
            self.file.write_all_at(chunk, self.chunks[*index].0)?;
        }
        let length = cut.map_or(self.length, |part| (self.length >> 16) * u64::from(part));
        self.file.set_len(length)?;
        look(&self.path);
        self.restore(length, &changed)
    }

    fn restore(&self, from: u64, changed: &BTreeMap<usize, Vec<u8>>) -> io::Result<()> {
        self.file.set_len(self.length)?;
        for (index, (at, chunk)) in self.chunks.iter().enumerate() {
            if at + CHUNK as u64 > from || changed.contains_key(&index) {
                self.file.write_all_at(chunk, *at)?;
            }
        }
        Ok(())
    }
}
