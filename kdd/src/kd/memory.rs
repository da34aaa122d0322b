//! Memory: virtual in the address space of the current vCPU, with the kernel's debugger data decoded, and physical.
//!
//! A read gives what is there up to the first byte that isn't, and says success if that is anything: hosts throw the
//! bytes of a failed read away. Breakpoints are never seen in it, because they aren't in memory.

use super::guest::{Guest, is_user};
use super::reply::Reply;
use hv_core::introspect::Error;
use hv_core::{GuestPhysAddr, GuestVirtAddr};
use protocol::manipulate::{Manipulate, Memory, QueryMemory, query};
use protocol::packet::MAX_PAYLOAD;
use protocol::status::NtStatus;

/// The most bytes that one reply holds beside its header.
pub(super) const MAX_TRANSFER: usize = MAX_PAYLOAD - size_of::<Manipulate>();

impl Guest {
    /// Reads virtual memory up to the first byte that isn't there.
    pub fn read_virtual(&mut self, address: GuestVirtAddr, buffer: &mut [u8]) -> usize {
        let mut done = 0;
        loop {
            let at = address.wrapping_add(done as u64);
            let space = self.space(at);
            done += self
                .target
                .read_virtual(space, at, &mut buffer[done..])
                .unwrap_or(0);
            let shown = self.show_debugger_data(address, &mut buffer[..], done);
            if shown <= done || shown == buffer.len() {
                return done.max(shown);
            }
            // The decoded block reached past a page that isn't there.
            done = shown;
        }
    }

    /// Lays the decoded debugger data over a read of which `done` bytes are there, and over what follows them; the
    /// bytes that are there then.
    fn show_debugger_data(&mut self, address: GuestVirtAddr, buffer: &mut [u8], done: usize) -> usize {
        if is_user(self.arch(), address) {
            return done;
        }
        let mut done = done;
        if let Some((at, bytes)) = &self.shown {
            done = overlay(address, buffer, done, *at, bytes);
        }
        let pointer = self.arch().pointer_size();
        let Some(data) = self.debugger_data_at(address, buffer.len()) else {
            return done;
        };
        if !data.is_plain() {
            done = overlay(address, buffer, done, data.address, &data.bytes);
        }
        if let (Some(head), false) = (data.list_head, data.list_head_readable) {
            let link = data.address.0.to_le_bytes();
            let links = [&link[..pointer], &link[..pointer]].concat();
            done = overlay(address, buffer, done, head, &links);
        }
        done
    }

    /// Whether [`Guest::read_virtual`] may give something else than memory holds for these addresses.
    pub fn shows_otherwise(&mut self, address: GuestVirtAddr, length: usize) -> bool {
        if is_user(self.arch(), address) {
            return false;
        }
        let end = address.0.saturating_add(length as u64);
        let shown = self.shown.as_ref();
        shown.is_some_and(|(at, bytes)| at.0 < end && address.0 < at.0.saturating_add(bytes.len() as u64))
            || self.debugger_data_at(address, length).is_some()
    }

    /// Writes virtual memory up to the first byte that can't be.
    pub fn write_virtual(&mut self, address: GuestVirtAddr, bytes: &[u8]) -> usize {
        // A plain word in the middle of an encoded block would be decoded to nonsense by the guest.
        if let Some(data) = self.debugger_data_at(address, bytes.len())
            && !data.is_plain()
            && address.0 < data.address.0.saturating_add(data.bytes.len() as u64)
            && data.address.0 < address.0.saturating_add(bytes.len() as u64)
        {
            return 0;
        }
        let space = self.space(address);
        self.target.write_virtual(space, address, bytes).unwrap_or(0)
    }

    /// Reads physical memory up to the first byte that isn't there.
    pub fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> usize {
        done_of(self.domain().read_physical(address, buffer), buffer.len())
    }

    /// Writes physical memory up to the first byte that can't be.
    pub fn write_physical(&self, address: GuestPhysAddr, bytes: &[u8]) -> usize {
        match self.domain().write_memory() {
            Some(memory) => done_of(memory.write_physical(address, bytes), bytes.len()),
            None => 0,
        }
    }
}

fn done_of(result: Result<(), Error>, wanted: usize) -> usize {
    match result {
        Ok(()) => wanted,
        Err(Error::NoMemory { done, .. }) => done.min(wanted),
        Err(_) => 0,
    }
}

