//! The client of a request that takes a while: it can be told how far that is, and it may leave.

use super::message::Progress;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;

/// Who asked.
#[derive(Clone)]
pub struct Caller {
    updates: mpsc::UnboundedSender<Progress>,
    gone: Arc<AtomicBool>,
}

impl Caller {
    /// One, and where its updates come out. Who makes many updates must see to it that they are few a second.
    pub fn new() -> (Caller, mpsc::UnboundedReceiver<Progress>) {
        let (updates, receiver) = mpsc::unbounded_channel();
        let gone = Arc::default();
        (Caller { updates, gone }, receiver)
    }

    /// Tells it.
    pub fn tell(&self, progress: Progress) {
        // Nobody listens any more if it has left.
        let _ = self.updates.send(progress);
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Says that nobody does.
    pub fn leave(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}
