//! Resume requests that gdbstub wouldn't understand as they are meant, put into words that it does.
//!
//! It refuses a `vCont` step without a thread. And the old packets `c` and `s` it takes for one vCPU, the others
//! standing still; a client that knows no `vCont` means the whole machine.

use super::{Code, Flow};
use crate::guest::Guest;
use crate::hex;
use crate::registers::{RIP, TABLE, View};

/// `vCont;action[:thread]…`.
pub fn actions(guest: &mut Guest, rest: &[u8]) -> Flow {
    let lacks_thread = |action: &[u8]| matches!(action, [b's' | b'S' | b'r', ..] if !action.contains(&b':'));
    if !rest.split(|&b| b == b';').any(lacks_thread) {
        return Flow::PassOn;
    }
    // Every thread shall step: the selected one does, and meanwhile the others run.
    let mut body = b"vCont".to_vec();
    for action in rest.split(|&b| b == b';') {
        body.push(b';');
        body.extend_from_slice(action);
        if lacks_thread(action) {
            body.extend_from_slice(format!(":{:x};c", guest.selected.id()).as_bytes());
        }
    }
    Flow::PassOnAs(body)
}

/// `c [addr]`.
pub fn go(guest: &mut Guest, address: &[u8]) -> Flow {
    match jump(guest, address) {
        Ok(()) => Flow::PassOnAs(b"vCont;c".to_vec()),
        Err(flow) => flow,
    }
}

/// `C sig[;addr]`; a machine has no use for the signal.
pub fn go_with_signal(guest: &mut Guest, rest: &[u8]) -> Flow {
    go(guest, after_signal(rest))
}

/// `s [addr]`.
pub fn step(guest: &mut Guest, address: &[u8]) -> Flow {
    let thread = guest.stepped.unwrap_or(guest.selected);
    match jump(guest, address) {
        Ok(()) => Flow::PassOnAs(format!("vCont;s:{:x};c", thread.id()).into_bytes()),
        Err(flow) => flow,
    }
}

/// `S sig[;addr]`.
pub fn step_with_signal(guest: &mut Guest, rest: &[u8]) -> Flow {
    step(guest, after_signal(rest))
}

fn after_signal(rest: &[u8]) -> &[u8] {
    rest.iter()
        .position(|&b| b == b';')
        .map_or(&[], |semicolon| &rest[semicolon + 1..])
}

/// Sets RIP if there is an address.
fn jump(guest: &mut Guest, address: &[u8]) -> Result<(), Flow> {
    if address.is_empty() {
        return Ok(());
    }
    let address = hex::number(address).ok_or_else(|| Flow::error(Code::Refused))?;
    guest.hold();
    let vcpu = guest.vcpu_of(guest.stepped.unwrap_or(guest.selected));
    let vcpu = vcpu.map_err(|why| Flow::refused(&why))?;
    let mut view = View::read(guest.domain(), vcpu).map_err(|_| Flow::error(Code::NoThread))?;
    let set = view
        .set(&TABLE[RIP], &address.to_le_bytes())
        .and_then(|()| view.write());
    set.map_err(|why| {
        tracing::info!(%why, "RIP isn't written");
        Flow::error(Code::Refused)
    })
}
