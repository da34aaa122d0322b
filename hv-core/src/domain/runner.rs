//! The thread that runs a domain's guest while nothing holds it.
//!
//! ```text
//!        ┌──────────────┐ paused, ended, callers waiting, ahead of host time: sleeps
//!   ┌───►│ wait for turn│
//!   │    └──────┬───────┘
//!   │           ▼ guest locked
//!   │    run one slice ─► console output, vCPUs up, stops … queued as events
//!   │           │         console input fed, virtual time moved if every vCPU is halted
//!   │           ▼ guest unlocked
//!   │    deliver events
//!   │           ▼
//!   └──── nap, if every vCPU is halted: to its deadline, or until input comes
//! ```
//!
//! Host time only holds the guest back: it decides how long the runner sleeps and, while every vCPU is halted, at
//! which virtual time input arrives. It is never shown to the guest.

use super::guest::Guest;
use super::lock;
use super::run_control::RunControl;
use crate::addr::Ticks;
use crate::introspect::Event;
use crate::machine::{RunExit, RunLimit};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// Ticks in a slice: 5 ms at the nominal speed, so that console output is seen promptly.
const SLICE: u64 = Ticks::PER_SECOND / 200;
/// Ticks in a slice while input waits for room in a serial port, and in one that can't be interrupted.
const SHORT_SLICE: u64 = Ticks::PER_SECOND / 5000;
/// How far a busy guest may be ahead of host time: 20 ms.
const MAX_LEAD: u64 = Ticks::PER_SECOND / 50;
/// A sleep that nobody but another thread ends.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// The body of the runner thread. A panic in the engine ends the domain and not the service.
pub(super) fn run<G: Guest>(control: &RunControl<G>) {
    let runner = Runner {
        shared: control,
        idle_at: None,
        hold: None,
        nap: Nap::No,
    };
    if catch_unwind(AssertUnwindSafe(|| runner.run())).is_err() {
        control.failed();
        control.events.deliver();
    }
}

struct Runner<'a, G> {
    shared: &'a RunControl<G>,
    /// The virtual time at which every vCPU was halted, while that is so.
    idle_at: Option<Ticks>,
    /// Host time before which the guest, which ran ahead, is not run.
    hold: Option<Instant>,
    /// What to sleep for before the next turn.
    nap: Nap,
}

/// A sleep that a kick ends.
#[derive(Clone, Copy)]
enum Nap {
    No,
    Until(Instant),
    UntilKicked,
}

impl<G: Guest> Runner<'_, G> {
    fn run(mut self) {
        while self.wait_for_turn() {
            self.take_turn();
            self.shared.events.deliver_or_wait(|| self.shared.stopping());
        }
    }

    /// Sleeps until the guest may run; false when the thread is to end.
    fn wait_for_turn(&mut self) -> bool {
        let shared = self.shared;
        let mut control = lock(&shared.control);
        loop {
            if shared.stopping() {
                shared.runner_waits_no_more(&mut control);
                return false;
            }
            let sleep = if !control.may_run() {
                shared.runner_waits_no_more(&mut control);
                FOR_EVER
            } else if let Some(left) = self.hold.and_then(time_left) {
                left
            } else if let Some(left) = self.nap_left(control.kick) {
                left
            } else {
                shared.runner_waits();
                if shared.waiters.load(SeqCst) == 0 || shared.runner_is_overdue() {
                    control.kick = false;
                    self.hold = None;
                    self.nap = Nap::No;
                    return true;
                }
                // Woken when the callers have the guest; the limit is for when they don't let go of it.
                Duration::from_millis(1)
            };
            let woken = shared.wake.wait_timeout(control, sleep);
            (control, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn nap_left(&self, kicked: bool) -> Option<Duration> {
        match self.nap {
            _ if kicked => None,
            Nap::No => None,
            Nap::Until(deadline) => time_left(deadline),
            Nap::UntilKicked => Some(FOR_EVER),
        }
    }

    fn take_turn(&mut self) {
        let shared = self.shared;
        let mut guest = lock(&shared.guest);
        let overdue = shared.runner_is_overdue();
        // Whoever pauses or waits from here on raises the flag again; who did before is seen below.
        shared.interrupt.store(false, SeqCst);
        let ticks = {
            let mut control = lock(&shared.control);
            let called_off = !control.may_run() || shared.stopping();
            if !called_off && !overdue && shared.waiters.load(SeqCst) > 0 {
                return; // and still waits, so that it is overdue one day
            }
            shared.runner_waits_no_more(&mut control);
            let lead = guest
                .now()
                .0
                .saturating_sub(control.clock.allowed(Instant::now()).0);
            if shared.throttle && lead > MAX_LEAD {
                self.hold = control.clock.host_time(guest.now());
            }
            if called_off || self.hold.is_some() {
                return;
            }
            if overdue || !control.condition.input.is_empty() {
                SHORT_SLICE
            } else {
                SLICE
            }
        };
        let limit = RunLimit { ticks, step: None };
        let undisturbed = AtomicBool::new(false);
        let exit = guest.run(&limit, if overdue { &undisturbed } else { &shared.interrupt });
        shared.drain(&mut guest);
        match exit {
            RunExit::Limit | RunExit::Interrupted | RunExit::Stepped => self.ran(&mut guest),
            RunExit::Idle { until } => self.idle(&mut guest, until),
            RunExit::Stopped { vcpu, reason } => {
                self.idle_at = None;
                shared.stopped(vcpu, reason);
            }
            RunExit::Crashed(reason) => shared.crashed(reason),
            RunExit::Reset(cause) => {
                self.idle_at = None;
                shared.reset_guest(&mut guest, cause);
            }
            RunExit::PowerOff => shared.shut_down(),
            RunExit::DebugExit(value) => {
                shared.events.push(Event::DebugExit(value));
                shared.shut_down();
            }
        }
    }

    /// After a slice of instructions.
    fn ran(&mut self, guest: &mut G) {
        let mut control = lock(&self.shared.control);
        let at = guest.now();
        // A run that ended before it began says nothing: an idle guest is still owed the time that it slept.
        if self.idle_at != Some(at) {
            self.idle_at = None;
            control.clock.limit_debt(at, Instant::now());
            control.condition.input.feed(guest);
        }
    }

    /// Every vCPU is halted, until the timer at `until` or input.
    fn idle(&mut self, guest: &mut G, until: Ticks) {
        let mut control = lock(&self.shared.control);
        let now = Instant::now();
        let allowed = if self.shared.throttle {
            control.clock.allowed(now)
        } else if control.condition.input.feed(guest) > 0 {
            return;
        } else if until == Ticks::NEVER {
            guest.now()
        } else {
            until
        };
        if until <= allowed && until != Ticks::NEVER {
            guest.advance_idle(until);
            control.clock.limit_debt(guest.now(), now);
            self.idle_at = None;
            return;
        }
        if self.shared.throttle && !control.condition.input.is_empty() {
            if allowed > guest.now() {
                guest.advance_idle(allowed);
            }
            if control.condition.input.feed(guest) > 0 {
                self.idle_at = None;
                return;
            }
        }
        self.idle_at = Some(guest.now());
        self.nap = match control.clock.host_time(until) {
            Some(deadline) if self.shared.throttle => Nap::Until(deadline),
            _ => Nap::UntilKicked,
        };
    }
}

fn time_left(deadline: Instant) -> Option<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    (!left.is_zero()).then_some(left)
}
