//! A PDB file, for the `pdb` crate to read from.

use pdb::{SourceSlice, SourceView};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

/// The file's bytes.
#[derive(Debug)]
pub(super) struct Bytes {
    bytes: Arc<Vec<u8>>,
}

/// A file that is read where it is asked for, when little of it is wanted.
#[derive(Debug)]
pub(super) struct Paged {
    file: File,
    length: usize,
}

/// A stream put together from its pages.
#[derive(Debug)]
struct Stream {
    bytes: Vec<u8>,
}

impl Bytes {
    pub(super) fn new(bytes: Arc<Vec<u8>>) -> Bytes {
        Bytes { bytes }
    }
}

impl Paged {
    pub(super) fn new(file: File) -> io::Result<Paged> {
        let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        Ok(Paged { file, length })
    }
}

impl<'s> pdb::Source<'s> for Bytes {
    fn view(&mut self, slices: &[SourceSlice]) -> Result<Box<dyn SourceView<'s>>, io::Error> {
        let mut stream = Vec::with_capacity(length_of(slices, self.bytes.len())?);
        for slice in slices {
            let start = usize::try_from(slice.offset).map_err(|_| end())?;
            let stop = start.checked_add(slice.size).ok_or_else(end)?;
            stream.extend_from_slice(self.bytes.get(start..stop).ok_or_else(end)?);
        }
        Ok(Box::new(Stream { bytes: stream }))
    }
}

impl<'s> pdb::Source<'s> for Paged {
    fn view(&mut self, slices: &[SourceSlice]) -> Result<Box<dyn SourceView<'s>>, io::Error> {
        let mut stream = vec![0; length_of(slices, self.length)?];
        let mut rest = &mut stream[..];
        for slice in slices {
            let (piece, after) = rest.split_at_mut(slice.size.min(rest.len()));
            self.file.seek(SeekFrom::Start(slice.offset))?;
            self.file.read_exact(piece)?;
            rest = after;
        }
        Ok(Box::new(Stream { bytes: stream }))
    }
}

fn end() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a stream leaves the file")
}

/// How long a stream is. Pages aren't shared, so none is longer than its file; a damaged file may say otherwise.
fn length_of(slices: &[SourceSlice], file: usize) -> io::Result<usize> {
    slices
        .iter()
        .try_fold(0usize, |sum, slice| sum.checked_add(slice.size))
        .filter(|&length| length <= file)
        .ok_or_else(end)
}

impl SourceView<'_> for Stream {
    fn as_slice(&self) -> &[u8] {
        &self.bytes
    }
}
