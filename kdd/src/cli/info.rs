//! `kdd info`.

use super::common::{Common, unexpected};
use super::{list, output};
use crate::Failure;
use crate::control::message::{DomainInfo, Reply, Request};
use std::fmt::Write;

/// Show one domain in full
#[derive(clap::Args, Debug)]
#[command(
    after_help = "With -v it says how the guest's operating system was recognised.\n\nExample:\n  kdd info linux"
)]
pub(super) struct Args {
    /// The domain's name or id
    #[arg(value_name = "DOM")]
    domain: String,
    /// Hash the whole state as well: equal inputs give equal hashes at equal times
    #[arg(long)]
    hash: bool,
    #[command(flatten)]
    common: Common,
}

pub(super) fn execute(args: Args, verbose: bool) -> Result<(), Failure> {
    let request = Request::Info {
        domain: args.domain,
        hash: args.hash,
    };
    match args.common.ask(request)? {
        Reply::Domain(info) if args.common.json => output::print_json(&info),
        Reply::Domain(info) => output::print(&text(&info, verbose)),
        other => Err(unexpected(&other)),
    }
}

fn text(info: &DomainInfo, verbose: bool) -> String {
    let summary = &info.summary;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<13} {value}");
    };
    line("name", &summary.name);
    line("id", &summary.id);
    let crash = summary.crash.as_ref().map(|why| format!(": {why}"));
    line(
        "state",
        &format!("{}{}", list::state(summary), crash.unwrap_or_default()),
    );
    if info.operator_pauses > 0 {
        let pauses = format!("{} to take back with 'kdd unpause'", info.operator_pauses);
        line("pauses", &pauses);
    }
    if info.waits_for_debugger {
        line("waits", "for its first debugger, or 'kdd unpause'");
    }
    line("guest", &info.guest);
    line("cpu", &format!("{}, seed {}", info.cpu, info.seed));
    line("memory", &output::size(summary.memory_bytes));
    let seconds = info.uptime_nanoseconds as f64 / 1e9;
    let uptime = format!(
        "{} instructions, {seconds:.3} s of guest time",
        output::grouped(summary.uptime_instructions)
    );
    line("uptime", &uptime);
    line("console", &info.console.to_string());
    for vcpu in &info.vcpu_states {
        let what = format!(
            "{}, {} mode, cpl {}, rip {}",
            vcpu.activity, vcpu.mode, vcpu.cpl, vcpu.rip
        );
        line(&format!("vcpu {}", vcpu.vcpu), &what);
    }
    if let Some(os) = &info.os {
        line("os", &os.name);
        let pdb = os.pdb.as_ref().map(|pdb| format!(", {pdb}"));
        let slide = os.kernel_slide.map(|slide| format!(", moved by {slide}"));
        let kernel = format!("{}{}", os.kernel_base, pdb.or(slide).unwrap_or_default());
        line("kernel", &kernel);
        for (name, text) in [
            ("banner", &os.banner),
            ("command line", &os.command_line),
            ("bugcheck", &os.bugcheck),
            ("panic", &os.panic),
            ("oops", &os.oops),
            ("tainted", &os.taint),
        ] {
            if let Some(text) = text {
                line(name, text);
            }
        }
        if let Some(uptime) = os.uptime_ms {
            line(
                "os uptime",
                &format!("{:.3} s, by its own clock", uptime as f64 / 1e3),
            );
        }
        for step in os.recognition.iter().filter(|_| verbose) {
            let found = if step.found { "" } else { "not found: " };
            line("", &format!("{}: {found}{}", step.what, step.how));
        }
    }
    if let Some(crash) = &info.guest_crash {
        line("crash", crash);
    }
    for endpoint in &summary.endpoints {
        line("endpoint", &format!("{} {}", endpoint.protocol, endpoint.address));
    }
    for session in &info.sessions {
        line("session", session);
    }
    if let Some(hash) = &info.state_hash {
        line("state hash", hash);
    }
    text
}
