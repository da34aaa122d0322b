//! Descriptors: loading segment registers, far transfers' checks, LAR to VERW (SDM vol. 3A, chapters 3 and 5).

use crate::engine::bus::Bus;
use crate::engine::vcpu::{Exec, Mode, Vcpu, vector};
use crate::regs::{Segment, rflags, seg};
use iced_x86::{Instruction, Mnemonic};

/// An 8-byte descriptor (16 bytes for system descriptors in long mode; `base_high` is from the second half).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) raw: u64,
    pub(crate) base_high: u64,
}

impl Descriptor {
    pub(crate) fn base(self) -> u64 {
        (self.raw >> 16 & 0xff_ffff) | (self.raw >> 56 & 0xff) << 24 | self.base_high << 32
    }
    pub(crate) fn limit(self) -> u32 {
        let limit = (self.raw & 0xffff) as u32 | (self.raw >> 32 & 0xf_0000) as u32;
        if self.raw >> 55 & 1 != 0 {
            limit << 12 | 0xfff
        } else {
            limit
        }
    }
    pub(crate) fn attributes(self) -> u32 {
        (self.raw >> 40 & 0xf0ff) as u32
    }
    pub(crate) fn kind(self) -> u32 {
        (self.raw >> 40 & 0xf) as u32
    }
    pub(crate) fn is_code_or_data(self) -> bool {
        self.raw >> 44 & 1 != 0
    }
    pub(crate) fn is_code(self) -> bool {
        self.is_code_or_data() && self.kind() & 8 != 0
    }
    pub(crate) fn conforming(self) -> bool {
        self.kind() & 4 != 0
    }
    pub(crate) fn dpl(self) -> u8 {
        (self.raw >> 45 & 3) as u8
    }
    pub(crate) fn present(self) -> bool {
        self.raw >> 47 & 1 != 0
    }
    pub(crate) fn long(self) -> bool {
        self.raw >> 53 & 1 != 0
    }
    pub(crate) fn big(self) -> bool {
        self.raw >> 54 & 1 != 0
    }
    pub(crate) fn segment(self, selector: u16) -> Segment {
        Segment {
            selector,
            base: self.base(),
            limit: self.limit(),
            attributes: self.attributes(),
        }
    }
    // Gates.
    pub(crate) fn gate_selector(self) -> u16 {
        (self.raw >> 16) as u16
    }
    pub(crate) fn gate_offset32(self) -> u64 {
        (self.raw & 0xffff) | (self.raw >> 32 & 0xffff_0000)
    }
}

/// A selector's index and table part, as error codes carry it.
pub(crate) fn selector_error(selector: u16) -> u32 {
    (selector & !3) as u32
}

impl Vcpu {
    /// Reads a descriptor; #GP (or `fault`) with the selector where it lies outside its table.
    pub(crate) fn read_descriptor(
        &mut self,
        bus: &mut Bus,
        selector: u16,
        fault: u8,
    ) -> Exec<(Descriptor, u64)> {
        let (base, limit) = if selector & 4 != 0 {
            if self.r.ldtr.unusable() || !self.r.ldtr.present() {
                return Err(self.raise_error(fault, selector_error(selector)));
            }
            (self.r.ldtr.base, self.r.ldtr.limit as u64)
        } else {
            (self.r.gdtr.base, self.r.gdtr.limit as u64)
        };
        let offset = (selector & !7) as u64;
        if offset + 7 > limit {
            return Err(self.raise_error(fault, selector_error(selector)));
        }
        let address = self.wrap_linear(base.wrapping_add(offset));
        let mut bytes = [0; 8];
        self.load_system(bus, address, &mut bytes)?;
        let mut d = Descriptor {
            raw: u64::from_le_bytes(bytes),
            base_high: 0,
        };
        if self.long_mode() && !d.is_code_or_data() {
            if offset + 15 > limit {
                return Err(self.raise_error(fault, selector_error(selector)));
            }
            self.load_system(bus, address.wrapping_add(8), &mut bytes)?;
            d.base_high = u64::from_le_bytes(bytes) & 0xffff_ffff;
        }
        Ok((d, address))
    }

    /// Sets the accessed bit of a code or data descriptor that is about to be loaded.
    pub(crate) fn mark_accessed(&mut self, bus: &mut Bus, d: &mut Descriptor, address: u64) -> Exec {
        if d.is_code_or_data() && d.kind() & 1 == 0 {
            d.raw |= 1 << 40;
            self.store_system(bus, address.wrapping_add(5), &[(d.raw >> 40) as u8])?;
        }
        Ok(())
    }

