//! `kdd pause`, `unpause`, `reset`, `destroy`: one word about one domain.

use super::common::{Common, unexpected};
use super::output;
use crate::Failure;
use crate::control::message::{Reply, Request};

/// Pause a domain. Pauses count: it runs when nobody holds it
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  kdd pause linux")]
pub(super) struct PauseArgs {
    #[command(flatten)]
    which: Which,
}

/// Take one pause back
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Pauses that debuggers hold are theirs to take back.\n\nExample:\n  kdd unpause linux"
)]
pub(super) struct UnpauseArgs {
    #[command(flatten)]
    which: Which,
}

/// Reset a domain: the same guest boots again
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  kdd reset linux")]
pub(super) struct ResetArgs {
    #[command(flatten)]
    which: Which,
}

/// End a domain, with its endpoints and its console
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  kdd destroy linux")]
pub(super) struct DestroyArgs {
    #[command(flatten)]
    which: Which,
}

#[derive(clap::Args, Debug)]
struct Which {
    /// The domain's name or id
    #[arg(value_name = "DOM")]
    domain: String,
    #[command(flatten)]
    common: Common,
}

pub(super) fn pause(args: PauseArgs) -> Result<(), Failure> {
    args.which.ask(|domain| Request::Pause { domain })
}

pub(super) fn unpause(args: UnpauseArgs) -> Result<(), Failure> {
    args.which.ask(|domain| Request::Unpause { domain })
}

pub(super) fn reset(args: ResetArgs) -> Result<(), Failure> {
    args.which.ask(|domain| Request::Reset { domain })
}

pub(super) fn destroy(args: DestroyArgs) -> Result<(), Failure> {
    args.which.ask(|domain| Request::Destroy { domain })
}

impl Which {
    /// Asks; people want no news of success, scripts an object.
    fn ask(self, request: impl FnOnce(String) -> Request) -> Result<(), Failure> {
        let reply = self.common.ask(request(self.domain.clone()))?;
        match reply {
            Reply::Done if self.common.json => {
                output::print_json(&serde_json::json!({"domain": self.domain, "done": true}))
            }
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}
