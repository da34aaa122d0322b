//! Virtual memory of the kernel, read in whole values with an error that says what was being read.

use super::error::Error;
use crate::error::Fault;
use crate::paging::PagingMode;
use crate::paging::walk::Walker;
use hv_core::introspect::{Error as DomainError, ReadMemory};
use hv_core::{GuestPhysAddr, GuestVirtAddr};
use std::cell::RefCell;

/// The longest text that is read, in bytes.
const MAX_TEXT: usize = 0x1000;

/// An address space that the kernel is mapped in. The guest stands still while it is used.
pub(super) struct Space<'a> {
    pub(super) memory: &'a dyn ReadMemory,
    pub(super) mode: PagingMode,
    pub(super) root: GuestPhysAddr,
    walker: RefCell<Walker<'a>>,
}

impl<'a> Space<'a> {
    /// The space under a page-table root or CR3 value.
    pub(super) fn new(memory: &'a dyn ReadMemory, mode: PagingMode, root: GuestPhysAddr) -> Space<'a> {
        Space {
            memory,
            mode,
            root: mode.root(root.0),
            walker: RefCell::new(Walker::new(memory, mode, root.0)),
        }
    }

    /// Fills the whole buffer.
    pub(super) fn read(&self, address: GuestVirtAddr, buffer: &mut [u8]) -> Result<(), Fault> {
        let mut walker = self.walker.borrow_mut();
        let mut done = 0;
        while done < buffer.len() {
            let page = walker.page(address.wrapping_add(done as u64))?;
            let size = usize::try_from(page.left)
                .unwrap_or(usize::MAX)
                .min(buffer.len() - done);
            self.memory
                .read_physical(page.phys, &mut buffer[done..done + size])
                .map_err(|error| match error {
                    DomainError::NoMemory { address, .. } => Fault::NoMemory(address),
                    error => Fault::Domain(error),
                })?;
            done += size;
        }
        Ok(())
    }

    /// Fills the buffer, with zeros where there is nothing; the bytes that were there.
    pub(super) fn read_some(&self, address: GuestVirtAddr, buffer: &mut [u8]) -> usize {
        let (mut done, mut there) = (0, 0);
        while done < buffer.len() {
            let at = address.wrapping_add(done as u64);
            let page = self.walker.borrow_mut().page(at);
            let left = match &page {
                Ok(page) => usize::try_from(page.left).unwrap_or(usize::MAX),
                Err(_) => 0x1000 - at.page_offset(),
            };
            let part = &mut buffer[done..];
            let size = left.min(part.len());
            let read = page.is_ok_and(|page| self.memory.read_physical(page.phys, &mut part[..size]).is_ok());
            if read {
                there += size;
            } else {
                part[..size].fill(0);
            }
            done += size;
        }
        there
    }

    /// The physical address of one that is mapped.
    pub(super) fn physical(&self, address: GuestVirtAddr) -> Option<GuestPhysAddr> {
        self.walker.borrow_mut().page(address).ok().map(|page| page.phys)
    }

    /// Whether an address can belong to the kernel's half and to nothing else.
    pub(super) fn is_kernel(&self, address: GuestVirtAddr) -> bool {
        match self.mode {
            PagingMode::Level5 => address.0 >= 0xff00_0000_0000_0000,
            _ => address.0 >= 0xffff_8000_0000_0000,
        }
    }

    pub(super) fn bytes(
        &self,
        what: &'static str,
        address: GuestVirtAddr,
        buffer: &mut [u8],
    ) -> Result<(), Error> {
        self.read(address, buffer)
            .map_err(|fault| Error::Unreadable { what, address, fault })
    }

    pub(super) fn u32(&self, what: &'static str, address: GuestVirtAddr) -> Result<u32, Error> {
        let mut bytes = [0; 4];
        self.bytes(what, address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(super) fn u64(&self, what: &'static str, address: GuestVirtAddr) -> Result<u64, Error> {
        let mut bytes = [0; 8];
        self.bytes(what, address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// As many words as there is room for.
    pub(super) fn words(
        &self,
        what: &'static str,
        address: GuestVirtAddr,
        words: &mut [u64],
    ) -> Result<(), Error> {
        let mut bytes = vec![0; words.len() * 8];
        self.bytes(what, address, &mut bytes)?;
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Ok(())
    }

    /// A pointer into the kernel's half.
    ///
    /// # Errors
    /// [`Error::Implausible`] for anything else.
    pub(super) fn pointer(&self, what: &'static str, address: GuestVirtAddr) -> Result<GuestVirtAddr, Error> {
        let to = GuestVirtAddr(self.u64(what, address)?);
        if self.is_kernel(to) {
            Ok(to)
        } else {
            Err(Error::Implausible {
                what,
                address,
                why: format!("it points to {to}, which is not the kernel's"),
            })
        }
    }

    /// Text up to a NUL or the limit, without control characters.
    pub(super) fn text(
        &self,
        what: &'static str,
        address: GuestVirtAddr,
        limit: usize,
    ) -> Result<String, Error> {
        let mut bytes = vec![0; limit.min(MAX_TEXT)];
        self.bytes(what, address, &mut bytes)?;
        let end = memchr::memchr(0, &bytes).unwrap_or(bytes.len());
        Ok(printable(&bytes[..end], false))
    }

    /// As [`Space::text`], where nothing need be mapped behind the NUL.
    pub(super) fn string(
        &self,
        what: &'static str,
        address: GuestVirtAddr,
        limit: usize,
    ) -> Result<String, Error> {
        let mut bytes = Vec::new();
        let mut at = address;
        while bytes.len() < limit.min(MAX_TEXT) {
            let size = (0x1000 - at.page_offset()).min(limit - bytes.len());
            let mut part = vec![0; size];
            self.bytes(what, at, &mut part)?;
            let end = memchr::memchr(0, &part);
            bytes.extend_from_slice(&part[..end.unwrap_or(size)]);
            if end.is_some() {
                break;
            }
            at = at.wrapping_add(size as u64);
        }
        Ok(printable(&bytes, false))
    }
}

/// Text of the guest: it must not move a terminal's cursor. Line ends stay where lines are wanted.
pub(super) fn printable(bytes: &[u8], lines: bool) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| match c {
            '\n' | '\t' if lines => c,
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}
