//! `kdd ps`.

use super::common::{Common, unexpected};
use super::output;
use crate::Failure;
use crate::control::hex::Hex;
use crate::control::message::{GuestProcesses, Reply, Request};

/// List the guest's own processes, from outside
#[derive(clap::Args, Debug)]
#[command(
    after_help = "With --json: an object with `processes`, and `broken` where the guest's list breaks off.\n\n\
    Example:\n  kdd ps win10 --json | jq -r '.processes[] | [.pid, .name] | @tsv'"
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
            process.root.to_string(),
            process.address.to_string(),
        ]);
    }
    output::table(&rows) + &output::broken(list.broken.as_deref())
}

/// An address, or a dash for null.
pub(super) fn address(value: Option<Hex>) -> String {
    output::optional(value.filter(|value| value.0 != 0))
}