    pub(crate) fn null_segment(&self, selector: u16) -> Segment {
        Segment {
            selector,
            base: 0,
            limit: 0,
            attributes: Segment::UNUSABLE,
        }
    }

    /// Loads DS, ES, FS, GS or SS by MOV, POP or LxS.
    pub(crate) fn load_segment(&mut self, bus: &mut Bus, index: usize, selector: u16) -> Exec {
        if !self.protected() || self.mode == Mode::Virtual8086 {
            let v86 = self.mode == Mode::Virtual8086;
            let s = &mut self.r.segments[index];
            s.selector = selector;
            s.base = (selector as u64) << 4;
            if v86 {
                s.limit = 0xffff;
                s.attributes = 0xf3;
            }
            self.update_mode();
            return Ok(());
        }
        if index == seg::SS {
            return self.load_stack_segment(bus, selector, self.cpl, vector::GP);
        }
        if selector & !3 == 0 {
            self.r.segments[index] = self.null_segment(selector);
            self.update_mode();
            return Ok(());
        }
        let (mut d, address) = self.read_descriptor(bus, selector, vector::GP)?;
        let error = selector_error(selector);
        let readable = d.is_code_or_data() && (!d.is_code() || d.kind() & 2 != 0);
        let privileged = (d.is_code() && d.conforming()) || d.dpl() >= self.cpl.max((selector & 3) as u8);
        if !readable || !privileged {
            return Err(self.raise_error(vector::GP, error));
        }
        if !d.present() {
            return Err(self.raise_error(vector::NP, error));
        }
        self.mark_accessed(bus, &mut d, address)?;
        self.r.segments[index] = d.segment(selector);
        self.update_mode();
        Ok(())
    }

    /// Loads SS for privilege level `cpl`; faults are `fault` (#GP, or #TS on a stack switch).
    pub(crate) fn load_stack_segment(&mut self, bus: &mut Bus, selector: u16, cpl: u8, fault: u8) -> Exec {
        let s = self.check_stack_segment(bus, selector, cpl, fault)?;
        self.r.segments[seg::SS] = s;
        self.update_mode();
        Ok(())
    }

    /// The checks of [`Self::load_stack_segment`] without the load.
    pub(crate) fn check_stack_segment(
        &mut self,
        bus: &mut Bus,
        selector: u16,
        cpl: u8,
        fault: u8,
    ) -> Exec<Segment> {
        let rpl = (selector & 3) as u8;
        if selector & !3 == 0 {
            if self.long_mode() && cpl < 3 && rpl == cpl {
                let mut s = self.null_segment(selector);
                s.attributes |= (cpl as u32) << 5;
                return Ok(s);
            }
            return Err(self.raise_error(fault, 0));
        }
        let (mut d, address) = self.read_descriptor(bus, selector, fault)?;
        let error = selector_error(selector);
        let writable_data = d.is_code_or_data() && !d.is_code() && d.kind() & 2 != 0;
        if !writable_data || rpl != cpl || d.dpl() != cpl {
            return Err(self.raise_error(fault, error));
        }
        if !d.present() {
            return Err(self.raise_error(vector::SS, error));
        }
        self.mark_accessed(bus, &mut d, address)?;
        Ok(d.segment(selector))
    }

    /// Installs a checked code segment: the selector's RPL becomes the CPL.
    pub(crate) fn set_code_segment(&mut self, d: Descriptor, selector: u16, cpl: u8) {
        self.r.segments[seg::CS] = d.segment(selector & !3 | cpl as u16);
        self.cpl = cpl;
        self.update_mode();
    }

    /// LLDT and LTR.
    pub(crate) fn load_system_segment(&mut self, bus: &mut Bus, selector: u16, task: bool) -> Exec {
        if selector & !3 == 0 {
            if task {
                return Err(self.general_protection());
            }
            self.r.ldtr = self.null_segment(selector);
            return Ok(());
        }
        let error = selector_error(selector);
        if selector & 4 != 0 {
            return Err(self.raise_error(vector::GP, error));
        }
        let (mut d, address) = self.read_descriptor(bus, selector, vector::GP)?;
        let wanted = if task {
            d.kind() == 9 || (d.kind() == 1 && !self.long_mode())
        } else {
            d.kind() == 2
        };
        if d.is_code_or_data() || !wanted {
            return Err(self.raise_error(vector::GP, error));
        }
        if !d.present() {
            return Err(self.raise_error(vector::NP, error));
        }
        if task {
            d.raw |= 2 << 40;
            self.store_system(bus, address.wrapping_add(5), &[(d.raw >> 40) as u8])?;
            self.r.tr = d.segment(selector);
        } else {
            self.r.ldtr = d.segment(selector);
        }
        Ok(())
    }

