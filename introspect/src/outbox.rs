//! The events on their way to one session: delivered one at a time and in order, whoever causes them.

use crate::event::{EventSink, TargetEvent};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A queue in front of a session's sink. Events are put in under the target's lock, which fixes their order, and
/// delivered after it is given up.
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    sink: EventSink,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<TargetEvent>,
    /// Some thread is in [`Outbox::deliver`] and will take what is put in meanwhile.
    delivering: bool,
    closed: bool,
}

impl Outbox {
    pub(crate) fn new(sink: EventSink) -> Outbox {
        Outbox {
            queue: Mutex::default(),
            sink,
        }
    }

    pub(crate) fn put(&self, event: TargetEvent) {
        let mut queue = self.lock();
        if !queue.closed {
            queue.events.push_back(event);
        }
    }

    /// Calls the sink for all that is queued, unless another thread is just doing that.
    pub(crate) fn deliver(&self) {
        if std::mem::replace(&mut self.lock().delivering, true) {
            return;
        }
        let _turn = Turn(self);
        while let Some(event) = self.next() {
            (self.sink)(&event);
        }
    }

    /// The next event; at the end, the turn is over in the same moment, so that no event is left lying.
    fn next(&self) -> Option<TargetEvent> {
        let mut queue = self.lock();
        let event = queue.events.pop_front();
        queue.delivering = event.is_some();
        event
    }

    /// The session is over: drops what is queued.
    pub(crate) fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        queue.events.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a turn of delivering when the sink panics.
struct Turn<'a>(&'a Outbox);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().delivering = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::introspect::ResetCause;

    const RESET: TargetEvent = TargetEvent::Reset(ResetCause::Operator);
    use hv_core::VcpuId;
    use std::sync::{Arc, OnceLock};

    #[test]
    fn an_event_caused_by_a_sink_comes_after_the_one_being_delivered() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let outbox: Arc<OnceLock<Arc<Outbox>>> = Arc::default();
        let sink: EventSink = {
            let (seen, outbox) = (seen.clone(), outbox.clone());
            Box::new(move |event| {
                let outbox = outbox.get().unwrap();
                if *event == RESET {
                    outbox.put(TargetEvent::ShutDown);
                    outbox.deliver(); // no recursion: the turn is taken
                    assert!(seen.lock().unwrap().is_empty());
                }
                seen.lock().unwrap().push(event.clone());
            })
        };
        let it = outbox.get_or_init(|| Arc::new(Outbox::new(sink)));
        it.put(RESET);
        it.deliver();
        assert_eq!(*seen.lock().unwrap(), [RESET, TargetEvent::ShutDown]);
    }

    #[test]
    fn a_closed_outbox_delivers_nothing() {
        let outbox = Outbox::new(Box::new(|_| panic!("delivered")));
        outbox.put(TargetEvent::VcpuUp(VcpuId(1)));
        outbox.close();
        outbox.put(RESET);
        outbox.deliver();
    }
}
