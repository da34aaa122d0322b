//! Delivery of a domain's events: queued in the order in which they happen, under the domain's locks; delivered
//! by whichever thread comes to it first, with no lock held.

use super::lock;
use crate::introspect::{Event, EventSink, SubscriptionId};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};

/// Undelivered events at which the runner waits for the subscribers.
const BACKLOG: usize = 256;
/// Console output is joined with what is still queued up to this many bytes.
const JOINED: usize = 4096;

/// The subscribers of one domain and the events on their way to them.
#[derive(Default)]
pub(super) struct EventHub {
    hub: Mutex<Hub>,
    drained: Condvar,
}

#[derive(Default)]
struct Hub {
    sinks: Arc<Vec<Subscription>>,
    next_id: u64,
    queue: VecDeque<Queued>,
    delivering: bool,
    closed: bool,
}

#[derive(Clone)]
struct Subscription {
    id: u64,
    sink: Arc<EventSink>,
}

struct Queued {
    event: Event,
    /// Only subscriptions older than this see it.
    before: u64,
}

impl EventHub {
    pub fn subscribe(&self, sink: EventSink) -> SubscriptionId {
        let mut hub = lock(&self.hub);
        let id = hub.next_id;
        hub.next_id += 1;
        let subscription = Subscription {
            id,
            sink: Arc::new(sink),
        };
        Arc::make_mut(&mut hub.sinks).push(subscription);
        SubscriptionId(id)
    }

    pub fn unsubscribe(&self, id: SubscriptionId) {
        let mut hub = lock(&self.hub);
        let sinks = Arc::make_mut(&mut hub.sinks);
        let gone: Vec<Subscription> = sinks.extract_if(.., |s| s.id == id.0).collect();
        drop(hub); // dropping a sink may run code of its owner
        drop(gone);
    }

    /// Queues an event. Cheap, and allowed under any lock of the domain; [`EventHub::deliver`] must follow
    /// once they are released.
    pub fn push(&self, event: Event) {
        let mut hub = lock(&self.hub);
        if hub.sinks.is_empty() {
            return;
        }
        let before = hub.next_id;
        if let Event::Console { port, bytes } = &event
            && let Some(last) = hub.queue.back_mut()
            && last.before == before
            && let Event::Console {
                port: last_port,
                bytes: last_bytes,
            } = &mut last.event
            && last_port == port
            && last_bytes.len() < JOINED
        {
            last_bytes.extend_from_slice(bytes);
            return;
        }
        hub.queue.push_back(Queued { event, before });
    }

    /// Delivers what is queued, unless another thread (or a sink further up this stack) is at it: then that one does.
    pub fn deliver(&self) {
        let mut hub = lock(&self.hub);
        if hub.delivering {
            return;
        }
        hub.delivering = true;
        while let Some(Queued { event, before }) = hub.queue.pop_front() {
            let sinks = Arc::clone(&hub.sinks);
            drop(hub);
            for subscription in sinks.iter().filter(|s| s.id < before) {
                if catch_unwind(AssertUnwindSafe(|| (subscription.sink)(&event))).is_err() {
                    tracing::error!(?event, "a subscriber to a domain's events panicked");
                }
            }
            drop(sinks);
            hub = lock(&self.hub);
        }
        hub.delivering = false;
        // Sinks may hold what owns the domain: after the last event they are let go.
        let gone = if hub.closed {
            std::mem::take(&mut hub.sinks)
        } else {
            Arc::default()
        };
        self.drained.notify_all();
        drop(hub);
        drop(gone);
    }

    /// [`EventHub::deliver`] for the runner: where subscribers can't keep up, it waits for them until `abandon` says
    /// that the domain ends.
    pub fn deliver_or_wait(&self, abandon: impl Fn() -> bool) {
        self.deliver();
        let mut hub = lock(&self.hub);
        while hub.delivering && hub.queue.len() > BACKLOG && !abandon() {
            hub = self.drained.wait(hub).unwrap_or_else(|e| e.into_inner());
        }
    }

    /// No event follows those that are queued.
    pub fn close(&self) {
        lock(&self.hub).closed = true;
        self.drained.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::introspect::ResetCause;
    use std::sync::Weak;

    fn console(text: &str) -> Event {
        Event::Console {
            port: 0,
            bytes: text.as_bytes().to_vec(),
        }
    }

    fn recorder(hub: &EventHub) -> (SubscriptionId, Arc<Mutex<Vec<Event>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let id = hub.subscribe(Box::new(move |event| lock(&record).push(event.clone())));
        (id, seen)
    }

    #[test]
    fn events_arrive_in_order_and_console_output_is_joined() {
        let hub = EventHub::default();
        let (_, seen) = recorder(&hub);
        hub.push(console("a"));
        hub.push(console("b"));
        hub.push(Event::Reset(ResetCause::Operator));
        hub.push(console("c"));
        hub.deliver();
        assert_eq!(
            *lock(&seen),
            [console("ab"), Event::Reset(ResetCause::Operator), console("c")]
        );
    }

    #[test]
    fn a_subscriber_sees_nothing_older_than_itself_and_nothing_after_it_left() {
        let hub = EventHub::default();
        let (_first, _) = recorder(&hub);
        hub.push(console("a"));
        let (second, seen) = recorder(&hub);
        hub.push(console("b"));
        hub.deliver();
        hub.unsubscribe(second);
        hub.push(console("c"));
        hub.deliver();
        assert_eq!(*lock(&seen), [console("b")]);
    }

    #[test]
    fn a_sink_may_cause_events_and_they_come_after_the_present_one() {
        let hub = Arc::new(EventHub::default());
        let (_, seen) = recorder(&hub);
        let weak: Weak<EventHub> = Arc::downgrade(&hub);
        hub.subscribe(Box::new(move |event| {
            if let (Event::Reset(_), Some(hub)) = (event, weak.upgrade()) {
                hub.push(Event::ShutDown);
                hub.deliver();
            }
        }));
        hub.push(Event::Reset(ResetCause::Operator));
        hub.push(Event::Paused(true));
        hub.deliver();
        assert_eq!(
            *lock(&seen),
            [
                Event::Reset(ResetCause::Operator),
                Event::Paused(true),
                Event::ShutDown
            ]
        );
    }

    #[test]
    fn a_panic_in_one_sink_does_not_keep_events_from_the_others() {
        let hub = EventHub::default();
        hub.subscribe(Box::new(|_| std::panic::resume_unwind(Box::new("sink"))));
        let (_, seen) = recorder(&hub);
        hub.push(Event::Reset(ResetCause::Operator));
        hub.deliver();
        hub.push(Event::ShutDown);
        hub.deliver();
        assert_eq!(
            *lock(&seen),
            [Event::Reset(ResetCause::Operator), Event::ShutDown]
        );
    }
}
