//! Memory: `m` and `x` read, `M` and `X` write.
//!
//! gdbstub's own `m` goes on after a short read as if nothing were missing, and can't answer an error once it has
//! begun; here an answer is the bytes before the first absent page, or `E14` if there are none. Its `M` and `X`
//! believe the data where they contradict the length; here that is an error.

use super::{Code, Flow, pair};
use crate::framing::{self, PACKET_SIZE};
use crate::guest::Guest;
use crate::hex;

/// Reads of so many bytes have runs shortened in their answers.
const LONG: usize = 32;

/// `m addr,length`: digits.
pub fn read(guest: &mut Guest, range: &[u8]) -> Flow {
    let Some((address, length)) = pair(range) else {
        return Flow::error(Code::Refused);
    };
    match guest.read_memory(address, bounded(length, PACKET_SIZE / 2)) {
        Some(bytes) => {
            let mut answer = Vec::new();
            if bytes.len() < LONG {
                hex::encode(&mut answer, &bytes);
            } else {
                hex::encode_runs(&mut answer, &bytes);
            }
            Flow::Answer(answer)
        }
        None => Flow::error(Code::NoMemory),
    }
}

/// `x addr,length`: `b` and the bytes themselves.
pub fn read_binary(guest: &mut Guest, range: &[u8]) -> Flow {
    let Some((address, length)) = pair(range) else {
        return Flow::error(Code::Refused);
    };
    match guest.read_memory(address, bounded(length, PACKET_SIZE / 2)) {
        Some(bytes) => {
            let mut answer = vec![b'b'];
            framing::escape(&mut answer, &bytes);
            Flow::Answer(answer)
        }
        None => Flow::error(Code::NoMemory),
    }
}

/// No answer is longer than a packet, whatever is asked for.
fn bounded(length: u64, most: usize) -> usize {
    usize::try_from(length).map_or(most, |length| length.min(most))
}

/// `M addr,length:digits`.
pub fn write(guest: &mut Guest, rest: &[u8]) -> Flow {
    put(guest, rest, hex::decode)
}

/// `X addr,length:bytes`.
pub fn write_binary(guest: &mut Guest, rest: &[u8]) -> Flow {
    put(guest, rest, framing::unescape)
}

fn put(guest: &mut Guest, rest: &[u8], decode: fn(&[u8]) -> Option<Vec<u8>>) -> Flow {
    let parts = rest.iter().position(|&b| b == b':').and_then(|colon| {
        let (address, length) = pair(&rest[..colon])?;
        Some((address, length, decode(&rest[colon + 1..])?))
    });
    match parts {
        Some((address, length, bytes)) if length == bytes.len() as u64 => {
            if guest.write_memory(address, &bytes) {
                Flow::ok()
            } else {
                Flow::error(Code::NoMemory)
            }
        }
        _ => Flow::error(Code::Refused),
    }
}
