//! A relay between a debugger and a target: it records what passes, and spoils it on purpose.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What happens to the bytes of one direction. Rates are bytes in a million.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Where the random numbers start.
    pub seed: u64,
    /// How many get lost.
    pub lose: u32,
    /// How many arrive twice.
    pub double: u32,
    /// How many arrive with one bit wrong.
    pub flip: u32,
    /// How many are late by `delay`, with all that follow.
    pub late: u32,
    /// How late.
    pub delay: Duration,
    /// Every byte travels alone.
    pub alone: bool,
    /// The connection is cut after so many bytes.
    pub cut: Option<usize>,
}

/// Bytes of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// From the debugger to the target, or the other way.
    pub to_target: bool,
    /// In the order in which they passed.
    pub bytes: Vec<u8>,
}

/// What passed through a connection, as it left its sender.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capture(pub Vec<Piece>);

impl Capture {
    fn push(&mut self, to_target: bool, bytes: &[u8]) {
        match self.0.last_mut() {
            Some(last) if last.to_target == to_target => last.bytes.extend_from_slice(bytes),
            _ => self.0.push(Piece {
                to_target,
                bytes: bytes.to_vec(),
            }),
        }
    }

    /// All bytes of one direction.
    pub fn direction(&self, to_target: bool) -> Vec<u8> {
        let pieces = self.0.iter().filter(|piece| piece.to_target == to_target);
        pieces.flat_map(|piece| piece.bytes.iter().copied()).collect()
    }

    /// As text: `>` and bytes to the target, `<` and bytes to the debugger, in hex, a piece a line; `#` begins a
    /// comment.
    pub fn text(&self, comment: &str) -> String {
        let mut text: String = comment.lines().map(|line| format!("# {line}\n")).collect();
        for piece in &self.0 {
            text.push_str(if piece.to_target { ">" } else { "<" });
            text.push(' ');
            text.extend(piece.bytes.iter().map(|byte| format!("{byte:02x}")));
            text.push('\n');
        }
        text
    }

    /// From text.
    #[track_caller]
    pub fn parse(text: &str) -> Capture {
        let mut capture = Capture::default();
        for line in text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
        {
            let (direction, hex) = line.split_once(' ').unwrap_or((line, ""));
            let bytes = (0..hex.len() / 2).map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16));
            match bytes.collect() {
                Ok(bytes) => capture.0.push(Piece {
                    to_target: direction == ">",
                    bytes,
                }),
                Err(error) => panic!("{line}: {error}"),
            }
        }
        capture
    }

    /// From a file.
    #[track_caller]
    pub fn read(path: &Path) -> Capture {
        match std::fs::read_to_string(path) {
            Ok(text) => Capture::parse(&text),
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
}

#[derive(Default)]
struct Shared {
    captures: Mutex<Vec<Capture>>,
    /// Bytes lost, doubled, flipped and late.
    spoilt: AtomicUsize,
}

impl Shared {
    fn captures(&self) -> MutexGuard<'_, Vec<Capture>> {
        self.captures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener that passes connections on. Those that are there go on when this value is gone.
pub struct Relay {
    address: String,
    shared: Arc<Shared>,
}

impl Relay {
    /// To a target, with faults on the way to it and on the way back.
    #[track_caller]
    pub fn to(target: &str, there: Faults, back: Faults) -> Relay {
        let listener =
            TcpListener::bind("127.0.0.1:0").unwrap_or_else(|error| panic!("a port of the relay: {error}"));
        let address = listener
            .local_addr()
            .map_or_else(|error| panic!("{error}"), |address| address.to_string());
        let shared = Arc::new(Shared::default());
        let (target, sharing) = (target.to_owned(), shared.clone());
        std::thread::spawn(move || {
            for debugger in listener.incoming().flatten() {
                let Ok(target) = TcpStream::connect(&target) else {
                    continue;
                };
                let number = sharing.captures().len();
                sharing.captures().push(Capture::default());
                pass(&debugger, &target, number, true, there, &sharing);
                pass(&target, &debugger, number, false, back, &sharing);
            }
        });
        Relay { address, shared }
    }

    /// One that only records.
    #[track_caller]
    pub fn recording(target: &str) -> Relay {
        Relay::to(target, Faults::default(), Faults::default())
    }

    /// Where a debugger connects.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What has passed, connection by connection.
    pub fn captures(&self) -> Vec<Capture> {
        self.shared.captures().clone()
    }

    /// How many bytes were spoilt.
    pub fn spoilt(&self) -> usize {
        self.shared.spoilt.load(Ordering::Relaxed)
    }
}

/// Passes one direction on, on a thread of its own, to the end.
fn pass(
    from: &TcpStream,
    to: &TcpStream,
    number: usize,
    to_target: bool,
    faults: Faults,
    shared: &Arc<Shared>,
) {
    let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else {
        return;
    };
    let shared = shared.clone();
    let _ = to.set_nodelay(true);
    std::thread::spawn(move || {
        let mut random = Random(faults.seed);
        let mut passed = 0;
        let mut buffer = [0; 8192];
        'connection: while let Ok(read @ 1..) = from.read(&mut buffer) {
            let mut bytes = &buffer[..read];
            let left = faults.cut.map_or(usize::MAX, |cut| cut - passed);
            bytes = &bytes[..bytes.len().min(left)];
            passed += bytes.len();
            shared.captures()[number].push(to_target, bytes);
            let mut out = Vec::new();
            for &byte in bytes {
                let spoilt = spoil(byte, &faults, &mut random, &mut out);
                shared.spoilt.fetch_add(usize::from(spoilt), Ordering::Relaxed);
                if faults.alone && to.write_all(&std::mem::take(&mut out)).is_err() {
                    break 'connection;
                }
            }
            if to.write_all(&out).is_err() || faults.cut == Some(passed) {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}

/// What becomes of one byte; whether that is another than itself.
fn spoil(byte: u8, faults: &Faults, random: &mut Random, out: &mut Vec<u8>) -> bool {
    let mut dice = random.below(1_000_000);
    let mut falls = |rate: u32| {
        let hit = dice < u64::from(rate);
        dice = dice.wrapping_sub(u64::from(rate));
        hit
    };
    if falls(faults.lose) {
        true
    } else if falls(faults.double) {
        out.extend_from_slice(&[byte, byte]);
        true
    } else if falls(faults.flip) {
        out.push(byte ^ 1 << random.below(8));
        true
    } else {
        let late = falls(faults.late);
        if late {
            std::thread::sleep(faults.delay);
        }
        out.push(byte);
        late
    }
}

/// Random numbers that a seed determines: xorshift64*, as Vigna describes it.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// A number below a limit.
    pub fn below(&mut self, limit: u64) -> u64 {
        // Zero would stay zero.
        let mut x = self.0 ^ 0x9e37_79b9_7f4a_7c15;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0 = x ^ 0x9e37_79b9_7f4a_7c15;
        (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % limit.max(1)
    }
}
