//! What a process has printed so far, and waiting for what it will.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A stream that a thread reads into memory.
#[derive(Clone, Default)]
pub struct Transcript(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
}

impl Transcript {
    /// Reads `stream` to its end.
    pub fn of(mut stream: impl Read + Send + 'static) -> Transcript {
        let transcript = Transcript::default();
        let shared = transcript.0.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 1 << 16];
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                shared.lock().bytes.extend_from_slice(&buffer[..read]);
                shared.changed.notify_all();
            }
            shared.lock().ended = true;
            shared.changed.notify_all();
        });
        transcript
    }

    /// How many bytes there are by now.
    pub fn len(&self) -> usize {
        self.0.lock().bytes.len()
    }

    /// Whether there is nothing yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The text from byte `from` on.
    pub fn text_from(&self, from: usize) -> String {
        let state = self.0.lock();
        String::from_utf8_lossy(state.bytes.get(from..).unwrap_or_default()).into_owned()
    }

    /// Waits until `text` is there, at byte `from` or later: where it ends.
    ///
    /// # Errors
    /// A sentence with the end of what is there instead, if the limit passes or the stream ends before.
    pub fn find(&self, from: usize, text: &str, limit: Duration) -> Result<usize, String> {
        let deadline = Instant::now() + limit;
        let mut searched = from;
        let mut state = self.0.lock();
        loop {
            let rest = state.bytes.get(searched..).unwrap_or_default();
            if let Some(at) = position(rest, text.as_bytes()) {
                return Ok(searched + at + text.len());
            }
            searched = state.bytes.len().saturating_sub(text.len()).max(from);
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                let why = if state.ended {
                    "the output ended"
                } else {
                    "the time is over"
                };
                let tail = state.bytes.get(from..).unwrap_or_default();
                let tail = &tail[tail.len().saturating_sub(4000)..];
                return Err(format!(
                    "waited for '{text}', but {why}; there is:\n{}",
                    String::from_utf8_lossy(tail)
                ));
            }
            state = self
                .0
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits until the stream ends; false if the limit passes before.
    pub fn ends(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.0.lock();
        while !state.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self
                .0
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
