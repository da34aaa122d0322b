//! Text for the host's console, and questions to it: DBGKD_DEBUG_IO (windbgkd.h).

use crate::assert_size;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// DbgKdPrintStringApi.
pub const PRINT_STRING: u32 = 0x3230;
/// DbgKdGetStringApi.
pub const GET_STRING: u32 = 0x3231;
/// The most text that a kernel puts into one packet.
pub const MAX_TEXT: usize = 512;

/// DBGKD_DEBUG_IO; the text follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DebugIo {
    /// [`PRINT_STRING`] or [`GET_STRING`].
    pub api: U32,
    /// The processor family.
    pub processor_level: U16,
    /// The processor.
    pub processor: U16,
    /// Bytes of text.
    pub length: U32,
    /// Of a question: the most bytes of an answer.
    pub answer_length: U32,
}
assert_size!(DebugIo = 16);

/// The payload that prints `text`, cut at [`MAX_TEXT`].
pub fn print(processor: u16, processor_level: u16, text: &[u8]) -> Vec<u8> {
    let text = &text[..text.len().min(MAX_TEXT)];
    let header = DebugIo {
        api: PRINT_STRING.into(),
        processor_level: processor_level.into(),
        processor: processor.into(),
        length: (text.len() as u32).into(),
        answer_length: 0.into(),
    };
    [header.as_bytes(), text].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_print_is_its_length_and_its_text() {
        assert_eq!(
            print(0, 6, b"hi kd\n"),
            b"\x30\x32\0\0\x06\0\0\0\x06\0\0\0\0\0\0\0hi kd\n"
        );
        assert_eq!(print(0, 6, &[b'x'; 1000]).len(), 16 + MAX_TEXT);
    }
}
