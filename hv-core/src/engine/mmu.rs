//! Linear memory accesses: the TLB's fast path, and the slow path by page walk.
//!
//! ```text
//! load/store ──TLB hit──► host memory
//!      └─miss─► split at the page ─► walk (rights, A/D) ─► rights, watchpoints, code, MMIO ─► memory or device
//!                                                              └─ needs precision: Pending::Precise
//! ```

use super::bus::{Bus, PendingFlush};
use super::flags::Width;
use super::tlb::View;
use super::vcpu::{Exec, Pending, Vcpu, vector};
use crate::addr::{GuestPhysAddr, Ticks};
use crate::introspect::AccessKind;
use crate::memory::Backing;
use crate::regs::{cr0, cr4, efer};

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    Write,
    Fetch,
}

/// Bits of a paging entry (SDM vol. 3A, 4.3 to 4.5).
mod entry {
    pub(super) const P: u64 = 1 << 0;
    pub(super) const RW: u64 = 1 << 1;
    pub(super) const US: u64 = 1 << 2;
    pub(super) const A: u64 = 1 << 5;
    pub(super) const D: u64 = 1 << 6;
    pub(super) const PS: u64 = 1 << 7;
    pub(super) const NX: u64 = 1 << 63;
}

/// Page-fault error code bits (SDM vol. 3A, 4.7).
mod fault {
    pub(super) const P: u32 = 1 << 0;
    pub(super) const W: u32 = 1 << 1;
    pub(super) const U: u32 = 1 << 2;
    pub(super) const RSVD: u32 = 1 << 3;
    pub(super) const I: u32 = 1 << 4;
}

/// Physical address bits of every CPU model.
pub(crate) const PHYSICAL_BITS: u32 = 40;
const PHYSICAL_MASK: u64 = (1 << PHYSICAL_BITS) - 1;
/// Bits 40..52 are reserved in long-mode and PAE entries.
const RESERVED_HIGH: u64 = ((1 << 52) - 1) & !PHYSICAL_MASK;

/// Whether an address is canonical with 48 linear bits.
pub(crate) fn is_canonical(linear: u64) -> bool {
    ((linear as i64) << 16 >> 16) as u64 == linear
}

impl Vcpu {
    /// Reads an integer.
    #[inline(always)]
    pub(crate) fn load<T: Width>(&mut self, bus: &mut Bus, linear: u64) -> Exec<T> {
        match self.tlb.read::<T>(self.view, linear) {
            Some(value) => Ok(value),
            None => self.load_slow(bus, linear, T::BYTES).map(T::from_u64),
        }
    }

    /// Writes an integer.
    #[inline(always)]
    pub(crate) fn store<T: Width>(&mut self, bus: &mut Bus, linear: u64, value: T) -> Exec {
        if self.tlb.write::<T>(self.view, linear, value) {
            return Ok(());
        }
        self.store_slow(bus, linear, value.to_u64(), T::BYTES)
    }

    /// Reads an integer that the same instruction then writes: a fault is a write fault.
    #[inline(always)]
    pub(crate) fn load_for_write<T: Width>(&mut self, bus: &mut Bus, linear: u64) -> Exec<T> {
        match self.tlb.read_for_write::<T>(self.view, linear) {
            Some(value) => Ok(value),
            None => self.load_for_write_slow(bus, linear, T::BYTES).map(T::from_u64),
        }
    }

    #[cold]
    #[inline(never)]
    fn load_slow(&mut self, bus: &mut Bus, linear: u64, size: usize) -> Exec<u64> {
        self.check_alignment(linear, size)?;
        let mut bytes = [0; 8];
        self.load_bytes(bus, linear, &mut bytes[..size])?;
        Ok(u64::from_le_bytes(bytes))
    }

    #[cold]
    #[inline(never)]
    fn store_slow(&mut self, bus: &mut Bus, linear: u64, value: u64, size: usize) -> Exec {
        self.check_alignment(linear, size)?;
        self.store_bytes(bus, linear, &value.to_le_bytes()[..size])
    }

