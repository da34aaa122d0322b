//! Delivery of interrupts and exceptions, and IRET (SDM vol. 3A, chapter 6; vol. 2, INT and IRET).

use super::bus::Bus;
use super::exec::segment::{Descriptor, selector_error};
use super::mmu::is_canonical;
use super::run::Exit;
use super::vcpu::{Exec, Mode, Pending, Vcpu, vector};
use crate::regs::{Segment, gpr, rflags, seg};

/// Where an interrupt comes from: decides checks and the EXT bit of error codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// An interrupt line or NMI.
    External,
    /// A fault or trap of the CPU.
    Exception,
    /// INT n, INT3, INTO: the gate's DPL counts.
    Software,
}

impl Vcpu {
    /// Delivers the pending exception of an aborted instruction, escalating to double and triple fault.
    ///
    /// # Errors
    /// [`Exit::TripleFault`], or [`Exit::PageAccess`] with the exception not delivered: it comes again with the
    /// instruction.
    pub(crate) fn deliver_exception(
        &mut self,
        bus: &mut Bus,
        vector: u8,
        error: Option<u32>,
    ) -> Result<(), Exit> {
        let (mut current, mut code) = (vector, error);
        let flags = self.rflags;
        loop {
            let cr2 = self.r.cr2;
            if current == vector::DB {
                // SDM vol. 3B, 17.2.4: general detection is off in the handler.
                self.r.dr7 &= !(1 << 13);
            } else {
                // SDM vol. 3A 6.8.3 and 17.3.1.1: faults push RF set so that the restarted instruction doesn't hit
                // its breakpoint again.
                self.rflags |= rflags::RF;
            }
            match self.interrupt(bus, current, code, Source::Exception) {
                Ok(()) => {
                    // A handler whose first instruction faults again and again retires nothing: each such fault
                    // takes a tick, so that time and the run's limit go on.
                    if self.delivered_at == self.clock {
                        self.clock += 1;
                    }
                    self.delivered_at = self.clock;
                    return Ok(());
                }
                Err(_) => {
                    if let Some(exit) = self.restricted_access() {
                        self.rflags = flags;
                        return Err(exit);
                    }
                    let (second, second_code) = match self.resolve_pending() {
                        Some(exception) => exception,
                        None => continue,
                    };
                    if current == vector::DF {
                        self.r.cr2 = cr2;
                        return Err(Exit::TripleFault);
                    }
                    if is_contributory(current) && is_contributory(second)
                        || current == vector::PF && (is_contributory(second) || second == vector::PF)
                    {
                        (current, code) = (vector::DF, Some(0));
                    } else {
                        (current, code) = (second, second_code);
                    }
                }
            }
        }
    }

    /// The exception that the last abort asks for; `None` if it asked for something else.
    pub(crate) fn resolve_pending(&mut self) -> Option<(u8, Option<u32>)> {
        match std::mem::replace(&mut self.pending, Pending::Nothing) {
            Pending::Exception { vector, error } => Some((vector, error)),
            Pending::NonCanonical => Some((vector::GP, Some(0))),
            _ => None,
        }
    }

    /// The stop that the last abort asks for, if it met a frame that the debugger's side restricts.
    pub(crate) fn restricted_access(&mut self) -> Option<Exit> {
        let Pending::PageAccess { frame, access } = self.pending else {
            return None;
        };
        self.pending = Pending::Nothing;
        Some(Exit::PageAccess(frame, access))
    }

    /// Delivers an interrupt through the IDT. RIP must be the return address. On an abort nothing has changed.
    pub(crate) fn interrupt(
        &mut self,
        bus: &mut Bus,
        vector: u8,
        error: Option<u32>,
        source: Source,
    ) -> Exec {
        self.r.activity = crate::regs::Activity::Running;
        // INT n is an instruction that can be aborted and done again in precise mode.
        let precise = self.precise;
        self.precise |= source != Source::Software;
        let result = if !self.protected() {
            self.interrupt_real(bus, vector)
        } else if self.long_mode() {
            self.interrupt_long(bus, vector, error, source)
        } else {
            self.interrupt_protected(bus, vector, error, source)
        };
        self.precise = precise;
        result
    }

