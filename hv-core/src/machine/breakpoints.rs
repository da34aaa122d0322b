//! Breakpoints of the debugger's side: where they take effect, and whether a hit stops the machine.

use super::{Machine, PassedBreak, RunExit};
use crate::addr::{GuestPhysAddr, GuestVirtAddr, VcpuId};
use crate::engine::bus::Bus;
use crate::engine::run::Exit;
use crate::engine::vcpu::Vcpu;
use crate::introspect::{Breakpoint, BreakpointId, BreakpointKind, Place, StopContext, StopReason};
use crate::regs::Registers;
use std::sync::Arc;

/// A watchpoint of more pages flushes whole TLBs.
const FEW_PAGES: u64 = 64;

impl Machine {
    /// Inserts a breakpoint of the debugger's side.
    pub fn insert_breakpoint(&mut self, id: BreakpointId, breakpoint: Breakpoint) {
        self.breakpoint_changed(&breakpoint);
        self.bus.watches.insert(id, breakpoint);
    }

    /// Removes one.
    pub fn remove_breakpoint(&mut self, id: BreakpointId) -> bool {
        match self.bus.watches.remove(id) {
            // A page that isn't watched any more gets its TLB entries back when it is next accessed.
            Some(breakpoint) => {
                if breakpoint.kind == BreakpointKind::Execute {
                    self.breakpoint_changed(&breakpoint);
                }
                true
            }
            None => false,
        }
    }

    fn breakpoint_changed(&mut self, breakpoint: &Breakpoint) {
        match (breakpoint.kind, breakpoint.place) {
            (BreakpointKind::Execute, Place::Virtual(a) | Place::InAddressSpace(a, _)) => {
                self.cache.drop_linear_page(a.0 >> 12);
            }
            (BreakpointKind::Execute, Place::Physical(a)) => self.cache.drop_frame(a.0 >> 12),
            (BreakpointKind::Watch { length, .. }, Place::Virtual(a) | Place::InAddressSpace(a, _))
                if length <= FEW_PAGES << 12 =>
            {
                for page in a.0 >> 12..=a.0.saturating_add(length.max(1) - 1) >> 12 {
                    for runner in &mut self.runners {
                        runner.cpu.tlb.drop_page(page << 12);
                    }
                }
            }
            (BreakpointKind::Watch { .. }, _) => self.flush_all(),
        }
    }

    /// Evaluates the breakpoints at RIP of vCPU `n`: a stop, or the instruction done without one.
    pub(super) fn at_breakpoint(&mut self, n: usize) -> Result<Exit, RunExit> {
        let cpu = &mut self.runners[n].cpu;
        let linear = cpu.fetch_address();
        let physical = cpu.look_up(&self.bus, linear);
        let hits = self.bus.watches.breaks_at(linear, physical, cpu.r.cr3 & !0xfff);
        let mut ids = Vec::new();
        for (id, breakpoint) in hits {
            let stops = match &breakpoint.condition {
                None => true,
                Some(condition) => condition.should_stop(&mut Hit {
                    cpu,
                    bus: &mut self.bus,
                }),
            };
            if stops {
                ids.push(id);
            }
        }
        if ids.is_empty() {
            return Ok(self.runners[n].run_precise(&mut self.bus));
        }
        self.passed = Some(PassedBreak {
            vcpu: n,
            rip: cpu.rip,
            clock: cpu.clock,
        });
        let address = GuestVirtAddr(linear);
        Err(RunExit::Stopped {
            vcpu: VcpuId(n as u32),
            reason: StopReason::Breakpoint { ids, address },
        })
    }

    /// Evaluates the watchpoints that the last instruction of vCPU `n` hit.
    pub(super) fn at_watchpoint(&mut self, n: usize) -> Option<RunExit> {
        self.settle();
        for hit in std::mem::take(&mut self.bus.watches.hits) {
            let Some(breakpoint) = self.bus.watches.get(hit.id) else {
                continue;
            };
            let condition: Option<Arc<_>> = breakpoint.condition.clone();
            let cpu = &mut self.runners[n].cpu;
            if condition.is_none_or(|c| {
                c.should_stop(&mut Hit {
                    cpu,
                    bus: &mut self.bus,
                })
            }) {
                return Some(RunExit::Stopped {
                    vcpu: VcpuId(n as u32),
                    reason: StopReason::Watchpoint {
                        id: hit.id,
                        address: hit.address,
                        access: hit.access,
                    },
                });
            }
        }
        None
    }
}

/// The vCPU at a breakpoint, for its condition.
struct Hit<'a> {
    cpu: &'a mut Vcpu,
    bus: &'a mut Bus,
}

impl StopContext for Hit<'_> {
    fn vcpu(&self) -> VcpuId {
        self.cpu.id
    }
    fn gpr(&self, index: usize) -> u64 {
        self.cpu
            .gpr
            .get(index)
            .copied()
            .filter(|_| index < 16)
            .unwrap_or(0)
    }
    fn rip(&self) -> u64 {
        self.cpu.rip
    }
    fn rflags(&self) -> u64 {
        self.cpu.rflags()
    }
    fn registers(&self) -> Registers {
        self.cpu.registers()
    }
    fn read_virtual(&mut self, address: GuestVirtAddr, buffer: &mut [u8]) -> bool {
        let mut done = 0;
        while done < buffer.len() {
            let at = address.0.wrapping_add(done as u64);
            let copied = self.cpu.tlb.read_bytes(self.cpu.view, at, &mut buffer[done..]);
            if copied > 0 {
                done += copied;
                continue;
            }
            let length = (4096 - (at as usize & 0xfff)).min(buffer.len() - done);
            let Some(physical) = self.cpu.look_up(self.bus, at) else {
                return false;
            };
            let part = &mut buffer[done..done + length];
            if self.bus.memory.read(GuestPhysAddr(physical), part) != length {
                return false;
            }
            done += length;
        }
        true
    }
}
