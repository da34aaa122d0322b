//! `qMemoryRegionInfo`, lldb's: what the page tables map around an address.

use super::{Code, Flow};
use crate::guest::Guest;
use crate::hex;
use hv_core::addr::GuestVirtAddr;
use introspect::Region;

/// `qMemoryRegionInfo:addr`.
pub fn region(guest: &mut Guest, address: &[u8]) -> Flow {
    let Some(address) = hex::number(address) else {
        return Flow::error(Code::Refused);
    };
    let Ok(Region { start, last, rights }) = guest.target.region(guest.space(), GuestVirtAddr(address))
    else {
        return Flow::error(Code::NoMemory);
    };
    let size = (last.0 - start.0).saturating_add(1);
    let mut text = format!("start:{:x};size:{size:x};", start.0);
    if let Some(rights) = rights {
        let letters = [(true, 'r'), (rights.writable, 'w'), (rights.executable, 'x')];
        let letters: String = letters
            .iter()
            .filter(|(has, _)| *has)
            .map(|(_, letter)| letter)
            .collect();
        text += &format!("permissions:{letters};");
    }
    Flow::text(text)
}
