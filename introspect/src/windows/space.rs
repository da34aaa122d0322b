//! Virtual memory of a kernel, read in whole values with an error that says what was being read.

use super::error::Error;
use super::facts::Arch;
use super::guest::Guest;
use crate::error::Fault;
use crate::paging::PagingMode;
use crate::paging::walk::Walker;
use crate::virtual_memory::AddressSpace;
use hv_core::introspect::Error as DomainError;
use hv_core::{GuestPhysAddr, GuestVirtAddr};
use std::cell::RefCell;
use symbols::pe::ReadImage;

/// The longest string that is read, in bytes.
const MAX_STRING: usize = 0x1000;

/// An address space that the kernel is mapped in. The guest stands still while it is used.
pub(crate) struct Space<'a> {
    pub(crate) arch: Arch,
    pub(crate) mode: PagingMode,
    pub(crate) root: GuestPhysAddr,
    guest: Guest<'a>,
    walker: RefCell<Walker<'a>>,
}

impl<'a> Space<'a> {
    /// The space under a page-table root or CR3 value.
    pub(crate) fn new(guest: Guest<'a>, arch: Arch, mode: PagingMode, root: u64) -> Space<'a> {
        Space {
            arch,
            mode,
            root: mode.root(root),
            guest,
            walker: RefCell::new(Walker::new(guest.memory, mode, root)),
        }
    }

    /// For callers outside.
    pub(crate) fn address_space(&self) -> AddressSpace {
        AddressSpace::Root(self.mode, self.root)
    }

    /// The same tables' reader with another root.
    pub(crate) fn with_root(&self, root: u64) -> Space<'a> {
        Space::new(self.guest, self.arch, self.mode, root)
    }

    /// Fills the whole buffer.
    pub(crate) fn read(&self, address: GuestVirtAddr, buffer: &mut [u8]) -> Result<(), Fault> {
        let mut walker = self.walker.borrow_mut();
        let (mut at, mut rest) = (address, buffer);
        // Behind the last address comes the first one.
        while !rest.is_empty() {
            for run in walker.runs(at, rest.len() as u64) {
                let run = run?;
                // No run is longer than what is left.
                let (part, behind) = std::mem::take(&mut rest).split_at_mut(run.length as usize);
                self.guest
                    .memory
                    .read_physical(run.phys, part)
                    .map_err(|error| match error {
                        DomainError::NoMemory { address, .. } => Fault::NoMemory(address),
                        error => Fault::Domain(error),
                    })?;
                at = at.wrapping_add(run.length);
                rest = behind;
            }
        }
        Ok(())
    }

    /// Whether an address is mapped, to memory or not.
    pub(crate) fn maps(&self, address: GuestVirtAddr) -> bool {
        self.walker.borrow_mut().page(address).is_ok()
    }

    /// Whether an address can belong to the kernel's half and to nothing else.
    pub(crate) fn is_kernel(&self, address: GuestVirtAddr) -> bool {
        is_kernel_address(self.arch, self.mode, address)
    }

    pub(crate) fn bytes(
        &self,
        what: &'static str,
        address: GuestVirtAddr,
        buffer: &mut [u8],
    ) -> Result<(), Error> {
        self.read(address, buffer)
            .map_err(|fault| Error::Unreadable { what, address, fault })
    }

    pub(crate) fn u8(&self, what: &'static str, address: GuestVirtAddr) -> Result<u8, Error> {
        let mut bytes = [0; 1];
        self.bytes(what, address, &mut bytes)?;
        Ok(bytes[0])
    }