    /// On a return to an outer ring: data segments that the outer ring may not have become null.
    pub(crate) fn drop_inner_segments(&mut self) {
        for index in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let s = self.r.segments[index];
            let conforming_code = s.kind() & 0xc == 0xc;
            if !s.unusable() && s.is_code_or_data() && !conforming_code && s.dpl() < self.cpl {
                self.r.segments[index] = Segment {
                    selector: 0,
                    base: s.base,
                    limit: 0,
                    attributes: Segment::UNUSABLE,
                };
                if index < seg::FS {
                    self.r.segments[index].base = 0;
                }
            }
        }
        self.update_mode();
    }
}

/// LAR, LSL, VERR, VERW: ZF says whether the selector is visible.
pub(crate) fn inspect(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    if !cpu.protected() || cpu.mode == Mode::Virtual8086 {
        return Err(cpu.undefined());
    }
    let verify = matches!(i.mnemonic(), Mnemonic::Verr | Mnemonic::Verw);
    let selector = cpu.read_operand(bus, i, if verify { 0 } else { 1 })? as u16;
    let found = if selector & !3 == 0 {
        None
    } else {
        match cpu.read_descriptor(bus, selector, vector::GP) {
            Ok((d, _)) => Some(d),
            Err(abort) => {
                if matches!(
                    cpu.pending,
                    crate::engine::vcpu::Pending::Exception {
                        vector: vector::GP,
                        ..
                    }
                ) {
                    cpu.pending = crate::engine::vcpu::Pending::Nothing;
                    None
                } else {
                    return Err(abort);
                }
            }
        }
    };
    let value = found.and_then(|d| {
        let visible = (d.is_code() && d.conforming()) || d.dpl() >= cpu.cpl.max((selector & 3) as u8);
        let system_type_ok = |allowed: &[u32]| d.is_code_or_data() || allowed.contains(&d.kind());
        match i.mnemonic() {
            Mnemonic::Verr => {
                (d.is_code_or_data() && visible && (!d.is_code() || d.kind() & 2 != 0)).then_some(0)
            }
            Mnemonic::Verw => {
                (d.is_code_or_data() && visible && !d.is_code() && d.kind() & 2 != 0).then_some(0)
            }
            Mnemonic::Lar => {
                let allowed: &[u32] = if cpu.long_mode() {
                    &[2, 9, 11, 12]
                } else {
                    &[1, 2, 3, 4, 5, 9, 11, 12]
                };
                (visible && system_type_ok(allowed)).then_some(d.raw >> 32 & 0x00ff_ff00)
            }
            _ => {
                let allowed: &[u32] = if cpu.long_mode() {
                    &[2, 9, 11]
                } else {
                    &[1, 2, 3, 9, 11]
                };
                (visible && system_type_ok(allowed)).then_some(d.limit() as u64)
            }
        }
    });
    if let (Some(value), false) = (value, verify) {
        cpu.set_register(i.op0_register(), value);
    }
    let f = cpu.flags.to_rflags() & !rflags::ZF | if value.is_some() { rflags::ZF } else { 0 };
    cpu.flags = crate::engine::flags::Flags::from_rflags(f);
    Ok(())
}

/// ARPL: raises the RPL of a selector to that of another; ZF tells whether it had to.
pub(crate) fn adjust_privilege(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    if !cpu.protected() || cpu.mode == Mode::Virtual8086 {
        return Err(cpu.undefined());
    }
    let selector = cpu.read_operand(bus, i, 0)? as u16;
    let rpl = cpu.get_register(i.op1_register()) as u16 & 3;
    let raised = selector & 3 < rpl;
    let result = selector & !3 | rpl;
    if !raised {
        // Nothing is written, not even the same value.
    } else if i.op0_kind() == iced_x86::OpKind::Register {
        // The 32-bit form's upper half stays too.
        let place = i.op0_register();
        let old = cpu.get_register(place);
        cpu.set_register(place, old & !0xffff | result as u64);
    } else {
        cpu.write_operand(bus, i, 0, result as u64)?;
    }
    let f = cpu.flags.to_rflags() & !rflags::ZF | if raised { rflags::ZF } else { 0 };
    cpu.flags = crate::engine::flags::Flags::from_rflags(f);
    Ok(())
}
