//! The server: one debugger at a time, over TCP, Unix sockets, a connection that we make, or a pseudo-terminal.
//!
//! A session has a thread of its own with a small runtime, because calls into the domain block. A second debugger at
//! an endpoint is refused, and the next one after a dead one is taken at once: nothing of a session outlives it.

mod pty;

use super::kernel::Recogniser;
use super::session::KdSession;
use crate::parse::{KdAddress, ListenAddress};
use gdb_bridge::server::bind_unix;
use introspect::Target;
use pty::Pty;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

/// Bytes read at once.
const CHUNK: usize = 1 << 16;
/// How soon an accept that failed is tried again.
const RETRY: Duration = Duration::from_millis(50);
/// How long a debugger waits for one that is just leaving.
const GRACE: Duration = Duration::from_millis(500);
/// How soon a connection that we make is tried again.
const REDIAL: Duration = Duration::from_secs(1);

/// A place where a debugger attaches. Dropping it ends its session, and the guest runs on.
pub struct Endpoint {
    /// Where it really is.
    pub address: KdAddress,
    /// Its end is the signal for everybody to stop.
    _keep: watch::Sender<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let KdAddress::Listen(ListenAddress::Unix(path)) = &self.address {
            // It may be gone already.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What every session of an endpoint needs.
#[derive(Clone)]
struct Shared {
    target: Arc<Target>,
    recogniser: Recogniser,
    /// One permit: the debugger's.
    seat: Arc<Semaphore>,
    shutdown: watch::Receiver<()>,
}

/// Opens an endpoint for a debugger of `target`. `recogniser` looks for the kernel.
///
/// # Errors
/// The address can't be had.
pub async fn listen(target: Arc<Target>, address: KdAddress, recogniser: Recogniser) -> io::Result<Endpoint> {
    let (keep, shutdown) = watch::channel(());
    let shared = Shared {
        target,
        recogniser,
        seat: Arc::new(Semaphore::new(1)),
        shutdown,
    };
    let address = match address {
        KdAddress::Listen(ListenAddress::Tcp(at)) => {
            let listener = TcpListener::bind(at).await?;
            let at = KdAddress::Listen(ListenAddress::Tcp(listener.local_addr()?));
            spawn(&at, accept(Listener::Tcp(listener), shared));
            at
        }
        KdAddress::Listen(ListenAddress::Unix(path)) => {
            let listener = bind_unix(&path)?;
            let at = KdAddress::Listen(ListenAddress::Unix(path));
            spawn(&at, accept(Listener::Unix(listener), shared));
            at
        }
        KdAddress::Connect(to) => {
            let at = KdAddress::Connect(to.clone());
            spawn(&at, dial(to, shared));
            at
        }
        KdAddress::Pty(_) => {
            let pty = Pty::open()?;
            let at = KdAddress::Pty(Some(pty.path().to_owned()));
            spawn(&at, serve_pty(pty, shared));
            at
        }
    };
    tracing::info!(%address, "waiting for a kernel debugger");
    Ok(Endpoint { address, _keep: keep })
}

fn spawn(address: &KdAddress, task: impl Future<Output = io::Result<()>> + Send + 'static) {
    let at = address.clone();
    tokio::spawn(async move {
        if let Err(error) = task.await {
            tracing::error!(address = %at, %error, "no kernel debugger can attach any more");
        }
    });
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection that is on its way to its thread.
enum Connection {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
    Pty(Pty),
}

impl Listener {
    async fn accept(&self) -> io::Result<(Connection, String)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((tcp(stream)?, peer.to_string()))
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Connection::Unix(stream.into_std()?), "a local socket".to_owned()))
            }
        }
    }
}

fn tcp(stream: TcpStream) -> io::Result<Connection> {
    // Packets are small, and each waits for the one before.
    stream.set_nodelay(true)?;
    Ok(Connection::Tcp(stream.into_std()?))
}

/// Takes connections until the endpoint is dropped.
async fn accept(listener: Listener, mut shared: Shared) -> io::Result<()> {
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
            () = ended(&mut shared.shutdown) => return Ok(()),
        };
        let shared = shared.clone();
        tokio::spawn(async move { start(connection, peer, &shared).await });
    }
}

