//! Software breakpoints: the table that a kernel keeps for its host.
//!
//! Hosts take all of theirs out at every stop and put them back before they go on, so what is in the table goes to the
//! engine only when the guest runs ([`super::stops`]). An entry in the bytes that a stop reports is gone by the
//! report: kernels do that, and hosts count on it.

use super::guest::{Guest, is_user};
use super::reply::Reply;
use hv_core::introspect::{BreakpointKind, Place};
use hv_core::{GuestPhysAddr, GuestVirtAddr};
use protocol::manipulate::{BreakPointEntry, BreakPointEx, Manipulate, RestoreBreakPoint, WriteBreakPoint};
use protocol::status::NtStatus;
use std::collections::{BTreeMap, BTreeSet};
use zerocopy::{FromBytes, IntoBytes};

/// A kernel has 32. More cost nothing here; this is a bound for hostile hosts.
const MOST: u32 = 4096;

/// The table.
#[derive(Default)]
pub(super) struct Table {
    /// By handle, from 1 on.
    entries: BTreeMap<u32, Entry>,
}

struct Entry {
    address: GuestVirtAddr,
    /// One; or one for each root of the process.
    places: Vec<Place>,
}

impl Table {
    /// Adds a breakpoint; `None` if there is one already, or no room.
    pub fn add(&mut self, guest: &Guest, address: GuestVirtAddr) -> Option<u32> {
        let places = places(guest, address);
        if self.entries.values().any(|entry| entry.places == places) {
            return None;
        }
        let handle = (1..=MOST).find(|handle| !self.entries.contains_key(handle))?;
        self.entries.insert(handle, Entry { address, places });
        Some(handle)
    }

    /// Removes one; false if there is none.
    pub fn remove(&mut self, handle: u32) -> bool {
        self.entries.remove(&handle).is_some()
    }

    /// Removes those in the code that a stop reports.
    pub fn remove_in(&mut self, from: GuestVirtAddr, length: usize) {
        self.entries
            .retain(|_, entry| entry.address.0.wrapping_sub(from.0) >= length as u64);
    }

    /// What the engine is to stop at.
    pub fn wanted(&self) -> impl Iterator<Item = (Place, BreakpointKind)> {
        self.entries
            .values()
            .flat_map(|entry| &entry.places)
            .map(|place| (*place, BreakpointKind::Execute))
    }

    /// Whether one is at this address, whatever the process.
    pub fn is_at(&self, address: GuestVirtAddr) -> bool {
        self.entries.values().any(|entry| entry.address == address)
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

/// A kernel's address is the same in every process; a user's is of the process that is current, under each of its roots:
/// with KVA shadowing the kernel, where the guest stands now, has another one than the program.
fn places(guest: &Guest, address: GuestVirtAddr) -> Vec<Place> {
    let Some(registers) = guest
        .registers(guest.current)
        .ok()
        .filter(|_| is_user(guest.arch(), address))
    else {
        return vec![Place::Virtual(address)];
    };
    let kernel = guest.kernel.as_ref();
    let mut roots = kernel.map_or_else(Vec::new, |kernel| kernel.roots(&guest.target, guest.current));
    roots.push(GuestPhysAddr(registers.cr3));
    let masked = roots.into_iter().map(|root| GuestPhysAddr(root.0 & !0xfff));
    let roots: BTreeSet<_> = masked.collect();
    roots
        .into_iter()
        .map(|root| Place::InAddressSpace(address, root))
        .collect()
}

/// WriteBreakPoint.
pub(super) fn write(guest: &Guest, table: &mut Table, mut header: Manipulate, reply: &mut Reply) {
    let mut breakpoint: WriteBreakPoint = header.get();
    let handle = table.add(guest, guest.arch().address(breakpoint.address.get()));
    breakpoint.handle = handle.unwrap_or(0).into();
    header.set(&breakpoint);
    reply.finish(header, outcome(handle.is_some()), 0);
}

/// RestoreBreakPoint.
pub(super) fn restore(table: &mut Table, header: Manipulate, reply: &mut Reply) {
    let done = table.remove(header.get::<RestoreBreakPoint>().handle.get());
    reply.finish(header, outcome(done), 0);
}

/// WriteBreakPointEx: as many as there are entries, each with a handle or 0.
pub(super) fn write_all(
    guest: &Guest,
    table: &mut Table,
    header: Manipulate,
    data: &[u8],
    reply: &mut Reply,
) {
    let count = header.get::<BreakPointEx>().count.get() as usize;
    let mut answer = Vec::new();
    let mut all = data.len() >= count.saturating_mul(size_of::<BreakPointEntry>());
    for bytes in data.chunks_exact(size_of::<BreakPointEntry>()).take(count) {
        let Ok(mut entry) = BreakPointEntry::read_from_bytes(bytes) else {
            break;
        };
        let handle = table.add(guest, guest.arch().address(entry.address.get()));
        all &= handle.is_some();
        entry.handle = handle.unwrap_or(0).into();
        answer.extend_from_slice(entry.as_bytes());
    }
    reply.finish_with(header, outcome(all), &answer);
}

/// RestoreBreakPointEx: as many handles as it says.
pub(super) fn restore_all(table: &mut Table, header: Manipulate, data: &[u8], reply: &mut Reply) {
    let count = header.get::<BreakPointEx>().count.get() as usize;
    let mut all = data.len() >= count.saturating_mul(4);
    for bytes in data.chunks_exact(4).take(count) {
        let handle = bytes
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u32::from(*byte));
        all &= table.remove(handle);
    }
    reply.finish_with(header, outcome(all), data);
}

fn outcome(done: bool) -> NtStatus {
    if done {
        NtStatus::SUCCESS
    } else {
        NtStatus::UNSUCCESSFUL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_that_a_stop_reports_has_no_breakpoints_left() {
        let mut table = Table::default();
        for (handle, address) in [(1, 0xfff), (2, 0x1000), (3, 0x100f), (4, 0x1010), (5, 0)] {
            let address = GuestVirtAddr(address);
            let places = vec![Place::Virtual(address)];
            table.entries.insert(handle, Entry { address, places });
        }
        table.remove_in(GuestVirtAddr(0x1000), 16);
        assert_eq!(table.entries.keys().copied().collect::<Vec<_>>(), [1, 4, 5]);
    }
}
