//! Options that commands have in common, and the client they make.

use crate::Failure;
use crate::control::client::Client;
use crate::control::message::{Reply, Request};
use std::path::PathBuf;
use std::time::Duration;

/// Options of every command that talks to a service, or is one.
#[derive(clap::Args, Debug, Clone)]
pub(super) struct Common {
    /// The service's control socket [default: $XDG_RUNTIME_DIR/kdd/control.sock, /run/kdd/control.sock for root]
    #[arg(long, value_name = "PATH", env = "KDD_CONTROL")]
    pub control: Option<PathBuf>,
    /// Print JSON: one object a line, sizes in bytes, addresses as hex strings
    #[arg(long)]
    pub json: bool,
    /// Give up after this many seconds, with exit status 124
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
}

impl Common {
    /// Connects to the service.
    pub fn client(&self) -> Result<Client, Failure> {
        Client::connect(self.control.as_deref(), self.timeout)
    }

    /// Asks the service one thing.
    pub fn ask(&self, request: Request) -> Result<Reply, Failure> {
        self.client()?.ask(request)
    }
}

/// The vCPU that is meant.
#[derive(clap::Args, Debug, Clone)]
pub(super) struct VcpuOption {
    /// The vCPU that is meant
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub vcpu: u32,
}

/// An answer of the wrong kind: the service is of another version.
pub(super) fn unexpected(reply: &Reply) -> Failure {
    let kind = serde_json::to_value(reply)
        .ok()
        .and_then(|value| value["reply"].as_str().map(str::to_owned))
        .unwrap_or_default();
    Failure::new(
        "control socket",
        format_args!("the service gave an answer that does not fit ('{kind}')"),
        "use the same version of kdd for the service and the command",
    )
}

/// A path as the service will find it, whatever directory it runs in.
pub(super) fn absolute(path: PathBuf) -> Result<PathBuf, Failure> {
    std::path::absolute(&path)
        .map_err(|error| Failure::new(path.display(), error, "give the whole path, from / on"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| format!("'{text}' is no time: write seconds, as 10 or 0.5"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_seconds() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        for text in ["", "0", "-1", "nan", "inf", "1s"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