    pub(crate) fn u16(&self, what: &'static str, address: GuestVirtAddr) -> Result<u16, Error> {
        let mut bytes = [0; 2];
        self.bytes(what, address, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    pub(crate) fn u32(&self, what: &'static str, address: GuestVirtAddr) -> Result<u32, Error> {
        let mut bytes = [0; 4];
        self.bytes(what, address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(crate) fn u64(&self, what: &'static str, address: GuestVirtAddr) -> Result<u64, Error> {
        let mut bytes = [0; 8];
        self.bytes(what, address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// A value of a pointer's size.
    pub(crate) fn word(&self, what: &'static str, address: GuestVirtAddr) -> Result<u64, Error> {
        match self.arch {
            Arch::X64 => self.u64(what, address),
            Arch::X86 => self.u32(what, address).map(u64::from),
        }
    }

    /// A pointer.
    pub(crate) fn pointer(&self, what: &'static str, address: GuestVirtAddr) -> Result<GuestVirtAddr, Error> {
        self.word(what, address).map(GuestVirtAddr)
    }

    /// A pointer into the kernel's half, or `None` for null.
    ///
    /// # Errors
    /// [`Error::Implausible`] for anything else.
    pub(crate) fn kernel_pointer(
        &self,
        what: &'static str,
        address: GuestVirtAddr,
    ) -> Result<Option<GuestVirtAddr>, Error> {
        match self.pointer(what, address)? {
            GuestVirtAddr(0) => Ok(None),
            to if self.is_kernel(to) => Ok(Some(to)),
            to => Err(Error::Implausible {
                what,
                address,
                why: format!("it points to {to}, which is not the kernel's"),
            }),
        }
    }

    /// The text of a UNICODE_STRING in kernel memory, at most 2048 characters of it.
    pub(crate) fn unicode_string(&self, what: &'static str, address: GuestVirtAddr) -> Result<String, Error> {
        let length = usize::from(self.u16(what, address)?);
        if length == 0 {
            return Ok(String::new());
        }
        let pointer_offset = self.arch.pointer_size() as u64;
        let buffer = self
            .kernel_pointer(what, address.wrapping_add(pointer_offset))?
            .filter(|_| length.is_multiple_of(2));
        let Some(buffer) = buffer else {
            return Err(Error::Implausible {
                what,
                address,
                why: format!("no string is {length} bytes long there"),
            });
        };
        self.utf16(what, buffer, length.min(MAX_STRING))
    }

    /// UTF-16 text of so many bytes, up to a NUL, without control characters.
    pub(crate) fn utf16(
        &self,
        what: &'static str,
        address: GuestVirtAddr,
        bytes: usize,
    ) -> Result<String, Error> {
        let mut text = vec![0; bytes.min(MAX_STRING)];
        self.bytes(what, address, &mut text)?;
        let units = text
            .chunks_exact(2)
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        Ok(char::decode_utf16(units.take_while(|&unit| unit != 0))
            .map(|character| character.map_or(char::REPLACEMENT_CHARACTER, printable))
            .collect())
    }

    /// Bytes of text up to a NUL, as Latin-1 without control characters.
    pub(crate) fn text(
        &self,
        what: &'static str,
        address: GuestVirtAddr,
        limit: usize,
    ) -> Result<String, Error> {
        let mut bytes = vec![0; limit.min(MAX_STRING)];
        self.bytes(what, address, &mut bytes)?;
        Ok(bytes
            .iter()
            .take_while(|&&byte| byte != 0)
            .map(|&byte| printable(char::from(byte)))
            .collect())
    }

    /// An image at `base`, to be read by RVA.
    pub(crate) fn image(&self, base: GuestVirtAddr) -> impl ReadImage + '_ {
        move |rva: u32, buffer: &mut [u8]| {
            base.checked_add(u64::from(rva))
                .is_some_and(|address| self.read(address, buffer).is_ok())
        }
    }
}

/// What the guest says must not move a terminal's cursor.
fn printable(c: char) -> char {
    if c.is_control() {
        char::REPLACEMENT_CHARACTER
    } else {
        c
    }
}

/// Whether an address can belong to the kernel's half and to nothing else.
pub(crate) fn is_kernel_address(arch: Arch, mode: PagingMode, address: GuestVirtAddr) -> bool {
    match (arch, mode) {
        (Arch::X86, _) => (0x8000_0000..=0xffff_ffff).contains(&address.0),
        (Arch::X64, PagingMode::Level5) => address.0 >= 0xff00_0000_0000_0000,
        (Arch::X64, _) => address.0 >= 0xffff_8000_0000_0000,
    }
}
