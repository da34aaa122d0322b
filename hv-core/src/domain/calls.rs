//! The introspection calls on a [`Domain`]: each is a lock, a check and a call of the machine.

use super::{Domain, lock};
use crate::addr::{DomId, GuestPhysAddr, Ticks, VcpuId};
use crate::introspect::{
    Breakpoint, BreakpointId, BreakpointKind, Breakpoints, ControlRun, DomainState, Error, EventSink, Events,
    Fork, GuestCrash, Introspect, IoPorts, MemoryRegion, PageAccess, PageRights, Place, PortWidth,
    ReadMemory, ReadRegisters, Result, Save, StepMode, StepOutcome, SubscriptionId, WriteMemory,
    WriteRegisters,
};
use crate::regs::Registers;
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

impl Domain {
    /// The outcome of an access to physical memory.
    fn all_done(&self, address: GuestPhysAddr, done: usize, wanted: usize) -> Result<()> {
        if done == wanted {
            return Ok(());
        }
        Err(Error::NoMemory {
            domain: self.id,
            address: address.wrapping_add(done as u64),
            done,
            wanted,
        })
    }

    fn check_breakpoint(&self, breakpoint: &Breakpoint) -> Result<()> {
        let BreakpointKind::Watch { length, .. } = breakpoint.kind else {
            return Ok(());
        };
        let start = match breakpoint.place {
            Place::Virtual(a) | Place::InAddressSpace(a, _) => a.0,
            Place::Physical(a) => a.0,
        };
        let why = match length.checked_sub(1) {
            None => "a watchpoint of length 0 watches nothing".to_owned(),
            Some(last) if start.checked_add(last).is_none() => {
                format!("{length} bytes from {start:#x} reach past the end of the address space")
            }
            Some(_) => return Ok(()),
        };
        Err(Error::WrongState { domain: self.id, why })
    }
}

impl ReadMemory for Domain {
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<()> {
        let done = self.control.lock_guest().read_physical(address, buffer);
        self.all_done(address, done, buffer.len())
    }
    fn visit_physical(
        &self,
        address: GuestPhysAddr,
        length: usize,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let guest = self.control.lock_guest();
        let end = guest.visit_physical(address, length, visit);
        self.all_done(address, end.unwrap_or(length), length)
    }
    fn memory_regions(&self) -> Vec<MemoryRegion> {
        self.control.lock_guest().memory_regions()
    }
}

impl WriteMemory for Domain {
    fn write_physical(&self, address: GuestPhysAddr, bytes: &[u8]) -> Result<()> {
        let done = self.control.lock_guest().write_physical(address, bytes);
        self.all_done(address, done, bytes.len())
    }
}

impl ReadRegisters for Domain {
    fn vcpu_count(&self) -> u32 {
        self.hardware.vcpus
    }
    fn registers(&self, vcpu: VcpuId) -> Result<Registers> {
        let guest = self.control.lock_guest();
        self.control.check_vcpu(&*guest, vcpu)?;
        Ok(guest.registers(vcpu))
    }
    fn read_msr(&self, vcpu: VcpuId, msr: u32) -> Result<Option<u64>> {
        let mut guest = self.control.lock_guest();
        self.control.check_vcpu(&*guest, vcpu)?;
        Ok(guest.read_msr(vcpu, msr))
    }
}

impl WriteRegisters for Domain {
    fn set_registers(&self, vcpu: VcpuId, registers: &Registers) -> Result<()> {
        let mut guest = self.control.lock_guest();
        self.control.check_vcpu(&*guest, vcpu)?;
        self.control.check_not_running("writing registers")?;
        guest
            .set_registers(vcpu, registers)
            .map_err(|bad| Error::BadRegister {
                domain: self.id,
                vcpu,
                register: bad.register,
                value: bad.value,
                why: bad.why,
            })
    }
    fn write_msr(&self, vcpu: VcpuId, msr: u32, value: u64) -> Result<bool> {
        let mut guest = self.control.lock_guest();
        self.control.check_vcpu(&*guest, vcpu)?;
        self.control.check_not_running("writing an MSR")?;
        Ok(guest.write_msr(vcpu, msr, value))
    }
}

impl ControlRun for Domain {
    fn pause(&self) -> Result<()> {
        self.control.pause()
    }
    fn unpause(&self) -> Result<()> {
        self.control.unpause()
    }
    fn step(&self, vcpu: VcpuId, mode: StepMode) -> Result<StepOutcome> {
        self.control.step(vcpu, mode)
    }
    fn reset(&self) -> Result<()> {
        self.control.reset()
    }
    fn destroy(&self) -> Result<()> {
        Domain::destroy(self);
        Ok(())
    }
}

