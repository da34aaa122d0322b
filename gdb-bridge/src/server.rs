//! The server: connections to sessions, by [`endpoint`].
//!
//! A packet is answered on the thread that read it.

use crate::guest::Options;
use crate::session::GdbSession;
pub use endpoint::ListenAddress;
use endpoint::{Manners, Sessions, Shutdown, Stream};
use introspect::{Target, TargetEvent};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// Bytes read at once.
const CHUNK: usize = 1 << 16;

const MANNERS: Manners = Manners {
    protocol: "gdb",
    debugger: "debugger",
    seats: 16,
    grace: Duration::ZERO,
};

/// A place where debuggers connect. Dropping it ends their sessions, and the guest runs on.
pub type Endpoint = endpoint::Endpoint;

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
    let sessions = Sessions::new(MANNERS, move |stream, peer, shutdown| {
        serve(stream, peer, target.clone(), options.clone(), shutdown)
    });
    sessions.listen(address).await
}

/// A session over a connection.
async fn serve(
    stream: Box<dyn Stream>,
    peer: String,
    target: Arc<Target>,
    options: Options,
    shutdown: Shutdown,
) -> io::Result<()> {
    let (events_in, events) = mpsc::unbounded_channel();
    // A session that is gone needs no events.
    let notify = move |event| drop(events_in.send(event));
    let description = format!("gdb {peer}");
    let session =
        GdbSession::new(&target, &description, options, Box::new(notify)).map_err(io::Error::other)?;
    drive(stream, session, events, shutdown).await
}

/// Drives a session over a connection until one of them ends.
async fn drive(
    mut stream: Box<dyn Stream>,
    mut session: GdbSession,
    mut events: mpsc::UnboundedReceiver<TargetEvent>,
    mut shutdown: Shutdown,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut down = shutdown.clone();
    loop {
        tokio::select! {
            biased;
            () = down.wait() => return Ok(()),
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
    stream: &mut Box<dyn Stream>,
    session: &mut GdbSession,
    shutdown: &mut Shutdown,
) -> io::Result<()> {
    let output = session.take_output();
    if output.is_empty() {
        return Ok(());
    }
    tokio::select! {
        sent = stream.write_all(&output) => sent,
        () = shutdown.wait() => Ok(()),
    }
}
