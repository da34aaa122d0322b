//! Privileged and system instructions: control, debug and descriptor-table registers, MSRs, SYSCALL to SYSEXIT,
//! CPUID, RDTSC, HLT, TLB invalidation.

use super::Flow;
use crate::addr::Ticks;
use crate::engine::bus::Bus;
use crate::engine::cpuid::{Context, allowed_cr4, feature};
use crate::engine::mmu::is_canonical;
use crate::engine::vcpu::{Exec, Mode, Vcpu, vector};
use crate::regs::{Activity, Segment, cr0, cr4, efer, gpr, rflags, seg};
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

impl Vcpu {
    pub(crate) fn require_cpl0(&mut self) -> Exec {
        if self.cpl != 0 {
            Err(self.general_protection())
        } else {
            Ok(())
        }
    }

    pub(crate) fn cpuid_context(&self, bus: &Bus) -> Context {
        Context {
            apic_id: self.id.0,
            vcpus: bus.vcpus,
            osxsave: self.r.cr4 & cr4::OSXSAVE != 0,
            apic_enabled: bus.platform.apic_base(self.id) & (1 << 11) != 0,
            tsc_hz: bus.tsc_hz,
        }
    }

    /// MOV CR0 (SDM vol. 3A, 2.5 and 9.8.5).
    pub(crate) fn write_cr0(&mut self, value: u64) -> Exec {
        let value = value | cr0::ET;
        let bad = value >> 32 != 0
            || value & cr0::PG != 0 && value & cr0::PE == 0
            || value & cr0::NW != 0 && value & cr0::CD == 0;
        if bad {
            return Err(self.general_protection());
        }
        let value = value & cr0::ALL;
        let turned_on = value & cr0::PG != 0 && !self.paging();
        let turned_off = value & cr0::PG == 0 && self.paging();
        if turned_on && self.r.efer & efer::LME != 0 {
            if self.r.cr4 & cr4::PAE == 0 || self.r.segments[seg::CS].long() {
                return Err(self.general_protection());
            }
            self.r.efer |= efer::LMA;
        }
        if turned_off {
            if self.mode == Mode::Long || self.r.cr4 & cr4::PCIDE != 0 {
                return Err(self.general_protection());
            }
            self.r.efer &= !efer::LMA;
        }
        let changed = value ^ self.r.cr0;
        self.r.cr0 = value;
        if changed & cr0::PE != 0 && value & cr0::PE == 0 {
            self.cpl = 0;
        }
        if changed & (cr0::PG | cr0::WP | cr0::PE) != 0 {
            self.flush_tlb();
        } else {
            self.update_mode();
        }
        Ok(())
    }

    /// MOV CR4.
    pub(crate) fn write_cr4(&mut self, value: u64) -> Exec {
        let long = self.long_mode();
        let bad = value & !allowed_cr4(&self.model) != 0
            || long && value & cr4::PAE == 0
            || value & !self.r.cr4 & cr4::PCIDE != 0 && (!long || self.r.cr3 & 0xfff != 0);
        if bad {
            return Err(self.general_protection());
        }
        self.r.cr4 = value;
        self.flush_tlb();
        Ok(())
    }

    /// MOV CR3. Bit 63 (keep this PCID's translations) is a permission that isn't used.
    pub(crate) fn write_cr3(&mut self, value: u64) -> Exec {
        let pcid = self.r.cr4 & cr4::PCIDE != 0;
        let mut value = value;
        if pcid {
            value &= !(1 << 63);
        }
        if self.long_mode() && value >> crate::engine::mmu::PHYSICAL_BITS != 0 {
            return Err(self.general_protection());
        }
        self.r.cr3 = if self.long_mode() {
            value
        } else {
            value & 0xffff_ffff
        };
        self.flush_tlb();
        Ok(())
    }

    fn flat_code(selector: u16, dpl: u8, long: bool) -> Segment {
        let mode = if long { 1 << 13 } else { 1 << 14 };
        Segment {
            selector,
            base: 0,
            limit: 0xffff_ffff,
            attributes: 0x809b | (dpl as u32) << 5 | mode,
        }
    }

