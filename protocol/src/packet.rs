//! Packets: the header before a payload, and the byte after it (windbgkd.h, KD_PACKET).

use crate::assert_size;
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The largest payload either side sends (PACKET_MAX_SIZE).
pub const MAX_PAYLOAD: usize = 4000;
/// The first four bytes of a packet with a payload.
pub const DATA_LEADER: u32 = 0x3030_3030;
/// The first four bytes of a control packet.
pub const CONTROL_LEADER: u32 = 0x6969_6969;
/// What follows a payload.
pub const TRAILER: u8 = 0xaa;
/// A break-in: one byte between packets.
pub const BREAK_IN: u8 = 0x62;
/// The id of a stream's first packet.
pub const INITIAL_ID: u32 = 0x8080_0000;
/// Set in the id of a kernel's first packet: "I have begun anew, begin anew too".
pub const SYNC: u32 = 0x800;

/// KD_PACKET.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`DATA_LEADER`] or [`CONTROL_LEADER`].
    pub leader: U32,
    /// [`PacketType`].
    pub packet_type: U16,
    /// Bytes of payload.
    pub byte_count: U16,
    /// Its number in its stream, or the number that it acknowledges.
    pub id: U32,
    /// The sum of the payload's bytes.
    pub checksum: U32,
}
assert_size!(Header = 16);

/// What a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u16)]
pub enum PacketType {
    /// The 32-bit protocol's; never used.
    StateChange32 = 1,
    /// A request, or its reply.
    StateManipulate = 2,
    /// Text, or a question for text.
    DebugIo = 3,
    /// The packet with this id came.
    Acknowledge = 4,
    /// Send the last one again.
    Resend = 5,
    /// Begin anew.
    Reset = 6,
    /// The guest stopped.
    StateChange64 = 7,
    /// Trace data.
    TraceIo = 9,
    /// Reservation of hardware breakpoints.
    ControlRequest = 10,
    /// Files of the host.
    FileIo = 11,
}

/// One more than the highest type (PACKET_TYPE_MAX), as GetVersion reports it.
pub const PACKET_TYPE_MAX: u8 = 12;

impl PacketType {
    /// The type of this number.
    pub const fn from_number(number: u16) -> Option<PacketType> {
        Some(match number {
            1 => PacketType::StateChange32,
            2 => PacketType::StateManipulate,
            3 => PacketType::DebugIo,
            4 => PacketType::Acknowledge,
            5 => PacketType::Resend,
            6 => PacketType::Reset,
            7 => PacketType::StateChange64,
            9 => PacketType::TraceIo,
            10 => PacketType::ControlRequest,
            11 => PacketType::FileIo,
            _ => return None,
        })
    }

    /// Its number.
    pub const fn number(self) -> u16 {
        self as u16
    }
}

/// The sum of a payload's bytes, modulo 2^32.
pub fn checksum(payload: &[u8]) -> u32 {
    // Sums of a bounded chunk fit 16 bits, which vectorizes.
    payload
        .chunks(256)
        .map(|chunk| u32::from(chunk.iter().fold(0u16, |sum, &byte| sum + u16::from(byte))))
        .fold(0, u32::wrapping_add)
}

/// Appends a control packet, which has no payload and no trailer.
pub fn write_control(output: &mut Vec<u8>, packet_type: PacketType, id: u32) {
    let header = Header {
        leader: CONTROL_LEADER.into(),
        packet_type: packet_type.number().into(),
        byte_count: 0.into(),
        id: id.into(),
        checksum: 0.into(),
    };
    output.extend_from_slice(header.as_bytes());
}

/// Appends a packet with a payload, which is cut at [`MAX_PAYLOAD`].
pub fn write_data(output: &mut Vec<u8>, packet_type: PacketType, id: u32, payload: &[u8]) {
    let payload = &payload[..payload.len().min(MAX_PAYLOAD)];
    let header = Header {
        leader: DATA_LEADER.into(),
        packet_type: packet_type.number().into(),
        byte_count: (payload.len() as u16).into(),
        id: id.into(),
        checksum: checksum(payload).into(),
    };
    output.reserve(size_of::<Header>() + payload.len() + 1);
    output.extend_from_slice(header.as_bytes());
    output.extend_from_slice(payload);
    output.push(TRAILER);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_sixteen_bytes_without_a_trailer() {
        let mut output = Vec::new();
        write_control(&mut output, PacketType::Reset, 0);
        assert_eq!(output, b"iiii\x06\0\0\0\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn the_checksum_is_the_sum_of_the_payload_alone() {
        assert_eq!(checksum(&[0xff; 4000]), 4000 * 0xff);
        assert_eq!(checksum(b""), 0);
        let mut output = Vec::new();
        write_data(&mut output, PacketType::DebugIo, INITIAL_ID, &[1, 2]);
        assert_eq!(output, b"0000\x03\0\x02\0\0\0\x80\x80\x03\0\0\0\x01\x02\xaa");
    }

    #[test]
    fn numbers_of_types_go_both_ways() {
        let known: Vec<u16> = (0..20)
            .filter(|n| PacketType::from_number(*n).is_some())
            .collect();
        assert_eq!(known, [1, 2, 3, 4, 5, 6, 7, 9, 10, 11]);
        assert!(
            known
                .iter()
                .all(|n| PacketType::from_number(*n).map(PacketType::number) == Some(*n))
        );
    }
}
