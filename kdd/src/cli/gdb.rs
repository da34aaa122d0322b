//! `kdd gdb`, and the lines to paste.

use super::common::{Common, unexpected};
use super::guest::absolute_listen;
use super::{kd, output};
use crate::Failure;
use crate::control::message::{Reply, Request};
use crate::parse::ListenAddress;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// Add a gdb endpoint to a domain, and print the lines that attach to it
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  kdd gdb linux --listen 127.0.0.1:1234\n  kdd gdb linux --process nginx")]
pub(super) struct Args {
    /// The domain's name or id
    #[arg(value_name = "DOM")]
    domain: String,
    /// Where: HOST:PORT, tcp:HOST:PORT or unix:PATH; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: ListenAddress,
    /// Debug one process of a Linux guest, by its pid or its name
    #[arg(long, value_name = "PROCESS")]
    process: Option<String>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn execute(args: Args) -> Result<(), Failure> {
    let request = Request::Gdb {
        domain: args.domain,
        listen: absolute_listen(args.listen)?,
        process: args.process,
    };
    match args.common.ask(request)? {
        Reply::Listening(endpoint) if args.common.json => output::print_json(&endpoint),
        Reply::Listening(endpoint) => kd::print_endpoint(&endpoint),
        other => Err(unexpected(&other)),
    }
}

/// What to paste, for each debugger.
pub(super) fn attach_lines(address: &ListenAddress) -> [(&'static str, String); 2] {
    match address {
        ListenAddress::Tcp(at) => {
            let at = reachable(*at);
            [
                ("gdb", format!("gdb -ex 'target remote {at}'")),
                ("lldb", format!("lldb -o 'gdb-remote {at}'")),
            ]
        }
        ListenAddress::Unix(path) => [
            ("gdb", format!("gdb -ex 'target remote {}'", path.display())),
            (
                "lldb",
                format!("lldb -o 'process connect unix-connect://{}'", path.display()),
            ),
        ],
    }
}

/// A debugger connects to this machine, not to "any address".
pub(super) fn reachable(mut at: SocketAddr) -> SocketAddr {
    if at.ip().is_unspecified() {
        at.set_ip(match at {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_ready_to_paste() {
        let lines = |text: &str| attach_lines(&text.parse().unwrap()).map(|(_, line)| line);
        assert_eq!(
            lines("127.0.0.1:1234"),
            [
                "gdb -ex 'target remote 127.0.0.1:1234'",
                "lldb -o 'gdb-remote 127.0.0.1:1234'"
            ]
        );
        assert!(lines("0.0.0.0:5")[0].contains("127.0.0.1:5"));
        assert!(lines("unix:/x")[0].contains("'target remote /x'"));
    }
}
