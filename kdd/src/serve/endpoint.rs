//! Debug endpoints: the one place that knows gdb-bridge and the KD server.

use super::{Managed, Service, lock};
use crate::Failure;
use crate::control::message::EndpointInfo;
use crate::kd::{kernel, server as kd_server};
use crate::parse::{KdAddress, ListenAddress};
use gdb_bridge::{Options, server};
use std::fmt;
use std::io;
use std::sync::{Arc, mpsc};

/// A place where debuggers attach; dropping it ends their sessions.
pub(super) struct Endpoint {
    pub info: EndpointInfo,
    _server: Server,
}

/// What keeps it open.
enum Server {
    Gdb { _endpoint: server::Endpoint },
    Kd { _endpoint: kd_server::Endpoint },
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
        let listening = server::listen_with(managed.target().clone(), listen.clone(), self.options());
        let endpoint = self
            .complete(listening)
            .map_err(|error| cannot_listen("gdb", listen, &error))?;
        let address = endpoint.address.clone();
        let server = Server::Gdb { _endpoint: endpoint };
        Ok(managed.add_endpoint("gdb", address.into(), server))
    }

    /// Adds an endpoint for WinDbg and kd; the address that is really bound comes back.
    ///
    /// # Errors
    /// The address can't be had.
    pub fn listen_kd(&self, managed: &Managed, listen: &KdAddress) -> Result<EndpointInfo, Failure> {
        let recogniser = kernel::windows(self.symbols.clone());
        let listening = kd_server::listen(managed.target().clone(), listen.clone(), recogniser);
        let endpoint = self
            .complete(listening)
            .map_err(|error| cannot_listen("kd", listen, &error))?;
        let address = endpoint.address.clone();
        let server = Server::Kd { _endpoint: endpoint };
        Ok(managed.add_endpoint("kd", address, server))
    }

    /// Waits for what the service's runtime does. A debugger's command comes here from the runtime of its own session,
    /// where `block_on` may not be called.
    fn complete<T: Send + 'static>(
        &self,
        listening: impl Future<Output = io::Result<T>> + Send + 'static,
    ) -> io::Result<T> {
        let (sender, receiver) = mpsc::channel();
        self.runtime.spawn(async move {
            let _ = sender.send(listening.await);
        });
        receiver
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the service is stopping")))
    }

    /// What debuggers' commands may ask of the service.
    fn options(self: &Arc<Self>) -> Options {
        let service = Arc::downgrade(self);
        Options {
            adopt: Some(Arc::new(move |child| match service.upgrade() {
                Some(service) => service.adopt_fork(child).map_err(|failure| failure.why),
                None => Err("the service is stopping".into()),
            })),
            symbols: self.symbol_files.clone(),
            process: None,
        }
    }
}

impl Managed {
    fn add_endpoint(&self, protocol: &str, address: KdAddress, server: Server) -> EndpointInfo {
        let info = EndpointInfo {
            protocol: protocol.into(),
            address,
        };
        if info.address.is_open_to_others() {
            tracing::info!(address = %info.address, "a {protocol} endpoint is open to other machines");
        }
        lock(&self.endpoints).push(Endpoint {
            info: info.clone(),
            _server: server,
        });
        info
    }
}

fn cannot_listen(protocol: &str, address: &dyn fmt::Display, error: &io::Error) -> Failure {
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
    Failure::new(format_args!("{protocol} endpoint {address}"), why, hint)
}
