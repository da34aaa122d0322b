//! The file form of a saved domain.
//!
//! ```text
//! magic "KDD-DOM\0" │ version u32 │ header length u32 │ header (postcard) │ BLAKE3 of all before │ the machine's own part
//! ```
//!
//! Integers are little-endian. The machine's part carries a version and a checksum of its own.

use super::run_control::Condition;
use super::{DomainError, Hardware};
use crate::addr::DomId;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

const MAGIC: [u8; 8] = *b"KDD-DOM\0";
/// Grows when [`Header`] changes.
const VERSION: u32 = 1;
const PREFIX: usize = 16;
/// No header is longer: it holds a name and at most two megabytes of console input.
const MAX_HEADER: u32 = 4 << 20;

/// What a saved state says of the domain besides its machine.
#[derive(Serialize, Deserialize)]
pub(super) struct Header {
    pub id: DomId,
    pub name: String,
    pub hardware: Hardware,
    pub throttle: bool,
    pub condition: Condition,
}

impl Header {
    pub fn write(&self, writer: &mut dyn Write) -> io::Result<()> {
        let body = postcard::to_stdvec(self).map_err(io::Error::other)?;
        let length = u32::try_from(body.len())
            .ok()
            .filter(|&n| n <= MAX_HEADER)
            .ok_or_else(|| io::Error::other("the header of the saved state is too long"))?;
        let mut bytes = Vec::with_capacity(PREFIX + body.len() + blake3::OUT_LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&body);
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        writer.write_all(&bytes)
    }

    pub fn read(reader: &mut dyn Read) -> Result<Header, DomainError> {
        let mut bytes = vec![0; PREFIX];
        read_exact(reader, &mut bytes)?;
        if !bytes.starts_with(&MAGIC) {
            return Err(DomainError::NotSaved);
        }
        let version = le32(&bytes, 8);
        if version != VERSION {
            return Err(DomainError::SavedVersion {
                found: version,
                expected: VERSION,
            });
        }
        let length = le32(&bytes, 12);
        if length > MAX_HEADER {
            return Err(DomainError::Damaged);
        }
        let end = PREFIX + length as usize;
        bytes.resize(end, 0);
        read_exact(reader, &mut bytes[PREFIX..])?;
        let mut hash = [0; blake3::OUT_LEN];
        read_exact(reader, &mut hash)?;
        if blake3::hash(&bytes) != hash {
            return Err(DomainError::Damaged);
        }
        postcard::from_bytes(&bytes[PREFIX..]).map_err(|_| DomainError::Damaged)
    }
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..]
        .iter()
        .take(4)
        .rev()
        .fold(0, |n, &b| n << 8 | u32::from(b))
}

fn read_exact(reader: &mut dyn Read, buffer: &mut [u8]) -> Result<(), DomainError> {
    reader.read_exact(buffer).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => DomainError::Truncated,
        _ => DomainError::Read(e),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::introspect::CrashReason;

    fn saved() -> Vec<u8> {
        let mut condition = Condition {
            ended: Some(super::super::run_control::Ended::Crashed(CrashReason::Panic)),
            ..Condition::default()
        };
        condition.input.push(0, b"ls\n");
        let header = Header {
            id: DomId(0x1234),
            name: "test".into(),
            hardware: Hardware {
                memory_bytes: 1 << 20,
                vcpus: 1,
                seed: 7,
                cpu_model: "x".into(),
                debug_exit: None,
            },
            throttle: true,
            condition,
        };
        let mut bytes = Vec::new();
        assert!(header.write(&mut bytes).is_ok());
        bytes
    }

    #[test]
    fn a_header_is_read_back() {
        let mut bytes = saved();
        bytes.extend_from_slice(b"machine");
        let mut rest = &bytes[..];
        match Header::read(&mut rest) {
            Ok(header) => {
                assert_eq!((header.id, header.name.as_str()), (DomId(0x1234), "test"));
                assert!(!header.condition.input.is_empty());
            }
            Err(e) => panic!("{e}"),
        }
        assert_eq!(rest, b"machine");
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_noticed() {
        let bytes = saved();
        for length in 0..bytes.len() {
            assert!(Header::read(&mut &bytes[..length]).is_err(), "cut to {length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::read(&mut &flipped[..]).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_version_and_another_file_are_told_apart() {
        let mut bytes = saved();
        bytes[8] = 9;
        assert!(matches!(
            Header::read(&mut &bytes[..]),
            Err(DomainError::SavedVersion { found: 9, .. })
        ));
        assert!(matches!(
            Header::read(&mut &[0x7f; 64][..]),
            Err(DomainError::NotSaved)
        ));
    }
}
