//! The header, and where each type is.

use super::{Btf, BtfError, MAX_SIZE, types};
use std::sync::{Arc, OnceLock};

const MAGIC: u16 = 0xeb9f;

/// `struct btf_header`.
pub(super) struct Header {
    length: usize,
    types: (usize, usize),
    strings: (usize, usize),
}

impl Header {
    pub(super) fn read(bytes: &[u8]) -> Result<Header, BtfError> {
        let word = |at: usize| types::u32_at(bytes, at).ok_or(BtfError::Header("it is cut off"));
        let first = word(0)?;
        if first as u16 != MAGIC {
            return Err(BtfError::Header("the magic number is wrong"));
        }
        if first >> 16 & 0xff != 1 {
            return Err(BtfError::Header("the version isn't 1"));
        }
        let length = word(4)?;
        let header = Header {
            length: length as usize,
            types: (word(8)? as usize, word(12)? as usize),
            strings: (word(16)? as usize, word(20)? as usize),
        };
        if length < 24 || header.end() > MAX_SIZE {
            return Err(BtfError::Header("a length is implausible"));
        }
        Ok(header)
    }

    pub(super) fn end(&self) -> usize {
        self.length + (self.types.0 + self.types.1).max(self.strings.0 + self.strings.1)
    }
}

pub(super) fn parse(mut bytes: Vec<u8>, base: Option<Arc<Btf>>) -> Result<Btf, BtfError> {
    let header = Header::read(&bytes)?;
    if header.end() > bytes.len() {
        return Err(BtfError::Header("there are fewer bytes than it says"));
    }
    bytes.truncate(header.end());
    let start = header.length + header.strings.0;
    let mut btf = Btf {
        strings: start..start + header.strings.1,
        base,
        bytes,
        types: Vec::new(),
        by_name: OnceLock::new(),
    };
    let mut at = header.length + header.types.0;
    let end = at + header.types.1;
    while at < end {
        btf.types.push(at as u32);
        let size = types::size(&btf.bytes[..end], at).map_err(|why| BtfError::Type {
            id: btf.end_id() - 1,
            why,
        })?;
        at += size;
    }
    Ok(btf)
}
