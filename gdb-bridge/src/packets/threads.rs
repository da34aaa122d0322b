//! `H`, `qC`, `qXfer:threads:read`.

use super::{Code, Flow, pair};
use crate::framing;
use crate::guest::Guest;
use crate::thread::ThreadId;
use crate::threads;

/// `Hg`: notes the thread that memory packets mean, and lets gdbstub note it for register packets. `Hc`: the
/// thread that `s` means.
pub fn select(guest: &mut Guest, what: &[u8]) -> Flow {
    let ([op @ (b'g' | b'c'), ..], Some(id)) = (what, what.get(1..).and_then(ThreadId::parse)) else {
        return Flow::error(Code::Refused);
    };
    let Some(thread) = guest.meant(id) else {
        return Flow::error(Code::NoThread);
    };
    match (op, id) {
        (b'c', ThreadId::One(_)) => guest.stepped = Some(thread),
        (b'c', _) => guest.stepped = None,
        (_, ThreadId::One(_)) => {
            guest.selected = thread;
            if !guest.client.lldb {
                guest.viewed = thread;
            }
            return Flow::PassOn;
        }
        // Any thread will do: the one that is selected.
        _ => {}
    }
    Flow::ok()
}

/// The current thread.
pub fn current(guest: &mut Guest, rest: &[u8]) -> Flow {
    match rest {
        [] => Flow::text(format!("QC{:x}", guest.selected.id())),
        _ => Flow::PassOn,
    }
}

/// `qThreadStopInfo`, lldb's: why a thread is stopped, with its name and the registers that it shows first.
pub fn stop_info(guest: &mut Guest, id: &[u8]) -> Flow {
    let Some(thread) = ThreadId::parse(id).and_then(|id| guest.meant(id)) else {
        return Flow::error(Code::NoThread);
    };
    Flow::Answer(guest.stop_info(thread))
}

/// A part of the list of threads; one round trip for what `qfThreadInfo` needs several for.
pub fn document(guest: &mut Guest, rest: &[u8]) -> Flow {
    let range = rest.strip_prefix(b":").and_then(pair);
    let Some((offset, length)) = range else {
        return Flow::error(Code::Refused);
    };
    // A client asks for it from the start, and then for the rest of the same one.
    if offset == 0 || guest.document.is_empty() {
        guest.document = if guest.detached {
            threads::nobody()
        } else {
            threads::document(guest)
        };
    }
    Flow::Answer(part(guest.document.as_bytes(), offset, length))
}

/// The answer to a `qXfer` read: `m` or `l` and the bytes.
pub(super) fn part(document: &[u8], offset: u64, length: u64) -> Vec<u8> {
    let rest = usize::try_from(offset)
        .ok()
        .and_then(|o| document.get(o..))
        .unwrap_or(&[]);
    let length = usize::try_from(length).map_or(rest.len(), |l| l.min(rest.len()));
    let mut answer = vec![if length < rest.len() { b'm' } else { b'l' }];
    framing::escape(&mut answer, &rest[..length]);
    answer
}
