//! `kdd regs`.

use super::common::{Common, VcpuOption, unexpected};
use super::output;
use crate::Failure;
use crate::control::hex::Hex;
use crate::control::message::{RegisterDump, Reply, Request};
use std::fmt::Write;

/// Show the registers of a vCPU
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  kdd regs linux --json | jq -r .registers.rip")]
pub(super) struct Args {
    /// The domain's name or id
    #[arg(value_name = "DOM")]
    domain: String,
    #[command(flatten)]
    vcpu: VcpuOption,
    #[command(flatten)]
    common: Common,
}

pub(super) fn execute(args: Args) -> Result<(), Failure> {
    let request = Request::Registers {
        domain: args.domain,
        vcpu: args.vcpu.vcpu,
    };
    match args.common.ask(request)? {
        Reply::Registers(dump) if args.common.json => output::print_json(&dump),
        Reply::Registers(dump) => output::print(&text(&dump)),
        other => Err(unexpected(&other)),
    }
}

/// Numbers in rows, each with the hex digits it is shown with.
const ROWS: &[(usize, &[&str])] = &[
    (16, &["rax", "rbx", "rcx", "rdx"]),
    (16, &["rsi", "rdi", "rbp", "rsp"]),
    (16, &["r8", "r9", "r10", "r11"]),
    (16, &["r12", "r13", "r14", "r15"]),
];
const MORE_ROWS: &[(usize, &[&str])] = &[
    (16, &["cr0", "cr2", "cr3", "cr4"]),
    (16, &["cr8", "efer", "xcr0", "apic_base"]),
    (16, &["dr0", "dr1", "dr2", "dr3"]),
    (16, &["dr6", "dr7"]),
    (16, &["star", "lstar", "cstar", "sfmask"]),
    (16, &["sysenter_cs", "sysenter_esp", "sysenter_eip"]),
    (16, &["kernel_gs_base", "tsc_aux", "tsc_offset", "pat"]),
    (16, &["misc_enable", "mtrr_def_type", "xss"]),
    (4, &["fcw", "fsw", "ftw", "fop", "fcs", "fds"]),
    (16, &["fip", "fdp"]),
    (20, &["st0", "st1", "st2"]),
    (20, &["st3", "st4", "st5"]),
    (20, &["st6", "st7"]),
    (8, &["mxcsr"]),
    (32, &["xmm0", "xmm1"]),
    (32, &["xmm2", "xmm3"]),
    (32, &["xmm4", "xmm5"]),
    (32, &["xmm6", "xmm7"]),
    (32, &["xmm8", "xmm9"]),
    (32, &["xmm10", "xmm11"]),
    (32, &["xmm12", "xmm13"]),
    (32, &["xmm14", "xmm15"]),
];
const SEGMENTS: [&str; 8] = ["cs", "ss", "ds", "es", "fs", "gs", "ldtr", "tr"];

fn text(dump: &RegisterDump) -> String {
    let vcpu = &dump.vcpu;
    let mut text = format!(
        "vcpu {}: {}, {} mode, cpl {}\n",
        vcpu.vcpu, vcpu.activity, vcpu.mode, vcpu.cpl
    );
    rows(&mut text, dump, ROWS);
    let rflags = dump.registers.get("rflags").copied().unwrap_or_default();
    let rip = dump.registers.get("rip").copied().unwrap_or_default();
    let _ = writeln!(
        text,
        "rip {:016x}  rflags {:08x} [{}]",
        rip.0,
        rflags.0,
        flags(rflags)
    );
    for name in SEGMENTS {
        if let Some(s) = dump.segments.get(name) {
            let _ = writeln!(
                text,
                "{name:<4} {:04x}  base {:016x}  limit {:08x}  attributes {:05x}  {}",
                s.selector.0,
                s.base.0,
                s.limit.0,
                s.attributes.0,
                kind(s.attributes)
            );
        }
    }
    for (name, table) in &dump.tables {
        let _ = writeln!(
            text,
            "{name:<10}  base {:016x}  limit {:04x}",
            table.base.0, table.limit.0
        );
    }
    rows(&mut text, dump, MORE_ROWS);
    text
}

fn rows(text: &mut String, dump: &RegisterDump, rows: &[(usize, &[&str])]) {
    for (digits, names) in rows {
        let cells = names.iter().filter_map(|name| {
            let value = dump.registers.get(*name)?;
            Some(format!("{name:<3} {:0digits$x}", value.0))
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(text, "{line}");
    }
}

/// The flags that are set, by the SDM's names.
fn flags(rflags: Hex) -> String {
    const NAMES: [(u32, &str); 16] = [
        (21, "ID"),
        (20, "VIP"),
        (19, "VIF"),
        (18, "AC"),
        (17, "VM"),
        (16, "RF"),
        (14, "NT"),
        (11, "OF"),
        (10, "DF"),
        (9, "IF"),
        (8, "TF"),
        (7, "SF"),
        (6, "ZF"),
        (4, "AF"),
        (2, "PF"),
        (0, "CF"),
    ];
    let set = NAMES.iter().filter(|(bit, _)| rflags.0 >> bit & 1 != 0);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
}

/// What a segment's attributes say.
fn kind(attributes: Hex) -> String {
    let a = attributes.low();
    if a >> 16 & 1 != 0 {
        return "unusable".into();
    }
    let dpl = a >> 5 & 3;
    let what = match (a >> 4 & 1, a & 8, a >> 13 & 1, a >> 14 & 1) {
        (0, ..) => "system",
        (_, 0, _, _) => "data",
        (_, _, 1, _) => "code 64",
        (_, _, _, 1) => "code 32",
        _ => "code 16",
    };
    format!("{what} dpl {dpl}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_segments_are_in_words() {
        assert_eq!(flags(Hex(0x246)), "IF ZF PF");
        assert_eq!(kind(Hex(0xa09b)), "code 64 dpl 0");
        assert_eq!(kind(Hex(0xc0f3)), "data dpl 3");
        assert_eq!(kind(Hex(0x1_0000)), "unusable");
    }
}
