//! The listening side of the control socket: connections, their bounds, and how they end.
//!
//! A request is answered on a thread that may block, because pausing a domain and reading its memory do. What is
//! asked is [`crate::serve`]'s business; here are only bytes, lines and limits.

use super::caller::Caller;
use super::line::LineBuffer;
use super::message::{MAX_LINE, Outcome, ReplyLine, RequestLine};
use super::socket::PrivateListener;
use crate::Failure;
use crate::serve::{ControlSession, Service};
use serde::Deserialize;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Connections at a time; more are told to come back.
pub const MAX_CLIENTS: usize = 64;

/// Accepts connections until the service stops; returns when all have ended.
///
/// # Errors
/// The operating system's, when the socket can't be used at all.
pub async fn serve(listener: PrivateListener, service: Arc<Service>) -> io::Result<()> {
    let (listener, _path) = listener.into_parts();
    let listener = UnixListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    let mut next = 0_u64;
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: wait for some to be given back.
                    tracing::warn!(%error, "a control connection could not be accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = service.shutdown().wait() => break,
        };
        if !is_ours(&stream) {
            tracing::warn!("a control connection of another user was turned away");
            continue;
        }
        let Ok(place) = places.clone().try_acquire_owned() else {
            tokio::spawn(refuse(stream));
            continue;
        };
        next += 1;
        let (service, number) = (service.clone(), next);
        tokio::spawn(async move {
            tracing::debug!(client = number, "connected");
            let end = connection(stream, service, number).await;
            match end {
                Ok(()) => tracing::debug!(client = number, "disconnected"),
                Err(error) => tracing::debug!(client = number, %error, "disconnected"),
            }
            drop(place);
        });
    }
    drop(listener);
    // Each task holds a place: when all can be had, all have ended.
    let _all = places.acquire_many(MAX_CLIENTS as u32).await;
    Ok(())
}

/// The socket's mode keeps others out; this holds where somebody has changed it.
fn is_ours(stream: &UnixStream) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == ours || peer.uid() == 0)
}

async fn refuse(mut stream: UnixStream) {
    let busy = Failure::new(
        "control socket",
        format_args!("{MAX_CLIENTS} clients are connected already"),
        "try again when one has left",
    );
    let _ = write(&mut stream, 0, Outcome::Error(busy)).await;
}

async fn connection(mut stream: UnixStream, service: Arc<Service>, number: u64) -> io::Result<()> {
    let mut lines = LineBuffer::new(MAX_LINE);
    let mut session = ControlSession::new(service.clone(), number);
    let mut buffer = vec![0; 16384];
    loop {
        let line = match lines.next_line() {
            Ok(Some(line)) => line,
            Ok(None) => {
                let read = tokio::select! {
                    read = stream.read(&mut buffer) => read?,
                    () = service.shutdown().wait() => return Ok(()),
                };
                if read == 0 {
                    return Ok(());
                }
                lines.push(&buffer[..read]);
                continue;
            }
            Err(error) => {
                let failure = Failure::new("control socket", &error, "send shorter requests");
                write(&mut stream, 0, Outcome::Error(failure)).await?;
                return Err(io::Error::other(error));
            }
        };
        let (id, outcome) = match parse(&line) {
            Ok(RequestLine { id, request }) => {
                let (caller, mut updates) = Caller::new();
                let working = caller.clone();
                let mut answered = tokio::task::spawn_blocking(move || {
                    let answer = session.answer(request, &working);
                    (session, answer)
                });
                let answered = loop {
                    tokio::select! {
                        answered = &mut answered => break answered,
                        Some(progress) = updates.recv() => {
                            if write(&mut stream, id, Outcome::Progress(progress)).await.is_err() {
                                caller.leave();
                            }
                        }
                        read = stream.read(&mut buffer), if !caller.is_gone() && !lines.is_full() => match read {
                            Ok(0) | Err(_) => caller.leave(),
                            Ok(read) => lines.push(&buffer[..read]),
                        },
                    }
                };
                // What was told just before the answer comes before it.
                while let Ok(progress) = updates.try_recv() {
                    write(&mut stream, id, Outcome::Progress(progress)).await?;
                }
                let outcome = match answered {
                    Ok((same, answer)) => {
                        session = same;
                        answer.map_or_else(Outcome::Error, Outcome::Ok)
                    }
                    Err(error) => {
                        session = ControlSession::new(service.clone(), number);
                        tracing::error!(client = number, %error, "a request failed badly");
                        Outcome::Error(Failure::new(
                            "request",
                            "the service made a mistake with it",
                            "look at the service's log",
                        ))
                    }
                };
                (id, outcome)
            }
            Err((id, failure)) => (id, Outcome::Error(failure)),
        };
        write(&mut stream, id, outcome).await?;
    }
}

/// Reads a request; if that fails, the error and, where it can be made out, the request's id.
fn parse(line: &[u8]) -> Result<RequestLine, (u64, Failure)> {
    #[derive(Deserialize)]
    struct JustId {
        #[serde(default)]
        id: u64,
    }
    serde_json::from_slice(line).map_err(|error| {
        let id = serde_json::from_slice::<JustId>(line).map_or(0, |line| line.id);
        let failure = Failure::new(
            "request",
            format_args!("it can't be understood ({error})"),
            "send one JSON object a line, as control::message describes",
        );
        (id, failure)
    })
}

async fn write(stream: &mut UnixStream, id: u64, outcome: Outcome) -> io::Result<()> {
    let mut line = serde_json::to_vec(&ReplyLine { id, outcome })?;
    line.push(b'\n');
    stream.write_all(&line).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::message::Request;

    #[test]
    fn garbage_is_an_error_with_the_id_where_there_is_one() {
        assert_eq!(parse(b"{{{").unwrap_err().0, 0);
        assert_eq!(parse(b"\xff\x00").unwrap_err().0, 0);
        let (id, failure) = parse(br#"{"id":9,"request":"dance"}"#).unwrap_err();
        assert_eq!(id, 9);
        assert!(failure.to_string().contains("dance"));
        assert_eq!(
            parse(br#"{"id":1,"request":"list"}"#).unwrap().request,
            Request::List
        );
    }
}
