//! Bytes to frames: the hunt for a leader, then a header, a payload, a trailer.

use crate::manipulate::Manipulate;
use crate::packet::{
    BREAK_IN, CONTROL_LEADER, DATA_LEADER, Header, MAX_PAYLOAD, PacketType, TRAILER, checksum,
};
use std::time::{Duration, Instant};
use zerocopy::FromBytes;

/// A packet that stands still for so long in its middle is given up.
const BYTE_TIMEOUT: Duration = Duration::from_secs(1);

const LEADER_BYTES: [u8; 2] = [DATA_LEADER as u8, CONTROL_LEADER as u8];

/// What was found in the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    BreakIn,
    Control {
        packet_type: PacketType,
        id: u32,
    },
    Data {
        packet_type: PacketType,
        id: u32,
        payload: Vec<u8>,
    },
    /// A packet with a payload, but not as it was sent.
    Damaged,
}

#[derive(Debug)]
enum State {
    /// How many equal leader bytes came, and which.
    Hunt { byte: u8, count: usize },
    /// The bytes of the header so far.
    Header { bytes: [u8; 16], count: usize },
    /// The payload and its trailer so far.
    Payload {
        packet_type: Option<PacketType>,
        header: Header,
        bytes: Vec<u8>,
    },
}

const HUNT: State = State::Hunt { byte: 0, count: 0 };

/// Finds frames in a stream.
pub(super) struct Receiver {
    state: State,
    /// The last byte between packets was a break-in: further ones belong to it.
    in_break: bool,
    /// When the packet in the middle of which we are last grew.
    grew: Option<Instant>,
}

impl Default for Receiver {
    fn default() -> Self {
        Receiver {
            state: HUNT,
            in_break: false,
            grew: None,
        }
    }
}

impl Receiver {
    /// Takes bytes up to the end of the first frame.
    pub fn take(&mut self, bytes: &mut &[u8], now: Instant) -> Option<Frame> {
        while let Some((&first, rest)) = bytes.split_first() {
            let frame = match &mut self.state {
                State::Payload { .. } => self.payload(bytes),
                State::Hunt { .. } => {
                    *bytes = rest;
                    self.hunt(first)
                }
                State::Header { .. } => {
                    *bytes = rest;
                    self.header(first)
                }
            };
            let inside_data = match &self.state {
                State::Hunt { .. } => false,
                State::Header { bytes, .. } => bytes[0] == LEADER_BYTES[0],
                State::Payload { .. } => true,
            };
            self.grew = inside_data.then_some(now);
            if frame.is_some() {
                return frame;
            }
        }
        None
    }

    /// When a packet that stands still is late.
    pub fn deadline(&self) -> Option<Instant> {
        self.grew.map(|at| at + BYTE_TIMEOUT)
    }

    /// Whether one is; it is given up then.
    pub fn is_late(&mut self, now: Instant) -> bool {
        let late = self.deadline().is_some_and(|at| at <= now);
        if late {
            *self = Receiver::default();
        }
        late
    }

    fn hunt(&mut self, new: u8) -> Option<Frame> {
        let State::Hunt { byte, count } = &mut self.state else {
            return None;
        };
        let was_break = std::mem::replace(&mut self.in_break, new == BREAK_IN);
        if !LEADER_BYTES.contains(&new) {
            *count = 0;
            return (new == BREAK_IN && !was_break).then_some(Frame::BreakIn);
        }
        *count = if *count > 0 && *byte == new { *count + 1 } else { 1 };
        *byte = new;
        if *count == 4 {
            let mut bytes = [0; 16];
            bytes[..4].fill(new);
            self.state = State::Header { bytes, count: 4 };
        }
        None
    }

    fn header(&mut self, new: u8) -> Option<Frame> {
        let State::Header { bytes, count } = &mut self.state else {
            return None;
        };
        // No type has a leader's byte: garbage before the packet looked like the start of its leader.
        if *count == 4 && new == bytes[0] {
            return None;
        }
        bytes[*count] = new;
        *count += 1;
        if *count < bytes.len() {
            return None;
        }
        let header = Header::read_from_bytes(bytes.as_slice()).ok();
        self.state = HUNT;
        let header = header?;
        let packet_type = PacketType::from_number(header.packet_type.get());
        if header.leader.get() == CONTROL_LEADER {
            let id = header.id.get();
            return packet_type.map(|packet_type| Frame::Control { packet_type, id });
        }
        let length = usize::from(header.byte_count.get());
        let least = match packet_type {
            Some(PacketType::StateManipulate) => size_of::<Manipulate>(),
            _ => 0,
        };
        if !(least..=MAX_PAYLOAD).contains(&length) {
            return Some(Frame::Damaged);
        }
        self.state = State::Payload {
            packet_type,
            header,
            bytes: Vec::with_capacity(length + 1),
        };
        None
    }

