//! `kdd ps`.

use super::common::{Common, unexpected};
use super::output;
use crate::Failure;
use crate::control::hex::Hex;
use crate::control::message::{GuestProcesses, Reply, Request};

/// List the guest's own processes, from outside
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Of a Linux guest these are groups of threads, as ps lists them; the kernel's are in brackets.\n\n\
    With --json: an object with `processes`, and `broken` where the guest's list breaks off.\n\n\
    Examples:\n  kdd ps linux\n  kdd ps win10 --json | jq -r '.processes[] | [.pid, .name] | @tsv'"
)]
pub(super) struct Args {
    /// The domain's name or id
    #[arg(value_name = "DOM")]
    domain: String,
    #[command(flatten)]
    common: Common,
}

pub(super) fn execute(args: Args) -> Result<(), Failure> {
    match args.common.ask(Request::Processes { domain: args.domain })? {
        Reply::Processes(list) if args.common.json => output::print_json(&list),
        Reply::Processes(list) => output::print(&text(&list)),
        other => Err(unexpected(&other)),
    }
}

fn text(list: &GuestProcesses) -> String {
    let table = match list
        .processes
        .iter()
        .any(|process| process.state_letter.is_some())
    {
        true => linux(list),
        false => windows(list),
    };
    table + &output::broken(list.broken.as_deref())
}

fn windows(list: &GuestProcesses) -> String {
    let heading = ["PID", "PARENT", "NAME", "THREADS", "ROOT", "ADDRESS"];
    let mut rows = vec![heading.map(str::to_owned)];
    for process in &list.processes {
        let wow64 = if process.wow64 == Some(true) {
            " (32-bit)"
        } else {
            ""
        };
        rows.push([
            process.pid.to_string(),
            output::optional(process.parent_pid),
            format!("{}{wow64}", process.name),
            output::optional(process.threads),
            output::optional(process.root),
            process.address.to_string(),
        ]);
    }
    output::table(&rows)
}

/// As `ps` does: the kernel's threads in brackets.
fn linux(list: &GuestProcesses) -> String {
    let heading = ["PID", "PPID", "S", "THREADS", "ADDRESS", "NAME"];
    let mut rows = vec![heading.map(str::to_owned)];
    for process in &list.processes {
        rows.push([
            process.pid.to_string(),
            output::optional(process.parent_pid),
            output::optional(process.state_letter.as_ref()),
            output::optional(process.threads),
            process.address.to_string(),
            bracketed(&process.name, process.kernel),
        ]);
    }
    output::table(&rows)
}

/// A Linux task's name, in brackets if it is the kernel's.
pub(super) fn bracketed(name: &str, kernel: Option<bool>) -> String {
    match kernel {
        Some(true) => format!("[{name}]"),
        _ => name.to_owned(),
    }
}

/// An address, or a dash for null.
pub(super) fn address(value: Option<Hex>) -> String {
    output::optional(value.filter(|value| value.0 != 0))
}
