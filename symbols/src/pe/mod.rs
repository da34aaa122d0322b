//! PE images as they lie in memory: headers, the CodeView record that names the PDB, exports.
//!
//! Layouts: "PE Format" (Microsoft Learn). An image is read through [`ReadImage`], by RVA; any closure does. Nothing of
//! it is trusted: counts are capped, sums are checked, and what can't be read is absent.

mod code_view;
mod exports;
mod headers;

pub use code_view::code_view;
pub use exports::{Export, Exports};
pub use headers::{DataDirectory, Headers, Section};

/// Reads an image's bytes by RVA.
pub trait ReadImage {
    /// Fills the buffer from `rva` on; false if any byte can't be had.
    fn read(&self, rva: u32, buffer: &mut [u8]) -> bool;
}

impl<F: Fn(u32, &mut [u8]) -> bool> ReadImage for F {
    fn read(&self, rva: u32, buffer: &mut [u8]) -> bool {
        self(rva, buffer)
    }
}

/// Why bytes aren't the image they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeError {
    /// The first bytes aren't `MZ`.
    #[error("no MZ signature")]
    NotMz,
    /// The NT headers aren't in the first page.
    #[error("the NT headers are at {0:#x}, not within the first page")]
    FarHeaders(u32),
    /// The NT headers' signature is wrong.
    #[error("no PE signature")]
    NotPe,
    /// The optional header's magic is neither PE32 nor PE32+.
    #[error("unknown optional-header magic {0:#x}")]
    Magic(u16),
    /// A count or size can't be.
    #[error("implausible {0}")]
    Implausible(&'static str),
    /// Bytes that must be there can't be read.
    #[error("cannot read {what} at RVA {rva:#x}")]
    Unreadable {
        /// What.
        what: &'static str,
        /// Where.
        rva: u32,
    },
}

/// A NUL-terminated string of at most `limit` bytes; `None` if it can't be read or isn't printable ASCII.
fn read_name(image: &dyn ReadImage, rva: u32, limit: usize) -> Option<String> {
    let mut name = Vec::new();
    let mut chunk = [0; 16];
    while name.len() < limit {
        let at = rva.checked_add(u32::try_from(name.len()).ok()?)?;
        // To the end of a 16-byte line: a string's last line doesn't reach into the next page.
        let line = &mut chunk[..16 - at as usize % 16];
        if !image.read(at, line) {
            return None;
        }
        let end = line.iter().position(|&byte| byte == 0);
        name.extend_from_slice(&line[..end.unwrap_or(line.len())]);
        if end.is_some() {
            let printable = name.iter().all(|byte| (b' '..=b'~').contains(byte));
            return printable.then(|| String::from_utf8(name).ok()).flatten();
        }
    }
    None
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let field = bytes.get(offset..offset.checked_add(2)?)?;
    Some(u16::from_le_bytes(field.try_into().ok()?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let field = bytes.get(offset..offset.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}
