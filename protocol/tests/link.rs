//! The link against a small host: any chunking, any garbage, and lines that lose, double, delay and flip.

mod host;

use host::{Host, Line};
use proptest::prelude::*;
use protocol::api::Api;
use protocol::link::{Event, Lapse, Link, Patience};
use protocol::manipulate::Manipulate;
use protocol::packet::{INITIAL_ID, PacketType, SYNC, write_control, write_data};
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

fn request(id: u32, number: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let request = Manipulate::request(Api::GetVersion, number);
    write_data(&mut bytes, PacketType::StateManipulate, id, request.as_bytes());
    bytes
}

fn control(packet_type: PacketType, id: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_control(&mut bytes, packet_type, id);
    bytes
}

fn events(link: &mut Link, bytes: &[u8], now: Instant) -> Vec<Event> {
    let mut rest = bytes;
    std::iter::from_fn(|| link.receive(&mut rest, now)).collect()
}

/// The ids of the data packets in what was sent.
fn data_ids(mut output: &[u8]) -> Vec<u32> {
    let mut ids = Vec::new();
    while let Some(header) = output.get(..16) {
        let length = usize::from(u16::from_le_bytes([header[6], header[7]]));
        let data = header[0] == b'0';
        if data {
            ids.push(u32::from_le_bytes([header[8], header[9], header[10], header[11]]));
        }
        output = &output[16 + length + usize::from(data)..];
    }
    ids
}

#[test]
fn resend_repeats_the_last_packet_with_its_id() {
    let now = Instant::now();
    let mut link = Link::new();
    link.send(PacketType::StateChange64, &[1; 240], Patience::Forever, now);
    let first = link.take_output();
    assert_eq!(data_ids(&first), [INITIAL_ID | SYNC]);
    assert!(events(&mut link, &control(PacketType::Resend, 0), now).is_empty());
    assert_eq!(link.take_output(), first);
}

#[test]
fn resend_without_anything_outstanding_is_the_sessions_to_answer() {
    let now = Instant::now();
    let mut link = Link::new();
    let resend = control(PacketType::Resend, 0);
    assert_eq!(events(&mut link, &resend, now), [Event::Resend]);
}

#[test]
fn an_acknowledgement_counts_with_and_without_sync_and_only_for_its_id() {
    let now = Instant::now();
    for id in [INITIAL_ID, INITIAL_ID | SYNC] {
        let mut link = Link::new();
        link.send(PacketType::StateChange64, &[1; 240], Patience::Forever, now);
        events(&mut link, &control(PacketType::Acknowledge, INITIAL_ID ^ 1), now);
        assert!(!link.is_idle());
        events(&mut link, &control(PacketType::Acknowledge, id), now);
        assert!(link.is_idle());
        link.take_output();
        link.send(PacketType::DebugIo, &[0; 16], Patience::Limited, now);
        assert_eq!(data_ids(&link.take_output()), [INITIAL_ID ^ 1]);
    }
}

#[test]
fn a_repeated_request_is_acknowledged_and_not_carried_out_again() {
    let now = Instant::now();
    let mut link = Link::new();
    assert_eq!(events(&mut link, &request(INITIAL_ID, 1), now).len(), 1);
    assert_eq!(link.take_output(), control(PacketType::Acknowledge, INITIAL_ID));
    assert!(events(&mut link, &request(INITIAL_ID, 1), now).is_empty());
    assert_eq!(link.take_output(), control(PacketType::Acknowledge, INITIAL_ID));
}

#[test]
fn a_request_while_an_acknowledgement_is_awaited_counts_as_it() {
    let now = Instant::now();
    let mut link = Link::new();
    link.send(PacketType::StateChange64, &[1; 240], Patience::Forever, now);
    assert_eq!(events(&mut link, &request(INITIAL_ID, 1), now).len(), 1);
    assert!(link.is_idle());
}

#[test]
fn a_damaged_request_is_asked_for_again_and_then_taken() {
    let now = Instant::now();
    let mut link = Link::new();
    let mut bad = request(INITIAL_ID, 1);
    bad[20] ^= 0x40;
    assert!(events(&mut link, &bad, now).is_empty());
    assert_eq!(link.take_output(), control(PacketType::Resend, 0));
    assert_eq!(events(&mut link, &request(INITIAL_ID, 1), now).len(), 1);
}

#[test]
fn every_reset_is_answered_with_one_copy_of_what_is_outstanding() {
    let now = Instant::now();
    let mut link = Link::new();
    events(&mut link, &request(INITIAL_ID, 1), now);
    link.send(PacketType::StateManipulate, &[0; 56], Patience::Forever, now);
    link.take_output();
    for _ in 0..5 {
        let reset = control(PacketType::Reset, 0);
        assert_eq!(events(&mut link, &reset, now), [Event::Reset { repeated: true }]);
        let output = link.take_output();
        assert_eq!(output[..16], reset);
        assert_eq!(data_ids(&output), [INITIAL_ID]);
    }
    // Both streams began anew: the host's next request has the initial id.
    assert_eq!(events(&mut link, &request(INITIAL_ID, 2), now).len(), 1);
}

