//! The host's clock as a domain sees it: where virtual time may be by now, in real time.
//!
//! The clock only ever holds a guest back. It stands still while the domain is paused, so that pausing again and
//! again doesn't starve the timers of an idle guest, and it forgets debts that a slow engine runs up.

use crate::addr::Ticks;
use std::time::{Duration, Instant};

/// How far host time may run ahead of a busy guest before the rest is forgotten: 100 ms.
const MAX_DEBT: u64 = Ticks::PER_SECOND / 10;

/// Maps host time to the virtual time that it allows.
pub(super) struct Clock {
    /// The host time at which `ticks` were allowed.
    base: Instant,
    ticks: u64,
    /// When the clock was stopped, if it is.
    stopped: Option<Instant>,
}

impl Clock {
    /// A clock that is at `ticks` now.
    pub fn new(ticks: Ticks, now: Instant, running: bool) -> Clock {
        Clock {
            base: now,
            ticks: ticks.0,
            stopped: (!running).then_some(now),
        }
    }

    /// Stops it; it keeps its reading.
    pub fn stop(&mut self, now: Instant) {
        self.stopped.get_or_insert(now);
    }

    /// Starts it again from the reading at which it was stopped.
    pub fn start(&mut self, now: Instant) {
        if let Some(at) = self.stopped.take() {
            self.base += now.saturating_duration_since(at);
        }
    }

    /// The virtual time that host time allows.
    pub fn allowed(&self, now: Instant) -> Ticks {
        let now = self.stopped.unwrap_or(now);
        let passed = now.saturating_duration_since(self.base).as_nanos() / u128::from(Ticks::NANOSECONDS);
        Ticks(self.ticks).after(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// The host time at which `ticks` is allowed; `None` if that is never.
    pub fn host_time(&self, ticks: Ticks) -> Option<Instant> {
        if ticks == Ticks::NEVER {
            return None;
        }
        let wait = ticks
            .0
            .saturating_sub(self.ticks)
            .checked_mul(Ticks::NANOSECONDS)?;
        self.base.checked_add(Duration::from_nanos(wait))
    }

    /// Moves the reading by ticks that passed in the guest but not by this clock: steps of a debugger.
    pub fn skip(&mut self, ticks: u64) {
        self.ticks = self.ticks.saturating_add(ticks);
    }

    /// Forgets what a guest at `guest` owes beyond [`MAX_DEBT`].
    pub fn limit_debt(&mut self, guest: Ticks, now: Instant) {
        let debt = self.allowed(now).0.saturating_sub(guest.0);
        if debt > MAX_DEBT {
            *self = Clock::new(guest.after(MAX_DEBT), now, self.stopped.is_none());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const TICKS_PER_MS: u64 = Ticks::PER_SECOND / 1000;

    #[test]
    fn a_tick_is_allowed_after_its_nanoseconds() {
        let start = Instant::now();
        let clock = Clock::new(Ticks(500), start, true);
        assert_eq!(clock.allowed(start), Ticks(500));
        assert_eq!(clock.allowed(start + MS), Ticks(500 + TICKS_PER_MS));
        assert_eq!(clock.host_time(Ticks(500 + TICKS_PER_MS)), Some(start + MS));
        assert_eq!(clock.host_time(Ticks::NEVER), None);
        assert_eq!(clock.host_time(Ticks(u64::MAX - 1)), None);
    }

    #[test]
    fn time_while_stopped_does_not_count() {
        let start = Instant::now();
        let mut clock = Clock::new(Ticks(0), start, true);
        clock.stop(start + MS);
        clock.stop(start + 5 * MS);
        assert_eq!(clock.allowed(start + 9 * MS), Ticks(TICKS_PER_MS));
        clock.start(start + 10 * MS);
        assert_eq!(clock.allowed(start + 10 * MS), Ticks(TICKS_PER_MS));
        assert_eq!(clock.allowed(start + 11 * MS), Ticks(2 * TICKS_PER_MS));
    }

    #[test]
    fn a_large_debt_is_forgotten_and_a_small_one_kept() {
        let start = Instant::now();
        let mut clock = Clock::new(Ticks(0), start, true);
        clock.limit_debt(Ticks(0), start + 50 * MS);
        assert_eq!(clock.allowed(start + 50 * MS), Ticks(50 * TICKS_PER_MS));
        clock.limit_debt(Ticks(0), start + 1000 * MS);
        assert_eq!(clock.allowed(start + 1000 * MS), Ticks(MAX_DEBT));
    }

    #[test]
    fn steps_of_a_debugger_move_the_clock_along() {
        let start = Instant::now();
        let mut clock = Clock::new(Ticks(0), start, false);
        clock.skip(1234);
        assert_eq!(clock.allowed(start + MS), Ticks(1234));
    }
}
