//! `Z` with a condition (gdbstub reads past it), and how many watchpoints lldb may set.

use super::{Code, Flow};
use crate::agent::Condition;
use crate::breakpoints::{Key, Kind};
use crate::guest::Guest;
use crate::hex;

/// `Z kind,addr,length;X len,expr…`; one without a condition is gdbstub's.
pub fn insert(guest: &mut Guest, rest: &[u8]) -> Flow {
    let Some(semicolon) = rest.iter().position(|&b| b == b';') else {
        return Flow::PassOn;
    };
    let Some(key) = key(&rest[..semicolon]) else {
        return Flow::error(Code::Refused);
    };
    let condition = match Condition::parse(&rest[semicolon + 1..]) {
        Ok(condition) => condition,
        Err(why) => {
            tracing::info!(%why, ?key, "a condition isn't taken");
            return Flow::error(Code::Refused);
        }
    };
    match guest
        .breakpoints
        .insert(&guest.session, key, guest.place, condition)
    {
        Ok(()) => Flow::ok(),
        Err(why) => {
            tracing::info!(%why, ?key, "a breakpoint isn't set");
            Flow::error(Code::Refused)
        }
    }
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
