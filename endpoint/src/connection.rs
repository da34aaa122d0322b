//! A connection on its way to its thread.

use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// The bytes of a connection, both ways.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

type Open = Box<dyn FnOnce() -> io::Result<Box<dyn Stream>> + Send>;

/// A connection that no session has yet.
pub struct Connection {
    peer: String,
    open: Open,
}

impl Connection {
    /// From `peer`, as people are told. `open` is called on the session's thread, in its runtime.
    pub fn new(
        peer: impl Into<String>,
        open: impl FnOnce() -> io::Result<Box<dyn Stream>> + Send + 'static,
    ) -> Connection {
        Connection {
            peer: peer.into(),
            open: Box::new(open),
        }
    }

    /// A TCP connection.
    ///
    /// # Errors
    /// It broke already.
    pub fn tcp(stream: TcpStream, peer: impl Into<String>) -> io::Result<Connection> {
        // Packets are small, and each waits for the one before.
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        Ok(Connection::new(peer, move || {
            Ok(Box::new(TcpStream::from_std(stream)?))
        }))
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    pub(crate) fn open(self) -> io::Result<Box<dyn Stream>> {
        (self.open)()
    }
}
