//! The local APIC's timer: one-shot, periodic and TSC-deadline (SDM vol. 3A 11.5.4).
//!
//! Its input clock runs at the TSC's rate, which CPUID leaf 15H reports as the crystal's. Nothing counts here: a
//! running timer is a start time, and every count is computed from the time of the question.

use crate::addr::Ticks;
use serde::{Deserialize, Serialize};

/// LVT timer register bits 18:17.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum TimerMode {
    /// Counts down once.
    OneShot,
    /// Reloads the initial count.
    Periodic,
    /// Fires when the TSC reaches IA32_TSC_DEADLINE.
    TscDeadline,
}

/// The timer's counting part; its LVT entry belongs to the APIC.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct ApicTimer {
    /// Input clock cycles in one tick.
    clocks_per_tick: u64,
    mode: TimerMode,
    /// The divide configuration register.
    divide: u32,
    initial_count: u32,
    running: bool,
    /// The input clock when `count_at_start` was the count.
    start: u64,
    count_at_start: u32,
    /// IA32_TSC_DEADLINE; 0 is disarmed.
    tsc_deadline: u64,
}

impl ApicTimer {
    pub(super) fn new(clocks_per_tick: u64) -> Self {
        ApicTimer {
            clocks_per_tick: clocks_per_tick.max(1),
            mode: TimerMode::OneShot,
            divide: 0,
            initial_count: 0,
            running: false,
            start: 0,
            count_at_start: 0,
            tsc_deadline: 0,
        }
    }

    pub(super) fn clocks_per_tick(&self) -> u64 {
        self.clocks_per_tick
    }

    fn clock(&self, now: Ticks) -> u64 {
        now.0.saturating_mul(self.clocks_per_tick)
    }

    /// SDM vol. 3A figure 11-10: bits 3, 1 and 0 select 2, 4 .. 128, and 1 for all ones.
    fn divisor(&self) -> u64 {
        let selector = (self.divide & 3) | (self.divide >> 1 & 4);
        1 << ((selector + 1) & 7)
    }

    pub(super) fn mode(&self) -> TimerMode {
        self.mode
    }

    /// Takes the mode of a written LVT entry. Going into or out of TSC-deadline mode disarms the timer.
    pub(super) fn set_mode(&mut self, mode: TimerMode) {
        if (self.mode == TimerMode::TscDeadline) != (mode == TimerMode::TscDeadline) {
            self.running = false;
            self.initial_count = 0;
            self.tsc_deadline = 0;
        }
        self.mode = mode;
    }

    pub(super) fn divide(&self) -> u32 {
        self.divide
    }

    /// Changes the divide register; a running count goes on at the new rate.
    pub(super) fn set_divide(&mut self, now: Ticks, value: u32) {
        let count = self.current_count(now);
        self.divide = value & 0b1011;
        if self.running {
            self.count_at_start = count;
            self.start = self.clock(now);
        }
    }

    pub(super) fn initial_count(&self) -> u32 {
        self.initial_count
    }

    /// Starts the count; 0 stops it. Ignored in TSC-deadline mode.
    pub(super) fn set_initial_count(&mut self, now: Ticks, value: u32) {
        if self.mode == TimerMode::TscDeadline {
            return;
        }
        self.initial_count = value;
        self.count_at_start = value;
        self.start = self.clock(now);
        self.running = value != 0;
    }

    /// The current-count register at `now`.
    pub(super) fn current_count(&self, now: Ticks) -> u32 {
        if !self.running || self.mode == TimerMode::TscDeadline {
            return 0;
        }
        let elapsed = self.clock(now).saturating_sub(self.start) / self.divisor();
        match u64::from(self.count_at_start).checked_sub(elapsed) {
            Some(left) if left > 0 => left as u32,
            _ if self.mode == TimerMode::Periodic => {
                let period = u64::from(self.initial_count.max(1));
                let over = (elapsed - u64::from(self.count_at_start)) % period;
                (period - over) as u32
            }
            _ => 0,
        }
    }

