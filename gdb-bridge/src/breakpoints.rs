//! The breakpoints and watchpoints of a session.
//!
//! The client names them by kind, address and length; the domain by an id. gdb takes all of them out at a stop and
//! puts them back when it goes on, so what `monitor place` chose for an address is remembered past a removal.

use hv_core::addr::{GuestPhysAddr, GuestVirtAddr, VcpuId};
use hv_core::introspect::{
    AccessKind, Breakpoint, BreakpointId, BreakpointKind, Condition, Place, StopContext,
};
use hv_core::regs::Registers;
use introspect::{AddressSpace, Session, Target};
use std::collections::HashMap;
use std::sync::Arc;

/// More than any client sets; a bound for hostile ones.
const MOST: usize = 1 << 18;
/// Addresses whose place is remembered.
const MOST_REMEMBERED: usize = 1 << 16;

/// What the number in a `Z` packet asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// `Z0`. Like `Z1` it is invisible to the guest; the difference is only what the stop is called.
    Software,
    /// `Z1`.
    Hardware,
    /// `Z2`.
    Write,
    /// `Z3`.
    Read,
    /// `Z4`.
    Access,
}

impl Kind {
    fn breakpoint(self, length: u64) -> BreakpointKind {
        let access = match self {
            Kind::Software | Kind::Hardware => return BreakpointKind::Execute,
            Kind::Write => AccessKind::Write,
            Kind::Read => AccessKind::Read,
            Kind::Access => AccessKind::ReadWrite,
        };
        BreakpointKind::Watch { length, access }
    }
}

/// What an address in a breakpoint packet means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PlaceMode {
    /// A virtual address in every address space.
    #[default]
    Virtual,
    /// A virtual address under this page-table root.
    AddressSpace(GuestPhysAddr),
    /// A guest-physical address.
    Physical,
}

impl PlaceMode {
    fn at(self, address: u64) -> Place {
        match self {
            PlaceMode::Virtual => Place::Virtual(GuestVirtAddr(address)),
            PlaceMode::AddressSpace(root) => Place::InAddressSpace(GuestVirtAddr(address), root),
            PlaceMode::Physical => Place::Physical(GuestPhysAddr(address)),
        }
    }
}

/// The client's name for a breakpoint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// The number after the `Z`.
    pub kind: Kind,
    /// The address.
    pub address: u64,
    /// Watched bytes; whatever the client says for execution breakpoints.
    pub length: u64,
}

struct Entry {
    id: BreakpointId,
    breakpoint: Breakpoint,
}

/// The breakpoints of a session.
#[derive(Default)]
pub struct Table {
    entries: HashMap<Key, Entry>,
    by_id: HashMap<BreakpointId, Key>,
    places: HashMap<(Kind, u64), PlaceMode>,
}

impl Table {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Inserts one, or gives an existing one a new condition.
    ///
    /// # Errors
    /// A sentence for the log.
    pub fn insert(
        &mut self,
        session: &Session,
        key: Key,
        place: PlaceMode,
        condition: Option<Arc<dyn Condition>>,
    ) -> Result<(), String> {
        if self.entries.len() >= MOST {
            return Err(format!("there are {MOST} breakpoints already"));
        }
        let remembered = (key.kind, key.address);
        let place = match self.places.get(&remembered) {
            Some(place) => *place,
            None => {
                if self.places.len() < MOST_REMEMBERED {
                    self.places.insert(remembered, place);
                }
                place
            }
        };
        let breakpoint = Breakpoint {
            place: place.at(key.address),
            kind: key.kind.breakpoint(key.length),
            condition,
        };
        let id = session
            .insert_breakpoint(breakpoint.clone())
            .map_err(|e| e.to_string())?;
        self.by_id.insert(id, key);
        if let Some(old) = self.entries.insert(key, Entry { id, breakpoint }) {
            self.take_out(session, old.id);
        }
        Ok(())
    }

