//! Debug endpoints: the one place that knows gdb-bridge.

use super::{Managed, Service, lock};
use crate::Failure;
use crate::control::message::EndpointInfo;
use crate::control::socket::{PrivateListener, SocketPath};
use crate::parse::ListenAddress;
use gdb_bridge::{Listener, Options};
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use tokio::sync::watch;

/// A place where debuggers attach; dropping it ends their sessions.
pub(super) struct Endpoint {
    pub info: EndpointInfo,
    _running: watch::Sender<bool>,
    _path: Option<SocketPath>,
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
        let (listener, address, path) = self.bind(listen)?;
        let service = Arc::downgrade(self);
        let options = Options {
            adopt: Some(Arc::new(move |child| match service.upgrade() {
                Some(service) => service.adopt_fork(child).map_err(|failure| failure.why),
                None => Err("the service is stopping".into()),
            })),
        };
        let (running, shutdown) = watch::channel(false);
        let serve = gdb_bridge::serve(listener, managed.target().clone(), options, shutdown);
        let shown = address.to_string();
        self.runtime.spawn(async move {
            if let Err(error) = serve.await {
                tracing::warn!(address = shown, %error, "a gdb endpoint ended");
            }
        });
        let info = EndpointInfo {
            protocol: "gdb".into(),
            address,
        };
        if info.address.is_open_to_others() {
            tracing::info!(address = %info.address, "a gdb endpoint is open to other machines");
        }
        lock(&managed.endpoints).push(Endpoint {
            info: info.clone(),
            _running: running,
            _path: path,
        });
        Ok(info)
    }

    fn bind(&self, listen: &ListenAddress) -> Result<(Listener, ListenAddress, Option<SocketPath>), Failure> {
        let failed = |error: io::Error| cannot_listen(listen, &error);
        let _inside = self.runtime.enter();
        match listen {
            ListenAddress::Tcp(address) => {
                let listener = TcpListener::bind(address).map_err(failed)?;
                let bound = listener.local_addr().map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
                Ok((Listener::Tcp(listener), ListenAddress::Tcp(bound), None))
            }
            ListenAddress::Unix(path) => {
                let (listener, kept) = PrivateListener::bind(path)
                    .map_err(|e| e.failure("gdb endpoint", "unix:PATH"))?
                    .into_parts();
                let listener = tokio::net::UnixListener::from_std(listener).map_err(failed)?;
                Ok((Listener::Unix(listener), listen.clone(), Some(kept)))
            }
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
