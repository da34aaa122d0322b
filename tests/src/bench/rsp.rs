//! A client of the GDB remote protocol that waits for each answer, and does nothing else: what is timed with it is the stub's.

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::TcpStream;

/// A connection without acknowledgements.
pub(crate) struct Rsp {
    stream: TcpStream,
    buffer: Vec<u8>,
    chunk: Vec<u8>,
}

impl Rsp {
    /// Connects, as gdb does.
    pub(crate) fn connect(address: &str) -> Result<Rsp> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(crate::LIMIT))?;
        let mut rsp = Rsp {
            stream,
            buffer: Vec::new(),
            chunk: vec![0; 1 << 18],
        };
        rsp.stream.write_all(b"+")?;
        rsp.ask("qSupported:swbreak+;hwbreak+;vContSupported+")?;
        rsp.stream.write_all(b"+")?;
        rsp.ask("QStartNoAckMode")?;
        rsp.stream.write_all(b"+")?;
        // The stub names no files before it has told why the guest stands still.
        rsp.ask("?")?;
        Ok(rsp)
    }

    /// One packet and its answer, with escapes and runs resolved.
    pub(crate) fn ask(&mut self, body: &str) -> Result<Vec<u8>> {
        let sum = body.bytes().fold(0_u8, u8::wrapping_add);
        self.stream.write_all(format!("${body}#{sum:02x}").as_bytes())?;
        let mut seen = 0;
        let end = loop {
            if let Some(at) = memchr(b'#', &self.buffer[seen..])
                && self.buffer.len() >= seen + at + 3
            {
                break seen + at;
            }
            // The hash may be there, without its sum.
            seen = self.buffer.len().saturating_sub(3);
            match self.stream.read(&mut self.chunk)? {
                0 => bail!("the stub closed the connection"),
                length => self.buffer.extend_from_slice(&self.chunk[..length]),
            }
        };
        let start = memchr(b'$', &self.buffer[..end]).context("an answer without a beginning")?;
        let answer = plain(&self.buffer[start + 1..end]);
        self.buffer.drain(..end + 3);
        Ok(answer)
    }

    /// A `qXfer` document, whole.
    pub(crate) fn document(&mut self, what: &str) -> Result<Vec<u8>> {
        let mut document = Vec::new();
        loop {
            let part = self.ask(&format!("qXfer:{what}:{:x},20000", document.len()))?;
            match part.split_first() {
                Some((b'm', rest)) if !rest.is_empty() => document.extend_from_slice(rest),
                Some((b'l', rest)) => {
                    document.extend_from_slice(rest);
                    return Ok(document);
                }
                _ => bail!("{what}: {:?}", String::from_utf8_lossy(&part)),
            }
        }
    }
}

fn memchr(byte: u8, bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&b| b == byte)
}

/// GDB manual, "Overview": `}` escapes the next byte, `*` repeats the last one.
fn plain(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'}' | b'*')) {
        out.extend_from_slice(&rest[..at]);
        let next = rest.get(at + 1).copied().unwrap_or_default();
        if rest[at] == b'}' {
            out.push(next ^ 0x20);
        } else {
            let last = out.last().copied().unwrap_or(0);
            out.resize(out.len() + usize::from(next.saturating_sub(29)), last);
        }
        rest = rest.get(at + 2..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    out
}
