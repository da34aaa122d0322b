//! Who runs the guest when: pauses, steps, and the hand-over of the guest between its runner and everybody else.
//!
//! The guest sits behind one lock. The runner thread holds it for a slice at a time; a caller who wants it counts
//! itself in `waiters` and raises `interrupt`, which ends the slice within microseconds, and the runner doesn't take
//! the lock again before the callers had it. Callers work on their own thread: a step is a lock and a call.
//! A caller that hogs a running domain gives way to the runner once in a while, for a short slice that can't be
//! interrupted.
//!
//! Locks are taken in this order and never the other way: guest, control, events. No lock is held while subscribers
//! run, and every change is queued as an event under the lock that it is made under, so that events tell the
//! true order.

use super::clock::Clock;
use super::events::EventHub;
use super::guest::{Guest, SERIAL_PORTS};
use super::input::PendingInput;
use super::{lock, runner};
use crate::addr::{DomId, Ticks, VcpuId};
use crate::introspect::{
    CrashReason, DomainState, Error, Event, GuestCrash, ResetCause, Result, StepMode, StepOutcome, StopReason,
};
use crate::machine::{RunExit, RunLimit};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A step of a vCPU that stays halted gives up after so many ticks …
const STEP_TICKS: u64 = 2_000_000;
/// … or this time …
const STEP_TIME: Duration = Duration::from_millis(50);
/// … or so many timer deadlines of an idle guest.
const STEP_DEADLINES: u32 = 64;
/// A long step lets other callers in after this many ticks.
const STEP_CHUNK: u64 = 200_000;
/// A runner that waits for the guest longer than this goes first.
const PATIENCE: Duration = Duration::from_millis(1);

/// How a domain ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Ended {
    Crashed(CrashReason),
    ShutDown,
}

/// All that is known of a domain's running besides the guest itself: what a fork or a saved state takes along.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Condition {
    pub ended: Option<Ended>,
    pub input: PendingInput,
}

/// Run control of one guest.
pub(super) struct RunControl<G> {
    id: DomId,
    pub(super) throttle: bool,
    pub(super) guest: Mutex<G>,
    pub(super) control: Mutex<Control>,
    /// Ends the present run of the guest. Cleared only with the guest locked.
    pub(super) interrupt: AtomicBool,
    /// Callers that wait for the guest.
    pub(super) waiters: AtomicU32,
    /// Since when the runner waits for the guest, in nanoseconds from `birth`; 0 if it doesn't.
    runner_waits: AtomicU64,
    birth: Instant,
    /// The runner ends. Set with `control` locked.
    stop: AtomicBool,
    /// The runner sleeps here.
    pub(super) wake: Condvar,
    /// Callers that let the runner go first sleep here.
    runner_went: Condvar,
    pub(super) events: EventHub,
}

/// The part of run control that is locked for moments only.
pub(super) struct Control {
    pub pauses: u32,
    pub condition: Condition,
    pub destroyed: bool,
    pub clock: Clock,
    /// Something happened that an idle guest's runner must look at.
    pub kick: bool,
    /// What the guest last said of a crash of its own.
    pub guest_crash: Option<GuestCrash>,
    runner: Option<JoinHandle<()>>,
}

impl Control {
    pub fn may_run(&self) -> bool {
        self.pauses == 0 && self.condition.ended.is_none()
    }
}

impl<G: Guest> RunControl<G> {
    /// Takes the guest over, paused once. Its thread starts when it first runs: forks that never do cost none.
    pub fn new(id: DomId, guest: G, condition: Condition, throttle: bool) -> Arc<Self> {
        let now = Instant::now();
        let control = Control {
            pauses: 1,
            condition,
            destroyed: false,
            clock: Clock::new(guest.now(), now, false),
            kick: false,
            guest_crash: None,
            runner: None,
        };
        Arc::new(RunControl {
            id,
            throttle,
            guest: Mutex::new(guest),
            control: Mutex::new(control),
            interrupt: AtomicBool::new(false),
            waiters: AtomicU32::new(0),
            runner_waits: AtomicU64::new(0),
            birth: now,
            stop: AtomicBool::new(false),
            wake: Condvar::new(),
            runner_went: Condvar::new(),
            events: EventHub::default(),
        })
    }

    fn wrong_state(&self, why: impl Into<String>) -> Error {
        Error::WrongState {
            domain: self.id,
            why: why.into(),
        }
    }

