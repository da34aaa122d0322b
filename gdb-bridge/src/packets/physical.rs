//! QEMU's packets for physical addresses, for clients that know them. gdb users type `monitor physical on`.

use super::{Code, Flow};
use crate::guest::Guest;

/// `qqemu.PhyMemMode`.
pub fn query(guest: &mut Guest, _: &[u8]) -> Flow {
    Flow::text(if guest.physical { "1" } else { "0" })
}

/// `Qqemu.PhyMemMode:0` or `:1`.
pub fn set(guest: &mut Guest, mode: &[u8]) -> Flow {
    guest.physical = match mode {
        b"0" => false,
        b"1" => true,
        _ => return Flow::error(Code::Refused),
    };
    Flow::ok()
}
