//! What identifies a PDB file.

use std::fmt;

/// A GUID as PE and PDB files store it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guid(pub u128);

impl Guid {
    /// From the 16 bytes of a structure: the first three groups are little-endian.
    pub fn from_bytes(bytes: [u8; 16]) -> Guid {
        let mut order = bytes;
        order[0..4].reverse();
        order[4..6].reverse();
        order[6..8].reverse();
        Guid(u128::from_be_bytes(order))
    }

    /// From 32 hexadecimal digits, as in a symbol store's paths.
    pub fn from_hex(text: &str) -> Option<Guid> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(Guid)
    }

    /// The bytes of the structure.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = self.0.to_be_bytes();
        bytes[0..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        bytes
    }
}

impl fmt::Display for Guid {
    /// 32 upper-case digits, as in a symbol store's paths.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032X}", self.0)
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The PDB file that belongs to an image, from the image's CodeView record.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PdbId {
    /// The file's name, without folders.
    pub name: String,
    /// Its GUID.
    pub guid: Guid,
    /// Its age.
    pub age: u32,
}

impl PdbId {
    /// The folder in a symbol store: the GUID, then the age in hexadecimal without leading zeros.
    pub fn key(&self) -> String {
        format!("{}{:X}", self.guid, self.age)
    }

    /// Whether the name can be used as a file's: it comes from the guest.
    pub fn has_plain_name(&self) -> bool {
        let name = self.name.as_str();
        !name.is_empty()
            && name.len() <= 128
            && !name.starts_with('.')
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-+ ".contains(&b))
    }
}

impl fmt::Display for PdbId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_is_written_as_symbol_stores_do() {
        // 6.1.7601.24540's record, in the structure's byte order.
        let bytes = [
            0x13, 0x74, 0x9e, 0x33, 0x76, 0x35, 0x9c, 0x43, 0xbc, 0xdf, 0x7e, 0x02, 0x29, 0xda, 0x37, 0x73,
        ];
        let guid = Guid::from_bytes(bytes);
        assert_eq!(guid.to_string(), "339E74133576439CBCDF7E0229DA3773");
        assert_eq!(guid.to_bytes(), bytes);
        assert_eq!(Guid::from_hex(&guid.to_string()), Some(guid));
    }

    #[test]
    fn an_age_has_no_leading_zeros() {
        let id = PdbId {
            name: "a.pdb".into(),
            guid: Guid(1),
            age: 0x1a,
        };
        assert_eq!(id.key(), "000000000000000000000000000000011A");
    }

    #[test]
    fn a_name_that_leaves_its_folder_is_not_plain() {
        for name in ["../a.pdb", "a/b.pdb", "..", "", "a\\b.pdb", "a\0.pdb"] {
            let id = PdbId {
                name: name.into(),
                guid: Guid(0),
                age: 1,
            };
            assert!(!id.has_plain_name(), "{name}");
        }
    }
}
