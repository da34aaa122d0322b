//! `Z` with a condition or with commands (gdbstub reads past them), and how many watchpoints lldb may set.

use super::{Code, Flow};
use crate::agent::{Commands, Condition, DecodeError};
use crate::breakpoints::{Key, Kind};
use crate::guest::Guest;
use crate::hex;
use std::sync::Arc;

/// `Z kind,addr,length;X len,expr…;cmds:persist,X len,expr…`; a plain one is gdbstub's.
pub fn insert(guest: &mut Guest, rest: &[u8]) -> Flow {
    let Some(semicolon) = rest.iter().position(|&b| b == b';') else {
        return Flow::PassOn;
    };
    let Some(key) = key(&rest[..semicolon]) else {
        return Flow::error(Code::Refused);
    };
    let condition = match condition(guest, &rest[semicolon + 1..]) {
        Ok(condition) => condition,
        Err(why) => {
            tracing::info!(%why, ?key, "a condition isn't taken");
            return Flow::error(Code::Refused);
        }
    };
    let place = guest.place_of_new();
    match guest.breakpoints.insert(&guest.session, key, place, condition) {
        Ok(()) => Flow::ok(),
        Err(why) => {
            tracing::info!(%why, ?key, "a breakpoint isn't set");
            Flow::error(Code::Refused)
        }
    }
}

/// What follows the place: conditions, commands, or both.
fn condition(
    guest: &Guest,
    text: &[u8],
) -> Result<Option<Arc<dyn hv_core::introspect::Condition>>, DecodeError> {
    const COMMANDS: &[u8] = b"cmds:";
    let commands = text.windows(COMMANDS.len()).position(|w| w == COMMANDS);
    let Some(at) = commands else {
        return Ok(Condition::parse(text)?.map(|c| Arc::new(c) as _));
    };
    let condition = Condition::parse(&text[..at])?;
    let commands = Commands::parse(&text[at + COMMANDS.len()..], condition, guest.printer.clone())?;
    Ok(Some(Arc::new(commands)))
}

fn key(text: &[u8]) -> Option<Key> {
    let mut parts = text.split(|&b| b == b',');
    let kind = match parts.next()? {
        b"0" => Kind::Software,
        b"1" => Kind::Hardware,
        b"2" => Kind::Write,
        b"3" => Kind::Read,
        b"4" => Kind::Access,
        _ => return None,
    };
    let (address, length) = (hex::number(parts.next()?)?, hex::number(parts.next()?)?);
    parts.next().is_none().then_some(Key {
        kind,
        address,
        length,
    })
}

/// There is no limit; lldb wants a number.
pub fn watchpoints(_: &mut Guest, _: &[u8]) -> Flow {
    Flow::text("num:1024;")
}
