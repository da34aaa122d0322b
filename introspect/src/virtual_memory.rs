//! Virtual memory of a guest, through its own page tables. No session is needed, and the guest isn't disturbed:
//! rights don't count, accessed and dirty bits stay as they are.

use crate::error::{Fault, ReadError, TranslateError, WriteError};
use crate::paging::walk::Walker;
use crate::paging::{PagingMode, Translation};
use crate::target::Target;
use hv_core::introspect::{Error, WriteMemory};
use hv_core::{GuestPhysAddr, GuestVirtAddr, VcpuId};
use std::fmt;
use std::ops::{ControlFlow, Range};

/// Whose addresses are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum AddressSpace {
    /// As this vCPU sees memory at the moment; with paging off, linear addresses are physical ones.
    Vcpu(VcpuId),
    /// The page tables under this root (a CR3 value does too).
    Root(PagingMode, GuestPhysAddr),
    /// Guest-physical memory itself.
    Physical,
}

impl fmt::Display for AddressSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressSpace::Vcpu(vcpu) => write!(f, "vcpu {vcpu}"),
            AddressSpace::Root(_, root) => write!(f, "page tables at {root}"),
            AddressSpace::Physical => f.write_str("physical"),
        }
    }
}

impl Target {
    /// Reads up to the first page that isn't there: the number of bytes that were read.
    ///
    /// # Errors
    /// [`ReadError`] if there are none, with the page-table level at fault.
    pub fn read_virtual(
        &self,
        space: AddressSpace,
        address: GuestVirtAddr,
        buffer: &mut [u8],
    ) -> Result<usize, ReadError> {
        let wanted = buffer.len();
        self.for_each_piece(space, address, wanted, |phys, range| {
            self.domain().read_physical(phys, &mut buffer[range])?;
            Ok(ControlFlow::Continue(()))
        })
        .map_err(|fault| ReadError {
            space,
            address,
            wanted,
            fault,
        })
    }

    /// Shows `length` bytes, in order and in pieces of any size, up to the first page that isn't there or until `visit`
    /// breaks off: the number of bytes that it saw, the piece with which it broke off among them. Where the domain's
    /// memory lies in this process nothing is copied; see [`ReadMemory::visit_physical`] for what `visit` may not do.
    ///
    /// # Errors
    /// [`ReadError`] if there are none, with the page-table level at fault.
    ///
    /// [`ReadMemory::visit_physical`]: hv_core::introspect::ReadMemory::visit_physical
    pub fn visit_virtual(
        &self,
        space: AddressSpace,
        address: GuestVirtAddr,
        length: usize,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<usize, ReadError> {
        let mut seen = 0;
        self.for_each_piece(space, address, length, |phys, range| {
            let mut flow = ControlFlow::Continue(());
            self.domain().visit_physical(phys, range.len(), &mut |bytes| {
                seen += bytes.len();
                flow = visit(bytes);
                flow
            })?;
            Ok(flow)
        })
        .map(|_| seen)
        .map_err(|fault| ReadError {
            space,
            address,
            wanted: length,
            fault,
        })
    }

    /// Writes up to the first page that isn't there or is no RAM: the number of bytes that were written. The
    /// guest's write protection doesn't count; code that changes is seen by the vCPUs at once.
    ///
    /// # Errors
    /// [`WriteError`] if there are none, with the page-table level at fault.
    pub fn write_virtual(
        &self,
        space: AddressSpace,
        address: GuestVirtAddr,
        bytes: &[u8],
    ) -> Result<usize, WriteError> {
        let wanted = bytes.len();
        self.memory_to_write()
            .and_then(|memory| {
                self.for_each_piece(space, address, wanted, |phys, range| {
                    memory.write_physical(phys, &bytes[range])?;
                    Ok(ControlFlow::Continue(()))
                })
            })
            .map_err(|fault| match fault {
                Fault::NoMemory(phys) if self.domain().read_physical(phys, &mut [0]).is_ok() => {
                    Fault::NotWritable(phys)
                }
                fault => fault,
            })
            .map_err(|fault| WriteError {
                space,
                address,
                wanted,
                fault,
            })
    }

    /// Walks the page tables for one address. The error has the levels that were walked, too.
    ///
    /// # Errors
    /// [`TranslateError`] if it isn't mapped. That it is mapped doesn't say that the domain has memory there.
    pub fn translate(
        &self,
        space: AddressSpace,
        address: GuestVirtAddr,
    ) -> Result<Translation, TranslateError> {
        let mut levels = Vec::new();
        let page = self
            .walker(space)
            .and_then(|(mut walker, _)| walker.walk(address, |level| levels.push(level)));
        match page {
            Ok(page) => Ok(Translation {
                phys: page.phys,
                page_size: page.size,
                writable: page.rights.writable,
                user: page.rights.user,
                executable: page.rights.executable,
                global: page.global,
                levels,
            }),
            Err(fault) => Err(TranslateError {
                space,
                address,
                levels,
                fault,
            }),
        }
    }

    /// The page tables of an address space, as they are now: registers are read once for each call.
    pub(crate) fn walker(&self, space: AddressSpace) -> Result<(Walker<'_>, PagingMode), Fault> {
        let (mode, root) = match space {
            AddressSpace::Vcpu(vcpu) => {
                let registers = self.domain().registers(vcpu)?;
                (PagingMode::of(&registers), registers.cr3)
            }
            AddressSpace::Root(mode, root) => (mode, root.0),
            AddressSpace::Physical => (PagingMode::None, 0),
        };
        Ok((Walker::new(&**self.domain(), mode, root), mode))
    }

    /// Calls `transfer` for each physically contiguous piece of `length` bytes from `address`, until one fails or
    /// breaks off, or the address space ends. The bytes that were done, or the fault if there are none.
    fn for_each_piece(
        &self,
        space: AddressSpace,
        address: GuestVirtAddr,
        length: usize,
        mut transfer: impl FnMut(GuestPhysAddr, Range<usize>) -> Result<ControlFlow<()>, Error>,
    ) -> Result<usize, Fault> {
        if length == 0 {
            return Ok(0);
        }
        let (mut walker, _) = self.walker(space)?;
        let mut done = 0;
        for run in walker.runs(address, length as u64) {
            let fault = match run {
                Err(fault) => fault,
                Ok(run) => {
                    // No run is longer than what is left of `length`.
                    let size = run.length as usize;
                    match transfer(run.phys, done..done + size) {
                        Ok(flow) => {
                            done += size;
                            if flow.is_break() {
                                break;
                            }
                            continue;
                        }
                        Err(Error::NoMemory {
                            address, done: some, ..
                        }) => {
                            done += some.min(size);
                            Fault::NoMemory(address)
                        }
                        Err(error) => Fault::Domain(error),
                    }
                }
            };
            return if done > 0 { Ok(done) } else { Err(fault) };
        }
        Ok(done)
    }

    fn memory_to_write(&self) -> Result<&dyn WriteMemory, Fault> {
        self.domain().write_memory().ok_or_else(|| {
            Fault::Domain(Error::Unsupported {
                domain: self.domain().id(),
                what: "be written: it is only there to be read",
            })
        })
    }
}
