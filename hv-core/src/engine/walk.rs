//! Address translation: page walks, the rights they give and the accessed and dirty bits they set.
//!
//! Every translation that a walk finds is marked in [`super::tables`], by the frames it went through.

use super::bus::Bus;
use super::mmu::{PHYSICAL_BITS, is_canonical};
use super::tables::Mark;
use super::tlb::View;
use super::vcpu::{Abort, Exec, Pending, Vcpu, vector};
use crate::addr::GuestPhysAddr;
use crate::regs::{cr0, cr4, efer};

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    Write,
    Fetch,
}

/// Bits of a paging entry (SDM vol. 3A, 4.3 to 4.5).
pub(super) mod entry {
    pub(crate) const P: u64 = 1 << 0;
    pub(crate) const RW: u64 = 1 << 1;
    pub(crate) const US: u64 = 1 << 2;
    pub(crate) const A: u64 = 1 << 5;
    pub(crate) const D: u64 = 1 << 6;
    pub(crate) const PS: u64 = 1 << 7;
    /// Bits 9 to 11, which the CPU ignores.
    pub(crate) const SOFTWARE: u64 = 7 << 9;
    pub(crate) const NX: u64 = 1 << 63;
}

/// Page-fault error code bits (SDM vol. 3A, 4.7).
mod fault {
    pub(super) const P: u32 = 1 << 0;
    pub(super) const W: u32 = 1 << 1;
    pub(super) const U: u32 = 1 << 2;
    pub(super) const RSVD: u32 = 1 << 3;
    pub(super) const I: u32 = 1 << 4;
}

const PHYSICAL_MASK: u64 = (1 << PHYSICAL_BITS) - 1;
/// Bits 40..52 are reserved in long-mode and PAE entries.
const RESERVED_HIGH: u64 = ((1 << 52) - 1) & !PHYSICAL_MASK;

impl Vcpu {
    /// SDM vol. 3A, 4.4.1: whether the four page-directory-pointer entries at `root` can be loaded.
    pub(crate) fn pointers_are_valid(&self, bus: &Bus, root: u64) -> bool {
        let reserved = RESERVED_HIGH | 0xfff << 52 | 0x1e6;
        (0..4).all(|n| {
            let value = bus.memory.read_u64((root & 0xffff_ffe0) + 8 * n).unwrap_or(0);
            value & entry::P == 0 || value & reserved == 0
        })
    }

    /// The physical address of a fetch, by the fetch TLB or a walk.
    pub(crate) fn translate_fetch(&mut self, bus: &mut Bus, linear: u64) -> Exec<u64> {
        let user = self.cpl == 3;
        if let Some(page) = self.tlb.fetch(user, linear) {
            return Ok(page | linear & 0xfff);
        }
        let physical = self.translate(bus, linear, Access::Fetch, user)?;
        if !bus.rights.is_empty()
            && bus
                .rights
                .get(&(physical >> 12))
                .is_some_and(|rights| !rights.execute)
        {
            self.pending = Pending::PageAccess {
                frame: GuestPhysAddr(physical & !0xfff),
                access: None,
            };
            return Err(Abort);
        }
        self.tlb.insert_fetch(user, linear, physical & !0xfff);
        Ok(physical)
    }

    /// Translates for the CPU's own accesses to system structures: supervisor rights, and SMAP whatever RFLAGS.AC says
    /// (SDM vol. 3A, 4.6.1).
    pub(super) fn translate_implicit(&mut self, bus: &mut Bus, linear: u64, access: Access) -> Exec<u64> {
        let view = self.view;
        if view == View::Supervisor && self.r.cr4 & cr4::SMAP != 0 {
            self.view = View::SupervisorSmap;
        }
        let result = self.translate(bus, linear, access, false);
        self.view = view;
        result
    }

    /// Translates a linear address, checks the rights of the access and sets accessed and dirty bits
    /// (SDM vol. 3A, 4.5 to 4.8).
    pub(crate) fn translate(&mut self, bus: &mut Bus, linear: u64, access: Access, user: bool) -> Exec<u64> {
        if self.tlb.marks_stale {
            self.take_back_marks(bus);
        }
        if !self.paging() {
            return Ok(linear & 0xffff_ffff);
        }
        if self.long_mode() {
            if !is_canonical(linear) {
                self.pending = Pending::NonCanonical;
                return Err(Abort);
            }
            let root = self.r.cr3 & PHYSICAL_MASK & !0xfff;
            return self.walk_64(bus, linear, access, user, root, 4);
        }
        if self.r.cr4 & cr4::PAE != 0 {
            let pointer = (self.r.cr3 & 0xffff_ffe0) + ((linear >> 30 & 3) << 3);
            let pdpte = bus.memory.read_u64(pointer).unwrap_or(0);
            if pdpte & entry::P == 0 {
                return Err(self.page_fault(linear, access, user, 0));
            }
            self.mark_pointers(bus, pointer);
            return self.walk_64(bus, linear, access, user, pdpte & PHYSICAL_MASK & !0xfff, 2);
        }
        self.walk_32(bus, linear, access, user)
    }