    fn payload(&mut self, input: &mut &[u8]) -> Option<Frame> {
        let State::Payload {
            packet_type,
            header,
            bytes,
        } = &mut self.state
        else {
            return None;
        };
        let whole = usize::from(header.byte_count.get()) + 1;
        let (new, rest) = input.split_at((whole - bytes.len()).min(input.len()));
        bytes.extend_from_slice(new);
        *input = rest;
        if bytes.len() < whole {
            return None;
        }
        let trailer = bytes.pop();
        let good = trailer == Some(TRAILER) && checksum(bytes) == header.checksum.get();
        let frame = match packet_type {
            // Of a type that nobody knows: dropped without a word.
            None if good => None,
            Some(packet_type) if good => Some(Frame::Data {
                packet_type: *packet_type,
                id: header.id.get(),
                payload: std::mem::take(bytes),
            }),
            _ => Some(Frame::Damaged),
        };
        self.state = HUNT;
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{INITIAL_ID, write_control, write_data};

    fn frames(stream: &[u8]) -> Vec<Frame> {
        let mut receiver = Receiver::default();
        let now = Instant::now();
        let mut rest = stream;
        let mut found = Vec::new();
        while !rest.is_empty() {
            found.extend(receiver.take(&mut rest, now));
        }
        found
    }

    fn data(payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_data(&mut bytes, PacketType::DebugIo, INITIAL_ID, payload);
        bytes
    }

    #[test]
    fn a_leader_is_found_behind_garbage_and_half_leaders() {
        for before in [
            &b""[..],
            b"\0\xff",
            b"0",
            b"000i",
            b"i0i0",
            b"000x000",
            b"iii\xaa",
        ] {
            let found = frames(&[before, &data(b"hi")].concat());
            assert!(
                matches!(&found[..], [Frame::Data { payload, .. }] if payload == b"hi"),
                "{before:?}"
            );
        }
    }

    #[test]
    fn a_break_in_counts_between_packets_only_and_a_run_is_one() {
        let stream = [b"bbb", &data(b"bb")[..], b"b", b"000b"].concat();
        let found = frames(&stream);
        assert_eq!(found.len(), 4, "{found:?}");
        assert!([0, 2, 3].iter().all(|i| found[*i] == Frame::BreakIn));
    }

    #[test]
    fn damage_is_seen_in_the_sum_the_trailer_and_the_length() {
        let good = data(b"hello");
        for index in [8 + 4, 16, good.len() - 1] {
            let mut bad = good.clone();
            bad[index] ^= 1;
            assert_eq!(frames(&bad), [Frame::Damaged], "byte {index}");
        }
        let mut long = good.clone();
        long[7] = 0xff;
        assert_eq!(frames(&long[..16]), [Frame::Damaged]);
        let mut short_request = good;
        short_request[4] = 2;
        assert_eq!(frames(&short_request[..16]), [Frame::Damaged]);
    }

    #[test]
    fn control_packets_have_no_trailer() {
        let mut bytes = Vec::new();
        write_control(&mut bytes, PacketType::Acknowledge, 5);
        write_control(&mut bytes, PacketType::Reset, 0);
        let found = frames(&bytes);
        assert_eq!(found.len(), 2);
        assert!(matches!(
            found[0],
            Frame::Control {
                packet_type: PacketType::Acknowledge,
                id: 5
            }
        ));
    }

    #[test]
    fn a_packet_that_stands_still_is_late_and_garbage_is_not() {
        let mut receiver = Receiver::default();
        let now = Instant::now();
        let mut rest: &[u8] = b"000\xffiiii";
        assert_eq!(receiver.take(&mut rest, now), None);
        assert_eq!(receiver.deadline(), None);
        receiver = Receiver::default();
        let packet = data(b"x");
        let mut rest = &packet[..17];
        assert_eq!(receiver.take(&mut rest, now), None);
        let deadline = receiver.deadline().unwrap();
        assert!(!receiver.is_late(now));
        assert!(receiver.is_late(deadline));
        let mut rest = &packet[..];
        assert!(receiver.take(&mut rest, now).is_some());
    }
}
