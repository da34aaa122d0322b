//! The run loop of one vCPU: block after block until its time is up or something must be looked at.

use super::block::{CodeCache, JumpCache, dispatch};
use super::bus::Bus;
use super::exec::Flow;
use super::interrupt::Source;
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
        Runner {
            cpu,
            jumps: JumpCache::new(),
        }
    }

    /// Whether an interrupt, NMI or trap must be taken before the next instruction.
    fn event_due(&self) -> bool {
        let cpu = &self.cpu;
        !cpu.r.interrupt_shadow
            && ((cpu.interrupt_line && cpu.rflags & rflags::IF != 0)
                || (cpu.nmi_pending && !cpu.r.nmi_blocked))
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
    pub(crate) fn take_event(&mut self, bus: &mut Bus) -> Result<bool, Exit> {
        if !self.event_due() {
            return Ok(false);
        }
        let cpu = &mut self.cpu;
        // A delivery that meets a restricted frame is taken back whole.
        let before =
            (!bus.rights.is_empty()).then(|| (bus.platform.clone(), cpu.r.nmi_blocked, cpu.r.activity));
        let nmi = cpu.nmi_pending;
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
        bus.watches.hits.clear();
        let delivered = match cpu.interrupt(bus, vector, None, Source::External) {
            Ok(()) => Ok(()),
            Err(Abort) => match (cpu.restricted_access(), cpu.resolve_pending()) {
                (Some(exit), _) => Err(exit),
                (None, Some((v, error))) => cpu.deliver_exception(bus, v, error),
                (None, None) => Ok(()),
            },
        };
        if let (Err(Exit::PageAccess(..)), Some((platform, blocked, activity))) = (delivered, before) {
            bus.platform = platform;
            (cpu.nmi_pending, cpu.r.nmi_blocked, cpu.r.activity) = (nmi, blocked, activity);
            cpu.interrupt_line = bus.platform.interrupt_pending(cpu.id);
        }
        delivered.map(|()| true)
    }

    /// Runs until the clock is `stop_at` or something else happens. The caller has taken events.
    pub(crate) fn run(&mut self, bus: &mut Bus, cache: &mut CodeCache) -> Exit {
        // RF lasts for one instruction.
        if self.cpu.guest_debugs() || self.cpu.r.interrupt_shadow || self.cpu.rflags & rflags::RF != 0 {
            if self.at_break(bus) {
                return Exit::Break;
            }
            return self.run_precise(bus);
        }
        // The block that control comes from.
        let mut from = None;
        loop {
            let cpu = &mut self.cpu;
            // Before the fetch, whose fault belongs to the time that follows.
            let left = cpu.stop_at.saturating_sub(cpu.clock) as usize;
            if left == 0 {
                return Exit::Time;
            }
            let linked = from.and_then(|from| cache.follow(from, cpu.rip, cpu.fetch_key));
            let index = match linked {
                Some(index) => index,
                None => match self.look_up(bus, cache) {
                    Ok(None) => return Exit::Break,
                    Ok(Some(index)) => {
                        if let Some(from) = from {
                            cache.link(from, self.cpu.rip, self.cpu.fetch_key, index);
                        }
                        index
                    }
                    Err(Abort) => {
                        from = None;
                        match self.deliver_pending(bus) {
                            Some(exit) => return exit,
                            None => continue,
                        }
                    }
                },
            };
            from = Some(index);
            if !bus.stale_code.is_empty() {
                return Exit::Look;
            }
            let cpu = &mut self.cpu;
            let block = cache.get(index);
            let length = block.ops.len();
            let count = length.min(left);
            let flow = dispatch(cpu, bus, &block.ops[..count]);
            match flow {
                Flow::Branch => cpu.clock += count as u64,
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
                    cpu.clock += cpu.stopped_at as u64 + 1;
                    return Exit::Look;
                }
                Flow::Abort => {
                    let number = cpu.stopped_at as usize;
                    cpu.clock += number as u64;
                    cpu.rip = block.rip.wrapping_add(block.ops[number].offset as u64);
                    if cpu.pending == Pending::Precise {
                        cpu.pending = Pending::Nothing;
                        let exit = self.run_precise(bus);
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
                    cpu.clock += cpu.stopped_at as u64;
                    return Exit::Break;
                }
            }
        }
    }

    /// Whether an execution breakpoint of the debugger's side is at RIP, told without a trace: no accessed bit is set
    /// before the fetch. It comes before a fault of the fetch (SDM vol. 3A, table 6-2); gdb lets the functions it calls
    /// return to a page that isn't executable. Where the page is absent the breakpoint waits for it to be mapped.
    fn at_break(&self, bus: &Bus) -> bool {
        let linear = self.cpu.fetch_address();
        !bus.watches.is_empty()
            && self
                .cpu
                .look_up(bus, linear)
                .is_some_and(|physical| bus.watches.is_break_address(linear, physical))
    }

    fn must_look(&self, bus: &Bus) -> bool {
        bus.platform.has_signals()
            || bus.platform.interrupt_pending(self.cpu.id) != self.cpu.interrupt_line
            || !bus.stale_code.is_empty()
            || bus.platform.next_deadline().0 < self.cpu.stop_at
            || self.cpu.guest_debugs()
            || self.cpu.r.activity != Activity::Running
            || self.cpu.r.interrupt_shadow
    }

    /// The block at RIP, by the jump cache where it can; `None` if a breakpoint comes before it.
    #[inline(always)]
    fn look_up(&mut self, bus: &mut Bus, cache: &mut CodeCache) -> Exec<Option<u32>> {
        match cache.jump(&self.jumps, self.cpu.rip, self.cpu.fetch_key) {
            Some(index) => Ok(Some(index)),
            None => self.find(bus, cache),
        }
    }

    /// Finds or decodes the block at RIP.
    #[inline(never)]
    fn find(&mut self, bus: &mut Bus, cache: &mut CodeCache) -> Exec<Option<u32>> {
        self.cpu.check_code_limit()?;
        let linear = self.cpu.fetch_address();
        // A walk would leave accessed bits.
        if self.cpu.tlb.fetch(self.cpu.cpl == 3, linear).is_none() && self.at_break(bus) {
            return Ok(None);
        }
        let cpu = &mut self.cpu;
        let (rip, mode) = (cpu.rip, cpu.mode as u8);
        let physical = cpu.translate_fetch(bus, linear)?;
        if let Some(index) = cache.find(physical, rip, mode)
            && cache.get(index).limit == cpu.code_window().1
        {
            let still_there = match cache.get(index).second_frame {
                None => true,
                Some(frame) => {
                    let next = cpu.wrap_linear((linear & !0xfff).wrapping_add(0x1000));
                    cpu.translate_fetch(bus, next)? >> 12 == frame
                }
            };
            if still_there {
                cache.remember(&mut self.jumps, rip, cpu.fetch_key, index);
                return Ok(Some(index));
            }
        }
        let block = cpu.decode_block(bus, false)?;
        let index = cache.insert(block);
        cache.remember(&mut self.jumps, rip, cpu.fetch_key, index);
        Ok(Some(index))
    }

    /// Delivers what the last abort asks for; `Some` if the run ends with it.
    fn deliver_pending(&mut self, bus: &mut Bus) -> Option<Exit> {
        let cpu = &mut self.cpu;
        if let Some(exit) = cpu.restricted_access() {
            return Some(exit);
        }
        let (vector, error) = cpu.resolve_pending()?;
        if let Err(exit) = cpu.deliver_exception(bus, vector, error) {
            return Some(exit);
        }
        if !bus.watches.hits.is_empty() {
            return Some(Exit::Watch);
        }
        // A task gate's new task may let interrupts in.
        (cpu.interrupt_line && cpu.rflags & rflags::IF != 0).then_some(Exit::Look)
    }

    /// Executes one instruction with everything looked at: devices at the exact time, code writes, watchpoints, and
    /// the guest's own debugging. Breakpoints of the debugger's side are passed over.
    pub(crate) fn run_precise(&mut self, bus: &mut Bus) -> Exit {
        if self.cpu.clock >= self.cpu.stop_at {
            return Exit::Time;
        }
        let cpu = &mut self.cpu;
        let shadow = std::mem::replace(&mut cpu.r.interrupt_shadow, false);
        if cpu.rflags & rflags::RF == 0 && cpu.hits_instruction_breakpoint() {
            return cpu
                .deliver_exception(bus, vector::DB, None)
                .err()
                .unwrap_or(Exit::Look);
        }
        let single_step = cpu.rflags & rflags::TF != 0;
        bus.watches.hits.clear();
        // What a MOV SS held back comes after the instruction behind it.
        if !shadow {
            cpu.debug_trap = 0;
        }
        cpu.precise = true;
        let outcome = cpu.execute_one(bus);
        self.cpu.precise = false;
        match outcome {
            Ok(done) => {
                let cpu = &mut self.cpu;
                cpu.clock += 1;
                if cpu.single_step_traps(single_step, done) {
                    cpu.debug_trap |= 1 << 14;
                }
                // MOV SS and POP SS hold traps back, STI doesn't (SDM vol. 3A, 6.8.3).
                if cpu.debug_trap != 0 && (!cpu.r.interrupt_shadow || done == Mnemonic::Sti) {
                    let trap = std::mem::take(&mut cpu.debug_trap);
                    cpu.r.dr6 = (cpu.r.dr6 & !0xf) | trap | 0xffff_0ff0;
                    if let Err(exit) = cpu.deliver_exception(bus, vector::DB, None) {
                        return exit;
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
        if bus.watches.hits.is_empty() {
            Exit::Look
        } else {
            Exit::Watch
        }
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

    /// Whether #DB follows an instruction that was begun with this TF (SDM vol. 3B, 17.3.1.4 and vol. 2).
    fn single_step_traps(&self, before: bool, done: Mnemonic) -> bool {
        let after = self.rflags & rflags::TF != 0;
        match done {
            // They clear TF on the way to their handler.
            Mnemonic::Int | Mnemonic::Int3 | Mnemonic::Into | Mnemonic::Int1 => before && after,
            Mnemonic::Syscall | Mnemonic::Sysret | Mnemonic::Sysretq => after,
            _ => before,
        }
    }

    /// Decodes and executes the instruction at RIP; tells which it was.
    fn execute_one(&mut self, bus: &mut Bus) -> Exec<Mnemonic> {
        let start = self.rip;
        let block = self.decode_block(bus, true)?;
        let Some(op) = block.ops.first() else {
            return Err(self.undefined());
        };
        let mnemonic = op
            .instruction
            .as_deref()
            .map_or(Mnemonic::INVALID, |i| i.mnemonic());
        let restores_rf = matches!(mnemonic, Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq);
        let flow = (op.handler)(self, bus, op, &[]);
        match flow {
            Flow::Next => self.rip = block.end,
            Flow::Branch | Flow::Leave => {}
            Flow::Abort | Flow::Break => {
                self.rip = start;
                self.settle_non_canonical(op);
                return Err(Abort);
            }
        }
        if !restores_rf {
            self.rflags &= !rflags::RF;
        }
        Ok(mnemonic)
    }
}