    fn walk_64(
        &mut self,
        bus: &mut Bus,
        linear: u64,
        access: Access,
        user: bool,
        root: u64,
        levels: u32,
    ) -> Exec<u64> {
        let nxe = self.r.efer & efer::NXE != 0;
        let mut table = root;
        let mut rights = entry::RW | entry::US;
        let mut no_execute = false;
        let mut level = levels;
        loop {
            let shift = 12 + 9 * (level - 1);
            let address = table + ((linear >> shift & 0x1ff) << 3);
            let value = bus.memory.read_u64(address).unwrap_or(u64::MAX);
            if value & entry::P == 0 {
                return Err(self.page_fault(linear, access, user, 0));
            }
            let large = value & entry::PS != 0 && level > 1;
            let mut reserved = RESERVED_HIGH;
            if !nxe {
                reserved |= entry::NX;
            }
            if !self.long_mode() {
                reserved |= 0x7ff << 52;
            }
            if large {
                if level > 3 || (level == 3 && !self.model.has_gigabyte_pages()) {
                    reserved |= entry::PS;
                } else {
                    reserved |= ((1 << shift) - 1) & !0x1fff;
                }
            }
            if value & reserved != 0 {
                return Err(self.page_fault(linear, access, user, fault::P | fault::RSVD));
            }
            self.mark_entry(bus, address, access, level > 1);
            rights &= value;
            no_execute |= value & entry::NX != 0;
            if large || level == 1 {
                self.check_rights(linear, access, user, rights, no_execute)?;
                let set = if access == Access::Write {
                    entry::A | entry::D
                } else {
                    entry::A
                };
                if value & set != set {
                    self.update_entry(bus, address, access, value | set, 8)?;
                }
                let offset_mask = (1u64 << shift) - 1;
                return Ok((value & PHYSICAL_MASK & !0xfff & !offset_mask) | (linear & offset_mask));
            }
            if value & entry::A == 0 {
                self.update_entry(bus, address, access, value | entry::A, 8)?;
            }
            table = value & PHYSICAL_MASK & !0xfff;
            level -= 1;
        }
    }

    fn walk_32(&mut self, bus: &mut Bus, linear: u64, access: Access, user: bool) -> Exec<u64> {
        let linear = linear & 0xffff_ffff;
        let read = |bus: &Bus, address: u64| {
            let pair = bus.memory.read_u64(address & !7).unwrap_or(u64::MAX);
            (pair >> (8 * (address & 4))) & 0xffff_ffff
        };
        let address = (self.r.cr3 & 0xffff_f000) + ((linear >> 22) << 2);
        let pde = read(bus, address);
        if pde & entry::P == 0 {
            return Err(self.page_fault(linear, access, user, 0));
        }
        self.mark_entry(bus, address, access, true);
        if pde & entry::PS != 0 && self.r.cr4 & cr4::PSE != 0 {
            if pde & (1 << 21) != 0 {
                return Err(self.page_fault(linear, access, user, fault::P | fault::RSVD));
            }
            self.check_rights(linear, access, user, pde, false)?;
            let set = if access == Access::Write {
                entry::A | entry::D
            } else {
                entry::A
            };
            if pde & set != set {
                self.update_entry(bus, address, access, pde | set, 4)?;
            }
            let base = (pde & 0xffc0_0000) | ((pde >> 13 & 0xff) << 32);
            return Ok((base & PHYSICAL_MASK) | (linear & 0x3f_ffff));
        }
        if pde & entry::A == 0 {
            self.update_entry(bus, address, access, pde | entry::A, 4)?;
        }
        let address = (pde & 0xffff_f000) + ((linear >> 12 & 0x3ff) << 2);
        let pte = read(bus, address);
        if pte & entry::P == 0 {
            return Err(self.page_fault(linear, access, user, 0));
        }
        self.mark_entry(bus, address, access, false);
        self.check_rights(linear, access, user, pde & pte, false)?;
        let set = if access == Access::Write {
            entry::A | entry::D
        } else {
            entry::A
        };
        if pte & set != set {
            self.update_entry(bus, address, access, pte | set, 4)?;
        }
        Ok((pte & 0xffff_f000) | (linear & 0xfff))
    }

