//! `kdd threads`.

use super::common::{Common, unexpected};
use super::output;
use super::ps::address;
use crate::Failure;
use crate::control::message::{GuestThreads, Reply, Request};

/// List the guest's own threads, from outside
#[derive(clap::Args, Debug)]
#[command(
    after_help = "With --json: an object with `threads`, and `broken` where the guest's list breaks off.\n\n\
    Example:\n  kdd threads win10 --pid 4"
)]
pub(super) struct Args {
    /// The domain's name or id
    #[arg(value_name = "DOM")]
    domain: String,
    /// Those of this process alone
    #[arg(long, value_name = "PID")]
    pid: Option<u64>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn execute(args: Args) -> Result<(), Failure> {
    let request = Request::Threads {
        domain: args.domain,
        pid: args.pid,
    };
    match args.common.ask(request)? {
        Reply::Threads(list) if args.common.json => output::print_json(&list),
        Reply::Threads(list) => output::print(&text(&list)),
        other => Err(unexpected(&other)),
    }
}

fn text(list: &GuestThreads) -> String {
    let heading = [
        "PID", "TID", "PROCESS", "STATE", "VCPU", "PRIORITY", "START", "ADDRESS",
    ];
    let mut rows = vec![heading.map(str::to_owned)];
    for thread in &list.threads {
        rows.push([
            thread.pid.to_string(),
            thread.tid.to_string(),
            thread.process.clone(),
            thread.state.clone().unwrap_or_else(|| "-".into()),
            output::optional(thread.vcpu),
            output::optional(thread.priority),
            address(thread.start),
            thread.address.to_string(),
        ]);
    }
    output::table(&rows) + &output::broken(list.broken.as_deref())
}
