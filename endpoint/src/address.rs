//! Where a debugger endpoint listens: `HOST:PORT`, `tcp:HOST:PORT`, `unix:PATH`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// An address to listen on. Written and sent as the user types it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListenAddress {
    /// A TCP port; 0 picks a free one.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl ListenAddress {
    /// A free port that only this machine reaches.
    pub const LOOPBACK: ListenAddress =
        ListenAddress::Tcp(SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0));

    /// Whether other machines can reach it.
    pub fn is_open_to_others(&self) -> bool {
        matches!(self, ListenAddress::Tcp(at) if !at.ip().is_loopback())
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err("unix: needs the path of a socket".into());
            }
            return Ok(ListenAddress::Unix(path.into()));
        }
        let place = text.strip_prefix("tcp:").unwrap_or(text);
        let wrong = || format!("'{text}' is no address: write HOST:PORT, tcp:HOST:PORT or unix:PATH");
        let (host, port) = place.rsplit_once(':').ok_or_else(wrong)?;
        let port: u16 = port
            .parse()
            .map_err(|_| format!("'{port}' is no port: write 0 to 65535 (0 picks a free one)"))?;
        if host.is_empty() {
            return Ok(ListenAddress::Tcp((Ipv4Addr::LOCALHOST, port).into()));
        }
        if let Ok(address) = place.parse::<SocketAddr>() {
            return Ok(ListenAddress::Tcp(address));
        }
        let found: Vec<SocketAddr> = (host, port)
            .to_socket_addrs()
            .map_err(|_| format!("the host '{host}' is not known"))?
            .collect();
        let v4 = found.iter().find(|a| a.is_ipv4());
        v4.or(found.first())
            .map(|a| ListenAddress::Tcp(*a))
            .ok_or_else(|| format!("the host '{host}' has no address"))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(at) => at.fmt(f),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for ListenAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_read() {
        let at = |s: &str| ListenAddress::Tcp(s.parse().unwrap());
        assert_eq!("127.0.0.1:1234".parse(), Ok(at("127.0.0.1:1234")));
        assert_eq!("tcp:0.0.0.0:0".parse(), Ok(at("0.0.0.0:0")));
        assert_eq!("[::1]:5".parse(), Ok(at("[::1]:5")));
        assert_eq!("localhost:5".parse(), Ok(at("127.0.0.1:5")));
        assert_eq!(":5".parse(), Ok(at("127.0.0.1:5")));
        assert_eq!("unix:/run/x".parse(), Ok(ListenAddress::Unix("/run/x".into())));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "1234", "unix:", "127.0.0.1:x", "127.0.0.1:70000"] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_what_leaves_the_machine_is_open_to_others() {
        let open = |s: &str| s.parse::<ListenAddress>().unwrap().is_open_to_others();
        assert!(open("0.0.0.0:1"));
        assert!(!open("127.0.0.2:1") && !open("[::1]:1") && !open("unix:x"));
    }
}
