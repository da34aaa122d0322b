//! Bytes from a KD host into the link layer.
//!
//! The input is a list of turns: a control byte that says how long a piece of the stream is, and what happens after
//! it. The same stream, given byte by byte with the same turns, must lead to the same events, and what the link
//! sends must be whole packets.

use super::Target;
use crate::input::Input;
use crate::tapes;
use protocol::link::{Event, Link, Patience};
use protocol::packet::PacketType;
use std::time::{Duration, Instant};
use tests::kd::packet::{Decoder, Incoming};

/// See the module.
pub const TARGET: Target = Target {
    name: "kd_link",
    run,
    seeds,
    words: &[
        b"0000",
        b"iiii",
        b"b",
        b"\xaa",
        b"\x02\x00",
        b"\x00\x00\x80\x80",
        b"\x01\x00\x80\x80",
        b"\x00\x08\x80\x80",
        b"iiii\x06\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        b"iiii\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        b"iiii\x04\x00\x00\x00\x00\x08\x80\x80\x00\x00\x00\x00",
        b"iiii\x04\x00\x00\x00\x01\x00\x80\x80\x00\x00\x00\x00",
        b"0000\x02\x00\xa0\x0f\x00\x00\x80\x80",
    ],
    longest: 8192,
};

/// Recorded streams, cut into turns of 48 bytes.
fn seeds() -> Vec<Vec<u8>> {
    let cut = |bytes: &[u8]| -> Vec<u8> {
        let turn = |piece: &[u8]| [&[48 | 0x80], piece].concat();
        bytes.chunks(48).flat_map(turn).collect()
    };
    let streams = (0..tapes::COUNT).map(tapes::host_bytes);
    streams
        .flat_map(|bytes| bytes.chunks(3000).map(cut).collect::<Vec<_>>())
        .collect()
}

/// Takes a piece; the events, and what the host would read.
fn take(link: &mut Link, piece: &[u8], alone: bool, now: Instant, events: &mut Vec<Event>) {
    let mut pieces: Vec<&[u8]> = vec![piece];
    if alone {
        pieces = piece.chunks(1).collect();
    }
    for mut rest in pieces {
        while let Some(event) = link.receive(&mut rest, now) {
            events.push(event);
        }
    }
}

fn play(data: &[u8], alone: bool) -> (Vec<Event>, Vec<u8>) {
    let mut input = Input::new(data);
    let (mut link, mut now, start) = (Link::new(), Instant::now(), Instant::now());
    let (mut events, mut output) = (Vec::new(), Vec::new());
    while !input.is_empty() {
        let control = input.u8();
        take(
            &mut link,
            input.bytes(usize::from(control & 0x3f)),
            alone,
            now,
            &mut events,
        );
        if control & 0x80 != 0 {
            let patience = if control & 1 == 0 {
                Patience::Limited
            } else {
                Patience::Forever
            };
            link.send(
                PacketType::StateManipulate,
                &data[..data.len().min(57)],
                patience,
                now,
            );
        }
        if control & 0x40 != 0
            && let Some(due) = link.deadline()
            && due < start + Duration::from_secs(3600)
        {
            now = now.max(due);
            link.tick(now);
        }
        output.extend(link.take_output());
    }
    (events, output)
}

/// Runs a case.
pub fn run(data: &[u8]) {
    let (events, output) = play(data, false);
    let mut decoder = Decoder::default();
    decoder.push(&output);
    let packets: Vec<Incoming> = std::iter::from_fn(|| decoder.take()).collect();
    assert_eq!(decoder.garbage, 0, "something between packets");
    assert!(!packets.contains(&Incoming::Damaged), "a damaged packet was sent");
    // A run of break-in bytes is one event only where it comes at once.
    let without = |events: Vec<Event>| -> Vec<Event> {
        let is_other = |event: &Event| *event != Event::BreakIn;
        events.into_iter().filter(is_other).collect()
    };
    let (alone, _) = play(data, true);
    assert_eq!(without(events), without(alone), "pieces matter");
}
