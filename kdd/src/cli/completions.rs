//! `kdd completions`: made from the same definitions.

use super::{definition, output};
use crate::Failure;

/// Print completions for a shell
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  kdd completions bash > ~/.local/share/bash-completion/completions/kdd")]
pub(super) struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

pub(super) fn execute(args: &Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut definition(), "kdd", &mut script);
    output::print_bytes(&script)
}
