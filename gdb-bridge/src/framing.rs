//! Packets on the wire: `$body#checksum`, acknowledgements, the interrupt byte.
//!
//! ```text
//! Idle ──'$'──► Body ──'#'──► High ──digit──► Low ──digit──► a packet, or a refusal
//!  │ '+' '-' 0x03              ▲ '$' begins again: the rest of a broken packet is skipped
//! ```
//! Nothing here knows what a packet means.

use crate::hex;

/// The longest packet body that is taken and that we ask for: 64 KiB of memory as digits, and a little more for
/// the command itself.
pub const PACKET_SIZE: usize = 0x20000;
/// Longer ones are skipped. (Clients count differently whether `PacketSize` holds the frame.)
const LONGEST_BODY: usize = PACKET_SIZE + 64;

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// A whole packet; its body is to be had by [`Receiver::take_body`].
    Packet,
    /// A packet whose checksum is wrong.
    Damaged,
    /// A packet longer than we take.
    TooLong,
    /// Ctrl-C.
    Interrupt,
    /// `-`: the last answer is wanted again.
    Again,
}

#[derive(Clone, Copy)]
enum State {
    Idle,
    Body,
    High,
    Low(u8),
}

/// Finds packets in a stream of bytes.
pub struct Receiver {
    state: State,
    body: Vec<u8>,
    sum: u8,
    too_long: bool,
}

impl Receiver {
    /// At the start of a connection.
    pub fn new() -> Receiver {
        Receiver {
            state: State::Idle,
            body: Vec::new(),
            sum: 0,
            too_long: false,
        }
    }

    /// The body of the packet that [`Receiver::pump`] just told of, to be given back with [`Receiver::recycle`].
    pub fn take_body(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.body)
    }

    /// Gives a buffer back, so that the next packet needs no allocation.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        self.body = buffer;
    }

    /// Takes the next byte.
    pub fn pump(&mut self, byte: u8) -> Option<Input> {
        match (self.state, byte) {
            (State::Idle, 3) => return Some(Input::Interrupt),
            (State::Idle, b'-') => return Some(Input::Again),
            (_, b'$') => {
                self.body.clear();
                self.sum = 0;
                self.too_long = false;
                self.state = State::Body;
            }
            (State::Idle, _) => {}
            (State::Body, b'#') => self.state = State::High,
            (State::Body, _) => {
                self.sum = self.sum.wrapping_add(byte);
                if self.body.len() < LONGEST_BODY {
                    self.body.push(byte);
                } else {
                    self.too_long = true;
                }
            }
            (State::High, _) => self.state = State::Low(byte),
            (State::Low(high), _) => {
                self.state = State::Idle;
                let sent = hex::digit(high).zip(hex::digit(byte)).map(|(h, l)| h << 4 | l);
                return Some(match sent {
                    _ if self.too_long => Input::TooLong,
                    Some(sum) if sum == self.sum => Input::Packet,
                    _ => Input::Damaged,
                });
            }
        }
        None
    }
}

/// Appends a packet with this body. Bytes that mean something to the framing must be escaped in it already
/// ([`escape`]).
pub fn frame(out: &mut Vec<u8>, body: &[u8]) {
    out.reserve(body.len() + 4);
    out.push(b'$');
    out.extend_from_slice(body);
    out.push(b'#');
    out.extend_from_slice(&hex::pair(checksum(body)));
}

/// The sum of all bytes, modulo 256.
pub fn checksum(body: &[u8]) -> u8 {
    body.iter().fold(0, |sum: u8, &b| sum.wrapping_add(b))
}

/// Appends binary data as answers carry it: `#`, `$`, `}` and `*` escaped.
pub fn escape(out: &mut Vec<u8>, bytes: &[u8]) {
    let special = |byte: u8| matches!(byte, b'#' | b'$' | b'}' | b'*');
    out.reserve(bytes.len() + bytes.len() / 16);
    // Files have megabytes, and three of four chunks nothing to escape.
    for chunk in bytes.chunks(16) {
        if !chunk.iter().fold(false, |any, &byte| any | special(byte)) {
            out.extend_from_slice(chunk);
            continue;
        }
        for &byte in chunk {
            if special(byte) {
                out.extend_from_slice(&[b'}', byte ^ 0x20]);
            } else {
                out.push(byte);
            }
        }
    }
}

/// Binary data as requests carry it; `None` if it ends in the middle of an escape.
pub fn unescape(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut bytes = bytes.iter();
    while let Some(&byte) = bytes.next() {
        out.push(if byte == b'}' { bytes.next()? ^ 0x20 } else { byte });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(receiver: &mut Receiver, bytes: &[u8]) -> Vec<Input> {
        bytes.iter().filter_map(|&b| receiver.pump(b)).collect()
    }

    #[test]
    fn a_packet_may_come_in_pieces_after_noise() {
        let mut receiver = Receiver::new();
        assert!(inputs(&mut receiver, b"noise+$qSup").is_empty());
        assert_eq!(inputs(&mut receiver, b"ported#37"), [Input::Packet]);
        assert_eq!(receiver.body, b"qSupported");
    }

    #[test]
    fn a_wrong_checksum_is_told_and_the_next_packet_is_found() {
        let mut receiver = Receiver::new();
        let seen = inputs(&mut receiver, b"$g#00$g#67$m1,#x!$g#67");
        assert_eq!(
            seen,
            [Input::Damaged, Input::Packet, Input::Damaged, Input::Packet]
        );
    }

    #[test]
    fn a_dollar_begins_a_new_packet_wherever_it_comes() {
        let mut receiver = Receiver::new();
        assert_eq!(inputs(&mut receiver, b"$broken$g#67"), [Input::Packet]);
        assert_eq!(receiver.body, b"g");
    }

    #[test]
    fn an_endless_packet_is_bounded_and_refused() {
        let mut receiver = Receiver::new();
        assert_eq!(receiver.pump(b'$'), None);
        for _ in 0..10 * PACKET_SIZE {
            assert_eq!(receiver.pump(b'0'), None);
        }
        assert!(receiver.body.len() <= LONGEST_BODY);
        assert_eq!(
            inputs(&mut receiver, b"#00$g#67"),
            [Input::TooLong, Input::Packet]
        );
    }

    #[test]
    fn an_interrupt_counts_between_packets_only() {
        let mut receiver = Receiver::new();
        assert_eq!(
            inputs(&mut receiver, b"\x03$X0,1:\x03#22"),
            [Input::Interrupt, Input::Packet]
        );
    }

    #[test]
    fn binary_data_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        let mut out = Vec::new();
        escape(&mut out, &all);
        assert_eq!(unescape(&out).as_deref(), Some(&all[..]));
        assert_eq!(unescape(b"}"), None);
    }
}
