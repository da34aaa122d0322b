//! `kdd list`.

use super::common::{Common, unexpected};
use super::output;
use crate::Failure;
use crate::control::message::{DomainSummary, Reply, Request};

/// List the domains
#[derive(clap::Args, Debug)]
#[command(after_help = "With --json: one object for each domain, a line each.\n\n\
    Example:\n  kdd list --json | jq -r .name")]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
}

pub(super) fn execute(args: &Args) -> Result<(), Failure> {
    match args.common.ask(Request::List)? {
        Reply::Domains { domains } => print(&domains, args.common.json),
        other => Err(unexpected(&other)),
    }
}

/// Prints domains in short.
pub(super) fn print(domains: &[DomainSummary], json: bool) -> Result<(), Failure> {
    if json {
        return domains.iter().try_for_each(output::print_json);
    }
    let mut rows = vec![
        [
            "NAME",
            "ID",
            "STATE",
            "VCPUS",
            "MEMORY",
            "INSTRUCTIONS",
            "ENDPOINTS",
        ]
        .map(str::to_owned),
    ];
    for domain in domains {
        let endpoints = domain
            .endpoints
            .iter()
            .map(|e| format!("{} {}", e.protocol, e.address));
        rows.push([
            domain.name.clone(),
            domain.id.clone(),
            state(domain),
            domain.vcpus.to_string(),
            output::size(domain.memory_bytes),
            output::grouped(domain.uptime_instructions),
            endpoints.collect::<Vec<_>>().join(", "),
        ]);
    }
    output::print(&output::table(&rows))
}

/// A state in words.
pub(super) fn state(domain: &DomainSummary) -> String {
    match domain.pauses {
        0 | 1 => domain.state.clone(),
        n => format!("{} ({n})", domain.state),
    }
}
