//! Opening a file of any known format.

use crate::pages::PAGE_SIZE;
use crate::raw::{self, Hole};
use crate::{Error, FileBytes, Image, Result};
use std::path::Path;

/// The smallest file that is taken for raw memory.
const LEAST_RAW: u64 = 1 << 20;

/// A format's reader.
struct Reader {
    /// Whether a file is its business, by its beginning: 4096 bytes, or all where it is shorter.
    is_it: fn(&[u8]) -> bool,
    open: fn(FileBytes) -> Result<Box<dyn Image>>,
}

/// Bytes that readers recognise their files by.
const BEGINNING: u64 = 4096;

/// The readers, in the order in which they are asked.
const READERS: &[Reader] = &[
    Reader {
        is_it: crate::windows::is_dump,
        open: |bytes| Ok(Box::new(crate::windows::open(bytes)?)),
    },
    Reader {
        is_it: crate::elf::is_elf,
        open: |bytes| Ok(Box::new(crate::elf::open(bytes)?)),
    },
    Reader {
        is_it: crate::kdump::is_kdump,
        open: |bytes| Ok(Box::new(crate::kdump::open(bytes)?)),
    },
    Reader {
        is_it: crate::lime::is_lime,
        open: |bytes| Ok(Box::new(crate::lime::open(bytes)?)),
    },
];

/// Opens a dump, whatever its format.
///
/// # Errors
/// [`Error::Unknown`] with the first bytes of a file that no reader knows; the reader's own.
pub fn open(path: &Path) -> Result<Box<dyn Image>> {
    let mut bytes = FileBytes::open(path)?;
    if bytes.is_empty() {
        return Err(Error::Unknown("it is empty".into()));
    }
    if bytes.is_flattened()? {
        bytes = bytes.unflatten()?;
    }
    let mut start = vec![0; bytes.len().min(BEGINNING) as usize];
    bytes.read("its beginning", 0, &mut start)?;
    match READERS.iter().find(|reader| (reader.is_it)(&start)) {
        Some(reader) => (reader.open)(bytes),
        // Nothing marks raw memory but that it is large and whole pages.
        None if bytes.len() >= LEAST_RAW && bytes.len().is_multiple_of(PAGE_SIZE as u64) => {
            let hole = (bytes.len() > Hole::PC.start.0).then_some(Hole::PC);
            Ok(Box::new(raw::open(bytes, hole)?))
        }
        None => {
            start.truncate(8);
            Err(Error::Unknown(format!("it begins with {start:02x?}")))
        }
    }
}
