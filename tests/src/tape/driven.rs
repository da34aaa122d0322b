//! A KD session over a tape, driven by hand: no socket, no thread, no clock.

use super::{Player, Tape};
use hv_core::introspect::ControlRun;
use introspect::{Target, TargetEvent};
use kdd::kd::{KdSession, kernel};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use symbols::SymbolPath;

/// Turns that one input may take: more than any tape has moments.
const MOST_TURNS: usize = 100_000;

/// A session and all that is around it.
pub struct Driven {
    /// The guest.
    pub player: Arc<Player>,
    target: Arc<Target>,
    session: KdSession,
    events: Receiver<TargetEvent>,
    now: Instant,
}

impl Driven {
    /// A host has connected to a guest that waits for it. No symbols are at hand.
    ///
    /// # Panics
    /// The tape is empty.
    pub fn new(tape: &Arc<Tape>) -> Driven {
        let player = Player::new(tape);
        let target = Target::new(player.clone());
        if let Err(error) = target.wait_for_debugger().and_then(|()| Ok(player.unpause()?)) {
            panic!("{error}");
        }
        let (sender, events) = channel();
        let notify = Box::new(move |event| drop(sender.send(event)));
        let recogniser = kernel::windows(SymbolPath::default());
        Driven {
            session: KdSession::new(&target, "tape", recogniser, notify),
            player,
            target,
            events,
            now: Instant::now(),
        }
    }

    /// Takes bytes from the host, and does all that follows: the answer.
    pub fn give(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.session.receive(bytes, self.now);
        self.settle()
    }

    /// Lets the time pass until something is due, if anything is within `limit`: the answer.
    pub fn wait(&mut self, limit: Duration) -> Option<Vec<u8>> {
        let due = self.session.deadline()?;
        if due > self.now + limit {
            return None;
        }
        self.now = self.now.max(due);
        self.session.tick(self.now);
        Some(self.settle())
    }

    /// Whether the session holds the guest.
    pub fn holds(&self) -> bool {
        self.target.sessions().iter().any(|session| session.holds)
    }

    /// Breakpoints and watchpoints of the session.
    pub fn breakpoint_count(&self) -> usize {
        self.target
            .sessions()
            .iter()
            .map(|session| session.breakpoints)
            .sum()
    }

    /// The host is gone: the guest that it leaves.
    pub fn leave(self) -> Arc<Player> {
        drop(self.session);
        assert_eq!(self.target.sessions().len(), 0, "a session is left");
        self.player
    }

    fn settle(&mut self) -> Vec<u8> {
        let mut output = self.session.take_output();
        for _ in 0..MOST_TURNS {
            if let Ok(event) = self.events.try_recv() {
                self.session.event(event, self.now);
            } else if self.session.is_busy() {
                self.session.work(self.now);
            } else if !self.player.deliver() {
                return output;
            }
            output.extend(self.session.take_output());
        }
        panic!("it never comes to rest")
    }
}
