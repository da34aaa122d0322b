//! A file that is read by position, each access checked against its length.

use crate::flattened::{self, Piece};
use crate::{Error, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A dump file's bytes.
#[derive(Debug)]
pub struct FileBytes {
    file: File,
    length: u64,
    /// Where the bytes of a flattened file are.
    pieces: Option<Vec<Piece>>,
}

impl FileBytes {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// It can't be opened, or isn't a regular file.
    pub fn open(path: &Path) -> Result<FileBytes> {
        let name = path.display();
        let file = File::open(path).map_err(Error::io(format!("{name}")))?;
        let facts = file.metadata().map_err(Error::io(format!("{name}")))?;
        if !facts.is_file() {
            return Err(Error::Unknown(format!("{name} is not a file")));
        }
        Ok(FileBytes {
            file,
            length: facts.len(),
            pieces: None,
        })
    }

    /// Whether it is makedumpfile's flattened form of another file.
    ///
    /// # Errors
    /// As [`FileBytes::read`].
    pub fn is_flattened(&self) -> Result<bool> {
        let start = self.vec("the file", 0, self.length.min(16))?;
        Ok(self.pieces.is_none() && flattened::is_flattened(&start))
    }

    /// The file that a flattened one stands for.
    ///
    /// # Errors
    /// Its records contradict themselves, are too many, or pass its end.
    pub fn unflatten(self) -> Result<FileBytes> {
        let pieces = flattened::index(&self)?;
        Ok(FileBytes {
            length: pieces.last().map_or(0, |piece| piece.end),
            pieces: Some(pieces),
            ..self
        })
    }

    /// The file's length when it was opened; of a flattened one, the real file's.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Fills `buffer` from byte `at` on; `what` names the thing in errors.
    ///
    /// # Errors
    /// [`Error::Truncated`] where the file is too short, or became so; [`Error::Io`].
    pub fn read(&self, what: &'static str, at: u64, buffer: &mut [u8]) -> Result<()> {
        self.check(what, at, buffer.len() as u64)?;
        let Some(pieces) = &self.pieces else {
            return self.read_file(what, at, buffer);
        };
        buffer.fill(0);
        let end = at + buffer.len() as u64;
        let first = pieces.partition_point(|piece| piece.end <= at);
        for piece in pieces[first..].iter().take_while(|piece| piece.start < end) {
            let (from, to) = (piece.start.max(at), piece.end.min(end));
            let part = &mut buffer[(from - at) as usize..(to - at) as usize];
            self.read_file(what, piece.at + (from - piece.start), part)?;
        }
        Ok(())
    }

    fn read_file(&self, what: &'static str, at: u64, buffer: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(buffer, at)
            .map_err(Error::io(format!("reading {what} at byte {at:#x}")))
    }

    /// The bytes from `at` on.
    ///
    /// # Errors
    /// As [`FileBytes::read`]; nothing is allocated then.
    pub fn vec(&self, what: &'static str, at: u64, length: u64) -> Result<Vec<u8>> {
        self.check(what, at, length)?;
        let mut buffer = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.read(what, at, &mut buffer)?;
        Ok(buffer)
    }

    /// A fixed number of bytes from `at` on.
    ///
    /// # Errors
    /// As [`FileBytes::read`].
    pub fn array<const N: usize>(&self, what: &'static str, at: u64) -> Result<[u8; N]> {
        let mut buffer = [0; N];
        self.read(what, at, &mut buffer)?;
        Ok(buffer)
    }

    /// That `length` bytes from `at` on are in the file.
    ///
    /// # Errors
    /// [`Error::Truncated`].
    pub fn check(&self, what: &'static str, at: u64, length: u64) -> Result<()> {
        let end = at.checked_add(length);
        if end.is_some_and(|end| end <= self.length) {
            return Ok(());
        }
        Err(Error::Truncated {
            what,
            at,
            end: end.unwrap_or(u64::MAX),
            length: self.length,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn with(bytes: &[u8]) -> FileBytes {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        FileBytes::open(file.path()).unwrap()
    }

    #[test]
    fn what_is_there_is_read_and_what_is_not_is_an_error_that_names_it() {
        let file = with(b"0123456789");
        assert_eq!(file.array::<4>("digits", 6).unwrap(), *b"6789");
        let error = file.vec("a table", 8, 1 << 60).unwrap_err();
        assert!(error.to_string().contains("a table"), "{error}");
        assert!(matches!(
            file.check("all", u64::MAX, 2),
            Err(Error::Truncated { .. })
        ));
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[1; 64]).unwrap();
        let bytes = FileBytes::open(file.path()).unwrap();
        file.as_file().set_len(8).unwrap();
        assert!(bytes.array::<16>("it", 0).is_err());
    }
}