    /// Removes one; false if there is none.
    pub fn remove(&mut self, session: &Session, key: Key) -> bool {
        match self.entries.remove(&key) {
            Some(entry) => {
                self.take_out(session, entry.id);
                true
            }
            None => false,
        }
    }

    /// Removes all, and forgets what was chosen for their addresses.
    pub fn clear(&mut self, session: &Session) {
        for (_, entry) in std::mem::take(&mut self.entries) {
            self.take_out(session, entry.id);
        }
        self.places.clear();
    }

    /// Chooses what one address means from now on.
    pub fn choose(&mut self, address: u64, place: PlaceMode) {
        for kind in [
            Kind::Software,
            Kind::Hardware,
            Kind::Write,
            Kind::Read,
            Kind::Access,
        ] {
            if self.places.len() < MOST_REMEMBERED {
                self.places.insert((kind, address), place);
            }
        }
    }

    fn take_out(&mut self, session: &Session, id: BreakpointId) {
        self.by_id.remove(&id);
        if let Err(error) = session.remove_breakpoint(id) {
            tracing::warn!(session = %session.id(), %error, "a breakpoint can't be removed");
        }
    }

    /// The kind of the one with this id, if it is ours.
    pub fn kind_of(&self, id: BreakpointId) -> Option<Kind> {
        self.by_id.get(&id).map(|key| key.kind)
    }

    /// Whether the one with this id is of ours, at a guest-physical address.
    pub fn is_physical(&self, id: BreakpointId) -> bool {
        let entry = self.by_id.get(&id).and_then(|key| self.entries.get(key));
        entry.is_some_and(|entry| matches!(entry.breakpoint.place, Place::Physical(_)))
    }

    /// Whether the client has an execution breakpoint by this address.
    pub fn is_known_at(&self, kind: Kind, address: u64) -> bool {
        self.entries
            .keys()
            .any(|key| key.kind == kind && key.address == address)
    }

    /// The execution breakpoint of ours that the vCPU is at, its condition being true. A step doesn't stop at
    /// the breakpoint it ends on, so whoever goes on stepping must look.
    pub fn hit(&self, target: &Target, vcpu: VcpuId, registers: &Registers) -> Option<Kind> {
        let rip = GuestVirtAddr(registers.rip);
        let here = |place: Place| match place {
            Place::Virtual(address) => address == rip,
            Place::InAddressSpace(address, root) => address == rip && root.0 == registers.cr3 & !0xfff,
            Place::Physical(address) => target
                .translate(AddressSpace::Vcpu(vcpu), rip)
                .is_ok_and(|translation| translation.phys == address),
        };
        let mut context = AtRest {
            target,
            vcpu,
            registers,
        };
        let hit = self.entries.iter().find(|(key, entry)| {
            matches!(key.kind, Kind::Software | Kind::Hardware)
                && here(entry.breakpoint.place)
                && entry
                    .breakpoint
                    .condition
                    .as_ref()
                    .is_none_or(|c| c.should_stop(&mut context))
        })?;
        Some(hit.0.kind)
    }
}

/// A vCPU that stands still, as a condition sees it.
struct AtRest<'a> {
    target: &'a Target,
    vcpu: VcpuId,
    registers: &'a Registers,
}

impl StopContext for AtRest<'_> {
    fn vcpu(&self) -> VcpuId {
        self.vcpu
    }
    fn gpr(&self, index: usize) -> u64 {
        self.registers.gpr[index]
    }
    fn rip(&self) -> u64 {
        self.registers.rip
    }
    fn rflags(&self) -> u64 {
        self.registers.rflags
    }
    fn registers(&self) -> Registers {
        self.registers.clone()
    }
    fn read_virtual(&mut self, address: GuestVirtAddr, buffer: &mut [u8]) -> bool {
        let space = AddressSpace::Vcpu(self.vcpu);
        self.target
            .read_virtual(space, address, buffer)
            .is_ok_and(|done| done == buffer.len())
    }
}
