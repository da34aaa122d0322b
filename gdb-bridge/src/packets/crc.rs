//! `qCRC`: gdb's `compare-sections` without reading the sections.

use super::{Code, Flow, pair};
use crate::guest::Guest;

/// As for `qSearch`.
const MOST: u64 = 1 << 30;
const CHUNK: u64 = 1 << 18;

/// `addr,length`: `C` and the checksum.
pub fn crc(guest: &mut Guest, range: &[u8]) -> Flow {
    let Some((address, length)) = pair(range).filter(|&(_, length)| length <= MOST) else {
        return Flow::error(Code::Refused);
    };
    let mut crc = u32::MAX;
    let mut done = 0;
    while done < length {
        let wanted = (length - done).min(CHUNK) as usize;
        let Some(bytes) = guest.read_memory(address.wrapping_add(done), wanted) else {
            return Flow::error(Code::NoMemory);
        };
        crc = update(crc, &bytes);
        done += bytes.len() as u64;
    }
    Flow::text(format!("C{crc:08x}"))
}

/// The CRC-32 of the protocol: the usual polynomial, highest bit first, not inverted at the end.
fn update(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, &byte| {
        crc << 8 ^ TABLE[(crc >> 24) as usize ^ byte as usize]
    })
}

static TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut value = (i as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            value = if value >> 31 == 1 {
                value << 1 ^ 0x04c1_1db7
            } else {
                value << 1
            };
            bit += 1;
        }
        table[i] = value;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_is_that_of_crc_32_mpeg_2() {
        assert_eq!(update(u32::MAX, b"123456789"), 0x0376_e6e7);
    }
}
