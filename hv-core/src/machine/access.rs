//! What the debugger's side reads and writes of a machine between instructions.

use super::Machine;
use crate::addr::{GuestPhysAddr, VcpuId};
use crate::engine::cpuid::{CpuModel, allowed_cr4, feature};
use crate::engine::exec::mxcsr_mask;
use crate::engine::mmu::{PHYSICAL_BITS, is_canonical};
use crate::introspect::{MemoryRegion, PageRights, PortWidth};
use crate::memory::Backing;
use crate::regs::{Registers, cr0, cr4, efer, rflags, seg};
use std::ops::ControlFlow;

/// A register value that the architecture doesn't allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRegister {
    /// Its SDM name.
    pub register: &'static str,
    /// The value.
    pub value: u64,
    /// The rule it breaks.
    pub why: &'static str,
}

impl Machine {
    /// The state of a vCPU; the caller has checked the id.
    pub fn registers(&self, vcpu: VcpuId) -> Registers {
        let mut registers = self.runners[vcpu.index()].cpu.registers();
        registers.cr8 = self.bus.platform.cr8(vcpu);
        registers.apic_base = self.bus.platform.apic_base(vcpu);
        registers
    }

    /// Replaces the state of a vCPU.
    ///
    /// # Errors
    /// [`BadRegister`]; nothing is changed then.
    pub fn set_registers(&mut self, vcpu: VcpuId, registers: &Registers) -> Result<(), BadRegister> {
        let now = self.now();
        let old = self.registers(vcpu);
        let model = &self.runners[vcpu.index()].cpu.model;
        check_state(model, registers)?;
        // Whoever changes another register isn't to blame for where the guest went.
        if registers.rip != old.rip {
            check_rip(registers)?;
        }
        if registers.apic_base != old.apic_base {
            let number = crate::engine::msr::number::IA32_APIC_BASE;
            self.bus
                .platform
                .apic_msr_write(now, vcpu, number, registers.apic_base)
                .ok_or(BadRegister {
                    register: "IA32_APIC_BASE",
                    value: registers.apic_base,
                    why: "reserved bits or a forbidden change of mode",
                })?;
        }
        // CR8 shows half of the task priority: written back, it would clear the other.
        if registers.cr8 != old.cr8 {
            self.bus.platform.set_cr8(vcpu, registers.cr8);
        }
        self.runners[vcpu.index()].cpu.load_registers(registers);
        Ok(())
    }

    /// An MSR as RDMSR would read it.
    pub fn read_msr(&mut self, vcpu: VcpuId, msr: u32) -> Option<u64> {
        let now = self.now();
        self.runners[vcpu.index()].cpu.read_msr(&mut self.bus, now, msr)
    }

    /// An MSR as WRMSR would write it; false where that faults.
    pub fn write_msr(&mut self, vcpu: VcpuId, msr: u32, value: u64) -> bool {
        let now = self.now();
        self.runners[vcpu.index()]
            .cpu
            .write_msr(&mut self.bus, now, msr, value)
            .is_some()
    }

    /// Reads RAM and ROM; returns the bytes done.
    pub fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> usize {
        self.bus.memory.read(address, buffer)
    }

