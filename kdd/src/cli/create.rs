//! `kdd create`.

use super::common::{Common, unexpected};
use super::guest::GuestArgs;
use super::{kd, output};
use crate::Failure;
use crate::control::message::{Reply, Request};
use crate::parse::{ConsoleTarget, KdAddress, ListenAddress};

/// Create a domain in a running service, and print its id
#[derive(clap::Args, Debug)]
#[command(group(clap::ArgGroup::new("a guest").required(true).args(["kernel", "nt", "restore", "dump"]).multiple(true)))]
#[command(
    after_help = "Example:\n  kdd create --kernel vmlinuz --initrd initramfs.cpio --append console=ttyS0 \\\n      \
    --memory 512M --console file:console.log --gdb 127.0.0.1:0"
)]
pub(super) struct Args {
    #[command(flatten)]
    guest: GuestArgs,
    /// Where its console goes: unix:PATH, file:PATH or none
    #[arg(long, value_name = "TARGET", default_value = "none", value_parser = console)]
    console: ConsoleTarget,
    /// Let gdb attach at HOST:PORT, tcp:HOST:PORT or unix:PATH; port 0 picks a free one. May be repeated
    #[arg(long, value_name = "ADDR")]
    gdb: Vec<ListenAddress>,
    /// Let WinDbg attach at HOST:PORT, tcp:HOST:PORT, unix:PATH, connect:HOST:PORT or pty. May be repeated
    #[arg(long, value_name = "ADDR")]
    kd: Vec<KdAddress>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn execute(args: Args) -> Result<(), Failure> {
    if args.guest.lists_profiles(args.common.json)? {
        return Ok(());
    }
    let request = args.guest.request(args.console, args.gdb, args.kd)?;
    match args.common.ask(Request::Create(Box::new(request)))? {
        Reply::Created(domain) if args.common.json => output::print_json(&domain),
        Reply::Created(domain) => {
            output::print(&format!("{}\n", domain.id))?;
            domain.endpoints.iter().try_for_each(kd::print_endpoint)
        }
        other => Err(unexpected(&other)),
    }
}

fn console(text: &str) -> Result<ConsoleTarget, String> {
    match text.parse()? {
        ConsoleTarget::Stdio => Err("stdio is for 'kdd run': write unix:PATH, file:PATH or none".into()),
        other => Ok(other),
    }
}