    pub(super) fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline
    }

    /// Arms or (with 0) disarms the deadline. Ignored outside TSC-deadline mode.
    pub(super) fn set_tsc_deadline(&mut self, value: u64) {
        if self.mode == TimerMode::TscDeadline {
            self.tsc_deadline = value;
        }
    }

    /// Input clock cycles from `start` to the expiry.
    fn cycles_to_expiry(&self) -> u64 {
        u64::from(self.count_at_start) * self.divisor()
    }

    /// The tick at which the timer expires next.
    pub(super) fn next_expiry(&self) -> Ticks {
        let clock = match self.mode {
            TimerMode::TscDeadline if self.tsc_deadline == 0 => return Ticks::NEVER,
            TimerMode::TscDeadline => self.tsc_deadline,
            _ if !self.running => return Ticks::NEVER,
            _ => self.start.saturating_add(self.cycles_to_expiry()),
        };
        Ticks(clock.div_ceil(self.clocks_per_tick))
    }

    /// Lets the timer expire if it was due by `now`. A periodic timer that was due several times expires once and
    /// keeps its phase.
    pub(super) fn expire(&mut self, now: Ticks) -> bool {
        let clock = self.clock(now);
        if self.mode == TimerMode::TscDeadline {
            let due = self.tsc_deadline != 0 && clock >= self.tsc_deadline;
            if due {
                self.tsc_deadline = 0;
            }
            return due;
        }
        if !self.running {
            return false;
        }
        let Some(over) = clock
            .saturating_sub(self.start)
            .checked_sub(self.cycles_to_expiry())
        else {
            return false;
        };
        if self.mode == TimerMode::Periodic {
            let period = u64::from(self.initial_count.max(1)) * self.divisor();
            self.start = clock - over % period;
            self.count_at_start = self.initial_count;
        } else {
            self.running = false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A timer at 10 clocks a tick, divided by 1.
    fn timer() -> ApicTimer {
        let mut timer = ApicTimer::new(10);
        timer.set_divide(Ticks(0), 0b1011);
        timer
    }

    #[test]
    fn the_divide_register_selects_1_to_128() {
        let mut timer = timer();
        for (register, divisor) in [
            (0, 2),
            (1, 4),
            (2, 8),
            (3, 16),
            (8, 32),
            (9, 64),
            (10, 128),
            (11, 1),
            (0xf4, 2),
        ] {
            timer.set_divide(Ticks(0), register);
            assert_eq!(timer.divisor(), divisor);
        }
    }

    #[test]
    fn a_one_shot_expires_at_the_first_tick_past_its_count_and_stays_at_zero() {
        let mut timer = timer();
        timer.set_initial_count(Ticks(100), 1001);
        assert_eq!(timer.next_expiry(), Ticks(201));
        assert_eq!(timer.current_count(Ticks(100)), 1001);
        assert_eq!(timer.current_count(Ticks(200)), 1);
        assert!(!timer.expire(Ticks(200)));
        assert!(timer.expire(Ticks(201)));
        assert_eq!(timer.current_count(Ticks(202)), 0);
        assert_eq!(timer.next_expiry(), Ticks::NEVER);
    }

    #[test]
    fn a_periodic_timer_keeps_its_phase_when_served_late() {
        let mut timer = timer();
        timer.set_mode(TimerMode::Periodic);
        timer.set_initial_count(Ticks(7), 1000);
        assert_eq!(timer.next_expiry(), Ticks(107));
        assert!(timer.expire(Ticks(431)));
        assert!(!timer.expire(Ticks(431)));
        assert_eq!(timer.next_expiry(), Ticks(507));
        assert_eq!(timer.current_count(Ticks(431)), 760);
    }

    #[test]
    fn a_period_shorter_than_a_tick_moves_to_the_next_tick() {
        let mut timer = timer();
        timer.set_mode(TimerMode::Periodic);
        timer.set_initial_count(Ticks(0), 3);
        assert_eq!(timer.next_expiry(), Ticks(1));
        assert!(timer.expire(Ticks(1)));
        assert_eq!(timer.next_expiry(), Ticks(2));
    }

    #[test]
    fn a_tsc_deadline_fires_once_and_reads_zero_after() {
        let mut timer = timer();
        timer.set_tsc_deadline(5);
        assert_eq!(timer.tsc_deadline(), 0, "ignored outside its mode");
        timer.set_mode(TimerMode::TscDeadline);
        timer.set_tsc_deadline(12_345);
        timer.set_initial_count(Ticks(0), 5);
        assert_eq!(timer.next_expiry(), Ticks(1235));
        assert!(!timer.expire(Ticks(1234)));
        assert!(timer.expire(Ticks(1235)));
        assert_eq!(timer.tsc_deadline(), 0);
        timer.set_tsc_deadline(1);
        timer.set_mode(TimerMode::OneShot);
        assert_eq!(timer.next_expiry(), Ticks::NEVER, "leaving the mode disarms");
    }
}
