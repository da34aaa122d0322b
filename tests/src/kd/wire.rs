//! Packets over a TCP stream, either side's.

use super::packet::{Decoder, Incoming};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Why nothing came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The other side has closed the connection.
    Closed,
    /// It was silent for too long.
    Silent,
    /// It sent what it may not send.
    Strange,
}

/// A stream of packets.
pub struct Wire {
    stream: TcpStream,
    decoder: Decoder,
}

impl Wire {
    /// Over a connection.
    #[track_caller]
    pub fn over(stream: TcpStream) -> Wire {
        stream
            .set_nodelay(true)
            .unwrap_or_else(|error| panic!("no delay: {error}"));
        Wire {
            stream,
            decoder: Decoder::default(),
        }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        self.stream.write_all(bytes).map_err(|_| Trouble::Closed)
    }

    /// What arrives next. A packet that began and doesn't go on is damaged.
    ///
    /// # Errors
    /// If nothing does.
    pub fn receive(&mut self, limit: Duration) -> Result<Incoming, Trouble> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(incoming) = self.decoder.take() {
                return Ok(incoming);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let mut buffer = [0; 8192];
            match self.read(&mut buffer, left) {
                Ok(read) => self.decoder.push(&buffer[..read]),
                Err(Trouble::Silent) => return self.decoder.silence().ok_or(Trouble::Silent),
                Err(trouble) => return Err(trouble),
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8], limit: Duration) -> Result<usize, Trouble> {
        // Zero would mean for ever.
        let limit = limit.max(Duration::from_millis(1));
        self.stream
            .set_read_timeout(Some(limit))
            .map_err(|_| Trouble::Closed)?;
        match self.stream.read(buffer) {
            Ok(0) => Err(Trouble::Closed),
            Ok(read) => Ok(read),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Err(Trouble::Silent),
                _ => Err(Trouble::Closed),
            },
        }
    }
}
