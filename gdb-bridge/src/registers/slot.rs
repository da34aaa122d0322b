//! Where each register's value is in hv-core's register state.

use hv_core::regs::{Registers, Segment, rflags, seg};

/// A value that a register can't hold, and why.
#[derive(Debug)]
pub struct Refused(pub &'static str);

/// A segment register, or one of the two system segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentName {
    /// ES, CS, SS, DS, FS, GS by encoding.
    Data(usize),
    /// LDTR.
    Ldtr,
    /// TR.
    Tr,
}

impl SegmentName {
    fn of(self, registers: &Registers) -> &Segment {
        match self {
            SegmentName::Data(index) => &registers.segments[index],
            SegmentName::Ldtr => &registers.ldtr,
            SegmentName::Tr => &registers.tr,
        }
    }

    fn of_mut(self, registers: &mut Registers) -> &mut Segment {
        match self {
            SegmentName::Data(index) => &mut registers.segments[index],
            SegmentName::Ldtr => &mut registers.ldtr,
            SegmentName::Tr => &mut registers.tr,
        }
    }
}

/// The place of a register's value.
#[allow(missing_docs)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// By encoding.
    Gpr(usize),
    Rip,
    Rflags,
    /// Writing one changes the selector alone; the hidden parts have registers of their own.
    Selector(SegmentName),
    Base(SegmentName),
    Limit(SegmentName),
    Attributes(SegmentName),
    GdtrBase,
    GdtrLimit,
    IdtrBase,
    IdtrLimit,
    Cr0,
    Cr2,
    Cr3,
    Cr4,
    Cr8,
    Efer,
    Xcr0,
    Dr(usize),
    Dr6,
    Dr7,
    /// Relative to the top of the stack.
    St(usize),
    Fctrl,
    Fstat,
    Ftag,
    Fiseg,
    Fioff,
    Foseg,
    Fooff,
    Fop,
    Xmm(usize),
    Mxcsr,
    KernelGsBase,
    ApicBase,
    Star,
    Lstar,
    Cstar,
    Sfmask,
    SysenterCs,
    SysenterEsp,
    SysenterEip,
    TscAux,
    Pat,
    MiscEnable,
    MtrrDefType,
    Xss,
    /// One that is read and written by its number.
    OtherMsr(u32),
}

impl Slot {
    /// The selector of a segment register by encoding.
    pub const fn selector(index: usize) -> Slot {
        Slot::Selector(SegmentName::Data(index))
    }

    /// The value in `registers`; 0 for [`Slot::OtherMsr`].
    pub fn get(self, registers: &Registers) -> u128 {
        let x87 = &registers.x87;
        let msrs = &registers.msrs;
        let value: u64 = match self {
            Slot::St(index) => return x87.r[(x87.top() + index) % 8] & (u128::MAX >> 48),
            Slot::Xmm(index) => return registers.xmm[index],
            Slot::Gpr(index) => registers.gpr[index],
            Slot::Rip => registers.rip,
            Slot::Rflags => registers.rflags,
            Slot::Selector(name) => name.of(registers).selector.into(),
            Slot::Base(name) => name.of(registers).base,
            Slot::Limit(name) => name.of(registers).limit.into(),
            Slot::Attributes(name) => name.of(registers).attributes.into(),
            Slot::GdtrBase => registers.gdtr.base,
            Slot::GdtrLimit => registers.gdtr.limit.into(),
            Slot::IdtrBase => registers.idtr.base,
            Slot::IdtrLimit => registers.idtr.limit.into(),
            Slot::Cr0 => registers.cr0,
            Slot::Cr2 => registers.cr2,
            Slot::Cr3 => registers.cr3,
            Slot::Cr4 => registers.cr4,
            Slot::Cr8 => registers.cr8,
            Slot::Efer => registers.efer,
            Slot::Xcr0 => registers.xcr0,
            Slot::Dr(index) => registers.dr[index],
            Slot::Dr6 => registers.dr6,
            Slot::Dr7 => registers.dr7,
            Slot::Fctrl => x87.fcw.into(),
            Slot::Fstat => x87.fsw.into(),
            Slot::Ftag => x87.ftw.into(),
            Slot::Fiseg => x87.fcs.into(),
            Slot::Fioff => x87.fip & 0xffff_ffff,
            Slot::Foseg => x87.fds.into(),
            Slot::Fooff => x87.fdp & 0xffff_ffff,
            Slot::Fop => x87.fop.into(),
            Slot::Mxcsr => registers.mxcsr.into(),
            Slot::KernelGsBase => msrs.kernel_gs_base,
            Slot::ApicBase => registers.apic_base,
            Slot::Star => msrs.star,
            Slot::Lstar => msrs.lstar,
            Slot::Cstar => msrs.cstar,
            Slot::Sfmask => msrs.sfmask,
            Slot::SysenterCs => msrs.sysenter_cs,
            Slot::SysenterEsp => msrs.sysenter_esp,
            Slot::SysenterEip => msrs.sysenter_eip,
            Slot::TscAux => msrs.tsc_aux,
            Slot::Pat => msrs.pat,
            Slot::MiscEnable => msrs.misc_enable,
            Slot::MtrrDefType => msrs.mtrr_def_type,
            Slot::Xss => msrs.xss,
            Slot::OtherMsr(_) => 0,
        };
        value.into()
    }

