//! `kdd serve`.

use super::common::Common;
use super::host::{Host, Signals, Socket};
use super::{kd, output};
use crate::Failure;
use crate::control::message::DomainSummary;
use crate::serve::config;
use std::path::{Path, PathBuf};

/// Run the service alone, until SIGTERM or SIGINT
///
/// Domains are created by 'kdd create', or listed in the configuration file. It prints where its control socket
/// is once it answers there.
#[derive(clap::Args, Debug)]
#[command(after_help = "A configuration file, whose paths are relative to it:\n\n  \
    [[domain]]\n  name = \"build\"\n  kernel = \"vmlinuz\"          # or restore = \"build.state\"\n  \
    initrd = \"initramfs.cpio\"\n  append = \"console=ttyS0\"\n  memory = \"512M\"\n  cpus = 2\n  \
    console = \"file:build.log\"   # or \"unix:build.sock\", \"none\"\n  gdb = [\"127.0.0.1:1234\"]\n  \
    # seed = 1, cpu = \"…\", debug-exit = 0xf4, paused = true, throttle = false\n\n\
    Example:\n  kdd serve --config kdd.toml")]
pub(super) struct Args {
    /// Create the domains that this file lists
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn execute(args: Args) -> Result<u8, Failure> {
    let requests = args
        .config
        .as_deref()
        .map(config::read)
        .transpose()?
        .unwrap_or_default();
    let host = Host::start(Socket::chosen(args.common.control.as_deref())?)?;
    let mut signals = host.enter(Signals::install)?;
    let service = host.service().clone();
    let created = requests
        .into_iter()
        .map(|domain| {
            let paused = domain.request.paused;
            let managed = service.prepare(domain.request)?;
            // Before its first instruction.
            for rule in domain.watches {
                service.watch_always(&managed, rule)?;
            }
            service.start(&managed, paused)?;
            Ok(managed.summary())
        })
        .collect::<Result<Vec<_>, Failure>>();
    let result = created
        .and_then(|domains| announce(host.control(), &domains, args.common.json))
        .and_then(|()| {
            host.block_on(async {
                tokio::select! {
                    () = signals.wait() => Ok(0),
                    failure = Host::timeout(args.common.timeout) => Err(failure),
                }
            })
        });
    host.stop();
    result
}

fn announce(control: &Path, domains: &[DomainSummary], json: bool) -> Result<(), Failure> {
    if json {
        return output::print_json(&serde_json::json!({
            "control": control, "pid": std::process::id(), "domains": domains,
        }));
    }
    output::print(&format!("control {}\n", control.display()))?;
    for domain in domains {
        output::print(&format!("domain {} {}\n", domain.name, domain.id))?;
        domain.endpoints.iter().try_for_each(kd::print_endpoint)?;
    }
    Ok(())
}
