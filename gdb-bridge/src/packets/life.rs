//! The end of a session and of the guest: `k`, `vKill`, `vAttach`, `R`. (`D` is gdbstub's.)
//!
//! A debugger that is told to kill its program doesn't destroy a virtual machine: it lets go, as with `detach`.
//! Domains are ended with `kdd destroy`, or reset with `R` or `monitor reset`.

use super::{Code, Flow};
use crate::guest::Guest;

/// `vKill;pid`.
pub fn kill(_: &mut Guest, _: &[u8]) -> Flow {
    Flow::Detach(Some(b"OK".to_vec()))
}

/// `k`: nobody waits for an answer.
pub fn kill_silently(_: &mut Guest, rest: &[u8]) -> Flow {
    match rest {
        [] => Flow::Detach(None),
        _ => Flow::PassOn,
    }
}

/// `vAttach;pid` after a detach in extended mode: there is only the one guest.
pub fn attach(guest: &mut Guest, _: &[u8]) -> Flow {
    if !guest.client.extended {
        return Flow::error(Code::Refused);
    }
    Flow::Answer(guest.present_stop())
}

/// `R`, extended mode's restart: the guest is reset and stopped at its first instruction. It has no answer.
pub fn restart(guest: &mut Guest, _: &[u8]) -> Flow {
    if let Err(why) = guest.reset() {
        tracing::warn!(%why, "the guest isn't reset");
    }
    Flow::Silent
}
