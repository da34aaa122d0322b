//! Opening a file of any known format.

use crate::{Error, FileBytes, Image, Result};
use std::path::Path;

/// A format's reader.
struct Reader {
    /// Whether a file, by its first bytes, is its business.
    is_it: fn(&FileBytes) -> bool,
    open: fn(FileBytes) -> Result<Box<dyn Image>>,
}

/// The readers, in the order in which they are asked.
const READERS: &[Reader] = &[Reader {
    is_it: crate::elf::is_elf,
    open: |bytes| Ok(Box::new(crate::elf::open(bytes)?)),
}];

/// Opens a dump, whatever its format.
///
/// # Errors
/// [`Error::Unknown`] with the first bytes of a file that no reader knows; the reader's own.
pub fn open(path: &Path) -> Result<Box<dyn Image>> {
    let bytes = FileBytes::open(path)?;
    if bytes.is_empty() {
        return Err(Error::Unknown("it is empty".into()));
    }
    match READERS.iter().find(|reader| (reader.is_it)(&bytes)) {
        Some(reader) => (reader.open)(bytes),
        None => {
            let mut start = [0; 8];
            let length = bytes.len().min(8) as usize;
            bytes.read("its beginning", 0, &mut start[..length])?;
            Err(Error::Unknown(format!(
                "it begins with {:02x?}",
                &start[..length]
            )))
        }
    }
}