    fn interrupt_real(&mut self, bus: &mut Bus, vector: u8) -> Exec {
        let offset = vector as u64 * 4;
        if offset + 3 > self.r.idtr.limit as u64 {
            return Err(self.raise(vector::GP));
        }
        let mut entry = [0; 4];
        self.load_system(bus, self.r.idtr.base.wrapping_add(offset), &mut entry)?;
        let sp = self.gpr[gpr::RSP];
        let (flags, cs, ip) = (self.rflags(), self.r.segments[seg::CS].selector as u64, self.rip);
        for value in [flags, cs, ip] {
            if let Err(abort) = self.push(bus, value, 2) {
                self.gpr[gpr::RSP] = sp;
                return Err(abort);
            }
        }
        self.rflags &= !(rflags::IF | rflags::TF | rflags::AC | rflags::RF);
        let selector = u16::from_le_bytes([entry[2], entry[3]]);
        self.r.segments[seg::CS].selector = selector;
        self.r.segments[seg::CS].base = (selector as u64) << 4;
        self.rip = u16::from_le_bytes([entry[0], entry[1]]) as u64;
        self.update_mode();
        Ok(())
    }

    fn gate_error(vector: u8, source: Source) -> u32 {
        vector as u32 * 8 + 2 + (source != Source::Software) as u32
    }

