//! What lldb is told of all threads at once: `jThreadsInfo`, and the lists in stop replies.
//!
//! Without them it asks for each thread's stop, registers and stack, at each stop. Its documents are
//! docs/lldb-gdb-remote.txt of LLVM 14; what it makes of the answers is that version's.

use super::Flow;
use crate::framing;
use crate::guest::{Guest, SIGTRAP};
use crate::hex;
use crate::registers::{EXPEDITED, RIP, RegisterSet, TABLE};
use crate::thread::Thread;
use crate::threads;
use std::fmt::Write;

/// The number of RSP.
const RSP: usize = 7;
/// Bytes of each stack, as lldb reads them; a backtrace needs no more of most tasks that sleep.
const STACK: usize = 512;
/// An answer that is longer than this goes on without stacks.
const MOST_WITH_STACKS: usize = 1 << 20;
/// A stop reply, which is sent after every step, lists no more threads than this; lldb asks for them then.
const MOST_LISTED: usize = 1000;

/// `QListThreadsInStopReply`.
pub fn list_in_stops(guest: &mut Guest, _: &[u8]) -> Flow {
    guest.client.lists_threads = true;
    Flow::ok()
}

/// `jThreadsInfo`: every thread's name, registers and stack, and why one of them stopped.
pub fn all(guest: &mut Guest, rest: &[u8]) -> Flow {
    if !rest.is_empty() {
        return Flow::PassOn;
    }
    guest.hold();
    let mut text = String::from("[");
    for thread in guest.inferior.threads(guest) {
        if text.len() > 1 {
            text.push(',');
        }
        put(guest, thread, &mut text);
    }
    text.push(']');
    let mut answer = Vec::new();
    framing::escape(&mut answer, text.as_bytes());
    Flow::Answer(answer)
}

/// Appends `threads:` and `thread-pcs:` to a stop reply for lldb.
pub(crate) fn put_list(guest: &Guest, body: &mut Vec<u8>) {
    if !guest.client.lists_threads {
        return;
    }
    let listed = guest.inferior.threads(guest);
    if listed.len() > MOST_LISTED {
        return;
    }
    let ids: Vec<String> = listed.iter().map(|thread| format!("{:x}", thread.id())).collect();
    body.extend_from_slice(format!("threads:{};", ids.join(",")).as_bytes());
    let places: Option<Vec<String>> = listed
        .iter()
        .map(|thread| Some(format!("{:x}", number(&guest.registers_of(*thread).ok()?, RIP)?)))
        .collect();
    // lldb takes them by their places in the list: all or none.
    if let Some(places) = places {
        body.extend_from_slice(format!("thread-pcs:{};", places.join(",")).as_bytes());
    }
}

/// One thread as a JSON object.
fn put(guest: &Guest, thread: Thread, text: &mut String) {
    let name = quoted(&threads::name(guest, thread));
    let _ = write!(text, "{{\"tid\":{},\"name\":{name}", thread.id());
    let (signal, watched) = why(guest, thread);
    let _ = write!(text, ",\"signal\":{signal}");
    if let Some(address) = watched {
        let _ = write!(text, ",\"reason\":\"watchpoint\",\"description\":\"{address}\"");
    }
    if let Ok(registers) = guest.registers_of(thread) {
        put_registers(&registers, text);
        if let Some(rsp) = number(&registers, RSP)
            && text.len() < MOST_WITH_STACKS
            && let Some(stack) = guest.read_memory(rsp, STACK)
        {
            let mut bytes = Vec::new();
            hex::encode(&mut bytes, &stack);
            // lldb 14 has signed integers in JSON, and takes larger ones for fractions.
            let address = rsp as i64;
            let bytes = String::from_utf8_lossy(&bytes);
            let _ = write!(
                text,
                ",\"memory\":[{{\"address\":{address},\"bytes\":\"{bytes}\"}}]"
            );
        }
    }
    text.push('}');
}

/// The known ones of those that stop replies have, by their numbers.
fn put_registers(registers: &RegisterSet<'_>, text: &mut String) {
    let mut separator = ",\"registers\":{";
    let (mut value, mut digits) = (Vec::new(), Vec::new());
    for index in EXPEDITED {
        value.clear();
        digits.clear();
        if registers.put(&TABLE[index], &mut value) {
            hex::encode(&mut digits, &value);
            let _ = write!(
                text,
                "{separator}\"{index}\":\"{}\"",
                String::from_utf8_lossy(&digits)
            );
            separator = ",";
        }
    }
    if separator == "," {
        text.push('}');
    }
}

/// A register's value, if it is known.
fn number(registers: &RegisterSet<'_>, index: usize) -> Option<u64> {
    let mut value = Vec::new();
    let known = registers.put(&TABLE[index], &mut value);
    let (first, _) = value.split_first_chunk().filter(|_| known)?;
    Some(u64::from_le_bytes(*first))
}

/// The signal that a thread stopped with, and the address of its watchpoint, as the last stop reply said.
fn why(guest: &Guest, thread: Thread) -> (u8, Option<u64>) {
    if thread != guest.viewed {
        return (0, None);
    }
    let Some(body) = &guest.last_stop else {
        return (SIGTRAP, None);
    };
    let signal = body.get(1..3).and_then(hex::number);
    let watched = body.split(|&b| b == b';').find_map(|field| {
        let colon = field.iter().position(|&b| b == b':')?;
        let (name, value) = field.split_at(colon);
        // The first field has the thread behind the signal.
        name.ends_with(b"watch").then(|| hex::number(&value[1..]))?
    });
    (signal.map_or(SIGTRAP, |signal| signal as u8), watched)
}

/// Text of the guest as a JSON string.
fn quoted(text: &str) -> String {
    let mut safe = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => safe.extend(['\\', c]),
            c if c < ' ' => {
                let _ = write!(safe, "\\u{:04x}", u32::from(c));
            }
            c => safe.push(c),
        }
    }
    safe.push('"');
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_guest_stays_a_string() {
        assert_eq!(quoted("a\"b\\\u{1}é}"), "\"a\\\"b\\\\\\u0001é}\"");
    }
}
