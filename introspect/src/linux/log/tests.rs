use super::buffer::{Layout, records};
use super::*;

const LAYOUT: Layout = Layout {
    time: 0,
    length: 8,
    text_length: 10,
    header: 16,
};

/// A record of `struct printk_log`, padded to `length`.
fn record(seconds: u64, level: u8, text: &str, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((seconds * 1_000_000_000).to_le_bytes());
    bytes.extend((length as u16).to_le_bytes());
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend([0, 0, 0, level << 5]);
    bytes.extend(text.as_bytes());
    bytes.resize(length, 0);
    bytes
}

#[test]
fn the_old_buffer_is_read_around_its_end() {
    let mut bytes = record(3, 6, "third", 32);
    bytes.extend([0xff; 32]); // between the newest and the oldest
    bytes.extend(record(1, 4, "first", 32));
    bytes.extend(record(2, 0, "second\x1b[2J", 40));
    bytes.extend([0; 16]); // no room for another
    let log = records(&bytes, 64, 32, &LAYOUT);
    assert_eq!(log.broken, None);
    let lines: Vec<String> = log.records.iter().map(Record::to_string).collect();
    assert_eq!(
        lines,
        [
            "[    1.000000] first",
            "[    2.000000] second\u{fffd}[2J",
            "[    3.000000] third"
        ]
    );
    assert_eq!(log.records[0].level, Level::Warning);
    assert_eq!(log.records[1].level, Level::Emergency);
    assert_eq!(log.records[0].caller, None);
}

#[test]
fn an_old_buffer_that_leads_nowhere_ends() {
    let zeros = vec![0; 256];
    assert!(records(&zeros, 64, 32, &LAYOUT).broken.is_some());
    let far = record(1, 0, "text", 0x4000);
    assert!(records(&far[..64], 0, 32, &LAYOUT).broken.is_some());
    assert!(records(&far, u64::from(u32::MAX), 0, &LAYOUT).broken.is_some());
}

#[test]
fn each_line_of_a_record_has_the_time() {
    let record = Record {
        sequence: 0,
        nanoseconds: 12_345_678_901,
        level: Level::Info,
        facility: 0,
        caller: None,
        text: "a\nb".into(),
    };
    assert_eq!(record.to_string(), "[   12.345678] a\n[   12.345678] b");
}
