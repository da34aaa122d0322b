//! The table itself: the order is the numbering, and part of the interface.
//!
//! CR0, CR4 and EFER are plain numbers and not flags types of 8 bytes, to which gdb refuses to assign a constant
//! of 4 ("Invalid cast"): `set $cr0 = 0x80050033` shall work.

use super::slot::{FS_BASE, GS_BASE, SegmentName, Slot};
use super::{Feature, Register};
use Feature::{Core, Segments, Sse, System};
use hv_core::regs::{gpr, seg};

/// IA32_TIME_STAMP_COUNTER.
const MSR_TSC: u32 = 0x10;

const fn row(name: &'static str, bits: u16, kind: &'static str, feature: Feature, slot: Slot) -> Register {
    Register {
        name,
        bits,
        kind,
        feature,
        slot,
    }
}
const fn general(name: &'static str, index: usize) -> Register {
    row(name, 64, "int64", Core, Slot::Gpr(index))
}
const fn selector(name: &'static str, index: usize) -> Register {
    row(name, 32, "int32", Core, Slot::selector(index))
}
const fn stack(name: &'static str, index: usize) -> Register {
    row(name, 80, "i387_ext", Core, Slot::St(index))
}
const fn x87(name: &'static str, slot: Slot) -> Register {
    row(name, 32, "int", Core, slot)
}
const fn xmm(name: &'static str, index: usize) -> Register {
    row(name, 128, "vec128", Sse, Slot::Xmm(index))
}
const fn system(name: &'static str, slot: Slot) -> Register {
    row(name, 64, "uint64", System, slot)
}
const fn small(name: &'static str, slot: Slot) -> Register {
    row(name, 32, "uint32", System, slot)
}
const ES: SegmentName = SegmentName::Data(seg::ES);
const CS: SegmentName = SegmentName::Data(seg::CS);
const SS: SegmentName = SegmentName::Data(seg::SS);
const DS: SegmentName = SegmentName::Data(seg::DS);
const FS: SegmentName = SegmentName::Data(seg::FS);
const GS: SegmentName = SegmentName::Data(seg::GS);
const LDTR: SegmentName = SegmentName::Ldtr;
const TR: SegmentName = SegmentName::Tr;

/// Every register, by its number.
pub static TABLE: &[Register] = ROWS;

const ROWS: &[Register] = &[
    general("rax", gpr::RAX),
    general("rbx", gpr::RBX),
    general("rcx", gpr::RCX),
    general("rdx", gpr::RDX),
    general("rsi", gpr::RSI),
    general("rdi", gpr::RDI),
    row("rbp", 64, "data_ptr", Core, Slot::Gpr(gpr::RBP)),
    row("rsp", 64, "data_ptr", Core, Slot::Gpr(gpr::RSP)),
    general("r8", 8),
    general("r9", 9),
    general("r10", 10),
    general("r11", 11),
    general("r12", 12),
    general("r13", 13),
    general("r14", 14),
    general("r15", 15),
    row("rip", 64, "code_ptr", Core, Slot::Rip),
    row("eflags", 32, "i386_eflags", Core, Slot::Rflags),
    selector("cs", seg::CS),
    selector("ss", seg::SS),
    selector("ds", seg::DS),
    selector("es", seg::ES),
    selector("fs", seg::FS),
    selector("gs", seg::GS),
    row("fs_base", 64, "int64", Segments, FS_BASE),
    row("gs_base", 64, "int64", Segments, GS_BASE),
    row("k_gs_base", 64, "int64", System, Slot::KernelGsBase),
    system("cr0", Slot::Cr0),
    system("cr2", Slot::Cr2),
    system("cr3", Slot::Cr3),
    system("cr4", Slot::Cr4),
    system("cr8", Slot::Cr8),
    system("efer", Slot::Efer),
    stack("st0", 0),
    stack("st1", 1),
    stack("st2", 2),
    stack("st3", 3),
    stack("st4", 4),
    stack("st5", 5),
    stack("st6", 6),
    stack("st7", 7),
    x87("fctrl", Slot::Fctrl),
    x87("fstat", Slot::Fstat),
    x87("ftag", Slot::Ftag),
    x87("fiseg", Slot::Fiseg),
    x87("fioff", Slot::Fioff),
    x87("foseg", Slot::Foseg),
    x87("fooff", Slot::Fooff),
    x87("fop", Slot::Fop),
    xmm("xmm0", 0),
    xmm("xmm1", 1),
    xmm("xmm2", 2),
    xmm("xmm3", 3),
    xmm("xmm4", 4),
    xmm("xmm5", 5),
    xmm("xmm6", 6),
    xmm("xmm7", 7),
    xmm("xmm8", 8),
    xmm("xmm9", 9),
    xmm("xmm10", 10),
    xmm("xmm11", 11),
    xmm("xmm12", 12),
    xmm("xmm13", 13),
    xmm("xmm14", 14),
    xmm("xmm15", 15),
    row("mxcsr", 32, "i386_mxcsr", Sse, Slot::Mxcsr),
    // From here on the numbers are ours.
    system("xcr0", Slot::Xcr0),
    system("gdtr_base", Slot::GdtrBase),
    small("gdtr_limit", Slot::GdtrLimit),
    system("idtr_base", Slot::IdtrBase),
    small("idtr_limit", Slot::IdtrLimit),
    small("ldtr", Slot::Selector(LDTR)),
    system("ldtr_base", Slot::Base(LDTR)),
    small("ldtr_limit", Slot::Limit(LDTR)),
    small("ldtr_attr", Slot::Attributes(LDTR)),
    small("tr", Slot::Selector(TR)),
    system("tr_base", Slot::Base(TR)),
    small("tr_limit", Slot::Limit(TR)),
    small("tr_attr", Slot::Attributes(TR)),
    system("es_base", Slot::Base(ES)),
    system("cs_base", Slot::Base(CS)),
    system("ss_base", Slot::Base(SS)),
    system("ds_base", Slot::Base(DS)),
    small("es_limit", Slot::Limit(ES)),
    small("cs_limit", Slot::Limit(CS)),
    small("ss_limit", Slot::Limit(SS)),
    small("ds_limit", Slot::Limit(DS)),
    small("fs_limit", Slot::Limit(FS)),
    small("gs_limit", Slot::Limit(GS)),
    small("es_attr", Slot::Attributes(ES)),
    small("cs_attr", Slot::Attributes(CS)),
    small("ss_attr", Slot::Attributes(SS)),
    small("ds_attr", Slot::Attributes(DS)),
    small("fs_attr", Slot::Attributes(FS)),
    small("gs_attr", Slot::Attributes(GS)),
    system("dr0", Slot::Dr(0)),
    system("dr1", Slot::Dr(1)),
    system("dr2", Slot::Dr(2)),
    system("dr3", Slot::Dr(3)),
    system("dr6", Slot::Dr6),
    system("dr7", Slot::Dr7),
    system("apic_base", Slot::ApicBase),
    system("star", Slot::Star),
    system("lstar", Slot::Lstar),
    system("cstar", Slot::Cstar),
    system("sfmask", Slot::Sfmask),
    system("sysenter_cs", Slot::SysenterCs),
    system("sysenter_esp", Slot::SysenterEsp),
    system("sysenter_eip", Slot::SysenterEip),
    system("tsc", Slot::OtherMsr(MSR_TSC)),
    system("tsc_aux", Slot::TscAux),
    system("pat", Slot::Pat),
    system("misc_enable", Slot::MiscEnable),
    system("mtrr_def_type", Slot::MtrrDefType),
    system("xss", Slot::Xss),
];
