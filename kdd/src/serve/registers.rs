//! All registers of a vCPU by their names.

use super::Managed;
use super::describe::vcpu_info;
use crate::Failure;
use crate::control::hex::Hex;
use crate::control::message::{RegisterDump, SegmentDump, TableDump};
use hv_core::regs::{DescriptorTable, Registers, Segment};
use std::collections::BTreeMap;
use std::sync::Arc;

const GPR: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];
const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];

impl Managed {
    /// The registers of one vCPU, from one moment.
    pub(super) fn register_dump(self: &Arc<Self>, vcpu: u32) -> Result<RegisterDump, Failure> {
        let id = self.vcpu(vcpu)?;
        let _held = self.hold()?;
        let registers = self
            .domain()
            .registers(id)
            .map_err(|error| self.failure(&error, "'kdd info' shows its vCPUs"))?;
        Ok(dump(vcpu, &registers))
    }
}

fn dump(vcpu: u32, r: &Registers) -> RegisterDump {
    RegisterDump {
        vcpu: vcpu_info(vcpu, r),
        registers: numbers(r),
        segments: segments(r),
        tables: [("gdtr", r.gdtr), ("idtr", r.idtr)]
            .map(|(name, table)| (name.to_owned(), table_dump(table)))
            .into(),
    }
}

fn numbers(r: &Registers) -> BTreeMap<String, Hex> {
    let mut all = BTreeMap::new();
    let mut put = |name: &str, value: u128| {
        all.insert(name.to_owned(), Hex(value));
    };
    for (name, value) in GPR.iter().zip(r.gpr) {
        put(name, value.into());
    }
    let msrs = &r.msrs;
    for (name, value) in [
        ("rip", r.rip),
        ("rflags", r.rflags),
        ("cr0", r.cr0),
        ("cr2", r.cr2),
        ("cr3", r.cr3),
        ("cr4", r.cr4),
        ("cr8", r.cr8),
        ("efer", r.efer),
        ("xcr0", r.xcr0),
        ("dr0", r.dr[0]),
        ("dr1", r.dr[1]),
        ("dr2", r.dr[2]),
        ("dr3", r.dr[3]),
        ("dr6", r.dr6),
        ("dr7", r.dr7),
        ("apic_base", r.apic_base),
        ("star", msrs.star),
        ("lstar", msrs.lstar),
        ("cstar", msrs.cstar),
        ("sfmask", msrs.sfmask),
        ("kernel_gs_base", msrs.kernel_gs_base),
        ("sysenter_cs", msrs.sysenter_cs),
        ("sysenter_esp", msrs.sysenter_esp),
        ("sysenter_eip", msrs.sysenter_eip),
        ("tsc_aux", msrs.tsc_aux),
        ("tsc_offset", msrs.tsc_offset),
        ("pat", msrs.pat),
        ("misc_enable", msrs.misc_enable),
        ("mtrr_def_type", msrs.mtrr_def_type),
        ("xss", msrs.xss),
        ("fcw", r.x87.fcw.into()),
        ("fsw", r.x87.fsw.into()),
        ("ftw", r.x87.ftw.into()),
        ("fop", r.x87.fop.into()),
        ("fip", r.x87.fip),
        ("fcs", r.x87.fcs.into()),
        ("fdp", r.x87.fdp),
        ("fds", r.x87.fds.into()),
        ("mxcsr", r.mxcsr.into()),
    ] {
        put(name, value.into());
    }
    for i in 0..8 {
        put(&format!("st{i}"), r.x87.r[(r.x87.top() + i) % 8]);
    }
    for (i, (low, high)) in r.xmm.iter().zip(r.ymm_high).enumerate() {
        put(&format!("xmm{i}"), *low);
        if high != 0 {
            put(&format!("ymm{i}_high"), high);
        }
    }
    all
}

fn segments(r: &Registers) -> BTreeMap<String, SegmentDump> {
    let visible = SEGMENTS.iter().copied().zip(r.segments);
    visible
        .chain([("ldtr", r.ldtr), ("tr", r.tr)])
        .map(|(name, segment)| (name.to_owned(), segment_dump(segment)))
        .collect()
}

fn segment_dump(segment: Segment) -> SegmentDump {
    SegmentDump {
        selector: u64::from(segment.selector).into(),
        base: segment.base.into(),
        limit: u64::from(segment.limit).into(),
        attributes: u64::from(segment.attributes).into(),
    }
}

fn table_dump(table: DescriptorTable) -> TableDump {
    TableDump {
        base: table.base.into(),
        limit: u64::from(table.limit).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn st_registers_are_counted_from_the_top_of_the_stack() {
        let mut registers = Registers::at_reset(true);
        registers.x87.fsw = 7 << 11;
        registers.x87.r[7] = 0x7777;
        registers.x87.r[0] = 0x1111;
        let dump = dump(0, &registers);
        assert_eq!(dump.registers["st0"], Hex(0x7777));
        assert_eq!(dump.registers["st1"], Hex(0x1111));
        assert_eq!(dump.registers["rip"], Hex(0xfff0));
        assert_eq!(dump.segments["cs"].base, Hex(0xffff_0000));
        assert_eq!(dump.tables["idtr"].limit, Hex(0xffff));
    }
}
