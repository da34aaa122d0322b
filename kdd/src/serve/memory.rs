//! Reading, writing and translating guest memory for a look from outside. The domain is held meanwhile.

use super::Managed;
use super::pause::Plain;
use crate::Failure;
use crate::control::hex::{Hex, HexBytes};
use crate::control::message::{MAX_MEMORY, MemoryDump, MemorySpace, TranslationDump, WalkEntry};
use crate::parse::Place;
use hv_core::{GuestVirtAddr, VcpuId};
use introspect::{AddressSpace, Level};
use std::fmt;
use std::sync::Arc;
use symbols::SymbolPath;

const HINT: &str = "'kdd translate' shows what is mapped there";
const PHYSICAL_HINT: &str = "'kdd info' says how much memory there is";

impl Managed {
    /// Reads up to the first byte that isn't there. With none at all it is a failure.
    pub(super) fn read_memory(
        self: &Arc<Self>,
        symbols: &SymbolPath,
        space: MemorySpace,
        place: &Place,
        length: u64,
    ) -> Result<MemoryDump, Failure> {
        let (start, space) = self.range(symbols, space, place, length)?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        let _held = self.hold()?;
        let mut done = 0;
        let mut stopped = None;
        while done < bytes.len() {
            let at = start.wrapping_add(done as u64);
            match self.target().read_virtual(space, at, &mut bytes[done..]) {
                Ok(some) if some > 0 => done += some,
                Ok(_) => break,
                Err(error) if done == 0 => return Err(self.failure(&error, hint(space))),
                Err(error) => {
                    stopped = Some(format!("{at}: {}", error.fault));
                    break;
                }
            }
        }
        bytes.truncate(done);
        Ok(MemoryDump {
            address: start.0.into(),
            bytes: HexBytes(bytes),
            stopped,
        })
    }

    /// Writes up to the first byte that isn't there: how many, and why no more. With none at all it is a failure.
    pub(super) fn write_memory(
        self: &Arc<Self>,
        symbols: &SymbolPath,
        space: MemorySpace,
        place: &Place,
        bytes: &[u8],
    ) -> Result<(u64, Option<String>), Failure> {
        let (start, space) = self.range(symbols, space, place, bytes.len() as u64)?;
        let _held = self.hold()?;
        let mut done = 0;
        while done < bytes.len() {
            let at = start.wrapping_add(done as u64);
            match self.target().write_virtual(space, at, &bytes[done..]) {
                Ok(some) if some > 0 => done += some,
                Ok(_) => break,
                Err(error) if done == 0 => return Err(self.failure(&error, hint(space))),
                Err(error) => return Ok((done as u64, Some(format!("{at}: {}", error.fault)))),
            }
        }
        Ok((done as u64, None))
    }

    /// Walks the page tables of a vCPU. An address that isn't mapped is an answer, not a failure.
    pub(super) fn translate(
        self: &Arc<Self>,
        symbols: &SymbolPath,
        vcpu: u32,
        place: &Place,
    ) -> Result<TranslationDump, Failure> {
        let (at, _) = self.resolve(symbols, place)?;
        let address = Hex::from(at.0);
        let space = self.address_space(MemorySpace::Vcpu(vcpu))?;
        let _held = self.hold()?;
        Ok(match self.target().translate(space, at) {
            Ok(found) => TranslationDump {
                address,
                walk: found.levels.iter().map(walk_entry).collect(),
                physical: Some(found.phys.0.into()),
                page_bytes: Some(found.page_size),
                stopped: None,
            },
            Err(error) => TranslationDump {
                address,
                walk: error.levels.iter().map(walk_entry).collect(),
                physical: None,
                page_bytes: None,
                stopped: Some(error.fault.to_string()),
            },
        })
    }

    /// Where a range begins that fits the address space and one message, and in which address space it is.
    fn range(
        self: &Arc<Self>,
        symbols: &SymbolPath,
        space: MemorySpace,
        place: &Place,
        length: u64,
    ) -> Result<(GuestVirtAddr, AddressSpace), Failure> {
        let chosen = self.address_space(space)?;
        if let (MemorySpace::Physical, Place::Symbol { .. }) = (space, place) {
            return Err(self.failure(
                &Plain("a symbol has no physical address"),
                "'kdd translate' says where it is mapped",
            ));
        }
        let (start, own) = self.resolve(symbols, place)?;
        checked(start, length)?;
        // The page tables that a vCPU has in use in user mode may leave the kernel out.
        Ok((start, own.unwrap_or(chosen)))
    }

    fn address_space(&self, space: MemorySpace) -> Result<AddressSpace, Failure> {
        Ok(match space {
            MemorySpace::Physical => AddressSpace::Physical,
            MemorySpace::Vcpu(vcpu) => AddressSpace::Vcpu(self.vcpu(vcpu)?),
        })
    }

    /// A vCPU of this domain.
    pub(super) fn vcpu(&self, vcpu: u32) -> Result<VcpuId, Failure> {
        let count = self.domain().vcpu_count();
        if vcpu < count {
            return Ok(VcpuId(vcpu));
        }
        Err(Failure::new(
            format_args!("domain '{}'", self.domain().name()),
            format_args!("it has no vCPU {vcpu}"),
            format_args!("choose 0 to {} with --vcpu", count.saturating_sub(1)),
        ))
    }
}

fn walk_entry(level: &Level) -> WalkEntry {
    WalkEntry {
        level: level.name.into(),
        at: level.entry_addr.0.into(),
        entry: level.entry.into(),
    }
}

fn hint(space: AddressSpace) -> &'static str {
    match space {
        AddressSpace::Physical => PHYSICAL_HINT,
        _ => HINT,
    }
}

/// The range fits the address space and one message.
fn checked(start: GuestVirtAddr, length: u64) -> Result<(), Failure> {
    let wrong = |why: &dyn fmt::Display, hint| Failure::new(format_args!("memory at {start}"), why, hint);
    if length > MAX_MEMORY {
        return Err(wrong(
            &format_args!("{length} bytes in one request"),
            "ask for at most 1 MiB at a time",
        ));
    }
    if length > 0 && start.checked_add(length - 1).is_none() {
        return Err(wrong(
            &format_args!("{length} bytes from there go past the end of the address space"),
            "ask for fewer",
        ));
    }
    Ok(())
}
