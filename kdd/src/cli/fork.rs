//! `kdd fork`.

use super::common::{Common, unexpected};
use super::list;
use crate::Failure;
use crate::control::message::{MAX_FORKS, Reply, Request};

/// Make copy-on-write children of a domain, named DOM-fork-1 and so on
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Children run if their parent does. They share its memory until either side writes.\n\n\
    Example:\n  kdd fork linux --count 8 --paused"
)]
pub(super) struct Args {
    /// The domain's name or id
    #[arg(value_name = "DOM")]
    domain: String,
    /// How many, all from the same moment
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_FORKS)))]
    count: u32,
    /// Leave them paused
    #[arg(long)]
    paused: bool,
    #[command(flatten)]
    common: Common,
}

pub(super) fn execute(args: Args) -> Result<(), Failure> {
    let request = Request::Fork {
        domain: args.domain,
        count: args.count,
        paused: args.paused,
    };
    match args.common.ask(request)? {
        Reply::Forked { domains } => list::print(&domains, args.common.json),
        other => Err(unexpected(&other)),
    }
}
