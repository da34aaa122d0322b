//! A PDB file in memory, for the `pdb` crate to read from.

use pdb::{SourceSlice, SourceView};
use std::io;
use std::sync::Arc;

/// The file's bytes.
#[derive(Debug)]
pub(super) struct Bytes {
    bytes: Arc<Vec<u8>>,
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

impl<'s> pdb::Source<'s> for Bytes {
    fn view(&mut self, slices: &[SourceSlice]) -> Result<Box<dyn SourceView<'s>>, io::Error> {
        let end = || io::Error::new(io::ErrorKind::UnexpectedEof, "a stream leaves the file");
        // Pages aren't shared, so no stream is longer than the file. A damaged file may say otherwise.
        let length = slices
            .iter()
            .try_fold(0usize, |sum, slice| sum.checked_add(slice.size));
        if length.is_none_or(|length| length > self.bytes.len()) {
            return Err(end());
        }
        let mut stream = Vec::with_capacity(length.unwrap_or_default());
        for slice in slices {
            let start = usize::try_from(slice.offset).map_err(|_| end())?;
            let stop = start.checked_add(slice.size).ok_or_else(end)?;
            stream.extend_from_slice(self.bytes.get(start..stop).ok_or_else(end)?);
        }
        Ok(Box::new(Stream { bytes: stream }))
    }
}

impl SourceView<'_> for Stream {
    fn as_slice(&self) -> &[u8] {
        &self.bytes
    }
}
