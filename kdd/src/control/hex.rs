//! Numbers and bytes as they stand in messages: hex strings, which every JSON reader keeps whole.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A number up to 128 bits, written `"0x1f"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Hex(pub u128);

impl From<u64> for Hex {
    fn from(value: u64) -> Self {
        Hex(value.into())
    }
}

impl Hex {
    /// The low 64 bits.
    pub const fn low(self) -> u64 {
        self.0 as u64
    }
}

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.strip_prefix("0x")
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| u128::from_str_radix(digits, 16).ok())
            .map(Hex)
            .ok_or_else(|| serde::de::Error::custom(format_args!("'{text}' is not a number as in \"0x1f\"")))
    }
}

/// Bytes, written `"9090cc"`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct HexBytes(pub Vec<u8>);

/// Logs show how much memory was asked for, not what is in it.
impl fmt::Debug for HexBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

impl Serialize for HexBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(self.0.len() * 2);
        for byte in &self.0 {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        crate::parse::hex_bytes(&text)
            .map(HexBytes)
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_bytes_read_back_as_written() {
        let hex = Hex(0xffff_ffff_8100_0000);
        assert_eq!(serde_json::to_string(&hex).unwrap(), "\"0xffffffff81000000\"");
        assert_eq!(
            serde_json::from_str::<Hex>("\"0xffffffff81000000\"").unwrap(),
            hex
        );
        let bytes = HexBytes(vec![0, 0x1f, 0xff]);
        assert_eq!(serde_json::to_string(&bytes).unwrap(), "\"001fff\"");
        assert_eq!(serde_json::from_str::<HexBytes>("\"001fff\"").unwrap(), bytes);
        for bad in ["\"1f\"", "\"0x\"", "\"0xg\"", "\"0x+1\"", "31"] {
            assert!(serde_json::from_str::<Hex>(bad).is_err(), "{bad}");
        }
    }
}