    #[cold]
    #[inline(never)]
    fn load_for_write_slow(&mut self, bus: &mut Bus, linear: u64, size: usize) -> Exec<u64> {
        self.check_alignment(linear, size)?;
        self.check_writable(bus, linear, size)?;
        let mut bytes = [0; 8];
        self.load_bytes(bus, linear, &mut bytes[..size])?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads 16 bytes.
    #[inline(always)]
    pub(crate) fn load_u128(&mut self, bus: &mut Bus, linear: u64) -> Exec<u128> {
        if let Some(value) = self.tlb.read::<u128>(self.view, linear) {
            return Ok(value);
        }
        self.check_alignment(linear, 16)?;
        let mut bytes = [0; 16];
        self.load_bytes(bus, linear, &mut bytes)?;
        Ok(u128::from_le_bytes(bytes))
    }

    /// Writes 16 bytes.
    #[inline(always)]
    pub(crate) fn store_u128(&mut self, bus: &mut Bus, linear: u64, value: u128) -> Exec {
        if self.tlb.write::<u128>(self.view, linear, value) {
            return Ok(());
        }
        self.check_alignment(linear, 16)?;
        self.store_bytes(bus, linear, &value.to_le_bytes())
    }

    /// SDM vol. 3A, 6.15, #AC: at CPL 3 an operand lies at a multiple of its size (of 8 for 80-bit values), if CR0.AM
    /// and RFLAGS.AC are set. Its priority relative to a page fault is not fixed; here it comes first.
    pub(crate) fn check_alignment(&mut self, linear: u64, size: usize) -> Exec {
        if self.checks_alignment && linear & (size as u64 - 1) != 0 {
            self.bytes_in_first_page(linear, size)?;
            return Err(self.raise_error(vector::AC, 0));
        }
        Ok(())
    }

    /// How much of a data access lies in its first page; an access of which any byte is at a non-canonical address
    /// faults before any of its pages is walked.
    fn bytes_in_first_page(&mut self, linear: u64, size: usize) -> Exec<usize> {
        let last = linear.wrapping_add(size as u64 - 1);
        if self.long_mode() && !(is_canonical(linear) && is_canonical(last)) {
            self.pending = Pending::NonCanonical;
            return Err(super::vcpu::Abort);
        }
        Ok((0x1000 - (linear as usize & 0xfff)).min(size))
    }

    fn is_user(&self) -> bool {
        self.view == View::User
    }

    /// Reads any number of bytes; nothing is read from a device unless every page is readable.
    pub(crate) fn load_bytes(&mut self, bus: &mut Bus, linear: u64, buffer: &mut [u8]) -> Exec {
        let first = self.bytes_in_first_page(linear, buffer.len())?;
        let user = self.is_user();
        let physical = self.translate(bus, linear, Access::Read, user)?;
        if first < buffer.len() {
            let next = self.wrap_linear(linear.wrapping_add(first as u64));
            let physical_next = self.translate(bus, next, Access::Read, user)?;
            let (head, tail) = buffer.split_at_mut(first);
            self.check_access(bus, linear, physical, head.len(), AccessKind::Read)?;
            self.check_access(bus, next, physical_next, tail.len(), AccessKind::Read)?;
            self.read_page(bus, linear, physical, head)?;
            self.read_page(bus, next, physical_next, tail)
        } else {
            self.check_access(bus, linear, physical, buffer.len(), AccessKind::Read)?;
            self.read_page(bus, linear, physical, buffer)
        }
    }

    /// Writes any number of bytes (up to a page); nothing is written unless all of it can be.
    pub(crate) fn store_bytes(&mut self, bus: &mut Bus, linear: u64, bytes: &[u8]) -> Exec {
        let first = self.bytes_in_first_page(linear, bytes.len())?;
        let user = self.is_user();
        let physical = self.translate(bus, linear, Access::Write, user)?;
        if first < bytes.len() {
            let next = self.wrap_linear(linear.wrapping_add(first as u64));
            let physical_next = self.translate(bus, next, Access::Write, user)?;
            let (head, tail) = bytes.split_at(first);
            self.check_access(bus, linear, physical, head.len(), AccessKind::Write)?;
            self.check_access(bus, next, physical_next, tail.len(), AccessKind::Write)?;
            self.write_page(bus, linear, physical, head)?;
            self.write_page(bus, next, physical_next, tail)
        } else {
            self.check_access(bus, linear, physical, bytes.len(), AccessKind::Write)?;
            self.write_page(bus, linear, physical, bytes)
        }
    }

    /// Faults as a write of these bytes would, without writing.
    pub(crate) fn check_writable(&mut self, bus: &mut Bus, linear: u64, size: usize) -> Exec {
        let first = self.bytes_in_first_page(linear, size)?;
        let user = self.is_user();
        let physical = self.translate(bus, linear, Access::Write, user)?;
        self.check_access(bus, linear, physical, first, AccessKind::Write)?;
        if first < size {
            let next = self.wrap_linear(linear.wrapping_add(first as u64));
            let physical = self.translate(bus, next, Access::Write, user)?;
            self.check_access(bus, next, physical, size - first, AccessKind::Write)?;
        }
        Ok(())
    }

    /// Linear addresses wrap at 4 GiB outside 64-bit mode.
    pub(crate) fn wrap_linear(&self, linear: u64) -> u64 {
        if self.long_mode() {
            linear
        } else {
            linear & 0xffff_ffff
        }
    }

    /// Reads system tables (descriptors, TSS, IDT) with supervisor rights, whatever the CPL.
    pub(crate) fn load_system(&mut self, bus: &mut Bus, linear: u64, buffer: &mut [u8]) -> Exec {
        let mut done = 0;
        while done < buffer.len() {
            let at = self.wrap_linear(linear.wrapping_add(done as u64));
            let length = (0x1000 - (at as usize & 0xfff)).min(buffer.len() - done);
            let physical = self.translate_implicit(bus, at, Access::Read)?;
            let part = &mut buffer[done..done + length];
            part.fill(0xff);
            bus.memory.read(GuestPhysAddr(physical), part);
            done += length;
        }
        Ok(())
    }

    /// Writes system structures (busy bits, pushes to inner stacks) with supervisor rights.
    pub(crate) fn store_system(&mut self, bus: &mut Bus, linear: u64, bytes: &[u8]) -> Exec {
        let first = (0x1000 - (linear as usize & 0xfff)).min(bytes.len());
        let physical = self.translate_implicit(bus, linear, Access::Write)?;
        if first < bytes.len() {
            let next = self.wrap_linear(linear.wrapping_add(first as u64));
            let physical_next = self.translate_implicit(bus, next, Access::Write)?;
            bus.write_physical(GuestPhysAddr(physical_next), &bytes[first..], false);
        }
        bus.write_physical(GuestPhysAddr(physical), &bytes[..first], false);
        if bus.flush == PendingFlush::All {
            self.tlb.flush();
        }
        Ok(())
    }

    fn check_access(
        &mut self,
        bus: &mut Bus,
        linear: u64,
        physical: u64,
        length: usize,
        access: AccessKind,
    ) -> Exec {
        if !bus.rights.is_empty()
            && let Some(rights) = bus.rights.get(&(physical >> 12))
            && !(if access == AccessKind::Write {
                rights.write
            } else {
                rights.read
            })
        {
            self.pending = Pending::PageAccess {
                frame: GuestPhysAddr(physical & !0xfff),
                access: Some(access),
            };
            return Err(super::vcpu::Abort);
        }
        if self.guest_watch {
            self.check_guest_watch(linear, length, access);
        }
        if bus.watches.watches_page(linear, physical) {
            let root = self.r.cr3 & !0xfff;
            let precise = self.precise;
            if bus
                .watches
                .check(linear, physical, length as u64, access, root, precise)
                && !precise
            {
                return self.need_precision();
            }
        }
        if !self.precise {
            if access == AccessKind::Write
                && !bus.code.is_empty()
                && bus.meets_code(physical >> 12, (physical & 0xfff) as usize, length)
            {
                return self.need_precision();
            }
            if bus.is_mmio(physical) {
                return self.need_precision();
            }
        }
        Ok(())
    }

    #[cold]
    fn need_precision(&mut self) -> Exec {
        self.pending = Pending::Precise;
        Err(super::vcpu::Abort)
    }

    /// The guest's own data breakpoints (SDM vol. 3B, 17.2.4 and 17.2.5): the trap comes after the instruction.
    fn check_guest_watch(&mut self, linear: u64, length: usize, access: AccessKind) {
        let dr7 = self.r.dr7;
        for i in 0..4 {
            let kind = dr7 >> (16 + 4 * i) & 3;
            if dr7 >> (2 * i) & 3 == 0 || kind & 1 == 0 || (kind == 1 && access != AccessKind::Write) {
                continue;
            }
            let size = match dr7 >> (18 + 4 * i) & 3 {
                0 => 1,
                1 => 2,
                2 => 8,
                _ => 4,
            };
            let start = self.r.dr[i] & !(size - 1);
            if linear < start.saturating_add(size) && start < linear.saturating_add(length as u64) {
                self.debug_trap |= 1 << i;
            }
        }
    }

    /// The guest's own I/O breakpoints, which CR4.DE allows (SDM vol. 3B, 17.2.4).
    pub(crate) fn check_guest_port_watch(&mut self, port: u16, size: usize) {
        let dr7 = self.r.dr7;
        for i in 0..4 {
            if dr7 >> (2 * i) & 3 == 0 || dr7 >> (16 + 4 * i) & 3 != 2 || self.r.cr4 & cr4::DE == 0 {
                continue;
            }
            let length = (dr7 >> (18 + 4 * i) & 3) + 1;
            let start = self.r.dr[i] & !(length - 1);
            if (port as u64) < start.saturating_add(length) && start < port as u64 + size as u64 {
                self.debug_trap |= 1 << i;
            }
        }
    }

    /// SDM vol. 3A, 4.4.1: whether the four page-directory-pointer entries at `root` can be loaded.
    pub(crate) fn pointers_are_valid(&self, bus: &Bus, root: u64) -> bool {
        let reserved = RESERVED_HIGH | 0xfff << 52 | 0x1e6;
        (0..4).all(|n| {
            let value = bus.memory.read_u64((root & 0xffff_ffe0) + 8 * n).unwrap_or(0);
            value & entry::P == 0 || value & reserved == 0
        })
    }

    fn may_cache(&self, bus: &Bus, linear: u64, physical: u64) -> bool {
        !self.guest_watch
            && !self.checks_alignment
            && (bus.rights.is_empty() || !bus.rights.contains_key(&(physical >> 12)))
            && !bus.watches.watches_page(linear, physical)
    }

    fn read_page(&mut self, bus: &mut Bus, linear: u64, physical: u64, buffer: &mut [u8]) -> Exec {
        if bus.is_mmio(physical) {
            for (i, part) in buffer.chunks_mut(8).enumerate() {
                let at = GuestPhysAddr(physical + 8 * i as u64);
                let value = bus
                    .platform
                    .mmio_read(Ticks(self.clock), self.id, at, part.len() as u8);
                part.copy_from_slice(&value.to_le_bytes()[..part.len()]);
            }
            return Ok(());
        }
        match bus.memory.backing(physical >> 12) {
            Backing::Ram(frame) | Backing::Rom(frame) => {
                let host = bus.memory.readable_page(frame);
                if self.may_cache(bus, linear, physical) {
                    self.tlb.insert_read(self.view, linear, host);
                }
                bus.memory.read(GuestPhysAddr(physical), buffer);
            }
            Backing::None => buffer.fill(0xff),
        }
        Ok(())
    }

    fn write_page(&mut self, bus: &mut Bus, linear: u64, physical: u64, bytes: &[u8]) -> Exec {
        if bus.is_mmio(physical) {
            for (i, part) in bytes.chunks(8).enumerate() {
                let at = GuestPhysAddr(physical + 8 * i as u64);
                let mut value = [0; 8];
                value[..part.len()].copy_from_slice(part);
                let value = u64::from_le_bytes(value);
                bus.platform
                    .mmio_write(Ticks(self.clock), self.id, at, part.len() as u8, value);
            }
            return Ok(());
        }
        if let Backing::Ram(frame) = bus.memory.backing(physical >> 12) {
            let (host, moved) = bus.memory.writable_page(frame);
            if moved {
                self.tlb.flush();
                bus.request_flush(PendingFlush::All);
            }
            bus.code_written(physical >> 12, (physical & 0xfff) as usize, bytes.len());
            if !bus.code.contains_key(&(physical >> 12)) && self.may_cache(bus, linear, physical) {
                self.tlb.insert_write(self.view, linear, host);
            }
            bus.memory.write(GuestPhysAddr(physical), bytes, false);
        }
        Ok(())
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
            return Err(super::vcpu::Abort);
        }
        self.tlb.insert_fetch(user, linear, physical & !0xfff);
        Ok(physical)
    }

