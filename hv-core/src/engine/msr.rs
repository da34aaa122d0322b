//! RDMSR and WRMSR (SDM vol. 4). An MSR that isn't here raises #GP(0).

use super::bus::Bus;
use super::cpuid::feature;
use super::hyperv::{self, HyperV};
use super::mmu::is_canonical;
use super::vcpu::{Mode, Vcpu};
use crate::addr::Ticks;
use crate::regs::{cr0, efer, seg};

/// MSR numbers by their SDM names.
#[allow(missing_docs)]
pub mod number {
    pub const IA32_TSC: u32 = 0x10;
    pub const IA32_APIC_BASE: u32 = 0x1b;
    pub const IA32_FEATURE_CONTROL: u32 = 0x3a;
    pub const IA32_BIOS_SIGN_ID: u32 = 0x8b;
    pub const PLATFORM_INFO: u32 = 0xce;
    pub const IA32_MTRRCAP: u32 = 0xfe;
    pub const IA32_ARCH_CAPABILITIES: u32 = 0x10a;
    pub const MISC_FEATURES: u32 = 0x140;
    pub const IA32_SYSENTER_CS: u32 = 0x174;
    pub const IA32_SYSENTER_ESP: u32 = 0x175;
    pub const IA32_SYSENTER_EIP: u32 = 0x176;
    pub const IA32_MISC_ENABLE: u32 = 0x1a0;
    pub const IA32_MTRR_PHYSBASE0: u32 = 0x200;
    pub const IA32_PAT: u32 = 0x277;
    pub const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
    pub const IA32_TSC_DEADLINE: u32 = 0x6e0;
    pub const IA32_XSS: u32 = 0xda0;
    pub const IA32_EFER: u32 = 0xc000_0080;
    pub const IA32_STAR: u32 = 0xc000_0081;
    pub const IA32_LSTAR: u32 = 0xc000_0082;
    pub const IA32_CSTAR: u32 = 0xc000_0083;
    pub const IA32_FMASK: u32 = 0xc000_0084;
    pub const IA32_FS_BASE: u32 = 0xc000_0100;
    pub const IA32_GS_BASE: u32 = 0xc000_0101;
    pub const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const IA32_TSC_AUX: u32 = 0xc000_0103;
}
use number::*;

const FIXED_MTRRS: [u32; 11] = [
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
];

/// Whether every byte is a memory type that PAT may hold.
fn pat_is_valid(value: u64) -> bool {
    value
        .to_le_bytes()
        .iter()
        .all(|t| matches!(t, 0 | 1 | 4 | 5 | 6 | 7))
}

impl Vcpu {
    fn mtrrs(&self) -> bool {
        self.model.leaf1_edx & feature::MTRR != 0
    }

    /// What RDMSR gives; `None` is #GP(0).
    pub(crate) fn read_msr(&self, bus: &mut Bus, now: Ticks, msr: u32) -> Option<u64> {
        let m = &self.r.msrs;
        Some(match msr {
            IA32_TSC => bus.platform.tsc(now).wrapping_add(m.tsc_offset),
            IA32_APIC_BASE | IA32_TSC_DEADLINE | 0x800..=0x8ff => {
                return bus.platform.apic_msr_read(now, self.id, msr);
            }
            hyperv::FIRST_MSR..=hyperv::LAST_MSR if bus.hyperv.is_some() => {
                return bus.hyperv.as_ref()?.read_msr(self.id, msr);
            }
            IA32_FEATURE_CONTROL => 1,
            IA32_BIOS_SIGN_ID => 1 << 32,
            0x17 | MISC_FEATURES => 0,
            PLATFORM_INFO => 10 << 8,
            IA32_ARCH_CAPABILITIES if self.model.leaf7_edx & feature::ARCH_CAPABILITIES != 0 => {
                self.model.arch_capabilities
            }
            IA32_MTRRCAP if self.mtrrs() => 0x508,
            IA32_MTRR_DEF_TYPE if self.mtrrs() => m.mtrr_def_type,
            0x200..=0x20f if self.mtrrs() => m.mtrr_variable[(msr - IA32_MTRR_PHYSBASE0) as usize],
            _ if self.mtrrs() && FIXED_MTRRS.contains(&msr) => {
                m.mtrr_fixed[FIXED_MTRRS.iter().position(|f| *f == msr)?]
            }
            IA32_SYSENTER_CS => m.sysenter_cs,
            IA32_SYSENTER_ESP => m.sysenter_esp,
            IA32_SYSENTER_EIP => m.sysenter_eip,
            IA32_MISC_ENABLE => m.misc_enable,
            IA32_PAT => m.pat,
            IA32_XSS if self.model.leaf13_1_eax & feature::XSAVES != 0 => m.xss,
            IA32_EFER => self.r.efer,
            IA32_STAR => m.star,
            IA32_LSTAR => m.lstar,
            IA32_CSTAR => m.cstar,
            IA32_FMASK => m.sfmask,
            IA32_FS_BASE => self.r.segments[seg::FS].base,
            IA32_GS_BASE => self.r.segments[seg::GS].base,
            IA32_KERNEL_GS_BASE => m.kernel_gs_base,
            IA32_TSC_AUX if self.model.extended_edx & feature::RDTSCP != 0 => m.tsc_aux,
            _ => {
                tracing::debug!(vcpu = self.id.0, "RDMSR {msr:#x}: unknown, #GP");
                return None;
            }
        })
    }

