//! The server: connections to sessions.
//!
//! Every session has a thread of its own with a small runtime, because calls into the domain block: a pause waits
//! for the vCPUs, a step runs guest code. So one session never waits for another, and a packet is answered on the
//! thread that read it. Connections beyond `MOST_SESSIONS` are closed at once.

use crate::guest::Options;
use crate::session::GdbSession;
use introspect::{Target, TargetEvent};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};

/// Sessions of one endpoint at a time.
const MOST_SESSIONS: usize = 16;
/// Bytes read at once.
const CHUNK: usize = 1 << 16;

/// How soon an accept that failed is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A TCP port; port 0 is a free one.
    Tcp(SocketAddr),
    /// A Unix socket of the user's own.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => address.fmt(f),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A place where debuggers connect. Dropping it ends their sessions, and the guest runs on.
pub struct Endpoint {
    /// Where it really is.
    pub address: ListenAddress,
    /// Its end is the signal for everybody to stop.
    _keep: watch::Sender<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let ListenAddress::Unix(path) = &self.address {
            // It may be gone already.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Opens an endpoint for the debuggers of `target`.
///
/// # Errors
/// The address can't be listened at.
pub async fn listen(target: Arc<Target>, address: ListenAddress) -> io::Result<Endpoint> {
    listen_with(target, address, Options::default()).await
}

/// As [`listen`], with what the service lends to its sessions.
///
/// # Errors
/// The address can't be listened at.
pub async fn listen_with(
    target: Arc<Target>,
    address: ListenAddress,
    options: Options,
) -> io::Result<Endpoint> {
    let (listener, address) = match address {
        ListenAddress::Tcp(address) => {
            let listener = TcpListener::bind(address).await?;
            let address = ListenAddress::Tcp(listener.local_addr()?);
            (Listener::Tcp(listener), address)
        }
        ListenAddress::Unix(path) => (Listener::Unix(bind_unix(&path)?), ListenAddress::Unix(path)),
    };
    tracing::info!(domain = %target.domain().id(), %address, "waiting for debuggers");
    let (keep, shutdown) = watch::channel(());
    let at = address.clone();
    tokio::spawn(async move {
        if let Err(error) = accept(listener, target, options, shutdown).await {
            tracing::error!(address = %at, %error, "no debugger can connect any more");
        }
    });
    Ok(Endpoint { address, _keep: keep })
}

/// Binds a socket that only its owner can use, for debuggers of any protocol. One that a dead service left behind is
/// replaced.
///
/// # Errors
/// The path is in use or can't be made.
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
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

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection that is on its way to its thread.
enum Connection {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Listener {
    async fn accept(&self) -> io::Result<(Connection, String)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Packets are small, and each waits for the one before.
                stream.set_nodelay(true)?;
                Ok((Connection::Tcp(stream.into_std()?), peer.to_string()))
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Connection::Unix(stream.into_std()?), "a local socket".to_owned()))
            }
        }
    }
}

/// Takes connections until the endpoint is dropped. Sessions that are open then end as well.
async fn accept(
    listener: Listener,
    target: Arc<Target>,
    options: Options,
    mut shutdown: watch::Receiver<()>,
) -> io::Result<()> {
    let sessions = Arc::new(Semaphore::new(MOST_SESSIONS));
    loop {
        let (connection, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_passing(&error) => {
                    tracing::warn!(%error, "a connection is lost before it is accepted");
                    // If descriptors ran out, trying again at once would be in vain.
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                Err(error) => return Err(error),
            },
            () = ended(&mut shutdown) => return Ok(()),
        };
        let Ok(permit) = sessions.clone().try_acquire_owned() else {
            tracing::warn!(%peer, "{MOST_SESSIONS} debuggers are attached already; closed");
            continue;
        };
        let (target, options, shutdown) = (target.clone(), options.clone(), shutdown.clone());
        let spawned = std::thread::Builder::new()
            .name(format!("gdb {peer}"))
            .spawn(move || {
                let _permit = permit;
                match session_thread(connection, &target, &peer, options, shutdown) {
                    Ok(()) => tracing::info!(%peer, "the debugger is gone"),
                    Err(error) => tracing::info!(%peer, %error, "the debugger is gone"),
                }
            });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for a debugger; closed");
        }
    }
}

/// Until the endpoint is dropped.
async fn ended(keep: &mut watch::Receiver<()>) {
    while keep.changed().await.is_ok() {}
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

fn session_thread(
    connection: Connection,
    target: &Arc<Target>,
    peer: &str,
    options: Options,
    shutdown: watch::Receiver<()>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let (events_in, events) = mpsc::unbounded_channel();
        // A session that is gone needs no events.
        let notify = move |event| drop(events_in.send(event));
        let description = format!("gdb {peer}");
        let session =
            GdbSession::new(target, &description, options, Box::new(notify)).map_err(io::Error::other)?;
        match connection {
            Connection::Tcp(stream) => drive(TcpStream::from_std(stream)?, session, events, shutdown).await,
            Connection::Unix(stream) => drive(UnixStream::from_std(stream)?, session, events, shutdown).await,
        }
    })
}

/// Drives a session over a connection until one of them ends.
async fn drive(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut session: GdbSession,
    mut events: mpsc::UnboundedReceiver<TargetEvent>,
    mut shutdown: watch::Receiver<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut down = shutdown.clone();
    loop {
        tokio::select! {
            biased;
            () = ended(&mut down) => return Ok(()),
            Some(event) = events.recv() => session.event(event),
            received = stream.read(&mut buffer) => {
                let mut bytes = &buffer[..received?];
                if bytes.is_empty() {
                    return Ok(());
                }
                while !bytes.is_empty() && !session.is_closed() {
                    let taken = session.receive(bytes);
                    bytes = &bytes[taken..];
                    send(&mut stream, &mut session, &mut shutdown).await?;
                }
            }
            () = std::future::ready(()), if session.is_busy() => {
                session.work();
                // The runtime looks at the socket when a task yields.
                tokio::task::yield_now().await;
            }
        }
        send(&mut stream, &mut session, &mut shutdown).await?;
        if session.is_closed() {
            return stream.shutdown().await;
        }
    }
}

/// Sends what the session has to say. A client that doesn't read doesn't keep the service from ending.
async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    session: &mut GdbSession,
    shutdown: &mut watch::Receiver<()>,
) -> io::Result<()> {
    let output = session.take_output();
    if output.is_empty() {
        return Ok(());
    }
    tokio::select! {
        sent = stream.write_all(&output) => sent,
        () = ended(shutdown) => Ok(()),
    }
}
