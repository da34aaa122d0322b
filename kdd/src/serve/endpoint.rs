//! Debug endpoints: the one place that knows gdb-bridge.

use super::{Managed, Service, lock};
use crate::Failure;
use crate::control::message::EndpointInfo;
use crate::parse::ListenAddress;
use gdb_bridge::server;
use std::io;

/// A place where debuggers attach; dropping it ends their sessions.
pub(super) struct Endpoint {
    pub info: EndpointInfo,
    _server: server::Endpoint,
}

impl Service {
    /// Adds a gdb endpoint to a domain; the address that is really bound comes back.
    pub fn listen(&self, managed: &Managed, listen: &ListenAddress) -> Result<EndpointInfo, Failure> {
        let wanted = match listen {
            ListenAddress::Tcp(address) => server::ListenAddress::Tcp(*address),
            ListenAddress::Unix(path) => server::ListenAddress::Unix(path.clone()),
        };
        let server = self
            .runtime
            .block_on(server::listen(managed.target().clone(), wanted))
            .map_err(|error| cannot_listen(listen, &error))?;
        let info = EndpointInfo {
            protocol: "gdb".into(),
            address: match &server.address {
                server::ListenAddress::Tcp(address) => ListenAddress::Tcp(*address),
                server::ListenAddress::Unix(path) => ListenAddress::Unix(path.clone()),
            },
        };
        tracing::info!(domain = managed.domain().name(), address = %info.address, "gdb endpoint");
        if info.address.is_open_to_others() {
            tracing::warn!(address = %info.address, "a gdb endpoint is open to other machines: whoever connects owns the guest");
        }
        lock(&managed.endpoints).push(Endpoint {
            info: info.clone(),
            _server: server,
        });
        Ok(info)
    }
}

fn cannot_listen(address: &ListenAddress, error: &io::Error) -> Failure {
    let (why, hint) = match error.kind() {
        io::ErrorKind::AddrInUse => (
            "the address is in use".to_owned(),
            "choose another, or port 0 for a free one",
        ),
        io::ErrorKind::AddrNotAvailable => (
            "this machine has no such address".to_owned(),
            "choose one of its own, as 127.0.0.1",
        ),
        io::ErrorKind::PermissionDenied => (
            "it is not permitted".to_owned(),
            "choose a port above 1023, or a path of yours",
        ),
        _ => (error.to_string(), "choose another address"),
    };
    Failure::new(format_args!("gdb endpoint {address}"), why, hint)
}
