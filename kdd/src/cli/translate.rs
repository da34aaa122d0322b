//! `kdd translate`.

use super::common::{Common, VcpuOption, unexpected};
use super::output;
use crate::Failure;
use crate::control::message::{Reply, Request, TranslationDump};
use crate::parse::Place;
use std::fmt::Write;

/// Walk the page tables for a virtual address, and show each level
#[derive(clap::Args, Debug)]
#[command(after_help = "Exit status 1 if the address isn't mapped.\n\n\
    Example:\n  kdd translate linux ffffffff81000000")]
pub(super) struct Args {
    /// The domain's name or id
    #[arg(value_name = "DOM")]
    domain: String,
    /// The address, in hex, or a symbol of the kernel: do_exit+0x10
    #[arg(value_name = "ADDR")]
    address: Place,
    #[command(flatten)]
    vcpu: VcpuOption,
    #[command(flatten)]
    common: Common,
}

pub(super) fn execute(args: Args) -> Result<(), Failure> {
    let request = Request::Translate {
        domain: args.domain,
        vcpu: args.vcpu.vcpu,
        address: args.address,
    };
    let dump = match args.common.ask(request)? {
        Reply::Translation(dump) => dump,
        other => return Err(unexpected(&other)),
    };
    if args.common.json {
        output::print_json(&dump)?;
    } else {
        output::print(&text(&dump))?;
    }
    match dump.stopped {
        None => Ok(()),
        Some(why) => Err(Failure::new(
            format_args!("translate {}", dump.address),
            why,
            "choose an address that is mapped, or another --vcpu",
        )),
    }
}

fn text(dump: &TranslationDump) -> String {
    let mut text = String::new();
    for step in &dump.walk {
        let flags = flags(step.entry.low());
        let _ = writeln!(
            text,
            "{:<5} at {:#014x}: {:016x}  {flags}",
            step.level, step.at.0, step.entry.0
        );
    }
    if let (Some(physical), Some(page)) = (dump.physical, dump.page_bytes) {
        let _ = writeln!(
            text,
            "{} -> physical {physical}, {} page",
            dump.address,
            output::size(page)
        );
    }
    text
}

/// The bits of an entry that decide, by the SDM's names.
fn flags(entry: u64) -> String {
    const NAMES: [(u32, &str); 9] = [
        (0, "P"),
        (1, "RW"),
        (2, "US"),
        (3, "PWT"),
        (4, "PCD"),
        (5, "A"),
        (6, "D"),
        (7, "PS/PAT"),
        (63, "XD"),
    ];
    let set = NAMES.iter().filter(|(bit, _)| entry >> bit & 1 != 0);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::message::WalkEntry;

    #[test]
    fn a_walk_shows_each_level_and_where_it_leads() {
        let dump = TranslationDump {
            address: 0xffff_ffff_8100_0000.into(),
            walk: vec![WalkEntry {
                level: "PDE".into(),
                at: 0x260_d040.into(),
                entry: 0x10_001e3.into(),
            }],
            physical: Some(0x100_0000.into()),
            page_bytes: Some(2 << 20),
            stopped: None,
        };
        assert_eq!(
            text(&dump),
            "PDE   at 0x00000260d040: 00000000010001e3  P RW A D PS/PAT\n\
             0xffffffff81000000 -> physical 0x1000000, 2M page\n"
        );
    }
}