    /// The guest, for a caller; interrupts it if it runs.
    pub fn lock_guest(&self) -> MutexGuard<'_, G> {
        let since = self.runner_waits.load(SeqCst);
        if self.is_overdue(since) {
            self.let_runner_go_first(since);
        }
        match self.guest.try_lock() {
            Ok(guest) => return guest,
            Err(TryLockError::Poisoned(e)) => return e.into_inner(),
            Err(TryLockError::WouldBlock) => {}
        }
        self.waiters.fetch_add(1, SeqCst);
        self.interrupt.store(true, SeqCst);
        let guest = lock(&self.guest);
        if self.waiters.fetch_sub(1, SeqCst) == 1 {
            let _control = lock(&self.control);
            self.wake.notify_all();
        }
        guest
    }

    fn let_runner_go_first(&self, since: u64) {
        let control = lock(&self.control);
        let limit = PATIENCE * 5;
        drop(self.runner_went.wait_timeout_while(control, limit, |c| {
            c.may_run() && self.runner_waits.load(SeqCst) == since
        }));
    }

    /// Nanoseconds since `birth`, never 0.
    fn now_ns(&self) -> u64 {
        u64::try_from(self.birth.elapsed().as_nanos())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    /// The runner begins to wait for the guest.
    pub(super) fn runner_waits(&self) {
        if self.runner_waits.load(SeqCst) == 0 {
            self.runner_waits.store(self.now_ns(), SeqCst);
        }
    }

    /// Whether the runner waits for longer than is fair.
    pub(super) fn runner_is_overdue(&self) -> bool {
        self.is_overdue(self.runner_waits.load(SeqCst))
    }

    fn is_overdue(&self, since: u64) -> bool {
        since != 0 && u128::from(self.now_ns().saturating_sub(since)) > PATIENCE.as_nanos()
    }

    /// The runner has the guest, or needs it no more.
    pub(super) fn runner_waits_no_more(&self, _locked: &mut Control) {
        if self.runner_waits.swap(0, SeqCst) != 0 {
            self.runner_went.notify_all();
        }
    }

    pub(super) fn stopping(&self) -> bool {
        self.stop.load(SeqCst)
    }

    pub fn state(&self) -> DomainState {
        let control = lock(&self.control);
        match &control.condition.ended {
            Some(Ended::Crashed(reason)) => DomainState::Crashed(reason.clone()),
            Some(Ended::ShutDown) => DomainState::ShutDown,
            None if control.pauses > 0 => DomainState::Paused(control.pauses),
            None => DomainState::Running,
        }
    }

    pub fn condition(&self) -> Condition {
        lock(&self.control).condition.clone()
    }

    /// Fails while the guest may run. Holding the guest's lock, the answer stays true.
    pub fn check_not_running(&self, what: &str) -> Result<()> {
        if lock(&self.control).may_run() {
            return Err(self.wrong_state(format!("{what} needs the domain paused; pause it first")));
        }
        Ok(())
    }

    /// Fails unless the guest is alive and held: its devices can be spoken to.
    pub fn check_paused(&self, what: &str) -> Result<()> {
        if lock(&self.control).condition.ended.is_some() {
            return Err(self.wrong_state(format!("{what} is no use: it has ended; reset it first")));
        }
        self.check_not_running(what)
    }

    pub fn pause(&self) -> Result<()> {
        {
            let mut control = lock(&self.control);
            control.pauses = control
                .pauses
                .checked_add(1)
                .ok_or_else(|| self.wrong_state("it is paused 2^32 - 1 times already"))?;
            if control.pauses == 1 {
                control.clock.stop(Instant::now());
                self.events.push(Event::Paused(true));
            }
            self.interrupt.store(true, SeqCst);
        }
        // Once the lock was ours, the runner sees the pause before it runs anything.
        drop(self.lock_guest());
        self.events.deliver();
        Ok(())
    }

    pub fn unpause(self: &Arc<Self>) -> Result<()> {
        {
            let mut control = lock(&self.control);
            let left = control
                .pauses
                .checked_sub(1)
                .ok_or_else(|| self.wrong_state("it isn't paused"))?;
            if left == 0 {
                self.start_runner(&mut control)?;
                control.clock.start(Instant::now());
                control.kick = true;
                self.events.push(Event::Paused(false));
                self.wake.notify_all();
            }
            control.pauses = left;
        }
        self.events.deliver();
        Ok(())
    }

    /// Runs one vCPU for one instruction.
    pub fn step(&self, vcpu: VcpuId, mode: StepMode) -> Result<StepOutcome> {
        let started = Instant::now();
        let mut budget = StepBudget {
            ticks: STEP_TICKS,
            deadlines: STEP_DEADLINES,
        };
        let outcome = loop {
            match self.step_some(vcpu, mode, &mut budget) {
                Ok(None) if budget.ticks == 0 || started.elapsed() > STEP_TIME => {
                    break Ok(StepOutcome::Waiting);
                }
                Ok(None) => {}
                Ok(Some(outcome)) => break Ok(outcome),
                Err(e) => break Err(e),
            }
        };
        self.events.deliver();
        outcome
    }

    /// A part of a step, after which others may have the guest.
    fn step_some(
        &self,
        vcpu: VcpuId,
        mode: StepMode,
        budget: &mut StepBudget,
    ) -> Result<Option<StepOutcome>> {
        let mut guest = self.lock_guest();
        self.check_vcpu(&*guest, vcpu)?;
        {
            let control = lock(&self.control);
            if control.condition.ended.is_some() {
                return Err(self.wrong_state("it has ended and can't be stepped; reset it first"));
            }
            if control.pauses == 0 {
                return Err(self.wrong_state("a step needs the domain paused; pause it first"));
            }
        }
        let before = guest.now();
        let limit = RunLimit {
            ticks: budget.ticks.min(STEP_CHUNK),
            step: Some((vcpu, mode)),
        };
        self.interrupt.store(false, SeqCst);
        let exit = guest.run(&limit, &self.interrupt);
        budget.ticks = budget
            .ticks
            .saturating_sub(guest.now().0.saturating_sub(before.0));
        if let RunExit::Idle { until } = exit
            && until != Ticks::NEVER
        {
            guest.advance_idle(until);
            budget.deadlines = budget.deadlines.saturating_sub(1);
        }
        self.drain(&mut guest);
        {
            let mut control = lock(&self.control);
            control.clock.skip(guest.now().0.saturating_sub(before.0));
            control.condition.input.feed(&mut *guest);
        }
        Ok(match exit {
            RunExit::Limit | RunExit::Interrupted => None,
            RunExit::Stepped => Some(StepOutcome::Stepped),
            RunExit::Stopped { vcpu, reason } => Some(StepOutcome::Stopped { vcpu, reason }),
            RunExit::Idle { until } => {
                (until == Ticks::NEVER || budget.deadlines == 0).then_some(StepOutcome::Waiting)
            }
            RunExit::Crashed(reason) => {
                self.crashed(reason.clone());
                Some(StepOutcome::Stopped {
                    vcpu: crash_vcpu(&reason).unwrap_or(vcpu),
                    reason: StopReason::Crashed(reason),
                })
            }
            RunExit::Reset(cause) => {
                self.reset_guest(&mut guest, cause);
                Some(StepOutcome::Ended)
            }
            RunExit::PowerOff => {
                self.shut_down();
                Some(StepOutcome::Ended)
            }
            RunExit::DebugExit(value) => {
                self.events.push(Event::DebugExit(value));
                self.shut_down();
                Some(StepOutcome::Ended)
            }
        })
    }

    /// Fails if the guest has no such vCPU.
    pub fn check_vcpu(&self, guest: &G, vcpu: VcpuId) -> Result<()> {
        let count = guest.vcpu_count();
        if vcpu.0 >= count {
            return Err(Error::NoVcpu {
                domain: self.id,
                vcpu,
                count,
            });
        }
        Ok(())
    }

    /// A reset from outside: whatever state it is in, the guest begins anew.
    pub fn reset(self: &Arc<Self>) -> Result<()> {
        let result = self.reset_locked();
        self.events.deliver();
        result
    }

    fn reset_locked(self: &Arc<Self>) -> Result<()> {
        let mut guest = self.lock_guest();
        if lock(&self.control).destroyed {
            return Err(self.wrong_state("it is destroyed or its engine failed; create it again"));
        }
        self.drain(&mut guest);
        self.reset_guest(&mut guest, ResetCause::Operator);
        let mut control = lock(&self.control);
        control.kick = true;
        self.wake.notify_all();
        if control.pauses == 0 {
            self.start_runner(&mut control)?;
        }
        Ok(())
    }

    /// Ends the domain for good.
    pub fn destroy(&self) {
        {
            let mut control = lock(&self.control);
            control.destroyed = true;
            self.tell_runner_to_stop();
        }
        {
            let mut guest = self.lock_guest();
            self.drain(&mut guest);
            self.shut_down();
        }
        self.events.close();
        self.join_runner();
        self.events.deliver();
    }

    /// Ends the runner; the guest stays as it is.
    pub fn retire(&self) {
        {
            let _control = lock(&self.control);
            self.tell_runner_to_stop();
        }
        self.events.close();
        self.join_runner();
    }

    /// With `control` locked.
    fn tell_runner_to_stop(&self) {
        self.stop.store(true, SeqCst);
        self.interrupt.store(true, SeqCst);
        self.wake.notify_all();
    }

    fn join_runner(&self) {
        let runner = lock(&self.control).runner.take();
        if let Some(runner) = runner
            && runner.thread().id() != std::thread::current().id()
            && runner.join().is_err()
        {
            tracing::error!(domain = %self.id, "the domain's runner panicked");
        }
    }

    /// Starts the thread that runs the guest, if there is none and the guest lives.
    fn start_runner(self: &Arc<Self>, control: &mut Control) -> Result<()> {
        if control.condition.ended.is_some() || control.runner.is_some() || self.stopping() {
            return Ok(());
        }
        let this = Arc::clone(self);
        let runner = std::thread::Builder::new()
            .name(format!("domain-{}", self.id))
            .spawn(move || runner::run(&this))
            .map_err(|e| self.wrong_state(format!("no thread can be started to run it: {e}")))?;
        control.runner = Some(runner);
        Ok(())
    }

    pub fn console_input(&self, port: usize, bytes: &[u8]) {
        let mut control = lock(&self.control);
        control.condition.input.push(port, bytes);
        control.kick = true;
        self.interrupt.store(true, SeqCst);
        self.wake.notify_all();
    }

    /// Tells what the guest wrote and said, and which vCPUs came up. With the guest locked, and nothing else.
    pub(super) fn drain(&self, guest: &mut G) {
        for vcpu in guest.take_vcpu_up() {
            self.events.push(Event::VcpuUp(vcpu));
        }
        for crash in guest.take_guest_crashes() {
            lock(&self.control).guest_crash = Some(crash.clone());
            self.events.push(Event::GuestCrash(crash));
        }
        for port in 0..SERIAL_PORTS {
            let bytes = guest.take_console_output(port);
            if !bytes.is_empty() {
                self.events.push(Event::Console { port, bytes });
            }
        }
    }

    /// The domain stopped by itself: it holds a pause for that. With the guest locked, as the next ones.
    pub(super) fn stopped(&self, vcpu: VcpuId, reason: StopReason) {
        let mut control = lock(&self.control);
        control.pauses = control.pauses.saturating_add(1);
        self.events.push(Event::Stopped { vcpu, reason });
        if control.pauses == 1 {
            control.clock.stop(Instant::now());
            self.events.push(Event::Paused(true));
        }
    }

    pub(super) fn crashed(&self, reason: CrashReason) {
        let mut control = lock(&self.control);
        control.condition.ended = Some(Ended::Crashed(reason.clone()));
        self.events.push(Event::Crashed(reason));
    }

    pub(super) fn shut_down(&self) {
        let mut control = lock(&self.control);
        if control.condition.ended.replace(Ended::ShutDown) != Some(Ended::ShutDown) {
            self.events.push(Event::ShutDown);
        }
    }

    /// The engine failed: nothing can be trusted to run any more.
    pub(super) fn failed(&self) {
        let mut guest = self.lock_guest();
        self.drain(&mut guest);
        {
            let mut control = lock(&self.control);
            control.destroyed = true;
            self.runner_waits_no_more(&mut control);
        }
        self.shut_down();
    }

    /// The guest begins anew, in any state.
    pub(super) fn reset_guest(&self, guest: &mut G, cause: ResetCause) {
        guest.reset();
        let mut control = lock(&self.control);
        control.condition = Condition::default();
        control.guest_crash = None;
        control.clock = Clock::new(guest.now(), Instant::now(), control.pauses == 0);
        self.events.push(Event::Reset(cause));
    }
}

struct StepBudget {
    ticks: u64,
    deadlines: u32,
}

fn crash_vcpu(reason: &CrashReason) -> Option<VcpuId> {
    match reason {
        CrashReason::TripleFault { vcpu, .. } => Some(*vcpu),
        CrashReason::HaltedForever | CrashReason::Panic => None,
    }
}