    /// Translates for the CPU's own accesses to system structures: supervisor rights, and SMAP whatever RFLAGS.AC says
    /// (SDM vol. 3A, 4.6.1).
    fn translate_implicit(&mut self, bus: &mut Bus, linear: u64, access: Access) -> Exec<u64> {
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
        if !self.paging() {
            return Ok(linear & 0xffff_ffff);
        }
        if self.long_mode() {
            if !is_canonical(linear) {
                self.pending = Pending::NonCanonical;
                return Err(super::vcpu::Abort);
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
                    self.update_entry(bus, address, value | set, 8);
                }
                if large {
                    self.tlb.note_large(linear, shift);
                }
                let offset_mask = (1u64 << shift) - 1;
                return Ok((value & PHYSICAL_MASK & !0xfff & !offset_mask) | (linear & offset_mask));
            }
            if value & entry::A == 0 {
                self.update_entry(bus, address, value | entry::A, 8);
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
                self.update_entry(bus, address, pde | set, 4);
            }
            self.tlb.note_large(linear, 22);
            let base = (pde & 0xffc0_0000) | ((pde >> 13 & 0xff) << 32);
            return Ok((base & PHYSICAL_MASK) | (linear & 0x3f_ffff));
        }
        if pde & entry::A == 0 {
            self.update_entry(bus, address, pde | entry::A, 4);
        }
        let address = (pde & 0xffff_f000) + ((linear >> 12 & 0x3ff) << 2);
        let pte = read(bus, address);
        if pte & entry::P == 0 {
            return Err(self.page_fault(linear, access, user, 0));
        }
        self.check_rights(linear, access, user, pde & pte, false)?;
        let set = if access == Access::Write {
            entry::A | entry::D
        } else {
            entry::A
        };
        if pte & set != set {
            self.update_entry(bus, address, pte | set, 4);
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

    fn update_entry(&mut self, bus: &mut Bus, address: u64, value: u64, size: usize) {
        bus.write_physical(GuestPhysAddr(address), &value.to_le_bytes()[..size], false);
        if bus.flush == PendingFlush::All {
            self.tlb.flush();
        }
    }

    #[cold]
    fn page_fault(&mut self, linear: u64, access: Access, user: bool, mut code: u32) -> super::vcpu::Abort {
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