    /// Shows RAM and ROM page by page, until `visit` breaks off. If memory ends before that: the bytes that were shown.
    pub fn visit_physical(
        &self,
        address: GuestPhysAddr,
        length: usize,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Option<usize> {
        self.bus.memory.visit(address, length, visit)
    }

    /// Writes RAM; returns the bytes done. Changed code is seen at once.
    pub fn write_physical(&mut self, address: GuestPhysAddr, bytes: &[u8]) -> usize {
        let done = self.bus.write_physical(address, bytes);
        self.settle();
        done
    }

    /// The regions of RAM and ROM.
    pub fn memory_regions(&self) -> Vec<MemoryRegion> {
        self.bus.memory.regions()
    }

    /// Restricts a frame; false where there is no RAM.
    pub fn set_page_access(&mut self, address: GuestPhysAddr, rights: PageRights) -> bool {
        if self.bus.memory.backing(address.frame()) == Backing::None {
            return false;
        }
        if rights == PageRights::ALL {
            self.bus.rights.remove(&address.frame());
        } else {
            self.bus.rights.insert(address.frame(), rights);
        }
        self.flush_all();
        true
    }

    /// Feeds a serial port; returns how many bytes it took.
    pub fn console_input(&mut self, port: usize, bytes: &[u8]) -> usize {
        self.bus.platform.console_input(port, bytes)
    }

    /// What the guest wrote to a serial port since the last call.
    pub fn take_console_output(&mut self, port: usize) -> Vec<u8> {
        self.bus.platform.take_console_output(port)
    }

    /// IN, of nobody: what the device answers now, with whatever that does to it.
    pub fn read_port(&mut self, port: u16, width: PortWidth) -> u32 {
        let now = self.now();
        self.bus.platform.port_read(now, VcpuId(0), port, width.bytes())
    }

    /// OUT, of nobody. Signals of devices are carried out when the machine runs on.
    pub fn write_port(&mut self, port: u16, width: PortWidth, value: u32) {
        let now = self.now();
        self.bus
            .platform
            .port_write(now, VcpuId(0), port, width.bytes(), value);
    }

    /// Lines for a person about devices.
    pub fn describe_devices(&self) -> String {
        self.bus.platform.describe_devices()
    }

    /// Lines for a person about the interrupt controllers and what waits at them.
    pub fn describe_interrupts(&self) -> String {
        self.bus.platform.describe_interrupts()
    }
}

/// Fails unless `ok`.
fn check(ok: bool, register: &'static str, value: u64, why: &'static str) -> Result<(), BadRegister> {
    if ok {
        Ok(())
    } else {
        Err(BadRegister { register, value, why })
    }
}

/// Whether a debugger may set RIP to this. A guest can get to other places, and faults there.
fn check_rip(r: &Registers) -> Result<(), BadRegister> {
    let in_64_bit_code = r.efer & efer::LMA != 0 && r.segments[seg::CS].long();
    check(
        !in_64_bit_code || is_canonical(r.rip),
        "RIP",
        r.rip,
        "not canonical",
    )?;
    check(
        in_64_bit_code || r.rip >> 32 == 0,
        "RIP",
        r.rip,
        "beyond 32 bits outside 64-bit mode",
    )
}

/// Checks all of a vCPU's registers but RIP.
pub(super) fn check_state(model: &CpuModel, r: &Registers) -> Result<(), BadRegister> {
    let paging = r.cr0 & cr0::PG != 0;
    let long = r.efer & efer::LMA != 0;
    check(r.cr0 & !cr0::ALL == 0, "CR0", r.cr0, "reserved bits are set")?;
    check(!paging || r.cr0 & cr0::PE != 0, "CR0", r.cr0, "PG needs PE")?;
    check(
        r.cr0 & cr0::NW == 0 || r.cr0 & cr0::CD != 0,
        "CR0",
        r.cr0,
        "NW needs CD",
    )?;
    let extra = r.cr4 & !allowed_cr4(model);
    check(
        extra == 0,
        "CR4",
        r.cr4,
        "bits of features that this CPU model doesn't have",
    )?;
    check(
        !long || r.cr4 & cr4::PAE != 0,
        "CR4",
        r.cr4,
        "long mode needs PAE",
    )?;
    check(
        r.cr3 >> PHYSICAL_BITS == 0,
        "CR3",
        r.cr3,
        "beyond the physical address width",
    )?;
    check(r.cr8 <= 15, "CR8", r.cr8, "a task priority is 0 to 15")?;
    check(r.efer & !efer::ALL == 0, "EFER", r.efer, "reserved bits are set")?;
    let nx = r.efer & efer::NXE == 0 || model.extended_edx & feature::NX != 0;
    check(nx, "EFER", r.efer, "this CPU model has no NX")?;
    check(
        long == (paging && r.efer & efer::LME != 0),
        "EFER",
        r.efer,
        "LMA is set exactly when LME and CR0.PG are",
    )?;
    check(
        r.rflags & !(rflags::WRITABLE | rflags::FIXED) == 0,
        "RFLAGS",
        r.rflags,
        "reserved bits are set",
    )?;
    for (register, value) in [
        ("FS_BASE", r.segments[seg::FS].base),
        ("GS_BASE", r.segments[seg::GS].base),
        ("IA32_KERNEL_GS_BASE", r.msrs.kernel_gs_base),
        ("IA32_LSTAR", r.msrs.lstar),
        ("IA32_CSTAR", r.msrs.cstar),
        ("IA32_SYSENTER_ESP", r.msrs.sysenter_esp),
        ("IA32_SYSENTER_EIP", r.msrs.sysenter_eip),
        ("GDTR", r.gdtr.base),
        ("IDTR", r.idtr.base),
    ] {
        check(is_canonical(value), register, value, "not canonical")?;
    }
    check(r.dr6 >> 32 == 0, "DR6", r.dr6, "bits above 31 are reserved")?;
    check(r.dr7 >> 32 == 0, "DR7", r.dr7, "bits above 31 are reserved")?;
    check(
        r.mxcsr & !mxcsr_mask() == 0,
        "MXCSR",
        r.mxcsr as u64,
        "reserved bits are set",
    )?;
    check(
        r.xcr0 & 1 != 0 && r.xcr0 & !3 == 0,
        "XCR0",
        r.xcr0,
        "x87 must be set, and SSE is all that may",
    )?;
    let apic = |value: u64| value & !(0xfff | ((1 << PHYSICAL_BITS) - 1)) == 0;
    check(
        apic(r.apic_base),
        "IA32_APIC_BASE",
        r.apic_base,
        "beyond the physical address width",
    )
}
