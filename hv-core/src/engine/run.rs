//! The run loop of one vCPU: block after block until its time is up or something must be looked at.

use super::block::{CodeCache, JumpCache};
use super::bus::{Bus, PendingFlush};
use super::exec::Flow;
use super::interrupt::{Source, TripleFault};
use super::vcpu::{Abort, Exec, Pending, Vcpu, vector};
use crate::addr::GuestPhysAddr;
use crate::introspect::AccessKind;
use crate::regs::{Activity, rflags};
use iced_x86::Mnemonic;

/// Why a vCPU came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// The clock reached `stop_at`.
    Time,
    /// Devices, interrupts, flushes or activity must be looked at.
    Look,
    /// An execution breakpoint is at RIP.
    Break,
    /// A watchpoint was hit by the instruction just done.
    Watch,
    /// A restricted frame was accessed; nothing happened yet.
    PageAccess(GuestPhysAddr, Option<AccessKind>),
    /// The vCPU shut down.
    TripleFault,
}

/// A vCPU with its jump cache.
pub(crate) struct Runner {
    pub(crate) cpu: Vcpu,
    jumps: JumpCache,
}

impl Runner {
    pub(crate) fn new(cpu: Vcpu) -> Runner {
        Runner { cpu, jumps: JumpCache::new() }
    }

    /// Whether an interrupt, NMI or trap must be taken before the next instruction.
    fn event_due(&self) -> bool {
        let cpu = &self.cpu;
        !cpu.r.interrupt_shadow
            && ((cpu.interrupt_line && cpu.rflags & rflags::IF != 0) || (cpu.nmi_pending && !cpu.r.nmi_blocked))
    }

    /// Whether the vCPU has something to do.
    pub(crate) fn runnable(&self) -> bool {
        match self.cpu.r.activity {
            Activity::Running => true,
            Activity::Halted => self.event_due(),
            Activity::WaitForSipi => false,
        }
    }

    /// Takes the event that is due; true if there was one.
    pub(crate) fn take_event(&mut self, bus: &mut Bus) -> Result<bool, TripleFault> {
        if !self.event_due() {
            return Ok(false);
        }
        let cpu = &mut self.cpu;
        let vector = if cpu.nmi_pending && !cpu.r.nmi_blocked {
            cpu.nmi_pending = false;
            cpu.r.nmi_blocked = true;
            vector::NMI
        } else {
            match bus.platform.acknowledge_interrupt(cpu.id) {
                Some(vector) => vector,
                None => return Ok(false),
            }
        };
        cpu.interrupt_line = bus.platform.interrupt_pending(cpu.id);
        if cpu.interrupt(bus, vector, None, Source::External).is_err()
            && let Some((v, error)) = cpu.resolve_pending()
        {
            cpu.deliver_exception(bus, v, error)?;
        }
        Ok(true)
    }

    /// Runs until the clock is `stop_at` or something else happens. The caller has taken events.
    pub(crate) fn run(&mut self, bus: &mut Bus, cache: &mut CodeCache) -> Exit {
        if self.cpu.guest_debugs() || self.cpu.r.interrupt_shadow {
            return self.run_precise(bus, cache);
        }
        loop {
            let cpu = &mut self.cpu;
            let index = match cache.jump(&self.jumps, cpu.rip, cpu.fetch_key) {
                Some(index) => index,
                None => match self.find(bus, cache) {
                    Ok(index) => index,
                    Err(Abort) => match self.deliver_pending(bus) {
                        Some(exit) => return exit,
                        None => continue,
                    },
                },
            };
            if bus.flush != PendingFlush::Nothing || !bus.stale_code.is_empty() {
                return Exit::Look;
            }
            let cpu = &mut self.cpu;
            let block = cache.get(index);
            let length = block.ops.len();
            let count = length.min(cpu.stop_at.saturating_sub(cpu.clock) as usize);
            if count == 0 {
                return Exit::Time;
            }
            let mut number = 0;
            let flow = loop {
                let op = &block.ops[number];
                let flow = (op.handler)(cpu, bus, op);
                if flow != Flow::Next {
                    break flow;
                }
                number += 1;
                if number == count {
                    break Flow::Next;
                }
            };
            match flow {
                Flow::Branch => cpu.clock += number as u64 + 1,
                Flow::Next => {
                    cpu.clock += count as u64;
                    cpu.rip = if count == length {
                        block.end
                    } else {
                        block.rip.wrapping_add(block.ops[count].offset as u64)
                    };
                    if cpu.r.interrupt_shadow {
                        return Exit::Look;
                    }
                }
                Flow::Leave => {
                    cpu.clock += number as u64 + 1;
                    return Exit::Look;
                }
                Flow::Abort => {
                    cpu.clock += number as u64;
                    cpu.rip = block.rip.wrapping_add(block.ops[number].offset as u64);
                    if cpu.pending == Pending::Precise {
                        cpu.pending = Pending::Nothing;
                        let exit = self.run_precise(bus, cache);
                        if exit != Exit::Look {
                            return exit;
                        }
                        // Devices may have been touched.
                        if self.must_look(bus) {
                            return Exit::Look;
                        }
                        continue;
                    }
                    cpu.settle_non_canonical(&block.ops[number]);
                    if let Some(exit) = self.deliver_pending(bus) {
                        return exit;
                    }
                }
                Flow::Break => {
                    cpu.clock += number as u64;
                    return Exit::Break;
                }
            }
        }
    }

    fn must_look(&self, bus: &Bus) -> bool {
        bus.platform.has_signals()
            || bus.platform.interrupt_pending(self.cpu.id) != self.cpu.interrupt_line
            || bus.flush != PendingFlush::Nothing
            || !bus.stale_code.is_empty()
            || bus.platform.next_deadline().0 < self.cpu.stop_at
            || self.cpu.guest_debugs()
            || self.cpu.r.activity != Activity::Running
            || self.cpu.r.interrupt_shadow
    }

