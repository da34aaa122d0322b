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
    payload(PRINT_STRING, processor, processor_level, text, 0)
}

/// The payload that asks `text`, cut at [`MAX_TEXT`], for an answer of at most `most` bytes.
pub fn prompt(processor: u16, processor_level: u16, text: &[u8], most: u32) -> Vec<u8> {
    payload(GET_STRING, processor, processor_level, text, most)
}

fn payload(api: u32, processor: u16, processor_level: u16, text: &[u8], answer_length: u32) -> Vec<u8> {
    let text = &text[..text.len().min(MAX_TEXT)];
    let header = DebugIo {
        api: api.into(),
        processor_level: processor_level.into(),
        processor: processor.into(),
        length: (text.len() as u32).into(),
        answer_length: answer_length.into(),
    };
    [header.as_bytes(), text].concat()
}

/// The text of a host's answer to a [`prompt`]; `None` if the payload is something else.
pub fn answer(payload: &[u8]) -> Option<&[u8]> {
    let (header, text) = DebugIo::read_from_prefix(payload).ok()?;
    let length = usize::try_from(header.answer_length.get()).ok()?;
    (header.api.get() == GET_STRING).then(|| &text[..text.len().min(length)])
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

    #[test]
    fn a_question_says_how_long_its_answer_may_be_and_an_answer_how_long_it_is() {
        let question = prompt(1, 6, b"y/n? ", 8);
        assert_eq!(question, b"\x31\x32\0\0\x06\0\x01\0\x05\0\0\0\x08\0\0\0y/n? ");
        let mut reply = prompt(1, 6, b"", 1);
        reply.extend_from_slice(b"y\0\0");
        assert_eq!(answer(&reply), Some(&b"y"[..]));
        reply[12] = 200;
        assert_eq!(answer(&reply), Some(&b"y\0\0"[..]), "no more than there is");
        assert_eq!(answer(&print(0, 6, b"text")), None);
        assert_eq!(answer(&[0; 15]), None);
    }
}
