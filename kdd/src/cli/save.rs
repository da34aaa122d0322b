//! `kdd save`.

use super::common::{Common, absolute, unexpected};
use super::output;
use crate::Failure;
use crate::control::message::{Reply, Request};
use std::path::PathBuf;

/// Save a domain's whole state to a file; it is paused meanwhile
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The file takes its name when it is whole: a save that fails leaves an older one as it was.\n\n\
    Example:\n  kdd save linux linux.state && kdd destroy linux && kdd create --restore linux.state"
)]
pub(super) struct Args {
    /// The domain's name or id
    #[arg(value_name = "DOM")]
    domain: String,
    /// The file
    file: PathBuf,
    #[command(flatten)]
    common: Common,
}

pub(super) fn execute(args: Args) -> Result<(), Failure> {
    let request = Request::Save {
        domain: args.domain,
        path: absolute(args.file)?,
    };
    match args.common.ask(request)? {
        Reply::Saved { path, bytes } if args.common.json => {
            output::print_json(&serde_json::json!({"path": path, "bytes": bytes}))
        }
        Reply::Saved { path, bytes } => output::print(&format!(
            "{} ({} bytes)\n",
            path.display(),
            output::grouped(bytes)
        )),
        other => Err(unexpected(&other)),
    }
}
