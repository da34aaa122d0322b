//! `kdd kd`, and the lines to paste for every kind of endpoint.

use super::common::{Common, unexpected};
use super::guest::absolute_kd;
use super::{gdb, output};
use crate::Failure;
use crate::control::message::{EndpointInfo, Reply, Request};
use crate::parse::{KdAddress, ListenAddress};

/// Add an endpoint for WinDbg and kd to a domain, and print the line that attaches to it
///
/// The guest needs no debugging enabled: nothing is installed or changed in it.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  kdd kd win10 --listen 127.0.0.1:4440\n  kdd kd win10 --listen unix:/run/win10.kd"
)]
pub(super) struct Args {
    /// The domain's name or id
    #[arg(value_name = "DOM")]
    domain: String,
    /// Where: HOST:PORT or tcp:HOST:PORT (port 0 picks a free one), unix:PATH, connect:HOST:PORT (kdd connects), or
    /// pty (a serial line)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: KdAddress,
    #[command(flatten)]
    common: Common,
}

pub(super) fn execute(args: Args) -> Result<(), Failure> {
    let request = Request::Kd {
        domain: args.domain,
        listen: absolute_kd(args.listen)?,
    };
    match args.common.ask(request)? {
        Reply::Listening(endpoint) if args.common.json => output::print_json(&endpoint),
        Reply::Listening(endpoint) => print_endpoint(&endpoint),
        other => Err(unexpected(&other)),
    }
}

/// Prints the lines that attach to an endpoint, and warns of one that others reach.
pub(super) fn print_endpoint(endpoint: &EndpointInfo) -> Result<(), Failure> {
    warn_if_open(endpoint);
    let mut text = String::new();
    if let Some(pid) = endpoint.process {
        text += &format!("{:<6} {pid}\n", "pid");
    }
    for (debugger, line) in attach_lines(endpoint) {
        text += &format!("{debugger:<6} {line}\n");
    }
    output::print(&text)
}

/// Says on standard error that an endpoint is open to other machines.
pub(super) fn warn_if_open(endpoint: &EndpointInfo) {
    if endpoint.address.is_open_to_others() {
        eprintln!(
            "kdd: {} endpoint {}: it is open to other machines; whoever connects owns the guest",
            endpoint.protocol, endpoint.address
        );
    }
}

/// What to paste, for each debugger.
pub(super) fn attach_lines(endpoint: &EndpointInfo) -> Vec<(&'static str, String)> {
    match (&endpoint.address, endpoint.protocol.as_str()) {
        (KdAddress::Listen(address), "gdb") => gdb::attach_lines(address).into(),
        (KdAddress::Listen(ListenAddress::Tcp(at)), _) => {
            let at = gdb::reachable(*at);
            let line = format!("windbg -k com:ipport={},port={}", at.port(), at.ip());
            vec![("windbg", line)]
        }
        (KdAddress::Listen(ListenAddress::Unix(path)), _) => {
            // It knows no map of a kernel, and by default sets no breakpoint outside the maps that it knows.
            let line = format!("r2 -e dbg.bpinmaps=false -D winkd winkd://{}", path.display());
            vec![("r2", line)]
        }
        (KdAddress::Connect(to), _) => vec![("kd", format!("connecting to {to}"))],
        (KdAddress::Pty(Some(path)), _) => vec![("kd", format!("serial line {}", path.display()))],
        (KdAddress::Pty(None), _) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_ready_to_paste() {
        let lines = |protocol: &str, address: &str| {
            let endpoint = EndpointInfo {
                process: None,
                protocol: protocol.into(),
                address: address.parse().unwrap(),
            };
            let lines = attach_lines(&endpoint);
            lines.into_iter().map(|(_, line)| line).collect::<Vec<_>>()
        };
        let windbg = lines("kd", "0.0.0.0:4440");
        assert_eq!(windbg, ["windbg -k com:ipport=4440,port=127.0.0.1"]);
        assert_eq!(
            lines("kd", "unix:/x"),
            ["r2 -e dbg.bpinmaps=false -D winkd winkd:///x"]
        );
        assert_eq!(lines("kd", "pty:/dev/pts/3"), ["serial line /dev/pts/3"]);
        assert_eq!(lines("gdb", "127.0.0.1:5").len(), 2);
    }
}