/// Copies the part of `bytes`, which lie at `at`, that a read of `buffer` from `address` covers, as far as no byte
/// before it is missing.
fn overlay(address: GuestVirtAddr, buffer: &mut [u8], done: usize, at: GuestVirtAddr, bytes: &[u8]) -> usize {
    let end = address.0.saturating_add(buffer.len() as u64);
    let from = at.0.max(address.0);
    let to = at.0.saturating_add(bytes.len() as u64).min(end);
    if from >= to || from - address.0 > done as u64 {
        return done;
    }
    // All differences are below the lengths of slices.
    let (first, last) = ((from - address.0) as usize, (to - address.0) as usize);
    let source = (from - at.0) as usize;
    buffer[first..last].copy_from_slice(&bytes[source..source + (last - first)]);
    done.max(last)
}

/// Which memory a request is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Virtual,
    Physical,
}

/// ReadVirtualMemory and ReadPhysicalMemory.
pub(super) fn read(guest: &mut Guest, mut header: Manipulate, kind: Kind, reply: &mut Reply) {
    let mut memory: Memory = header.get();
    let count = (memory.count.get() as usize).min(MAX_TRANSFER);
    let buffer = reply.data(count);
    let done = match kind {
        Kind::Virtual => {
            let address = guest.arch().address(memory.address.get());
            guest.read_virtual(address, buffer)
        }
        Kind::Physical => guest.read_physical(GuestPhysAddr(memory.address.get()), buffer),
    };
    memory.actual = (done as u32).into();
    header.set(&memory);
    let status = if done > 0 || count == 0 {
        NtStatus::SUCCESS
    } else {
        NtStatus::UNSUCCESSFUL
    };
    reply.finish(header, status, done);
}

/// WriteVirtualMemory and WritePhysicalMemory.
pub(super) fn write(guest: &mut Guest, mut header: Manipulate, data: &[u8], kind: Kind, reply: &mut Reply) {
    let mut memory: Memory = header.get();
    let data = &data[..data.len().min(memory.count.get() as usize)];
    let done = match kind {
        Kind::Virtual => {
            let address = guest.arch().address(memory.address.get());
            guest.write_virtual(address, data)
        }
        Kind::Physical => guest.write_physical(GuestPhysAddr(memory.address.get()), data),
    };
    if done > 0 {
        guest.memory_changed();
    }
    memory.actual = (done as u32).into();
    let all = done == data.len() && done == memory.count.get() as usize;
    header.set(&memory);
    let status = if all {
        NtStatus::SUCCESS
    } else {
        NtStatus::UNSUCCESSFUL
    };
    reply.finish(header, status, 0);
}

/// QueryMemory. Hosts ask it before they place breakpoints, which need no rights here.
pub(super) fn query(guest: &Guest, mut header: Manipulate, reply: &mut Reply) {
    let mut asked: QueryMemory = header.get();
    if asked.address_space.get() != 0 {
        return reply.finish(header, NtStatus::INVALID_PARAMETER, 0);
    }
    let arch = guest.arch();
    let space = if is_user(arch, arch.address(asked.address.get())) {
        query::SPACE_PROCESS
    } else {
        query::SPACE_KERNEL
    };
    asked.reserved = 0.into();
    asked.address_space = space.into();
    asked.flags = (query::READ | query::WRITE | query::EXECUTE).into();
    header.set(&asked);
    reply.finish(header, NtStatus::SUCCESS, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_covers_its_part_of_a_read_and_no_more() {
        let at = GuestVirtAddr(0x1010);
        let read = |address: u64, length: usize, done: usize| {
            let mut buffer = vec![b'.'; length];
            let done = overlay(GuestVirtAddr(address), &mut buffer, done, at, b"ABCD");
            (String::from_utf8(buffer).unwrap(), done)
        };
        assert_eq!(read(0x100e, 8, 8), ("..ABCD..".into(), 8));
        assert_eq!(read(0x1012, 4, 4), ("CD..".into(), 4));
        assert_eq!(read(0x100e, 4, 4), ("..AB".into(), 4));
        assert_eq!(read(0x1014, 2, 2), ("..".into(), 2));
        assert_eq!(read(0x100c, 4, 4), ("....".into(), 4));
        // The page behind the block's start isn't there: the block still is.
        assert_eq!(read(0x100e, 8, 2), ("..ABCD..".into(), 6));
        // Bytes before it aren't: then nothing follows.
        assert_eq!(read(0x100e, 8, 1), ("........".into(), 1));
        let top = overlay(
            GuestVirtAddr(u64::MAX - 1),
            &mut [0; 8],
            8,
            GuestVirtAddr(u64::MAX),
            b"zz",
        );
        assert_eq!(top, 8);
    }
}
