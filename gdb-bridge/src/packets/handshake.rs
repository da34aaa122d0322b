//! What a client and we say at the beginning: `qSupported`, `QStartNoAckMode`, `QNonStop`, `!`, `?`.

use super::{Code, Flow};
use crate::framing::PACKET_SIZE;
use crate::guest::Guest;

/// Answered here and not by gdbstub, whose list lacks what is done beside it.
pub fn supported(guest: &mut Guest, features: &[u8]) -> Flow {
    for feature in features.split(|&b| b == b':' || b == b';') {
        match feature {
            b"swbreak+" => guest.client.swbreak = true,
            b"hwbreak+" => guest.client.hwbreak = true,
            // Only gdb says so.
            b"vContSupported+" => guest.client.gdb = true,
            _ => {}
        }
    }
    // lldb would look for the modules' files on its own host.
    let libraries = match guest.client.gdb {
        true => ";qXfer:libraries:read+",
        false => "",
    };
    Flow::text(format!(
        "PacketSize={PACKET_SIZE:x};QStartNoAckMode+;vContSupported+;swbreak+;hwbreak+;\
         ConditionalBreakpoints+;BreakpointCommands+;binary-upload+;qXfer:features:read+;qXfer:threads:read+;\
         qXfer:exec-file:read+{libraries}"
    ))
}

/// From here on nobody acknowledges anything; the framing does so.
pub fn no_acks(guest: &mut Guest, _: &[u8]) -> Flow {
    guest.client.no_acks = true;
    Flow::ok()
}

/// A guest is stopped as a whole, or runs as a whole.
pub fn non_stop(_: &mut Guest, mode: &[u8]) -> Flow {
    match mode {
        b"0" => Flow::ok(),
        _ => Flow::error(Code::Refused),
    }
}

/// lldb says what it can do. It isn't taken up; but only lldb asks.
pub fn suffixes(guest: &mut Guest, _: &[u8]) -> Flow {
    guest.client.lldb = true;
    Flow::Answer(Vec::new())
}

/// lldb takes reasons for errors.
pub fn error_strings(guest: &mut Guest, _: &[u8]) -> Flow {
    guest.client.error_strings = true;
    Flow::ok()
}

/// The empty answer.
pub fn nothing(_: &mut Guest, _: &[u8]) -> Flow {
    Flow::Answer(Vec::new())
}

/// `extended-remote`.
pub fn extended(guest: &mut Guest, _: &[u8]) -> Flow {
    guest.client.extended = true;
    Flow::ok()
}

/// The client wants the guest stopped, and to know why it is. This is where attaching stops it: who only connects
/// doesn't disturb it.
pub fn why_stopped(guest: &mut Guest, _: &[u8]) -> Flow {
    Flow::Answer(guest.present_stop())
}
