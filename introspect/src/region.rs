//! Regions of a virtual address space: where addresses are mapped alike, or not at all.

use crate::error::Fault;
use crate::paging::walk::{Page, Rights, Walker};
use crate::paging::{Level, PagingMode};
use crate::target::Target;
use crate::virtual_memory::AddressSpace;
use hv_core::GuestVirtAddr;

/// Pages and holes that one call joins into a region; what goes on behind them is the next region.
const MOST_PIECES: usize = 2048;

/// A range of addresses that are alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// The first one. It is that of the page or the hole that was asked for: what is below may be the same.
    pub start: GuestVirtAddr,
    /// The last one.
    pub last: GuestVirtAddr,
    /// What the page tables allow there; `None` where nothing is mapped.
    pub rights: Option<RegionRights>,
}

/// What the page tables allow in a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionRights {
    /// Writing.
    pub writable: bool,
    /// Execution.
    pub executable: bool,
    /// User mode.
    pub user: bool,
}

impl Target {
    /// The region that `address` is in. It is as long as one call finds out in bounded time.
    ///
    /// # Errors
    /// [`Fault::Domain`] if the domain has no such vCPU.
    pub fn region(&self, space: AddressSpace, address: GuestVirtAddr) -> Result<Region, Fault> {
        let (mut walker, mode) = self.walker(space)?;
        let mut region = piece(&mut walker, mode, address)?;
        for _ in 1..MOST_PIECES {
            let Some(next) = region.last.checked_add(1) else {
                break;
            };
            let more = piece(&mut walker, mode, next)?;
            if more.rights != region.rights {
                break;
            }
            region.last = more.last;
        }
        Ok(region)
    }
}

/// The page or the hole around an address.
fn piece(walker: &mut Walker<'_>, mode: PagingMode, address: GuestVirtAddr) -> Result<Region, Fault> {
    let around = |size: u64, rights| Region {
        start: GuestVirtAddr(address.0 & !(size - 1)),
        last: GuestVirtAddr(address.0 | (size - 1)),
        rights,
    };
    Ok(match walker.page(address) {
        Ok(Page { size, rights, .. }) => around(size, Some(rights.into())),
        Err(Fault::NotPresent(Level { name, .. }) | Fault::ReservedBits(Level { name, .. })) => {
            around(mode.covers(name), None)
        }
        Err(Fault::NoTable { name, .. }) => around(mode.covers(name), None),
        Err(Fault::NotCanonical { bits }) => {
            let half = 1u64 << (bits - 1);
            Region {
                start: GuestVirtAddr(half),
                last: GuestVirtAddr(!half),
                rights: None,
            }
        }
        Err(Fault::Beyond4GiB) => Region {
            start: GuestVirtAddr(1 << 32),
            last: GuestVirtAddr(u64::MAX),
            rights: None,
        },
        Err(Fault::NoMemory(_) | Fault::NotWritable(_)) => around(0x1000, None),
        Err(Fault::Domain(error)) => return Err(Fault::Domain(error)),
    })
}

impl From<Rights> for RegionRights {
    fn from(rights: Rights) -> RegionRights {
        RegionRights {
            writable: rights.writable,
            executable: rights.executable,
            user: rights.user,
        }
    }
}
