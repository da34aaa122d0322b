//! Where a kernel debugger is met: `HOST:PORT`, `tcp:HOST:PORT`, `unix:PATH`, `connect:HOST:PORT`, `pty`.

use super::ListenAddress;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// An address of a KD endpoint. Written and sent as the user types it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KdAddress {
    /// We listen, and the debugger connects.
    Listen(ListenAddress),
    /// A debugger, or a serial line's other end, that listens at HOST:PORT: we connect to it.
    Connect(String),
    /// A pseudo-terminal of our own; once it is open, with the path of its other end.
    Pty(Option<PathBuf>),
}

impl KdAddress {
    /// A free port that only this machine reaches.
    pub const LOOPBACK: KdAddress = KdAddress::Listen(ListenAddress::LOOPBACK);

    /// Whether other machines can reach it.
    pub fn is_open_to_others(&self) -> bool {
        matches!(self, KdAddress::Listen(at) if at.is_open_to_others())
    }
}

impl FromStr for KdAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "pty" {
            return Ok(KdAddress::Pty(None));
        }
        if let Some(path) = text.strip_prefix("pty:") {
            return Ok(KdAddress::Pty(Some(path.into())));
        }
        if let Some(place) = text.strip_prefix("connect:") {
            let port = place
                .rsplit_once(':')
                .map(|(host, port)| (host, port.parse::<u16>()));
            return match port {
                Some((host, Ok(1..))) if !host.is_empty() => Ok(KdAddress::Connect(place.to_owned())),
                _ => Err(format!("'{text}' is no address: write connect:HOST:PORT")),
            };
        }
        let listen = text.parse().map(KdAddress::Listen);
        listen.map_err(|why| format!("{why}, connect:HOST:PORT or pty"))
    }
}

impl fmt::Display for KdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KdAddress::Listen(at) => at.fmt(f),
            KdAddress::Connect(to) => write!(f, "connect:{to}"),
            KdAddress::Pty(None) => f.write_str("pty"),
            KdAddress::Pty(Some(path)) => write!(f, "pty:{}", path.display()),
        }
    }
}

impl From<ListenAddress> for KdAddress {
    fn from(address: ListenAddress) -> KdAddress {
        KdAddress::Listen(address)
    }
}

super::serde_as_string!(KdAddress);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_read_and_written() {
        for text in [
            "127.0.0.1:1234",
            "unix:/run/x",
            "connect:host:5",
            "pty",
            "pty:/dev/pts/3",
        ] {
            assert_eq!(
                text.parse::<KdAddress>().map(|a| a.to_string()).as_deref(),
                Ok(text)
            );
        }
        assert_eq!("tcp:127.0.0.1:5".parse(), "127.0.0.1:5".parse::<KdAddress>());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "connect:",
            "connect:5",
            "connect:host:0",
            "connect:host:x",
            "nowhere",
            "unix:",
        ] {
            assert!(text.parse::<KdAddress>().is_err(), "{text}");
        }
    }
}
