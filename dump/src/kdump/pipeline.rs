//! Compression on every core: chunks of pages go round the threads and come back in order.
//!
//! ```text
//!            ┌► thread 0 ─┐
//!  chunk n ──┤            ├─► chunk n - DEPTH x threads, oldest first, and its buffers again
//!            └► thread 1 ─┘
//! ```

use super::codec::{Compression, Encoder, Room};
use crate::copy::is_zero;
use crate::pages::PAGE_SIZE;
use crate::{Error, Result};
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

/// Pages in a chunk: few enough for a core's cache.
pub(super) const CHUNK: usize = 64;
/// Chunks that a thread has at once: one to work at, one that waits.
const DEPTH: usize = 2;
/// More threads are of no use to the one that reads and writes.
const MOST_THREADS: usize = 16;

/// What became of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Packed {
    Zero,
    /// Its bytes, as they are.
    Raw,
    /// That many bytes, compressed.
    Compressed(u32),
}

impl Packed {
    /// Bytes that it has in the chunk.
    pub(super) const fn length(self) -> u32 {
        match self {
            Packed::Zero => 0,
            Packed::Raw => PAGE_SIZE as u32,
            Packed::Compressed(length) => length,
        }
    }
}

/// Some pages, and what became of them.
#[derive(Default)]
pub(super) struct Chunk {
    /// Whole pages.
    pub(super) pages: Vec<u8>,
    pub(super) packed: Vec<Packed>,
    /// The bytes of all of them, one after another.
    pub(super) data: Vec<u8>,
}

fn pack(chunk: &mut Chunk, encoder: &mut Encoder, room: &mut Room) {
    chunk.packed.clear();
    chunk.data.clear();
    for page in chunk.pages.chunks_exact(PAGE_SIZE) {
        let packed = if is_zero(page) {
            Packed::Zero
        } else if let Some(length) = encoder.encode(page, room) {
            chunk.data.extend_from_slice(&room[..length]);
            Packed::Compressed(length as u32)
        } else {
            chunk.data.extend_from_slice(page);
            Packed::Raw
        };
        chunk.packed.push(packed);
    }
}

struct Worker {
    input: SyncSender<Chunk>,
    output: Receiver<Chunk>,
}

/// The threads, from the one that feeds them.
pub(super) struct Pipeline {
    workers: Vec<Worker>,
    spare: Vec<Chunk>,
    /// The workers that have chunks, in the order of these.
    busy: VecDeque<usize>,
    next: usize,
}

impl Pipeline {
    /// Starts the threads; they end when the pipeline is dropped.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        compression: Compression,
        threads: Option<usize>,
    ) -> Result<Pipeline> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = threads.unwrap_or(cores).clamp(1, MOST_THREADS);
        let mut workers = Vec::with_capacity(threads);
        for _ in 0..threads {
            let mut encoder = Encoder::new(compression).map_err(Error::io("starting compression"))?;
            let (input, jobs) = sync_channel::<Chunk>(DEPTH);
            let (results, output) = sync_channel(DEPTH);
            let work = move || {
                let mut room = [0; 2 * PAGE_SIZE];
                for mut chunk in jobs {
                    pack(&mut chunk, &mut encoder, &mut room);
                    if results.send(chunk).is_err() {
                        break;
                    }
                }
            };
            let started = std::thread::Builder::new()
                .name("compress".into())
                .spawn_scoped(scope, work);
            started.map_err(Error::io("starting a thread"))?;
            workers.push(Worker { input, output });
        }
        Ok(Pipeline {
            workers,
            spare: Vec::new(),
            busy: VecDeque::new(),
            next: 0,
        })
    }

    /// A chunk to fill; `done` gets the oldest one when there are enough under way.
    pub(super) fn chunk(&mut self, done: &mut dyn FnMut(&Chunk) -> Result<()>) -> Result<Chunk> {
        if self.busy.len() >= DEPTH * self.workers.len() {
            self.take(done)?;
        }
        let mut chunk = self.spare.pop().unwrap_or_default();
        chunk.pages.clear();
        Ok(chunk)
    }

    /// Hands a chunk to the next thread.
    pub(super) fn send(&mut self, chunk: Chunk) -> Result<()> {
        let worker = self.next;
        self.next = (worker + 1) % self.workers.len();
        self.workers[worker].input.send(chunk).map_err(|_| ended())?;
        self.busy.push_back(worker);
        Ok(())
    }

    /// Waits for all that is under way.
    pub(super) fn finish(&mut self, done: &mut dyn FnMut(&Chunk) -> Result<()>) -> Result<()> {
        while !self.busy.is_empty() {
            self.take(done)?;
        }
        Ok(())
    }

    fn take(&mut self, done: &mut dyn FnMut(&Chunk) -> Result<()>) -> Result<()> {
        let Some(worker) = self.busy.pop_front() else {
            return Ok(());
        };
        let chunk = self.workers[worker].output.recv().map_err(|_| ended())?;
        done(&chunk)?;
        self.spare.push(chunk);
        Ok(())
    }
}

fn ended() -> Error {
    Error::io("compressing")(std::io::Error::other("a thread ended early"))
}
