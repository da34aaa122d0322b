//! `qSearch:memory`: gdb's `find`, done here instead of by reading everything.

use super::{Code, Flow};
use crate::framing::unescape;
use crate::guest::Guest;
use crate::hex;

/// Bytes that one packet searches at most: page tables can map the whole address space to one page.
const MOST: u64 = 1 << 30;
/// Bytes read at once.
const CHUNK: usize = 1 << 18;

/// `addr;length;pattern`: `1,addr` of the first match or `0`. The search may go up to the first absent page; if
/// there is no match before it that is an error, as it is in gdb's own search.
pub fn search(guest: &mut Guest, rest: &[u8]) -> Flow {
    let mut parts = rest.splitn(3, |&b| b == b';');
    let numbers = (
        parts.next().and_then(hex::number),
        parts.next().and_then(hex::number),
    );
    let (Some(address), Some(length)) = numbers else {
        return Flow::error(Code::Refused);
    };
    let Some(pattern) = parts.next().and_then(unescape).filter(|p| !p.is_empty()) else {
        return Flow::error(Code::Refused);
    };
    match find(guest, address, length, &pattern) {
        Ok(Some(found)) => Flow::text(format!("1,{found:x}")),
        Ok(None) => Flow::text("0"),
        Err(code) => Flow::error(code),
    }
}

fn find(guest: &Guest, start: u64, length: u64, pattern: &[u8]) -> Result<Option<u64>, Code> {
    let length = length.min(u64::MAX - start);
    let mut window = Vec::new();
    // Bytes from `start` that are read; the window is the last of them.
    let mut read = 0;
    while read < length {
        if read > MOST {
            return Err(Code::Refused);
        }
        let wanted = usize::try_from(length - read).map_or(CHUNK, |rest| rest.min(CHUNK));
        let bytes = guest.read_memory(start + read, wanted).ok_or(Code::NoMemory)?;
        let overlap = window.len();
        window.extend_from_slice(&bytes);
        if let Some(at) = position(&window, pattern) {
            return Ok(Some(start + read - overlap as u64 + at as u64));
        }
        read += bytes.len() as u64;
        let keep = window.len().min(pattern.len() - 1);
        window.drain(..window.len() - keep);
    }
    Ok(None)
}

/// The first occurrence of `pattern`, which isn't empty.
fn position(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        from += bytes.get(from..)?.iter().position(|&b| b == pattern[0])?;
        if bytes[from..].starts_with(pattern) {
            return Some(from);
        }
        from += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_occurrence_is_found() {
        assert_eq!(position(b"ababc", b"abc"), Some(2));
        assert_eq!(position(b"ababc", b"a"), Some(0));
        assert_eq!(position(b"ababc", b"cd"), None);
        assert_eq!(position(b"", b"c"), None);
    }
}