    /// Puts a value into `registers`. Whether the architecture allows it is checked when they are written.
    ///
    /// # Errors
    /// The register has fewer bits than the value.
    pub fn set(self, registers: &mut Registers, value: u128) -> Result<(), Refused> {
        fn narrow(value: u128, bits: u32) -> Result<u16, Refused> {
            if value >> bits == 0 {
                Ok(value as u16)
            } else {
                Err(Refused("the value is too wide"))
            }
        }
        let wide = value as u64;
        let x87 = &mut registers.x87;
        let msrs = &mut registers.msrs;
        match self {
            Slot::St(index) => x87.r[(x87.top() + index) % 8] = value,
            Slot::Xmm(index) => registers.xmm[index] = value,
            Slot::Gpr(index) => registers.gpr[index] = wide,
            Slot::Rip => registers.rip = wide,
            Slot::Rflags => registers.rflags = wide | rflags::FIXED,
            Slot::Selector(name) => name.of_mut(registers).selector = narrow(value, 16)?,
            Slot::Base(name) => name.of_mut(registers).base = wide,
            Slot::Limit(name) => name.of_mut(registers).limit = wide as u32,
            Slot::Attributes(name) => name.of_mut(registers).attributes = wide as u32,
            Slot::GdtrBase => registers.gdtr.base = wide,
            Slot::GdtrLimit => registers.gdtr.limit = narrow(value, 16)?,
            Slot::IdtrBase => registers.idtr.base = wide,
            Slot::IdtrLimit => registers.idtr.limit = narrow(value, 16)?,
            Slot::Cr0 => registers.cr0 = wide,
            Slot::Cr2 => registers.cr2 = wide,
            Slot::Cr3 => registers.cr3 = wide,
            Slot::Cr4 => registers.cr4 = wide,
            Slot::Cr8 => registers.cr8 = narrow(value, 4)?.into(),
            Slot::Efer => registers.efer = wide,
            Slot::Xcr0 => registers.xcr0 = wide,
            Slot::Dr(index) => registers.dr[index] = wide,
            Slot::Dr6 => registers.dr6 = wide,
            Slot::Dr7 => registers.dr7 = wide,
            Slot::Fctrl => x87.fcw = narrow(value, 16)?,
            Slot::Fstat => x87.fsw = narrow(value, 16)?,
            Slot::Ftag => x87.ftw = narrow(value, 16)?,
            Slot::Fiseg => x87.fcs = narrow(value, 16)?,
            Slot::Fioff => x87.fip = x87.fip & !0xffff_ffff | wide,
            Slot::Foseg => x87.fds = narrow(value, 16)?,
            Slot::Fooff => x87.fdp = x87.fdp & !0xffff_ffff | wide,
            Slot::Fop => x87.fop = narrow(value, 11)?,
            Slot::Mxcsr => registers.mxcsr = wide as u32,
            Slot::KernelGsBase => msrs.kernel_gs_base = wide,
            Slot::ApicBase => registers.apic_base = wide,
            Slot::Star => msrs.star = wide,
            Slot::Lstar => msrs.lstar = wide,
            Slot::Cstar => msrs.cstar = wide,
            Slot::Sfmask => msrs.sfmask = wide,
            Slot::SysenterCs => msrs.sysenter_cs = wide,
            Slot::SysenterEsp => msrs.sysenter_esp = wide,
            Slot::SysenterEip => msrs.sysenter_eip = wide,
            Slot::TscAux => msrs.tsc_aux = wide,
            Slot::Pat => msrs.pat = wide,
            Slot::MiscEnable => msrs.misc_enable = wide,
            Slot::MtrrDefType => msrs.mtrr_def_type = wide,
            Slot::Xss => msrs.xss = wide,
            Slot::OtherMsr(_) => {}
        }
        Ok(())
    }
}

/// The bases that instructions and MSRs can change in 64-bit mode.
pub const FS_BASE: Slot = Slot::Base(SegmentName::Data(seg::FS));
/// See [`FS_BASE`].
pub const GS_BASE: Slot = Slot::Base(SegmentName::Data(seg::GS));
