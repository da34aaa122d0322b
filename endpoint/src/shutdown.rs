//! An endpoint that is open, and the signal that it isn't any more.

use crate::address::ListenAddress;
use std::path::PathBuf;
use tokio::sync::watch;

/// A place where debuggers connect. Dropping it ends their sessions.
pub struct Endpoint<A = ListenAddress> {
    /// Where it really is.
    pub address: A,
    keeper: Keeper,
}

impl<A> Endpoint<A> {
    pub(crate) fn new(address: A, keeper: Keeper) -> Endpoint<A> {
        Endpoint { address, keeper }
    }

    /// The same, its address said otherwise.
    pub fn map_address<B>(self, map: impl FnOnce(A) -> B) -> Endpoint<B> {
        Endpoint {
            address: map(self.address),
            keeper: self.keeper,
        }
    }
}

/// What is undone with an endpoint.
pub(crate) struct Keeper {
    /// Its end is the signal for everybody to stop.
    _keep: watch::Sender<()>,
    /// The socket that nobody will listen at.
    pub socket: Option<PathBuf>,
}

impl Keeper {
    pub fn new() -> (Keeper, Shutdown) {
        let (keep, shutdown) = watch::channel(());
        let keeper = Keeper {
            _keep: keep,
            socket: None,
        };
        (keeper, Shutdown(shutdown))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(path) = &self.socket {
            // It may be gone already.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Tells when an endpoint is dropped.
#[derive(Clone)]
pub struct Shutdown(watch::Receiver<()>);

impl Shutdown {
    /// Until the endpoint is dropped.
    pub async fn wait(&mut self) {
        while self.0.changed().await.is_ok() {}
    }
}