#[test]
fn stops_are_repeated_for_ever_and_text_is_given_up() {
    let mut now = Instant::now();
    let mut link = Link::new();
    link.send(PacketType::DebugIo, &[0; 16], Patience::Limited, now);
    link.send(PacketType::StateChange64, &[0; 240], Patience::Forever, now);
    let mut tries = data_ids(&link.take_output()).len();
    let mut tick = |link: &mut Link| {
        let deadline = link.deadline().unwrap();
        assert!(deadline > now);
        now = deadline;
        link.tick(now)
    };
    while tick(&mut link) == Lapse::Nothing {
        tries += 1;
        assert!(tries < 100);
    }
    assert_eq!(tries, 21);
    // The host counted as gone, so the stop begins the streams anew.
    let output = link.take_output();
    assert_eq!(data_ids(&output).last(), Some(&(INITIAL_ID | SYNC)));
    for _ in 0..100 {
        assert_eq!(tick(&mut link), Lapse::Nothing);
        assert_eq!(data_ids(&link.take_output()), [INITIAL_ID | SYNC]);
    }
}

#[test]
fn a_host_that_acknowledges_nothing_does_not_fill_memory_with_text() {
    let now = Instant::now();
    let mut link = Link::new();
    let sent = (0..10_000)
        .filter(|_| link.send(PacketType::DebugIo, &[0; 528], Patience::Limited, now))
        .count();
    assert!(sent < 1000, "{sent}");
    assert!(link.send(PacketType::StateChange64, &[0; 240], Patience::Forever, now));
}

#[test]
fn a_packet_that_breaks_off_is_asked_for_again() {
    let now = Instant::now();
    let mut link = Link::new();
    let whole = request(INITIAL_ID, 1);
    assert!(events(&mut link, &whole[..30], now).is_empty());
    let late = link.deadline().unwrap();
    assert_eq!(link.tick(late), Lapse::Nothing);
    assert_eq!(link.take_output(), control(PacketType::Resend, 0));
    assert_eq!(events(&mut link, &whole, late).len(), 1);
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same(
        pieces in proptest::collection::vec(piece(), 0..12),
        cuts in proptest::collection::vec(1usize..40, 1..200),
    ) {
        let now = Instant::now();
        let stream = pieces.concat();
        let run = |chunks: Vec<&[u8]>| {
            let mut link = Link::new();
            let mut found = Vec::new();
            for chunk in chunks {
                let mut rest = chunk;
                while let Some(event) = link.receive(&mut rest, now) {
                    link.send(PacketType::StateManipulate, &[7; 60], Patience::Forever, now);
                    found.push(event);
                }
            }
            (found, link.take_output())
        };
        let mut chunks = Vec::new();
        let mut rest = &stream[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, after) = rest.split_at((*cut).min(rest.len()));
            chunks.push(chunk);
            rest = after;
        }
        prop_assert_eq!(run(vec![&stream]), run(chunks));
    }

    #[test]
    fn garbage_never_panics_and_never_fills_memory(
        stream in proptest::collection::vec(
            prop_oneof![Just(b'0'), Just(b'i'), Just(b'b'), Just(0xaa), Just(0), any::<u8>()], 0..2000,
        ),
    ) {
        let mut now = Instant::now();
        let mut link = Link::new();
        for byte in stream {
            let mut rest = &[byte][..];
            while let Some(event) = link.receive(&mut rest, now) {
                if let Event::Data { payload, .. } = &event {
                    prop_assert!(payload.len() <= 4000);
                }
                link.send(PacketType::StateManipulate, &[7; 60], Patience::Limited, now);
            }
            now += Duration::from_millis(7);
            link.tick(now);
            prop_assert!(link.take_output().len() < 100_000);
        }
    }

    #[test]
    fn a_lossy_line_recovers(seed in any::<u64>(), trouble in 0u64..30) {
        let outcome = Line::new(seed, trouble).run(&mut Host::new(40));
        prop_assert!(outcome.is_ok(), "{outcome:?}");
    }
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (any::<bool>(), any::<u16>()).prop_map(|(odd, n)| request(INITIAL_ID | u32::from(odd), n)),
        any::<bool>().prop_map(|odd| control(PacketType::Acknowledge, INITIAL_ID | u32::from(odd))),
        Just(control(PacketType::Resend, 0)),
        Just(control(PacketType::Reset, 0)),
        Just(b"b".to_vec()),
        Just(b"bbb".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..30),
    ]
}
