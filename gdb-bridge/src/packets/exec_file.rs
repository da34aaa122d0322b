//! `qXfer:exec-file:read` and `qOffsets`: the name of what is executed, and where it is, by which gdb finds symbols without being
//! told.

use super::threads::part;
use super::{Code, Flow, pair};
use crate::guest::Guest;

/// `process:offset,length`; there is one process. An error where there is no name: gdb goes on without symbols.
pub fn read(guest: &mut Guest, rest: &[u8]) -> Flow {
    let colon = rest.iter().position(|&b| b == b':');
    let Some((offset, length)) = colon.and_then(|colon| pair(&rest[colon + 1..])) else {
        return Flow::error(Code::Refused);
    };
    match guest.name_of_program() {
        Some(name) => Flow::Answer(part(name.as_bytes(), offset, length)),
        None => Flow::error(Code::Refused),
    }
}

/// Where the program of a process begins. The symbols of a kernel have the right addresses already. lldb takes the answer for a
/// distance.
pub fn offsets(guest: &mut Guest, _: &[u8]) -> Flow {
    let process = guest.inferior.process().filter(|_| guest.client.gdb);
    match process.and_then(|process| process.program_base(guest)) {
        Some(base) => Flow::text(format!("TextSeg={:x}", base.0)),
        None => Flow::Answer(Vec::new()),
    }
}
