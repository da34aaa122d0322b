//! Linear memory accesses: the TLB's fast path, and the slow path by page walk.
//!
//! ```text
//! load/store ──TLB hit──► host memory
//!      └─miss─► split at the page ─► walk (walk.rs) ─► watchpoints, code, tables, MMIO ─► memory or device
//!                                                              └─ needs precision: Pending::Precise
//! ```

use super::bus::Bus;
use super::flags::Width;
use super::tlb::View;
use super::vcpu::{Abort, Exec, Pending, Vcpu, vector};
use super::walk::Access;
use crate::addr::{GuestPhysAddr, Ticks};
use crate::introspect::AccessKind;
use crate::memory::Backing;
use crate::regs::cr4;

/// Physical address bits of every CPU model.
pub(crate) const PHYSICAL_BITS: u32 = 40;

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
            return Err(Abort);
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
            // The first part may change where the second page is, for later accesses.
            self.write_page(bus, physical, head);
            self.write_page(bus, physical_next, tail);
            Ok(())
        } else {
            self.check_access(bus, linear, physical, bytes.len(), AccessKind::Write)?;
            self.write_page(bus, physical, bytes);
            self.cache_write(bus, linear, physical);
            Ok(())
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
            self.write_ram(bus, physical_next, &bytes[first..]);
        }
        self.write_ram(bus, physical, &bytes[..first]);
        Ok(())
    }

    /// Writes RAM and drops what the TLB held by what was there.
    fn write_ram(&mut self, bus: &mut Bus, physical: u64, bytes: &[u8]) {
        bus.write_physical(GuestPhysAddr(physical), bytes);
        self.drop_moved(bus);
        self.drop_changed(bus);
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
            return Err(Abort);
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
            if access == AccessKind::Write && self.may_move_code(bus, physical, length) {
                return self.need_precision();
            }
        }
        Ok(())
    }

    #[cold]
    pub(super) fn need_precision(&mut self) -> Exec {
        self.pending = Pending::Precise;
        Err(Abort)
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

    fn write_page(&mut self, bus: &mut Bus, physical: u64, bytes: &[u8]) {
        if bus.is_mmio(physical) {
            for (i, part) in bytes.chunks(8).enumerate() {
                let at = GuestPhysAddr(physical + 8 * i as u64);
                let mut value = [0; 8];
                value[..part.len()].copy_from_slice(part);
                let value = u64::from_le_bytes(value);
                bus.platform
                    .mmio_write(Ticks(self.clock), self.id, at, part.len() as u8, value);
            }
        } else {
            self.write_ram(bus, physical, bytes);
        }
    }

    /// Makes a write entry for a page just written, where it may have one.
    fn cache_write(&mut self, bus: &mut Bus, linear: u64, physical: u64) {
        if let Backing::Ram(frame) = bus.memory.backing(physical >> 12)
            && !bus.is_mmio(physical)
            && !bus.code.contains_key(&(physical >> 12))
            && !bus.tables.may_be_table(frame)
            && self.may_cache(bus, linear, physical)
        {
            self.mark_written(bus, frame);
            let (host, _) = bus.memory.writable_page(frame);
            self.tlb.insert_write(self.view, linear, host);
        }
    }
}