    fn flat_stack(selector: u16, dpl: u8) -> Segment {
        Segment {
            selector,
            base: 0,
            limit: 0xffff_ffff,
            attributes: 0xc093 | (dpl as u32) << 5,
        }
    }
}

/// MOV to and from CRn and DRn.
pub(crate) fn mov_special(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec<Flow> {
    cpu.require_cpl0()?;
    if cpu.mode == Mode::Virtual8086 {
        return Err(cpu.general_protection());
    }
    let wide = cpu.mode == Mode::Long;
    let truncate = |v: u64| if wide { v } else { v & 0xffff_ffff };
    if i.op0_register().is_dr() || i.op1_register().is_dr() {
        return mov_debug(cpu, i);
    }
    if i.op0_register().is_cr() {
        let value = truncate(cpu.get_register(i.op1_register()));
        check_pointers(cpu, bus, i.op0_register(), value)?;
        match i.op0_register() {
            Register::CR0 => cpu.write_cr0(value)?,
            Register::CR2 => cpu.r.cr2 = value,
            Register::CR3 => cpu.write_cr3(value)?,
            Register::CR4 => cpu.write_cr4(value)?,
            Register::CR8 => {
                if value > 15 {
                    return Err(cpu.general_protection());
                }
                bus.platform.set_cr8(cpu.id, value);
            }
            _ => return Err(cpu.undefined()),
        }
        cpu.rip = i.next_ip();
        return Ok(Flow::Leave);
    }
    let value = match i.op1_register() {
        Register::CR0 => cpu.r.cr0,
        Register::CR2 => cpu.r.cr2,
        Register::CR3 => cpu.r.cr3,
        Register::CR4 => cpu.r.cr4,
        Register::CR8 => bus.platform.cr8(cpu.id),
        _ => return Err(cpu.undefined()),
    };
    cpu.set_register(i.op0_register(), truncate(value));
    Ok(Flow::Next)
}

/// PAE paging outside long mode loads its four top entries with CR3 and when it is switched on; #GP(0) if they are bad.
fn check_pointers(cpu: &mut Vcpu, bus: &Bus, register: Register, value: u64) -> Exec {
    let (mut mode, mut root, mut features) = (cpu.r.cr0, cpu.r.cr3, cpu.r.cr4);
    match register {
        Register::CR0 => mode = value,
        Register::CR3 => root = value,
        Register::CR4 => features = value,
        _ => return Ok(()),
    }
    let pae = mode & cr0::PG != 0 && features & cr4::PAE != 0 && cpu.r.efer & efer::LME == 0;
    if pae && !cpu.pointers_are_valid(bus, root) {
        Err(cpu.general_protection())
    } else {
        Ok(())
    }
}

/// SDM vol. 3B, 17.2.
fn mov_debug(cpu: &mut Vcpu, i: &Instruction) -> Exec<Flow> {
    let write = i.op0_register().is_dr();
    let register = if write { i.op0_register() } else { i.op1_register() };
    let mut n = register as usize - Register::DR0 as usize;
    if n == 4 || n == 5 {
        if cpu.r.cr4 & cr4::DE != 0 {
            return Err(cpu.undefined());
        }
        n += 2;
    }
    if n > 7 {
        return Err(cpu.undefined());
    }
    if cpu.r.dr7 & (1 << 13) != 0 {
        // General detect: the access itself traps as a fault.
        cpu.r.dr6 |= 1 << 13;
        cpu.r.dr7 &= !(1 << 13);
        return Err(cpu.raise(vector::DB));
    }
    if write {
        let value = cpu.get_register(i.op1_register());
        if n >= 6 && value >> 32 != 0 {
            return Err(cpu.general_protection());
        }
        match n {
            6 => cpu.r.dr6 = (value & 0xe00f) | 0xffff_0ff0,
            7 => {
                cpu.r.dr7 = (value & 0xffff_2bff) | 0x400;
                cpu.update_debug();
            }
            _ => cpu.r.dr[n] = value,
        }
        cpu.rip = i.next_ip();
        return Ok(Flow::Leave);
    }
    let value = match n {
        6 => cpu.r.dr6,
        7 => cpu.r.dr7,
        _ => cpu.r.dr[n],
    };
    cpu.set_register(i.op0_register(), value);
    Ok(Flow::Next)
}

/// LGDT, LIDT, SGDT, SIDT.
pub(crate) fn descriptor_table(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let load = matches!(i.mnemonic(), Mnemonic::Lgdt | Mnemonic::Lidt);
    let gdt = matches!(i.mnemonic(), Mnemonic::Lgdt | Mnemonic::Sgdt);
    if load || cpu.r.cr4 & cr4::UMIP != 0 {
        cpu.require_cpl0()?;
    }
    let base_size = if cpu.mode == Mode::Long { 8 } else { 4 };
    let linear = cpu.memory_operand(i, 2 + base_size, !load)?;
    if load {
        let limit = cpu.load_sized(bus, linear, 2)? as u16;
        let mut base = cpu.load_sized(bus, linear.wrapping_add(2), base_size)?;
        if matches!(i.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16) {
            base &= 0xff_ffff;
        }
        if !is_canonical(base) && base_size == 8 {
            return Err(cpu.general_protection());
        }
        let table = crate::regs::DescriptorTable { base, limit };
        if gdt {
            cpu.r.gdtr = table;
        } else {
            cpu.r.idtr = table;
        }
    } else {
        let table = if gdt { cpu.r.gdtr } else { cpu.r.idtr };
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&table.limit.to_le_bytes());
        bytes[2..].copy_from_slice(&table.base.to_le_bytes());
        cpu.store_bytes(bus, linear, &bytes[..2 + base_size])?;
    }
    Ok(())
}