    /// Finds or decodes the block at RIP.
    #[inline(never)]
    fn find(&mut self, bus: &mut Bus, cache: &mut CodeCache) -> Exec<u32> {
        let cpu = &mut self.cpu;
        let (rip, mode) = (cpu.rip, cpu.mode as u8);
        let linear = cpu.fetch_address();
        let physical = cpu.translate_fetch(bus, linear)?;
        if let Some(index) = cache.find(physical, rip, mode) {
            let still_there = match cache.get(index).second_frame {
                None => true,
                Some(frame) => {
                    let next = cpu.wrap_linear((linear & !0xfff).wrapping_add(0x1000));
                    cpu.translate_fetch(bus, next)? >> 12 == frame
                }
            };
            if still_there {
                cache.remember(&mut self.jumps, rip, cpu.fetch_key, index);
                return Ok(index);
            }
        }
        let block = cpu.decode_block(bus, false)?;
        let index = cache.insert(block);
        cache.remember(&mut self.jumps, rip, cpu.fetch_key, index);
        Ok(index)
    }

    /// Delivers what the last abort asks for; `Some` if the run ends with it.
    fn deliver_pending(&mut self, bus: &mut Bus) -> Option<Exit> {
        let cpu = &mut self.cpu;
        if let Pending::PageAccess { frame, access } = cpu.pending {
            cpu.pending = Pending::Nothing;
            return Some(Exit::PageAccess(frame, access));
        }
        let (vector, error) = cpu.resolve_pending()?;
        if cpu.deliver_exception(bus, vector, error).is_err() {
            return Some(Exit::TripleFault);
        }
        None
    }

    /// Executes one instruction with everything looked at: devices at the exact time, code writes, watchpoints, and
    /// the guest's own debugging. Breakpoints of the debugger's side are passed over.
    pub(crate) fn run_precise(&mut self, bus: &mut Bus, cache: &mut CodeCache) -> Exit {
        if self.cpu.clock >= self.cpu.stop_at {
            return Exit::Time;
        }
        let _ = cache;
        let cpu = &mut self.cpu;
        let shadow = std::mem::replace(&mut cpu.r.interrupt_shadow, false);
        if cpu.rflags & rflags::RF == 0 && cpu.hits_instruction_breakpoint() {
            if cpu.deliver_exception(bus, vector::DB, None).is_err() {
                return Exit::TripleFault;
            }
            return Exit::Look;
        }
        let single_step = cpu.rflags & rflags::TF != 0;
        bus.watches.hits.clear();
        cpu.debug_trap = 0;
        cpu.precise = true;
        let outcome = cpu.execute_one(bus);
        self.cpu.precise = false;
        match outcome {
            Ok(entered) => {
                let cpu = &mut self.cpu;
                cpu.clock += 1;
                if single_step && !entered {
                    cpu.debug_trap |= 1 << 14;
                }
                let trap = std::mem::take(&mut cpu.debug_trap);
                if trap != 0 && !cpu.r.interrupt_shadow {
                    cpu.r.dr6 = (cpu.r.dr6 & !0xf) | trap | 0xffff_0ff0;
                    if cpu.deliver_exception(bus, vector::DB, None).is_err() {
                        return Exit::TripleFault;
                    }
                }
            }
            Err(Abort) => {
                self.cpu.r.interrupt_shadow = shadow && self.cpu.pending == Pending::Precise;
                if let Some(exit) = self.deliver_pending(bus) {
                    return exit;
                }
            }
        }
        if bus.watches.hits.is_empty() { Exit::Look } else { Exit::Watch }
    }
}

impl Vcpu {
    /// SDM vol. 3B, 17.2.4: an instruction breakpoint of the guest's debug registers at RIP.
    fn hits_instruction_breakpoint(&mut self) -> bool {
        let dr7 = self.r.dr7;
        if dr7 & 0xff == 0 {
            return false;
        }
        let at = self.fetch_address();
        let hits = (0..4)
            .filter(|i| dr7 >> (2 * i) & 3 != 0 && dr7 >> (16 + 4 * i) & 3 == 0 && self.r.dr[*i] == at)
            .fold(0, |bits, i| bits | 1u64 << i);
        if hits != 0 {
            self.r.dr6 = (self.r.dr6 & !0xf) | hits | 0xffff_0ff0;
        }
        hits != 0
    }

    /// Decodes and executes the instruction at RIP; true if it entered a handler with TF clear, and so isn't followed by
    /// a single-step trap (SDM vol. 3B, 17.3.1.4).
    fn execute_one(&mut self, bus: &mut Bus) -> Exec<bool> {
        let block = self.decode_block(bus, true)?;
        let Some(op) = block.ops.first() else { return Err(self.undefined()) };
        let restores_rf = op.instruction.as_deref().is_some_and(|i| {
            matches!(i.mnemonic(), Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq)
        });
        let flow = (op.handler)(self, bus, op);
        match flow {
            Flow::Next => self.rip = block.end,
            Flow::Branch | Flow::Leave => {}
            Flow::Abort | Flow::Break => {
                self.settle_non_canonical(op);
                return Err(Abort);
            }
        }
        if !restores_rf {
            self.rflags &= !rflags::RF;
        }
        let enters = op.instruction.as_deref().is_some_and(|i| {
            matches!(i.mnemonic(), Mnemonic::Int | Mnemonic::Int3 | Mnemonic::Into | Mnemonic::Syscall)
        });
        Ok(enters && self.rflags & rflags::TF == 0)
    }
}
