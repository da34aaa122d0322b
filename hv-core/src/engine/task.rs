//! Hardware task switches by task gates, far jumps and calls, and IRET with NT (SDM vol. 3A, 7.3); 32-bit TSS only,
//! protected mode only.

use super::bus::Bus;
use super::exec::segment::selector_error;
use super::vcpu::{Exec, Pending, Vcpu, vector};
use crate::regs::{rflags, seg};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SwitchKind {
    Jump,
    /// CALL, interrupt or exception: links back.
    Nest,
    Iret,
}

const TSS32_SIZE: usize = 104;

fn word(image: &[u8; TSS32_SIZE], offset: usize) -> u32 {
    u32::from_le_bytes([
        image[offset],
        image[offset + 1],
        image[offset + 2],
        image[offset + 3],
    ])
}

impl Vcpu {
    pub(crate) fn switch_task_for_interrupt(
        &mut self,
        bus: &mut Bus,
        selector: u16,
        error: Option<u32>,
        external: u32,
    ) -> Exec {
        self.switch_task(bus, selector, SwitchKind::Nest, external)?;
        if let Some(error) = error {
            self.push(bus, error as u64, 4)?;
        }
        Ok(())
    }

    pub(crate) fn return_from_task(&mut self, bus: &mut Bus) -> Exec {
        let mut link = [0; 2];
        self.load_system(bus, self.r.tr.base, &mut link)?;
        self.switch_task(bus, u16::from_le_bytes(link), SwitchKind::Iret, 0)
    }

    /// Saves the current task in its TSS and loads the one at `selector`. RIP must be where the old task goes on.
    pub(crate) fn switch_task(
        &mut self,
        bus: &mut Bus,
        selector: u16,
        kind: SwitchKind,
        external: u32,
    ) -> Exec {
        let fault = if kind == SwitchKind::Iret {
            vector::TS
        } else {
            vector::GP
        };
        let error = selector_error(selector) | external;
        if selector & 4 != 0 || selector & !3 == 0 {
            return Err(self.raise_error(fault, error));
        }
        let (descriptor, address) = self.read_descriptor(bus, selector, fault)?;
        let wanted = if kind == SwitchKind::Iret { 11 } else { 9 };
        if descriptor.is_code_or_data() || descriptor.kind() != wanted {
            return Err(self.raise_error(fault, error));
        }
        if !descriptor.present() {
            return Err(self.raise_error(vector::NP, error));
        }
        if descriptor.limit() < TSS32_SIZE as u32 - 1 || self.r.tr.limit < TSS32_SIZE as u32 - 1 {
            return Err(self.raise_error(vector::TS, error));
        }
        let mut new = [0; TSS32_SIZE];
        self.load_system(bus, descriptor.base(), &mut new)?;
        let mut flags = self.rflags();
        if kind == SwitchKind::Iret {
            flags &= !rflags::NT;
        }
        let mut old = [0u8; 64];
        let mut put = |at: usize, value: u32| old[at - 32..at - 28].copy_from_slice(&value.to_le_bytes());
        put(32, self.rip as u32);
        put(36, flags as u32);
        for n in 0..8 {
            put(40 + 4 * n, self.gpr[n] as u32);
        }
        for s in 0..6 {
            put(72 + 4 * s, self.r.segments[s].selector as u32);
        }
        let old_base = self.r.tr.base;
        self.store_system(bus, old_base.wrapping_add(32), &old)?;
        let old_selector = self.r.tr.selector;
        if kind != SwitchKind::Nest {
            let (d, at) = self.read_descriptor(bus, old_selector, vector::TS)?;
            self.store_system(bus, at.wrapping_add(5), &[(d.raw >> 40) as u8 & !2])?;
        } else {
            self.store_system(bus, descriptor.base(), &old_selector.to_le_bytes())?;
        }
        if kind != SwitchKind::Iret {
            self.store_system(bus, address.wrapping_add(5), &[(descriptor.raw >> 40) as u8 | 2])?;
        }
        self.r.tr = descriptor.segment(selector);
        self.r.tr.attributes |= 2;
        self.r.cr0 |= crate::regs::cr0::TS;
        if self.paging() {
            self.r.cr3 = word(&new, 28) as u64;
            self.flush_tlb();
        }
        self.rip = word(&new, 32) as u64;
        let mut new_flags = word(&new, 36) as u64;
        if kind == SwitchKind::Nest {
            new_flags |= rflags::NT;
        }
        for n in 0..8 {
            self.gpr[n] = word(&new, 40 + 4 * n) as u64;
        }
        self.r.ldtr = self.null_segment(0);
        self.set_rflags(new_flags);
        // SDM vol. 3B, 17.2.4: local breakpoints belong to the old task.
        self.r.dr7 &= !0x155;
        self.update_debug();
        if self.load_task_segments(bus, &new).is_err() {
            return self.fault_in_new_task(bus);
        }
        if word(&new, 100) & 1 != 0 {
            self.debug_trap |= 1 << 15;
        }
        Ok(())
    }

    /// A fault while the new task's segments are loaded is the new task's (SDM vol. 3A, 7.3, table 7-1): #TS where a
    /// segment load would have raised #GP.
    fn fault_in_new_task(&mut self, bus: &mut Bus) -> Exec {
        let Some((number, error)) = self.resolve_pending() else {
            return Ok(());
        };
        let number = if number == vector::GP { vector::TS } else { number };
        match self.deliver_exception(bus, number, error) {
            Ok(()) => Ok(()),
            Err(_) => {
                self.pending = Pending::Exception {
                    vector: vector::DF,
                    error: Some(0),
                };
                Err(super::vcpu::Abort)
            }
        }
    }

    fn load_task_segments(&mut self, bus: &mut Bus, new: &[u8; TSS32_SIZE]) -> Exec {
        let virtual_8086 = self.rflags & rflags::VM != 0;
        self.load_system_segment(bus, word(new, 96) as u16, false)?;
        let cs = word(new, 76) as u16;
        if virtual_8086 {
            self.cpl = 3;
            self.update_mode();
            self.set_code_of_virtual_8086(cs);
        } else {
            self.cpl = (cs & 3) as u8;
            let (mut code, at) = self.read_descriptor(bus, cs, vector::TS)?;
            let dpl_ok = if code.conforming() {
                code.dpl() <= self.cpl
            } else {
                code.dpl() == self.cpl
            };
            if cs & !3 == 0 || !code.is_code() || !dpl_ok {
                return Err(self.raise_error(vector::TS, selector_error(cs)));
            }
            if !code.present() {
                return Err(self.raise_error(vector::NP, selector_error(cs)));
            }
            self.mark_accessed(bus, &mut code, at)?;
            self.set_code_segment(code, cs, (cs & 3) as u8);
            self.load_stack_segment(bus, word(new, 80) as u16, self.cpl, vector::TS)?;
        }
        for s in [seg::ES, seg::DS, seg::FS, seg::GS] {
            self.load_segment(bus, s, word(new, 72 + 4 * s) as u16)?;
        }
        if virtual_8086 {
            self.load_segment(bus, seg::SS, word(new, 80) as u16)?;
        }
        Ok(())
    }

    fn set_code_of_virtual_8086(&mut self, selector: u16) {
        self.r.segments[seg::CS] = crate::regs::Segment {
            selector,
            base: (selector as u64) << 4,
            limit: 0xffff,
            attributes: 0xf3,
        };
        self.update_mode();
    }
}
