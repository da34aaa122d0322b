//! `qXfer:exec-file:read`: the name of what the guest executes, by which gdb finds symbols without being told.

use super::threads::part;
use super::{Code, Flow, pair};
use crate::guest::Guest;

/// `process:offset,length`; there is one process. An error where there is no name: gdb goes on without symbols.
pub fn read(guest: &mut Guest, rest: &[u8]) -> Flow {
    let colon = rest.iter().position(|&b| b == b':');
    let Some((offset, length)) = colon.and_then(|colon| pair(&rest[colon + 1..])) else {
        return Flow::error(Code::Refused);
    };
    let name = guest.linux().and_then(|linux| guest.name_of(&linux));
    match name {
        Some(name) => Flow::Answer(part(name.as_bytes(), offset, length)),
        None => Flow::error(Code::Refused),
    }
}