impl Breakpoints for Domain {
    fn insert_breakpoint(&self, breakpoint: Breakpoint) -> Result<BreakpointId> {
        self.check_breakpoint(&breakpoint)?;
        let id = BreakpointId(self.next_breakpoint.fetch_add(1, Relaxed));
        let mut guest = self.control.lock_guest();
        guest.insert_breakpoint(id, breakpoint);
        lock(&self.breakpoints).insert(id);
        Ok(id)
    }
    fn remove_breakpoint(&self, id: BreakpointId) -> bool {
        let mut guest = self.control.lock_guest();
        lock(&self.breakpoints).remove(&id);
        guest.remove_breakpoint(id)
    }
}

impl Events for Domain {
    fn subscribe(&self, sink: EventSink) -> SubscriptionId {
        self.control.events.subscribe(sink)
    }
    fn unsubscribe(&self, id: SubscriptionId) {
        self.control.events.unsubscribe(id);
    }
    fn console_input(&self, port: usize, bytes: &[u8]) {
        self.control.console_input(port, bytes);
    }
}

impl PageAccess for Domain {
    fn set_page_access(&self, address: GuestPhysAddr, rights: PageRights) -> Result<()> {
        if self.control.lock_guest().set_page_access(address, rights) {
            return Ok(());
        }
        self.all_done(address, 0, 1)
    }
}

impl IoPorts for Domain {
    fn read_port(&self, port: u16, width: PortWidth) -> Result<u32> {
        let mut guest = self.control.lock_guest();
        self.control.check_paused("reading a port")?;
        Ok(guest.read_port(port, width))
    }
    fn write_port(&self, port: u16, width: PortWidth, value: u32) -> Result<()> {
        let mut guest = self.control.lock_guest();
        self.control.check_paused("writing a port")?;
        guest.write_port(port, width, value);
        Ok(())
    }
}

impl Fork for Domain {
    fn fork(&self, name: &str) -> Result<Arc<dyn Introspect>> {
        let Some(home) = self.home.upgrade() else {
            return Err(Error::WrongState {
                domain: self.id,
                why: "its hypervisor has ended: it can't be forked any more".into(),
            });
        };
        let child = home.fork(self, Some(name)).map_err(|e| Error::WrongState {
            domain: self.id,
            why: e.to_string(),
        })?;
        Ok(child)
    }
}

impl Save for Domain {
    fn save(&self, writer: &mut dyn Write) -> Result<()> {
        self.write_saved(writer)
    }
}

impl Introspect for Domain {
    fn id(&self) -> DomId {
        self.id
    }
    fn name(&self) -> String {
        self.name.clone()
    }
    fn state(&self) -> DomainState {
        self.control.state()
    }
    fn uptime(&self) -> Ticks {
        self.control.lock_guest().now()
    }
    fn retired_instructions(&self) -> Option<u64> {
        Some(self.retired())
    }
    fn touched_memory(&self) -> Option<u64> {
        Some(self.control.lock_guest().touched_memory())
    }
    fn state_hash(&self) -> Option<[u8; 32]> {
        Some(self.control.lock_guest().state_hash())
    }
    fn guest_crash(&self) -> Option<GuestCrash> {
        lock(&self.control.control).guest_crash.clone()
    }
    fn describe_devices(&self) -> String {
        self.control.lock_guest().describe_devices()
    }

    fn describe_interrupts(&self) -> String {
        self.control.lock_guest().describe_interrupts()
    }
    fn write_memory(&self) -> Option<&dyn WriteMemory> {
        Some(self)
    }
    fn write_registers(&self) -> Option<&dyn WriteRegisters> {
        Some(self)
    }
    fn control_run(&self) -> Option<&dyn ControlRun> {
        Some(self)
    }
    fn breakpoints(&self) -> Option<&dyn Breakpoints> {
        Some(self)
    }
    fn events(&self) -> Option<&dyn Events> {
        Some(self)
    }
    fn page_access(&self) -> Option<&dyn PageAccess> {
        Some(self)
    }
    fn io_ports(&self) -> Option<&dyn IoPorts> {
        Some(self)
    }
    fn fork(&self) -> Option<&dyn Fork> {
        Some(self)
    }
    fn save(&self) -> Option<&dyn Save> {
        Some(self)
    }
}
