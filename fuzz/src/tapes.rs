//! The recorded sessions of the end-to-end tests: guests to be looked at, and what a debugger said to them.

use std::sync::{Arc, OnceLock};
use tests::kd::Capture;
use tests::tape::Tape;

const FILES: [(&[u8], &str); 4] = [
    (
        include_bytes!("../../tests/tests/nt/golden/win10-19041-x64.tape"),
        include_str!("../../tests/tests/nt/golden/win10-19041-x64.kd"),
    ),
    (
        include_bytes!("../../tests/tests/nt/golden/win11-22621-x64.tape"),
        include_str!("../../tests/tests/nt/golden/win11-22621-x64.kd"),
    ),
    (
        include_bytes!("../../tests/tests/nt/golden/win7-x64.tape"),
        include_str!("../../tests/tests/nt/golden/win7-x64.kd"),
    ),
    (
        include_bytes!("../../tests/tests/nt/golden/win7-x86.tape"),
        include_str!("../../tests/tests/nt/golden/win7-x86.kd"),
    ),
];

/// How many there are.
pub const COUNT: usize = FILES.len();

/// The guest of a recording, by number.
pub fn tape(number: usize) -> &'static Arc<Tape> {
    static TAPES: OnceLock<Vec<Arc<Tape>>> = OnceLock::new();
    let load = |(tape, _): &(&[u8], &str)| Arc::new(Tape::load(*tape).unwrap_or_default());
    &TAPES.get_or_init(|| FILES.iter().map(load).collect())[number % COUNT]
}

/// What the debugger said, byte for byte.
pub fn host_bytes(number: usize) -> Vec<u8> {
    Capture::parse(FILES[number % COUNT].1).direction(true)
}
