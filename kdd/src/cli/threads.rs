//! `kdd threads`.

use super::common::{Common, unexpected};
use super::output;
use super::ps::{address, bracketed};
use crate::Failure;
use crate::control::message::{GuestThreads, Reply, Request};

/// List the guest's own threads, from outside
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Of a Linux guest PID is the process's id (tgid) and TID the thread's; WAITS is the place in the kernel where it sleeps.\n\n\
    With --json: an object with `threads`, and `broken` where the guest's list breaks off.\n\n\
    Examples:\n  kdd threads linux --pid 1\n  kdd threads win10 --pid 4"
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
    let table = match list.threads.iter().any(|thread| thread.state_letter.is_some()) {
        true => linux(list),
        false => windows(list),
    };
    table + &output::broken(list.broken.as_deref())
}

fn windows(list: &GuestThreads) -> String {
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
    output::table(&rows)
}

fn linux(list: &GuestThreads) -> String {
    let heading = ["PID", "TID", "S", "CPU", "VCPU", "ADDRESS", "WAITS", "NAME"];
    let mut rows = vec![heading.map(str::to_owned)];
    for thread in &list.threads {
        let waits = thread.waits_in.clone();
        rows.push([
            thread.pid.to_string(),
            thread.tid.to_string(),
            output::optional(thread.state_letter.as_ref()),
            output::optional(thread.cpu),
            output::optional(thread.vcpu),
            thread.address.to_string(),
            waits.unwrap_or_else(|| address(thread.waits_at)),
            bracketed(thread.name.as_ref().unwrap_or(&thread.process), thread.kernel),
        ]);
    }
    output::table(&rows)
}
