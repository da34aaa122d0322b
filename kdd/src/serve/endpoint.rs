//! Debug endpoints: the one place that knows gdb-bridge.

use super::{Managed, Service, lock};
use crate::Failure;
use crate::control::message::EndpointInfo;
use crate::parse::ListenAddress;
use gdb_bridge::{Options, server};
use std::io;
use std::sync::{Arc, mpsc};

/// A place where debuggers attach; dropping it ends their sessions.
pub(super) struct Endpoint {
    pub info: EndpointInfo,
    _server: server::Endpoint,
}

impl Service {
    /// Adds a gdb endpoint to a domain; the address that is really bound comes back.
    ///
    /// # Errors
    /// The address can't be had.
    pub fn listen(
        self: &Arc<Self>,
        managed: &Managed,
        listen: &ListenAddress,
    ) -> Result<EndpointInfo, Failure> {
        let wanted = match listen {
            ListenAddress::Tcp(address) => server::ListenAddress::Tcp(*address),
            ListenAddress::Unix(path) => server::ListenAddress::Unix(path.clone()),
        };
        let listening = server::listen_with(managed.target().clone(), wanted, self.options());
        // A debugger's command comes here from the runtime of its own session, where `block_on` may not be called.
        let (sender, receiver) = mpsc::channel();
        self.runtime.spawn(async move {
            let _ = sender.send(listening.await);
        });
        let server = receiver
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the service is stopping")))
            .map_err(|error| cannot_listen(listen, &error))?;
        let info = EndpointInfo {
            protocol: "gdb".into(),
            address: match &server.address {
                server::ListenAddress::Tcp(address) => ListenAddress::Tcp(*address),
                server::ListenAddress::Unix(path) => ListenAddress::Unix(path.clone()),
            },
        };
        if info.address.is_open_to_others() {
            tracing::info!(address = %info.address, "a gdb endpoint is open to other machines");
        }
        lock(&managed.endpoints).push(Endpoint {
            info: info.clone(),
            _server: server,
        });
        Ok(info)
    }

    /// What debuggers' commands may ask of the service.
    fn options(self: &Arc<Self>) -> Options {
        let service = Arc::downgrade(self);
        Options {
            adopt: Some(Arc::new(move |child| match service.upgrade() {
                Some(service) => service.adopt_fork(child).map_err(|failure| failure.why),
                None => Err("the service is stopping".into()),
            })),
        }
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
