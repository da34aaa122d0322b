//! Listening: at a TCP port, or at a Unix socket that only its owner can use.

use crate::address::ListenAddress;
use crate::connection::Connection;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener, UnixStream};

/// How soon an accept that failed is tried again.
const RETRY: Duration = Duration::from_millis(50);

pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// A listener, and where it really is.
    ///
    /// # Errors
    /// The address is in use or can't be had.
    pub async fn bind(address: ListenAddress) -> io::Result<(Listener, ListenAddress)> {
        match address {
            ListenAddress::Tcp(address) => {
                let listener = TcpListener::bind(address).await?;
                let address = ListenAddress::Tcp(listener.local_addr()?);
                Ok((Listener::Tcp(listener), address))
            }
            ListenAddress::Unix(path) => {
                let listener = Listener::Unix(bind_unix(&path)?);
                Ok((listener, ListenAddress::Unix(path)))
            }
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// No further one can come.
    pub async fn accept(&self) -> io::Result<Connection> {
        loop {
            match self.try_accept().await {
                Err(error) if is_passing(&error) => {
                    tracing::warn!(%error, "a connection is lost before it is accepted");
                    // If descriptors ran out, trying again at once would be in vain.
                    tokio::time::sleep(RETRY).await;
                }
                accepted => return accepted,
            }
        }
    }

    async fn try_accept(&self) -> io::Result<Connection> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Connection::tcp(stream, peer.to_string())
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let stream = stream.into_std()?;
                Ok(Connection::new("a local socket", move || {
                    Ok(Box::new(UnixStream::from_std(stream)?))
                }))
            }
        }
    }
}

/// Binds a socket that only its owner can use. One that a dead service left behind is replaced.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Whether `path` is a socket that nobody listens at.
fn is_stale(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    let refused = std::os::unix::net::UnixStream::connect(path)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    is_socket && refused
}

/// Whether the listener goes on after this error of accept(2).
fn is_passing(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    ) || matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}