    /// What WRMSR does; `None` is #GP(0).
    pub(crate) fn write_msr(&mut self, bus: &mut Bus, now: Ticks, msr: u32, value: u64) -> Option<()> {
        let canonical = |value: u64| is_canonical(value).then_some(value);
        let mtrrs = self.mtrrs();
        match msr {
            IA32_TSC => self.r.msrs.tsc_offset = value.wrapping_sub(bus.platform.tsc(now)),
            IA32_APIC_BASE | IA32_TSC_DEADLINE | 0x800..=0x8ff => {
                bus.platform.apic_msr_write(now, self.id, msr, value)?;
            }
            hyperv::FIRST_MSR..=hyperv::LAST_MSR if bus.hyperv.is_some() => {
                HyperV::write_msr(bus, self.id, self.mode == Mode::Long, msr, value)?;
            }
            IA32_BIOS_SIGN_ID => {}
            MISC_FEATURES if value == 0 => {}
            IA32_FEATURE_CONTROL if value == 1 => {}
            IA32_MTRR_DEF_TYPE if mtrrs => self.r.msrs.mtrr_def_type = value & 0xcff,
            0x200..=0x20f if mtrrs => {
                self.r.msrs.mtrr_variable[(msr - IA32_MTRR_PHYSBASE0) as usize] = value;
            }
            _ if mtrrs && FIXED_MTRRS.contains(&msr) => {
                self.r.msrs.mtrr_fixed[FIXED_MTRRS.iter().position(|f| *f == msr)?] = value;
            }
            IA32_SYSENTER_CS => self.r.msrs.sysenter_cs = value & 0xffff_ffff,
            IA32_SYSENTER_ESP => self.r.msrs.sysenter_esp = canonical(value)?,
            IA32_SYSENTER_EIP => self.r.msrs.sysenter_eip = canonical(value)?,
            IA32_MISC_ENABLE => self.r.msrs.misc_enable = value & !(1 << 34),
            IA32_PAT if pat_is_valid(value) => self.r.msrs.pat = value,
            IA32_XSS if value == 0 && self.model.leaf13_1_eax & feature::XSAVES != 0 => self.r.msrs.xss = 0,
            IA32_EFER => self.write_efer(value)?,
            IA32_STAR => self.r.msrs.star = value,
            IA32_LSTAR => self.r.msrs.lstar = canonical(value)?,
            IA32_CSTAR => self.r.msrs.cstar = canonical(value)?,
            IA32_FMASK => self.r.msrs.sfmask = value & 0xffff_ffff,
            IA32_FS_BASE => {
                self.r.segments[seg::FS].base = canonical(value)?;
                self.update_mode();
            }
            IA32_GS_BASE => {
                self.r.segments[seg::GS].base = canonical(value)?;
                self.update_mode();
            }
            IA32_KERNEL_GS_BASE => self.r.msrs.kernel_gs_base = canonical(value)?,
            IA32_TSC_AUX if self.model.extended_edx & feature::RDTSCP != 0 => {
                self.r.msrs.tsc_aux = value & 0xffff_ffff;
            }
            _ => {
                tracing::debug!(vcpu = self.id.0, "WRMSR {msr:#x} := {value:#x}: refused, #GP");
                return None;
            }
        }
        Some(())
    }

    fn write_efer(&mut self, value: u64) -> Option<()> {
        let mut allowed = efer::SCE | efer::LME | efer::LMA;
        if self.model.extended_edx & feature::NX != 0 {
            allowed |= efer::NXE;
        }
        if value & !allowed != 0 {
            return None;
        }
        let paging = self.r.cr0 & cr0::PG != 0;
        if paging && (value ^ self.r.efer) & efer::LME != 0 {
            return None;
        }
        self.r.efer = (value & !efer::LMA) | (self.r.efer & efer::LMA);
        self.flush_tlb();
        Some(())
    }
}