/// Connects to a debugger that listens, again and again.
async fn dial(to: String, mut shared: Shared) -> io::Result<()> {
    let mut said = false;
    loop {
        let connected = tokio::select! {
            connected = TcpStream::connect(to.as_str()) => connected.and_then(tcp),
            () = ended(&mut shared.shutdown) => return Ok(()),
        };
        match connected {
            Ok(connection) => {
                said = false;
                if let Some(done) = start(connection, to.clone(), &shared).await {
                    let mut shutdown = shared.shutdown.clone();
                    tokio::select! {
                        _ = done => {}
                        () = ended(&mut shutdown) => return Ok(()),
                    }
                }
            }
            Err(error) if !std::mem::replace(&mut said, true) => {
                tracing::warn!(%to, %error, "no debugger listens there; trying again");
            }
            Err(error) => tracing::debug!(%to, %error, "no debugger listens there"),
        }
        tokio::select! {
            () = tokio::time::sleep(REDIAL) => {}
            () = ended(&mut shared.shutdown) => return Ok(()),
        }
    }
}

/// Serves whoever opens the terminal, one after the other.
async fn serve_pty(pty: Pty, mut shared: Shared) -> io::Result<()> {
    loop {
        tokio::select! {
            opened = pty.opened() => opened?,
            () = ended(&mut shared.shutdown) => return Ok(()),
        }
        let peer = pty.path().display().to_string();
        if let Some(done) = start(Connection::Pty(pty.clone()), peer, &shared).await {
            let mut shutdown = shared.shutdown.clone();
            tokio::select! {
                _ = done => {}
                () = ended(&mut shutdown) => return Ok(()),
            }
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

/// Gives a connection its thread, unless a debugger is there already. What comes back ends with the session.
async fn start(connection: Connection, peer: String, shared: &Shared) -> Option<oneshot::Receiver<()>> {
    let seat = shared.seat.clone().acquire_owned();
    let Ok(Ok(seat)) = tokio::time::timeout(GRACE, seat).await else {
        tracing::warn!(peer, "a kernel debugger is attached here already: refused");
        return None;
    };
    let (sender, done) = oneshot::channel::<()>();
    let shared = shared.clone();
    let spawned = std::thread::Builder::new()
        .name(format!("kd {peer}"))
        .spawn(move || {
            match session_thread(connection, &shared, &peer) {
                Ok(()) => tracing::info!(%peer, "the kernel debugger is gone"),
                Err(error) => tracing::info!(%peer, %error, "the kernel debugger is gone"),
            }
            drop(seat);
            drop(sender);
        });
    match spawned {
        Ok(_) => Some(done),
        Err(error) => {
            tracing::warn!(%error, "no thread for a kernel debugger; closed");
            None
        }
    }
}

fn session_thread(connection: Connection, shared: &Shared, peer: &str) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tracing::info!(peer, "a kernel debugger connects");
        match connection {
            Connection::Tcp(stream) => drive(TcpStream::from_std(stream)?, shared, peer).await,
            Connection::Unix(stream) => drive(UnixStream::from_std(stream)?, shared, peer).await,
            Connection::Pty(pty) => drive(pty.stream()?, shared, peer).await,
        }
    })
}

/// Drives a session over a connection until one of them ends.
async fn drive(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    shared: &Shared,
    peer: &str,
) -> io::Result<()> {
    let (events_in, mut events) = mpsc::unbounded_channel();
    // A session that is gone needs no events.
    let notify = Box::new(move |event| drop(events_in.send(event)));
    let description = format!("kd {peer}");
    let mut session = KdSession::new(&shared.target, &description, shared.recogniser.clone(), notify);
    let mut shutdown = shared.shutdown.clone();
    let mut buffer = vec![0; CHUNK];
    loop {
        let deadline = session.deadline();
        tokio::select! {
            biased;
            () = ended(&mut shutdown) => return Ok(()),
            Some(event) = events.recv() => session.event(event, Instant::now()),
            received = stream.read(&mut buffer) => {
                let count = received?;
                if count == 0 {
                    return Ok(());
                }
                session.receive(&buffer[..count], Instant::now());
            }
            () = std::future::ready(()), if session.is_busy() => {
                session.work(Instant::now());
                // The runtime looks at the socket when a task yields.
                tokio::task::yield_now().await;
            }
            () = until(deadline) => session.tick(Instant::now()),
        }
        let output = session.take_output();
        if output.is_empty() {
            continue;
        }
        // A host that doesn't read doesn't keep the service from ending.
        tokio::select! {
            sent = stream.write_all(&output) => sent?,
            () = ended(&mut shutdown) => return Ok(()),
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