    fn interrupt_long(&mut self, bus: &mut Bus, vector: u8, error: Option<u32>, source: Source) -> Exec {
        let gate_error = Self::gate_error(vector, source);
        let external = (source != Source::Software) as u32;
        let offset = vector as u64 * 16;
        if offset + 15 > self.r.idtr.limit as u64 {
            return Err(self.raise_error(vector::GP, gate_error));
        }
        let mut bytes = [0; 16];
        self.load_system(bus, self.r.idtr.base.wrapping_add(offset), &mut bytes)?;
        let (low, high) = bytes.split_at(8);
        let gate = Descriptor {
            raw: u64_of(low),
            base_high: u64_of(high) & 0xffff_ffff,
        };
        let kind = gate.kind();
        if gate.is_code_or_data() || (kind != 14 && kind != 15) {
            return Err(self.raise_error(vector::GP, gate_error));
        }
        if source == Source::Software && gate.dpl() < self.cpl {
            return Err(self.raise_error(vector::GP, gate_error));
        }
        if !gate.present() {
            return Err(self.raise_error(vector::NP, gate_error));
        }
        let target = gate.gate_offset32() | gate.base_high << 32;
        let ist = gate.raw >> 32 & 7;
        let selector = gate.gate_selector();
        let (mut code, address) = self.code_for_gate(bus, selector, external)?;
        if !code.long() || code.big() {
            return Err(self.raise_error(vector::GP, selector_error(selector) | external));
        }
        let new_cpl = if code.conforming() { self.cpl } else { code.dpl() };
        let old_sp = self.gpr[gpr::RSP];
        let mut sp = if ist != 0 {
            self.tss_stack_long(bus, 28 + 8 * ist, external)?
        } else if new_cpl < self.cpl {
            self.tss_stack_long(bus, 4 + 8 * new_cpl as u64, external)?
        } else {
            old_sp
        };
        if !is_canonical(target) {
            return Err(self.raise_error(vector::GP, external));
        }
        sp &= !15;
        let frame = [
            self.r.segments[seg::SS].selector as u64,
            old_sp,
            self.rflags(),
            self.r.segments[seg::CS].selector as u64,
            self.rip,
        ];
        let words = 5 + error.is_some() as usize;
        let mut image = [0u8; 48];
        let start = sp.wrapping_sub(8 * words as u64);
        for (k, value) in frame.iter().enumerate() {
            let at = 8 * (words - 1 - k);
            image[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        if let Some(error) = error {
            image[..8].copy_from_slice(&(error as u64).to_le_bytes());
        }
        if !is_canonical(start) || !is_canonical(sp) {
            return Err(self.raise_error(vector::SS, external));
        }
        let old_cpl = self.cpl;
        self.cpl = new_cpl;
        self.update_mode();
        let pushed = self.store_bytes(bus, start, &image[..8 * words]);
        if let Err(abort) = pushed {
            self.cpl = old_cpl;
            self.update_mode();
            if self.pending == Pending::NonCanonical {
                self.pending = Pending::Exception {
                    vector: vector::SS,
                    error: Some(external),
                };
            }
            return Err(abort);
        }
        self.mark_accessed(bus, &mut code, address)?;
        if new_cpl < old_cpl {
            let mut null = self.null_segment(new_cpl as u16);
            null.attributes |= (new_cpl as u32) << 5;
            self.r.segments[seg::SS] = null;
        }
        self.gpr[gpr::RSP] = start;
        self.rip = target;
        self.clear_flags_for_handler(kind == 14);
        self.set_code_segment(code, selector, new_cpl);
        Ok(())
    }

    fn clear_flags_for_handler(&mut self, interrupt_gate: bool) {
        self.rflags &= !(rflags::TF | rflags::NT | rflags::RF | rflags::VM);
        if interrupt_gate {
            self.rflags &= !rflags::IF;
        }
        self.r.interrupt_shadow = false;
    }

    /// Reads and checks the code segment of a gate.
    fn code_for_gate(&mut self, bus: &mut Bus, selector: u16, external: u32) -> Exec<(Descriptor, u64)> {
        let error = selector_error(selector) | external;
        if selector & !3 == 0 {
            return Err(self.raise_error(vector::GP, external));
        }
        let (code, address) = self.read_descriptor(bus, selector, vector::GP).inspect_err(|_| {
            if let Pending::Exception {
                error: Some(code),
                vector: vector::GP,
            } = &mut self.pending
            {
                *code |= external;
            }
        })?;
        if !code.is_code() || code.dpl() > self.cpl {
            return Err(self.raise_error(vector::GP, error));
        }
        if !code.present() {
            return Err(self.raise_error(vector::NP, error));
        }
        Ok((code, address))
    }

    fn tss_stack_long(&mut self, bus: &mut Bus, offset: u64, external: u32) -> Exec<u64> {
        if offset + 7 > self.r.tr.limit as u64 {
            return Err(self.raise_error(vector::TS, selector_error(self.r.tr.selector) | external));
        }
        let mut bytes = [0; 8];
        self.load_system(bus, self.r.tr.base.wrapping_add(offset), &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The inner stack of ring `cpl` from a 16- or 32-bit TSS: selector and stack pointer.
    pub(crate) fn tss_stack_protected(&mut self, bus: &mut Bus, cpl: u8) -> Exec<(u16, u64)> {
        let wide = self.r.tr.kind() & 8 != 0;
        let (offset, size) = if wide {
            (4 + 8 * cpl as u64, 8)
        } else {
            (2 + 4 * cpl as u64, 4)
        };
        if offset + size - 1 > self.r.tr.limit as u64 {
            return Err(self.raise_error(vector::TS, selector_error(self.r.tr.selector)));
        }
        let mut bytes = [0; 8];
        self.load_system(
            bus,
            self.r.tr.base.wrapping_add(offset),
            &mut bytes[..size as usize],
        )?;
        let value = u64::from_le_bytes(bytes);
        Ok(if wide {
            ((value >> 32) as u16, value & 0xffff_ffff)
        } else {
            ((value >> 16) as u16, value & 0xffff)
        })
    }

    fn interrupt_protected(&mut self, bus: &mut Bus, vector: u8, error: Option<u32>, source: Source) -> Exec {
        let gate_error = Self::gate_error(vector, source);
        let external = (source != Source::Software) as u32;
        let offset = vector as u64 * 8;
        if offset + 7 > self.r.idtr.limit as u64 {
            return Err(self.raise_error(vector::GP, gate_error));
        }
        let mut bytes = [0; 8];
        self.load_system(bus, self.r.idtr.base.wrapping_add(offset), &mut bytes)?;
        let gate = Descriptor {
            raw: u64::from_le_bytes(bytes),
            base_high: 0,
        };
        let kind = gate.kind();
        if gate.is_code_or_data() || !matches!(kind, 5 | 6 | 7 | 14 | 15) {
            return Err(self.raise_error(vector::GP, gate_error));
        }
        if source == Source::Software && gate.dpl() < self.cpl {
            return Err(self.raise_error(vector::GP, gate_error));
        }
        if !gate.present() {
            return Err(self.raise_error(vector::NP, gate_error));
        }
        if kind == 5 {
            return self.switch_task_for_interrupt(bus, gate.gate_selector(), error, external);
        }
        let wide = kind & 8 != 0;
        let size = if wide { 4 } else { 2 };
        let target = if wide {
            gate.gate_offset32()
        } else {
            gate.raw & 0xffff
        };
        let selector = gate.gate_selector();
        let (mut code, address) = self.code_for_gate(bus, selector, external)?;
        let v86 = self.rflags & rflags::VM != 0;
        let new_cpl = if code.conforming() { self.cpl } else { code.dpl() };
        if v86 && (code.conforming() || new_cpl != 0) {
            return Err(self.raise_error(vector::GP, selector_error(selector) | external));
        }
        if target > code.limit() as u64 {
            return Err(self.raise_error(vector::GP, external));
        }
        let saved = SavedStack::of(self);
        let body = |cpu: &mut Vcpu, bus: &mut Bus| -> Exec {
            let flags = cpu.rflags();
            let (old_ss, old_sp) = (cpu.r.segments[seg::SS].selector as u64, cpu.gpr[gpr::RSP]);
            let (old_cs, old_ip) = (cpu.r.segments[seg::CS].selector as u64, cpu.rip);
            if new_cpl < cpu.cpl {
                let (ss, sp) = cpu.tss_stack_protected(bus, new_cpl)?;
                let stack = cpu.check_stack_segment(bus, ss, new_cpl, vector::TS)?;
                let data = [seg::GS, seg::FS, seg::DS, seg::ES].map(|s| cpu.r.segments[s].selector as u64);
                cpu.rflags &= !rflags::VM;
                cpu.r.segments[seg::SS] = stack;
                cpu.cpl = new_cpl;
                cpu.update_mode();
                cpu.mode = if code.big() {
                    Mode::Protected32
                } else {
                    Mode::Protected16
                };
                cpu.set_stack_pointer(sp);
                if v86 {
                    for value in data {
                        cpu.push(bus, value, size)?;
                    }
                }
                cpu.push(bus, old_ss, size)?;
                cpu.push(bus, old_sp, size)?;
            }
            cpu.push(bus, flags, size)?;
            cpu.push(bus, old_cs, size)?;
            cpu.push(bus, old_ip, size)?;
            if let Some(error) = error {
                cpu.push(bus, error as u64, size)?;
            }
            Ok(())
        };
        if let Err(abort) = body(self, bus) {
            saved.restore(self);
            return Err(abort);
        }
        self.mark_accessed(bus, &mut code, address)?;
        if v86 {
            for s in [seg::GS, seg::FS, seg::DS, seg::ES] {
                self.r.segments[s] = self.null_segment(0);
            }
        }
        self.rip = target;
        self.clear_flags_for_handler(kind & 1 == 0);
        self.set_code_segment(code, selector, new_cpl);
        Ok(())
    }

    /// IRET with operands of `size` bytes.
    pub(crate) fn iret(&mut self, bus: &mut Bus, size: usize) -> Exec {
        let result = if !self.protected() || self.mode == Mode::Virtual8086 {
            self.iret_real(bus, size)
        } else if self.rflags & rflags::NT != 0 {
            if self.long_mode() {
                Err(self.general_protection())
            } else {
                self.return_from_task(bus)
            }
        } else {
            self.iret_protected(bus, size)
        };
        if result.is_ok() {
            self.r.nmi_blocked = false;
        }
        result
    }

    fn iret_real(&mut self, bus: &mut Bus, size: usize) -> Exec {
        let v86 = self.mode == Mode::Virtual8086;
        if v86 && self.rflags & rflags::IOPL != rflags::IOPL {
            return Err(self.general_protection());
        }
        let word = size as u64;
        let ip = self.peek(bus, 0, size)?;
        let cs = self.peek(bus, word, size)? as u16;
        let flags = self.peek(bus, 2 * word, size)?;
        if ip > self.r.segments[seg::CS].limit as u64 {
            return Err(self.general_protection());
        }
        self.set_stack_pointer(self.gpr[gpr::RSP].wrapping_add(3 * word));
        let mut change = rflags::STATUS | rflags::TF | rflags::IF | rflags::DF | rflags::NT;
        if size > 2 {
            change |= rflags::RF | rflags::AC | rflags::ID;
        }
        if !v86 {
            change |= rflags::IOPL;
        }
        let new = (self.rflags() & !change) | (flags & change);
        self.r.segments[seg::CS].selector = cs;
        self.r.segments[seg::CS].base = (cs as u64) << 4;
        self.rip = ip;
        self.set_rflags(new);
        Ok(())
    }

    fn iret_protected(&mut self, bus: &mut Bus, size: usize) -> Exec {
        let word = size as u64;
        let ip = self.peek(bus, 0, size)?;
        let cs = self.peek(bus, word, size)? as u16;
        let flags = self.peek(bus, 2 * word, size)?;
        let old_cpl = self.cpl;
        if !self.long_mode() && flags & rflags::VM != 0 && old_cpl == 0 && size == 4 {
            return self.return_to_virtual_8086(bus, ip, cs, flags);
        }
        let rpl = (cs & 3) as u8;
        if cs & !3 == 0 {
            return Err(self.general_protection());
        }
        let (mut code, address) = self.read_descriptor(bus, cs, vector::GP)?;
        let dpl_ok = if code.conforming() {
            code.dpl() <= rpl
        } else {
            code.dpl() == rpl
        };
        if !code.is_code() || rpl < old_cpl || !dpl_ok {
            return Err(self.raise_error(vector::GP, selector_error(cs)));
        }
        if !code.present() {
            return Err(self.raise_error(vector::NP, selector_error(cs)));
        }
        let to_long = self.long_mode() && code.long();
        if to_long && code.big() {
            return Err(self.raise_error(vector::GP, selector_error(cs)));
        }
        self.check_far_target(&code, ip)?;
        // In 64-bit mode SS:RSP is always popped (SDM vol. 2, IRET).
        let outer = rpl > old_cpl;
        let pops_stack = outer || self.mode == Mode::Long;
        let mut stack = None;
        if pops_stack {
            let sp = self.peek(bus, 3 * word, size)?;
            let ss = self.peek(bus, 4 * word, size)? as u16;
            let segment = if ss & !3 == 0 && to_long && rpl < 3 && (ss & 3) as u8 == rpl {
                let mut s = self.null_segment(ss);
                s.attributes |= (rpl as u32) << 5;
                s
            } else {
                self.check_stack_segment(bus, ss, rpl, vector::GP)?
            };
            stack = Some((sp, segment));
        }
        self.mark_accessed(bus, &mut code, address)?;
        let iopl = (self.rflags >> 12 & 3) as u8;
        let mut change = rflags::STATUS | rflags::TF | rflags::DF | rflags::NT;
        if size > 2 {
            change |= rflags::RF | rflags::AC | rflags::ID;
        }
        if old_cpl <= iopl {
            change |= rflags::IF;
        }
        if old_cpl == 0 {
            change |= rflags::IOPL;
            if size > 2 {
                change |= rflags::VIF | rflags::VIP;
            }
        }
        let new_flags = (self.rflags() & !change) | (flags & change);
        if stack.is_none() {
            self.set_stack_pointer(self.gpr[gpr::RSP].wrapping_add(3 * word));
        }
        self.rip = ip;
        self.set_code_segment(code, cs, rpl);
        if let Some((sp, segment)) = stack {
            self.r.segments[seg::SS] = segment;
            self.update_mode();
            self.set_stack_pointer(sp);
        }
        self.set_rflags(new_flags);
        if outer {
            self.drop_inner_segments();
        }
        Ok(())
    }

    fn return_to_virtual_8086(&mut self, bus: &mut Bus, ip: u64, cs: u16, flags: u64) -> Exec {
        let sp = self.peek(bus, 12, 4)?;
        let ss = self.peek(bus, 16, 4)? as u16;
        let mut selectors = [0; 6];
        selectors[seg::CS] = cs;
        selectors[seg::SS] = ss;
        for (k, s) in [seg::ES, seg::DS, seg::FS, seg::GS].into_iter().enumerate() {
            selectors[s] = self.peek(bus, 20 + 4 * k as u64, 4)? as u16;
        }
        if ip > 0xffff {
            return Err(self.general_protection());
        }
        for (s, selector) in selectors.into_iter().enumerate() {
            self.r.segments[s] = Segment {
                selector,
                base: (selector as u64) << 4,
                limit: 0xffff,
                attributes: 0xf3,
            };
        }
        self.cpl = 3;
        self.rip = ip;
        self.gpr[gpr::RSP] = sp;
        self.set_rflags(flags);
        Ok(())
    }
}

/// What a delivery changes before its last check.
struct SavedStack {
    rsp: u64,
    stack: Segment,
    rflags: u64,
    cpl: u8,
}

impl SavedStack {
    fn of(cpu: &Vcpu) -> SavedStack {
        SavedStack {
            rsp: cpu.gpr[gpr::RSP],
            stack: cpu.r.segments[seg::SS],
            rflags: cpu.rflags,
            cpl: cpu.cpl,
        }
    }
    fn restore(self, cpu: &mut Vcpu) {
        cpu.gpr[gpr::RSP] = self.rsp;
        cpu.r.segments[seg::SS] = self.stack;
        cpu.rflags = self.rflags;
        cpu.cpl = self.cpl;
        cpu.update_mode();
    }
}

fn u64_of(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | *byte as u64)
}

/// SDM vol. 3A table 6-4.
fn is_contributory(v: u8) -> bool {
    matches!(v, vector::DE | vector::TS | vector::NP | vector::SS | vector::GP)
}
