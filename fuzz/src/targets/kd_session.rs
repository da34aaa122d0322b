//! A KD host's packets, right and wrong, into a session with a recorded guest.
//!
//! The first byte chooses the guest. What follows is a list of turns: a control byte, two bytes of length, bytes. They
//! are a request that is framed as it should be, or bytes as they are. The session that goes must leave a guest that
//! runs, without a breakpoint.

use super::Target;
use crate::input::Input;
use crate::tapes;
use hv_core::introspect::{DomainState, Introspect};
use std::time::Duration;
use tests::kd::packet::{Decoder, INITIAL_ID, Incoming, Packet, control, kind};
use tests::tape::Driven;

/// See the module.
pub const TARGET: Target = Target {
    name: "kd_session",
    run,
    seeds,
    words: &[
        // Requests, as they stand in a payload.
        b"\x30\x31\0\0",
        b"\x31\x31\0\0",
        b"\x32\x31\0\0",
        b"\x33\x31\0\0",
        b"\x34\x31\0\0",
        b"\x35\x31\0\0",
        b"\x36\x31\0\0",
        b"\x37\x31\0\0",
        b"\x38\x31\0\0",
        b"\x39\x31\0\0",
        b"\x3a\x31\0\0",
        b"\x3b\x31\0\0",
        b"\x3c\x31\0\0",
        b"\x3d\x31\0\0",
        b"\x3e\x31\0\0",
        b"\x3f\x31\0\0",
        b"\x40\x31\0\0",
        b"\x42\x31\0\0",
        b"\x43\x31\0\0",
        b"\x44\x31\0\0",
        b"\x45\x31\0\0",
        b"\x46\x31\0\0",
        b"\x47\x31\0\0",
        b"\x48\x31\0\0",
        b"\x49\x31\0\0",
        b"\x50\x31\0\0",
        b"\x51\x31\0\0",
        b"\x52\x31\0\0",
        b"\x53\x31\0\0",
        b"\x54\x31\0\0",
        b"\x55\x31\0\0",
        b"\x56\x31\0\0",
        b"\x57\x31\0\0",
        b"\x58\x31\0\0",
        b"\x59\x31\0\0",
        b"\x5a\x31\0\0",
        b"\x5b\x31\0\0",
        b"\x5c\x31\0\0",
        b"\x5d\x31\0\0",
        b"\x5f\x31\0\0",
        b"\x60\x31\0\0",
        // Statuses and addresses.
        b"\x02\x00\x01\x00",
        b"\x01\x00\x01\x80",
        b"\x00\x00\x00\x00\x80\xf7\xff\xff",
        b"\x00\x60\x08\x86\x05\xf8\xff\xff",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x00\xf0\xff\xff\xff\xff\xff\xff",
        b"\x10\x00\x00\x00",
    ],
    longest: 8192,
};

const RAW: u8 = 1;
const REQUEST: u8 = 0;
const WAIT: u8 = 2;

/// A turn's bytes.
fn turn(control: u8, bytes: &[u8]) -> Vec<u8> {
    [&[control][..], &(bytes.len() as u16).to_le_bytes(), bytes].concat()
}

/// Recorded sessions: from the beginning, and with every request of theirs right after it.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for number in 0..tapes::COUNT {
        let mut decoder = Decoder::default();
        decoder.push(&tapes::host_bytes(number));
        let mut requests = Vec::new();
        while let Some(packet) = decoder.take() {
            if let Incoming::Data {
                kind: kind::MANIPULATE,
                payload,
                ..
            } = packet
            {
                requests.push(turn(REQUEST, &payload));
            }
        }
        let attach = turn(RAW, &control(kind::RESET, 0));
        for part in requests.chunks(12) {
            seeds.push([&[number as u8][..], &attach, &part.concat()].concat());
        }
        let is_rare = |request: &&Vec<u8>| request[3] != 0x30;
        let rare: Vec<Vec<u8>> = requests.iter().filter(is_rare).cloned().collect();
        for part in rare.chunks(20) {
            seeds.push([&[number as u8][..], &attach, &part.concat()].concat());
        }
    }
    seeds
}

/// Runs a case.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut driven = Driven::new(tapes::tape(usize::from(input.u8())));
    let (mut id, mut turns) = (INITIAL_ID, 0);
    let mut decoder = Decoder::default();
    while !input.is_empty() && turns < 64 {
        turns += 1;
        let control = input.u8();
        let length = usize::from(input.u16() % 4097);
        let bytes = input.bytes(length);
        let mut answer = match control & RAW {
            RAW => driven.give(bytes),
            _ => {
                let answer = driven.give(&Packet::new(kind::MANIPULATE, id, bytes).bytes());
                id ^= 1;
                answer
            }
        };
        if control & WAIT != 0 {
            answer.extend(driven.wait(Duration::from_secs(30)).unwrap_or_default());
        }
        decoder.push(&answer);
        while let Some(packet) = decoder.take() {
            assert_ne!(packet, Incoming::Damaged, "a damaged packet was sent");
            match packet {
                // Both numbers begin anew.
                Incoming::Control {
                    kind: kind::RESET, ..
                } => id = INITIAL_ID,
                Incoming::Data { id: sent, .. } if sent & 0x800 != 0 => id = INITIAL_ID,
                _ => {}
            }
        }
        assert_eq!(decoder.garbage, 0, "something between packets");
    }
    let player = driven.leave();
    assert_eq!(player.breakpoint_count(), 0, "a breakpoint is left");
    let state = player.state();
    assert!(
        !matches!(state, DomainState::Paused(_)),
        "it is left paused: {state:?}"
    );
}
