//! Packets to bytes and back: KDCOM framing, as on a serial line or a TCP stream.

/// Ends every data packet.
pub const TRAILER: u8 = 0xaa;
/// Outside packets: break in.
pub const BREAK_IN: u8 = 0x62;
/// The longest payload.
pub const MAX_PAYLOAD: usize = 4000;
/// The first id of each side.
pub const INITIAL_ID: u32 = 0x8080_0000;
/// In the id of a target's first data packet: "I have reset both ids".
pub const SYNC: u32 = 0x800;

const DATA_LEADER: u8 = 0x30;
const CONTROL_LEADER: u8 = 0x69;
const HEADER: usize = 16;

/// What a packet is for.
pub mod kind {
    #![allow(missing_docs)]
    pub const MANIPULATE: u16 = 2;
    pub const DEBUG_IO: u16 = 3;
    pub const ACKNOWLEDGE: u16 = 4;
    pub const RESEND: u16 = 5;
    pub const RESET: u16 = 6;
    pub const STATE_CHANGE: u16 = 7;
    pub const FILE_IO: u16 = 11;
}

/// Every field of a data packet, each of which may be wrong on purpose.
#[derive(Clone, Debug)]
pub struct Packet {
    /// [`kind`].
    pub kind: u16,
    /// The length that the header states.
    pub length: u16,
    /// Its id.
    pub id: u32,
    /// The sum that the header states.
    pub checksum: u32,
    /// What it carries.
    pub payload: Vec<u8>,
    /// Its last byte.
    pub trailer: u8,
}

impl Packet {
    /// A correct one.
    pub fn new(kind: u16, id: u32, payload: &[u8]) -> Packet {
        Packet {
            kind,
            length: payload.len() as u16,
            id,
            checksum: sum(payload),
            payload: payload.to_vec(),
            trailer: TRAILER,
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = header(DATA_LEADER, self.kind, self.length, self.id, self.checksum);
        bytes.extend_from_slice(&self.payload);
        bytes.push(self.trailer);
        bytes
    }
}

/// The bytes of a control packet.
pub fn control(kind: u16, id: u32) -> Vec<u8> {
    header(CONTROL_LEADER, kind, 0, id, 0)
}

fn header(leader: u8, kind: u16, length: u16, id: u32, checksum: u32) -> Vec<u8> {
    let mut bytes = vec![leader; 4];
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

fn sum(payload: &[u8]) -> u32 {
    payload
        .iter()
        .fold(0, |sum: u32, &byte| sum.wrapping_add(u32::from(byte)))
}

/// What arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A good data packet.
    Data {
        /// [`kind`].
        kind: u16,
        /// Its id, with the SYNC bit.
        id: u32,
        /// What it carries.
        payload: Vec<u8>,
    },
    /// A control packet.
    Control {
        /// [`kind`].
        kind: u16,
        /// What it acknowledges.
        id: u32,
    },
    /// A data packet with a wrong length, sum or trailer, or cut off.
    Damaged,
    /// A break-in byte.
    BreakIn,
}

/// Finds packets in a stream of bytes.
#[derive(Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// Bytes between packets that were neither.
    pub garbage: usize,
}

impl Decoder {
    /// More bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next packet, if all of it is there.
    pub fn take(&mut self) -> Option<Incoming> {
        if !self.find_leader() {
            if self.bytes.first() == Some(&BREAK_IN) {
                self.bytes.remove(0);
                return Some(Incoming::BreakIn);
            }
            return None;
        }
        let header = self.bytes.get(..HEADER)?;
        let (kind, length) = (word(header, 4), usize::from(word(header, 6)));
        let (id, checksum) = (long(header, 8), long(header, 12));
        if header[0] == CONTROL_LEADER {
            self.bytes.drain(..HEADER);
            return Some(Incoming::Control { kind, id });
        }
        if length > MAX_PAYLOAD {
            self.bytes.drain(..HEADER);
            return Some(Incoming::Damaged);
        }
        let trailer = *self.bytes.get(HEADER + length)?;
        let payload = self.bytes[HEADER..HEADER + length].to_vec();
        self.bytes.drain(..=HEADER + length);
        if trailer != TRAILER || sum(&payload) != checksum {
            return Some(Incoming::Damaged);
        }
        Some(Incoming::Data { kind, id, payload })
    }

    /// Nothing more is coming for now: a packet that began is damaged.
    pub fn silence(&mut self) -> Option<Incoming> {
        let begun = !self.bytes.is_empty();
        self.garbage += self.bytes.len();
        self.bytes.clear();
        begun.then_some(Incoming::Damaged)
    }

    /// Drops garbage up to four equal leader bytes or a break-in; whether there is a leader.
    fn find_leader(&mut self) -> bool {
        loop {
            let Some(&first) = self.bytes.first() else {
                return false;
            };
            let run = self
                .bytes
                .iter()
                .take(4)
                .take_while(|&&byte| byte == first)
                .count();
            let leader = first == DATA_LEADER || first == CONTROL_LEADER;
            if leader && run == 4 {
                return true;
            }
            if first == BREAK_IN || leader && run == self.bytes.len() {
                return false;
            }
            self.garbage += 1;
            self.bytes.remove(0);
        }
    }
}

/// 16 bits at an offset; 0 past the end.
pub fn word(bytes: &[u8], at: usize) -> u16 {
    number(bytes, at, 2) as u16
}

/// 32 bits at an offset; 0 past the end.
pub fn long(bytes: &[u8], at: usize) -> u32 {
    number(bytes, at, 4) as u32
}

/// 64 bits at an offset; 0 past the end.
pub fn quad(bytes: &[u8], at: usize) -> u64 {
    number(bytes, at, 8)
}

fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    let bytes = bytes.get(at..at + size).unwrap_or_default();
    bytes
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}
