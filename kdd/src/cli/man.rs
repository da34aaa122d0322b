//! `kdd man`: made from the same definitions.

use super::definition;
use crate::Failure;
use std::path::PathBuf;

/// Write the man pages into a directory
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  kdd man ~/.local/share/man/man1")]
pub(super) struct Args {
    /// The directory, which must exist
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(super) fn execute(args: &Args) -> Result<(), Failure> {
    clap_mangen::generate_to(definition(), &args.directory).map_err(|error| {
        Failure::new(
            args.directory.display(),
            error,
            "name a directory that you may write",
        )
    })
}