/// SLDT, STR, LLDT, LTR, SMSW, LMSW, CLTS.
pub(crate) fn task_registers(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec<Flow> {
    let m = i.mnemonic();
    if matches!(m, Mnemonic::Sldt | Mnemonic::Str | Mnemonic::Lldt | Mnemonic::Ltr)
        && (!cpu.protected() || cpu.mode == Mode::Virtual8086)
    {
        return Err(cpu.undefined());
    }
    match m {
        Mnemonic::Sldt | Mnemonic::Str | Mnemonic::Smsw => {
            if cpu.r.cr4 & cr4::UMIP != 0 {
                cpu.require_cpl0()?;
            }
            let value = match m {
                Mnemonic::Sldt => cpu.r.ldtr.selector as u64,
                Mnemonic::Str => cpu.r.tr.selector as u64,
                _ => cpu.r.cr0,
            };
            if i.op0_kind() == OpKind::Memory {
                let linear = cpu.memory_operand(i, 2, true)?;
                cpu.store_sized(bus, linear, 2, value)?;
            } else {
                cpu.write_operand(bus, i, 0, value)?;
            }
        }
        Mnemonic::Lldt | Mnemonic::Ltr => {
            cpu.require_cpl0()?;
            let selector = read_selector(cpu, bus, i, 0)?;
            cpu.load_system_segment(bus, selector, m == Mnemonic::Ltr)?;
        }
        Mnemonic::Lmsw => {
            cpu.require_cpl0()?;
            let value = read_selector(cpu, bus, i, 0)? as u64;
            // PE can be set, not cleared.
            let new = cpu.r.cr0 & !0xe | value & 0xf;
            cpu.write_cr0(new)?;
            cpu.rip = i.next_ip();
            return Ok(Flow::Leave);
        }
        _ => {
            cpu.require_cpl0()?;
            cpu.r.cr0 &= !cr0::TS;
        }
    }
    Ok(Flow::Next)
}

/// A 16-bit operand, whatever size the decoder gives a register form.
pub(crate) fn read_selector(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction, n: u32) -> Exec<u16> {
    if i.op_kind(n) == OpKind::Memory {
        let linear = cpu.memory_operand(i, 2, false)?;
        Ok(cpu.load_sized(bus, linear, 2)? as u16)
    } else {
        Ok(cpu.get_register(i.op_register(n)) as u16)
    }
}

pub(crate) fn cpuid(cpu: &mut Vcpu, bus: &mut Bus) {
    let context = cpu.cpuid_context(bus);
    let leaf = cpu
        .model
        .clone()
        .cpuid(cpu.gpr[gpr::RAX] as u32, cpu.gpr[gpr::RCX] as u32, &context);
    cpu.gpr[gpr::RAX] = leaf.eax as u64;
    cpu.gpr[gpr::RBX] = leaf.ebx as u64;
    cpu.gpr[gpr::RCX] = leaf.ecx as u64;
    cpu.gpr[gpr::RDX] = leaf.edx as u64;
}

/// RDTSC, RDTSCP.
pub(crate) fn read_tsc(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction, now: Ticks) -> Exec {
    if cpu.r.cr4 & cr4::TSD != 0 && cpu.cpl != 0 {
        return Err(cpu.general_protection());
    }
    if i.mnemonic() == Mnemonic::Rdtscp {
        if cpu.model.extended_edx & feature::RDTSCP == 0 {
            return Err(cpu.undefined());
        }
        cpu.gpr[gpr::RCX] = cpu.r.msrs.tsc_aux;
    }
    let tsc = bus.platform.tsc(now).wrapping_add(cpu.r.msrs.tsc_offset);
    cpu.gpr[gpr::RAX] = tsc & 0xffff_ffff;
    cpu.gpr[gpr::RDX] = tsc >> 32;
    Ok(())
}

pub(crate) fn msr(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction, now: Ticks) -> Exec<Flow> {
    cpu.require_cpl0()?;
    let number = cpu.gpr[gpr::RCX] as u32;
    if i.mnemonic() == Mnemonic::Rdmsr {
        let Some(value) = cpu.read_msr(bus, now, number) else {
            return Err(cpu.general_protection());
        };
        cpu.gpr[gpr::RAX] = value & 0xffff_ffff;
        cpu.gpr[gpr::RDX] = value >> 32;
        return Ok(Flow::Next);
    }
    let value = (cpu.gpr[gpr::RDX] << 32) | (cpu.gpr[gpr::RAX] & 0xffff_ffff);
    if cpu.write_msr(bus, now, number, value).is_none() {
        return Err(cpu.general_protection());
    }
    cpu.rip = i.next_ip();
    Ok(Flow::Leave)
}

/// SYSCALL, SYSRET, SYSENTER, SYSEXIT (SDM vol. 2).
pub(crate) fn system_call(cpu: &mut Vcpu, i: &Instruction) -> Exec<Flow> {
    match i.mnemonic() {
        Mnemonic::Syscall => {
            if cpu.r.efer & efer::SCE == 0 || cpu.mode != Mode::Long {
                return Err(cpu.undefined());
            }
            cpu.gpr[gpr::RCX] = i.next_ip();
            cpu.gpr[11] = cpu.rflags() & !rflags::RF;
            let flags = cpu.rflags() & !cpu.r.msrs.sfmask & !rflags::RF;
            let selector = (cpu.r.msrs.star >> 32) as u16 & !3;
            cpu.r.segments[seg::CS] = Vcpu::flat_code(selector, 0, true);
            cpu.r.segments[seg::SS] = Vcpu::flat_stack(selector.wrapping_add(8), 0);
            cpu.cpl = 0;
            cpu.rip = cpu.r.msrs.lstar;
            cpu.set_rflags(flags);
        }
        Mnemonic::Sysret | Mnemonic::Sysretq => {
            if cpu.r.efer & efer::SCE == 0 || cpu.mode != Mode::Long {
                return Err(cpu.undefined());
            }
            cpu.require_cpl0()?;
            let wide = i.code() == Code::Sysretq;
            let target = if wide {
                cpu.gpr[gpr::RCX]
            } else {
                cpu.gpr[gpr::RCX] & 0xffff_ffff
            };
            if !is_canonical(target) {
                return Err(cpu.general_protection());
            }
            let base = (cpu.r.msrs.star >> 48) as u16;
            let selector = if wide { base.wrapping_add(16) } else { base } | 3;
            cpu.r.segments[seg::CS] = Vcpu::flat_code(selector, 3, wide);
            cpu.r.segments[seg::SS] = Vcpu::flat_stack(base.wrapping_add(8) | 3, 3);
            cpu.cpl = 3;
            cpu.rip = target;
            let flags = cpu.gpr[11] & 0x3c7fd7 & !rflags::VM | rflags::FIXED;
            cpu.set_rflags(flags);
            return Ok(after_interrupt_flag(cpu));
        }
        Mnemonic::Sysenter => {
            if cpu.model.leaf1_edx & feature::SEP == 0 {
                return Err(cpu.undefined());
            }
            if !cpu.protected() || cpu.r.msrs.sysenter_cs & 0xfffc == 0 {
                return Err(cpu.general_protection());
            }
            let long = cpu.long_mode();
            let selector = cpu.r.msrs.sysenter_cs as u16 & !3;
            cpu.r.segments[seg::CS] = Vcpu::flat_code(selector, 0, long);
            cpu.r.segments[seg::SS] = Vcpu::flat_stack(selector.wrapping_add(8), 0);
            cpu.cpl = 0;
            let flags = cpu.rflags() & !(rflags::VM | rflags::IF);
            cpu.gpr[gpr::RSP] = if long {
                cpu.r.msrs.sysenter_esp
            } else {
                cpu.r.msrs.sysenter_esp & 0xffff_ffff
            };
            cpu.rip = if long {
                cpu.r.msrs.sysenter_eip
            } else {
                cpu.r.msrs.sysenter_eip & 0xffff_ffff
            };
            cpu.set_rflags(flags);
        }
        _ => {
            if cpu.model.leaf1_edx & feature::SEP == 0 {
                return Err(cpu.undefined());
            }
            cpu.require_cpl0()?;
            if !cpu.protected() || cpu.r.msrs.sysenter_cs & 0xfffc == 0 {
                return Err(cpu.general_protection());
            }
            let wide = i.code() == Code::Sysexitq;
            let base = cpu.r.msrs.sysenter_cs as u16 & !3;
            let (ip, sp) = (cpu.gpr[gpr::RDX], cpu.gpr[gpr::RCX]);
            if wide && !(is_canonical(ip) && is_canonical(sp)) {
                return Err(cpu.general_protection());
            }
            let offset = if wide { 32 } else { 16 };
            cpu.r.segments[seg::CS] = Vcpu::flat_code(base.wrapping_add(offset) | 3, 3, wide);
            cpu.r.segments[seg::SS] = Vcpu::flat_stack(base.wrapping_add(offset + 8) | 3, 3);
            cpu.cpl = 3;
            cpu.rip = if wide { ip } else { ip & 0xffff_ffff };
            cpu.gpr[gpr::RSP] = if wide { sp } else { sp & 0xffff_ffff };
            cpu.update_mode();
        }
    }
    Ok(Flow::Branch)
}

/// After an instruction that may have set IF or TF and has set RIP: whether the block loop must look.
pub(crate) fn after_interrupt_flag(cpu: &Vcpu) -> Flow {
    let takes = cpu.rflags & rflags::IF != 0 && cpu.interrupt_line;
    if takes || cpu.rflags & rflags::TF != 0 {
        Flow::Leave
    } else {
        Flow::Branch
    }
}

/// CLI and STI, with CR4.PVI and VME left out (not advertised).
pub(crate) fn interrupt_flag(cpu: &mut Vcpu, i: &Instruction) -> Exec<Flow> {
    let iopl = (cpu.rflags >> 12 & 3) as u8;
    if cpu.protected() && cpu.cpl > iopl {
        return Err(cpu.general_protection());
    }
    if i.mnemonic() == Mnemonic::Cli {
        cpu.rflags &= !rflags::IF;
        return Ok(Flow::Next);
    }
    if cpu.rflags & rflags::IF != 0 {
        return Ok(Flow::Next);
    }
    cpu.rflags |= rflags::IF;
    // SDM vol. 2, STI: no interrupt until after the next instruction, even one that arrives just now.
    cpu.r.interrupt_shadow = true;
    cpu.rip = i.next_ip();
    Ok(Flow::Leave)
}

/// STI, number `index` of its block, with another instruction behind it: without anything to look at before that one
/// is done, its shadow is never seen.
pub(crate) fn enable_interrupts_inside(cpu: &mut Vcpu, i: &Instruction, index: u16) -> Exec<Flow> {
    let flow = interrupt_flag(cpu, i)?;
    let seen = cpu.interrupt_line || cpu.nmi_pending || cpu.now(index).0 + 1 >= cpu.stop_at;
    if flow == Flow::Leave && !seen {
        cpu.r.interrupt_shadow = false;
        return Ok(Flow::Next);
    }
    Ok(flow)
}

pub(crate) fn halt(cpu: &mut Vcpu, i: &Instruction) -> Exec<Flow> {
    cpu.require_cpl0()?;
    cpu.r.activity = Activity::Halted;
    cpu.rip = i.next_ip();
    Ok(Flow::Leave)
}

pub(crate) fn swapgs(cpu: &mut Vcpu) -> Exec {
    if cpu.mode != Mode::Long {
        return Err(cpu.undefined());
    }
    cpu.require_cpl0()?;
    std::mem::swap(&mut cpu.r.segments[seg::GS].base, &mut cpu.r.msrs.kernel_gs_base);
    cpu.gpr[crate::engine::vcpu::GS_BASE] = cpu.r.segments[seg::GS].base;
    Ok(())
}

/// RDFSBASE to WRGSBASE.
pub(crate) fn segment_base(cpu: &mut Vcpu, i: &Instruction) -> Exec {
    if cpu.mode != Mode::Long || cpu.r.cr4 & cr4::FSGSBASE == 0 {
        return Err(cpu.undefined());
    }
    let index = if matches!(i.mnemonic(), Mnemonic::Rdfsbase | Mnemonic::Wrfsbase) {
        seg::FS
    } else {
        seg::GS
    };
    if matches!(i.mnemonic(), Mnemonic::Rdfsbase | Mnemonic::Rdgsbase) {
        let base = cpu.r.segments[index].base;
        cpu.set_register(i.op0_register(), base);
    } else {
        let value = cpu.get_register(i.op0_register());
        if !is_canonical(value) {
            return Err(cpu.general_protection());
        }
        cpu.r.segments[index].base = value;
        cpu.update_mode();
    }
    Ok(())
}

/// INVLPG, INVPCID.
pub(crate) fn invalidate(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec<Flow> {
    cpu.require_cpl0()?;
    // INVLPG has nothing to do: no translation outlives a change of its entry.
    if i.mnemonic() == Mnemonic::Invpcid {
        if cpu.model.leaf7_ebx & feature::INVPCID == 0 {
            return Err(cpu.undefined());
        }
        let linear = cpu.memory_operand(i, 16, false)?;
        let descriptor = cpu.load_u128(bus, linear)?;
        let kind = cpu.get_register(i.op0_register());
        let (pcid, address) = (descriptor as u64, (descriptor >> 64) as u64);
        if kind > 3 || pcid >> 12 != 0 || kind == 0 && !is_canonical(address) {
            return Err(cpu.general_protection());
        }
        cpu.flush_tlb();
    }
    cpu.rip = i.next_ip();
    Ok(Flow::Branch)
}

/// RDRAND and RDSEED: a stream from the domain's seed; CF is always set.
pub(crate) fn random(cpu: &mut Vcpu, i: &Instruction) -> Exec {
    let has = match i.mnemonic() {
        Mnemonic::Rdrand => cpu.model.leaf1_ecx & feature::RDRAND != 0,
        _ => cpu.model.leaf7_ebx & feature::RDSEED != 0,
    };
    if !has {
        return Err(cpu.undefined());
    }
    // SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
    cpu.random = cpu.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = cpu.random;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    cpu.set_register(i.op0_register(), z ^ (z >> 31));
    cpu.flags = crate::engine::flags::Flags::from_rflags(rflags::CF);
    Ok(())
}
