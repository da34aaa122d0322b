//! The server: one debugger at a time, over TCP, Unix sockets, a connection that we make, or a pseudo-terminal.
//!
//! A second debugger at an endpoint is refused, and the next one after a dead one is taken at once: nothing of a
//! session outlives it. [`endpoint`] does what isn't KD's own.

mod pty;

use super::kernel::Recogniser;
use super::session::KdSession;
use crate::parse::KdAddress;
use endpoint::{Connection, Manners, Sessions, Shutdown, Stream};
use introspect::Target;
use pty::Pty;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Bytes read at once.
const CHUNK: usize = 1 << 16;
/// How soon a connection that we make is tried again.
const REDIAL: Duration = Duration::from_secs(1);

const MANNERS: Manners = Manners {
    protocol: "kd",
    debugger: "kernel debugger",
    seats: 1,
    // For one that is just leaving.
    grace: Duration::from_millis(500),
};

/// A place where a debugger attaches. Dropping it ends its session, and the guest runs on.
pub type Endpoint = endpoint::Endpoint<KdAddress>;

/// Opens an endpoint for a debugger of `target`. `recogniser` looks for the kernel.
///
/// # Errors
/// The address can't be had.
pub async fn listen(target: Arc<Target>, address: KdAddress, recogniser: Recogniser) -> io::Result<Endpoint> {
    let sessions = Sessions::new(MANNERS, move |stream, peer, shutdown| {
        drive(stream, peer, target.clone(), recogniser.clone(), shutdown)
    });
    Ok(match address {
        KdAddress::Listen(address) => sessions.listen(address).await?.map_address(KdAddress::Listen),
        KdAddress::Connect(to) => {
            let mut again = false;
            sessions.serve_each(KdAddress::Connect(to.clone()), move || {
                dial(to.clone(), std::mem::replace(&mut again, true))
            })
        }
        KdAddress::Pty(_) => {
            let pty = Pty::open()?;
            let path = pty.path().to_owned();
            sessions.serve_each(KdAddress::Pty(Some(path)), move || open(pty.clone()))
        }
    })
}

/// Connects to a debugger that listens, as soon as one does.
async fn dial(to: String, again: bool) -> io::Result<Connection> {
    if again {
        tokio::time::sleep(REDIAL).await;
    }
    let mut said = false;
    loop {
        let connected = TcpStream::connect(to.as_str()).await;
        match connected.and_then(|stream| Connection::tcp(stream, to.as_str())) {
            Ok(connection) => return Ok(connection),
            Err(error) if !std::mem::replace(&mut said, true) => {
                tracing::warn!(%to, %error, "no debugger listens there; trying again");
            }
            Err(error) => tracing::debug!(%to, %error, "no debugger listens there"),
        }
        tokio::time::sleep(REDIAL).await;
    }
}

/// The terminal, once somebody opens its other end.
async fn open(pty: Pty) -> io::Result<Connection> {
    pty.opened().await?;
    let peer = pty.path().display().to_string();
    Ok(Connection::new(peer, move || Ok(Box::new(pty.stream()?))))
}

/// Drives a session over a connection until one of them ends.
async fn drive(
    mut stream: Box<dyn Stream>,
    peer: String,
    target: Arc<Target>,
    recogniser: Recogniser,
    mut shutdown: Shutdown,
) -> io::Result<()> {
    let (events_in, mut events) = mpsc::unbounded_channel();
    // A session that is gone needs no events.
    let notify = Box::new(move |event| drop(events_in.send(event)));
    let description = format!("kd {peer}");
    let mut session = KdSession::new(&target, &description, recogniser, notify);
    let mut buffer = vec![0; CHUNK];
    loop {
        let deadline = session.deadline();
        tokio::select! {
            biased;
            () = shutdown.wait() => return Ok(()),
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
            () = shutdown.wait() => return Ok(()),
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