    /// Translates for a reader that leaves no trace: no rights asked, no accessed bits set, no fault raised.
    pub(crate) fn look_up(&self, bus: &Bus, linear: u64) -> Option<u64> {
        if !self.paging() {
            return Some(linear & 0xffff_ffff);
        }
        let (mut table, mut shift) = if self.long_mode() {
            if !is_canonical(linear) {
                return None;
            }
            (self.r.cr3 & PHYSICAL_MASK & !0xfff, 39)
        } else if self.r.cr4 & cr4::PAE != 0 {
            (self.r.cr3 & 0xffff_ffe0, 30)
        } else {
            return self.look_up_32(bus, linear);
        };
        loop {
            let mask = if shift == 30 && !self.long_mode() {
                3
            } else {
                0x1ff
            };
            let value = bus.memory.read_u64(table + ((linear >> shift & mask) << 3))?;
            if value & entry::P == 0 {
                return None;
            }
            if shift == 12 || (value & entry::PS != 0 && shift < 39) {
                let offset_mask = (1u64 << shift) - 1;
                return Some((value & PHYSICAL_MASK & !0xfff & !offset_mask) | (linear & offset_mask));
            }
            table = value & PHYSICAL_MASK & !0xfff;
            shift -= 9;
        }
    }

    fn look_up_32(&self, bus: &Bus, linear: u64) -> Option<u64> {
        let read = |address: u64| {
            let pair = bus.memory.read_u64(address & !7)?;
            Some((pair >> (8 * (address & 4))) & 0xffff_ffff)
        };
        let pde = read((self.r.cr3 & 0xffff_f000) + ((linear >> 22 & 0x3ff) << 2))?;
        if pde & entry::P == 0 {
            return None;
        }
        if pde & entry::PS != 0 && self.r.cr4 & cr4::PSE != 0 {
            return Some((pde & 0xffc0_0000) | ((pde >> 13 & 0xff) << 32) | (linear & 0x3f_ffff));
        }
        let pte = read((pde & 0xffff_f000) + ((linear >> 12 & 0x3ff) << 2))?;
        (pte & entry::P != 0).then_some((pte & 0xffff_f000) | (linear & 0xfff))
    }

    /// SDM vol. 3A, 4.6.1: rights of a translation; `user` is an access made as user.
    fn check_rights(
        &mut self,
        linear: u64,
        access: Access,
        user: bool,
        rights: u64,
        no_execute: bool,
    ) -> Exec {
        let user_page = rights & entry::US != 0;
        let allowed = if user && !user_page {
            false
        } else {
            match access {
                Access::Write if rights & entry::RW == 0 && (user || self.r.cr0 & cr0::WP != 0) => false,
                Access::Fetch if no_execute => false,
                Access::Fetch => user || !user_page || self.r.cr4 & cr4::SMEP == 0,
                // Implicit supervisor accesses come with CPL 3 and never honour AC.
                _ => user || !user_page || self.r.cr4 & cr4::SMAP == 0 || (self.view == View::Supervisor),
            }
        };
        if allowed {
            Ok(())
        } else {
            Err(self.page_fault(linear, access, user, fault::P))
        }
    }

    #[inline(always)]
    fn mark_entry(&mut self, bus: &mut Bus, address: u64, access: Access, upper: bool) {
        match access {
            _ if upper => self.mark_table(bus, address, Mark::Upper.bit()),
            Access::Fetch => self.mark_fetch(bus, address),
            _ => self.mark_table(bus, address, Mark::Leaf.bit()),
        }
    }

    /// Sets accessed and dirty bits, which ends no translation.
    fn update_entry(&mut self, bus: &mut Bus, address: u64, access: Access, value: u64, size: usize) -> Exec {
        // The entry may lie among the instructions that are being executed.
        let in_block = access != Access::Fetch && !self.precise;
        if in_block && bus.meets_code(address >> 12, (address & 0xfff) as usize, size) {
            return self.need_precision();
        }
        bus.write_ram(GuestPhysAddr(address), &value.to_le_bytes()[..size]);
        self.drop_moved(bus);
        Ok(())
    }

    #[cold]
    fn page_fault(&mut self, linear: u64, access: Access, user: bool, mut code: u32) -> Abort {
        if access == Access::Write {
            code |= fault::W;
        }
        if user {
            code |= fault::U;
        }
        let instruction_fetches_told =
            (self.r.efer & efer::NXE != 0 && self.r.cr4 & cr4::PAE != 0) || self.r.cr4 & cr4::SMEP != 0;
        if access == Access::Fetch && instruction_fetches_told {
            code |= fault::I;
        }
        self.r.cr2 = linear;
        self.raise_error(vector::PF, code)
    }
}
