//! Run control with a scripted guest: claims about pauses, hand-over, events and time that need no machine.

use super::guest::Guest;
use super::lock;
use super::run_control::{Condition, RunControl};
use crate::addr::{DomId, Ticks, VcpuId};
use crate::introspect::{
    CrashReason, DomainState, Error, Event, ResetCause, StepMode, StepOutcome, StopReason,
};
use crate::machine::{RunExit, RunLimit};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Longer than anything here takes on the slowest machine.
const LIMIT: Duration = Duration::from_secs(30);
const VCPU: VcpuId = VcpuId(0);
const PORT: ResetCause = ResetCause::Port(0xcf9);

type Script = Box<dyn FnMut(&mut Scripted, &RunLimit, &AtomicBool) -> RunExit + Send>;

/// A guest whose runs are a closure.
#[derive(Default)]
struct Scripted {
    now: u64,
    runs: u64,
    resets: u64,
    output: Vec<u8>,
    input: Vec<u8>,
    input_times: Vec<u64>,
    fifo: usize,
    script: Option<Script>,
}

impl Guest for Scripted {
    fn run(&mut self, limit: &RunLimit, interrupt: &AtomicBool) -> RunExit {
        self.runs += 1;
        let Some(mut script) = self.script.take() else {
            return RunExit::PowerOff;
        };
        let exit = script(self, limit, interrupt);
        self.script = Some(script);
        exit
    }
    fn advance_idle(&mut self, to: Ticks) {
        assert!(to.0 >= self.now && to != Ticks::NEVER);
        self.now = to.0;
    }
    fn now(&self) -> Ticks {
        Ticks(self.now)
    }
    fn vcpu_count(&self) -> u32 {
        1
    }
    fn console_input(&mut self, port: usize, bytes: &[u8]) -> usize {
        assert_eq!(port, 0);
        let taken = bytes.len().min(self.fifo);
        self.fifo -= taken;
        self.input.extend_from_slice(&bytes[..taken]);
        self.input_times.push(self.now);
        taken
    }
    fn take_console_output(&mut self, port: usize) -> Vec<u8> {
        if port == 0 {
            std::mem::take(&mut self.output)
        } else {
            Vec::new()
        }
    }
    fn take_vcpu_up(&mut self) -> Vec<VcpuId> {
        Vec::new()
    }
    fn reset(&mut self) {
        self.resets += 1;
        self.now = 0;
    }
}

/// Computes until the limit or an interrupt.
fn busy(guest: &mut Scripted, limit: &RunLimit, interrupt: &AtomicBool) -> RunExit {
    let end = guest.now + limit.ticks;
    while guest.now < end {
        if interrupt.load(SeqCst) {
            return RunExit::Interrupted;
        }
        guest.now += 100;
        std::hint::spin_loop();
    }
    RunExit::Limit
}

/// Plays the exits one after the other, each after 1000 ticks, then computes for ever.
fn exits(mut exits: Vec<RunExit>) -> impl FnMut(&mut Scripted, &RunLimit, &AtomicBool) -> RunExit + Send {
    exits.reverse();
    move |guest, limit, interrupt| match exits.pop() {
        Some(exit) => {
            guest.now += 1000;
            exit
        }
        None => busy(guest, limit, interrupt),
    }
}

fn domain_with(
    throttle: bool,
    script: impl FnMut(&mut Scripted, &RunLimit, &AtomicBool) -> RunExit + Send + 'static,
) -> Arc<RunControl<Scripted>> {
    let guest = Scripted {
        script: Some(Box::new(script)),
        fifo: 16,
        ..Scripted::default()
    };
    RunControl::new(DomId(1), guest, Condition::default(), throttle)
}

fn domain(
    script: impl FnMut(&mut Scripted, &RunLimit, &AtomicBool) -> RunExit + Send + 'static,
) -> Arc<RunControl<Scripted>> {
    domain_with(false, script)
}

fn listen(domain: &RunControl<Scripted>) -> Receiver<Event> {
    let (sender, receiver) = channel();
    let sender = std::sync::Mutex::new(sender);
    domain
        .events
        .subscribe(Box::new(move |event| drop(lock(&sender).send(event.clone()))));
    receiver
}

fn next(events: &Receiver<Event>) -> Event {
    events.recv_timeout(LIMIT).expect("an event")
}

/// Waits until the guest is in a state; looking at it is itself an interruption.
fn wait_for(domain: &RunControl<Scripted>, what: impl Fn(&Scripted) -> bool) {
    let start = Instant::now();
    while !what(&domain.lock_guest()) {
        assert!(start.elapsed() < LIMIT, "the guest never got there");
        std::thread::yield_now();
    }
}

struct Retire(Arc<RunControl<Scripted>>);

impl Drop for Retire {
    fn drop(&mut self) {
        self.0.retire();
    }
}

#[test]
fn pauses_count_and_nothing_runs_while_one_is_held() {
    let domain = domain(busy);
    let _retire = Retire(Arc::clone(&domain));
    domain.unpause().expect("unpause");
    wait_for(&domain, |g| g.now > 0);
    domain.pause().expect("pause");
    domain.pause().expect("pause");
    let at = domain.lock_guest().now;
    domain.unpause().expect("unpause");
    assert_eq!(domain.state(), DomainState::Paused(1));
    assert_eq!(domain.lock_guest().now, at);
    domain.unpause().expect("unpause");
    assert_eq!(domain.state(), DomainState::Running);
    wait_for(&domain, |g| g.now > at);
    assert!(matches!(domain.unpause(), Err(Error::WrongState { .. })));
}

#[test]
fn callers_that_never_leave_off_do_not_starve_the_guest() {
    let domain = domain(busy);
    let _retire = Retire(Arc::clone(&domain));
    domain.unpause().expect("unpause");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| wait_for(&domain, |g| g.now > 1_000_000));
        }
    });
}

#[test]
fn a_stop_holds_a_pause_and_tells_why_before_it_tells_that() {
    let reason = StopReason::Crashed(CrashReason::Panic);
    let domain = domain(exits(vec![RunExit::Stopped {
        vcpu: VCPU,
        reason: reason.clone(),
    }]));
    let _retire = Retire(Arc::clone(&domain));
    let events = listen(&domain);
    domain.unpause().expect("unpause");
    assert_eq!(next(&events), Event::Paused(false));
    assert_eq!(next(&events), Event::Stopped { vcpu: VCPU, reason });
    assert_eq!(next(&events), Event::Paused(true));
    assert_eq!(domain.state(), DomainState::Paused(1));
    assert_eq!(domain.lock_guest().now, 1000);
    domain.unpause().expect("unpause");
    wait_for(&domain, |g| g.now > 1000);
}

#[test]
fn console_output_comes_before_the_exit_that_followed_it() {
    let domain = domain(|guest: &mut Scripted, _: &RunLimit, _: &AtomicBool| {
        guest.output.extend_from_slice(b"bye");
        RunExit::PowerOff
    });
    let _retire = Retire(Arc::clone(&domain));
    let events = listen(&domain);
    domain.unpause().expect("unpause");
    assert_eq!(next(&events), Event::Paused(false));
    let bytes = b"bye".to_vec();
    assert_eq!(next(&events), Event::Console { port: 0, bytes });
    assert_eq!(next(&events), Event::ShutDown);
    assert_eq!(domain.state(), DomainState::ShutDown);
}

#[test]
fn a_crashed_guest_stays_until_it_is_reset() {
    let crash = CrashReason::HaltedForever;
    let domain = domain(exits(vec![RunExit::Crashed(crash.clone())]));
    let _retire = Retire(Arc::clone(&domain));
    let events = listen(&domain);
    domain.unpause().expect("unpause");
    assert_eq!(next(&events), Event::Paused(false));
    assert_eq!(next(&events), Event::Crashed(crash.clone()));
    assert_eq!(domain.state(), DomainState::Crashed(crash));
    domain.pause().expect("pause");
    assert!(domain.step(VCPU, StepMode::Schedule).is_err());
    domain.unpause().expect("unpause");
    domain.reset().expect("reset");
    assert_eq!(domain.state(), DomainState::Running);
    wait_for(&domain, |g| g.resets == 1 && g.now > 0);
}

#[test]
fn a_guest_that_asks_for_a_reset_gets_it_and_one_that_exits_says_its_word() {
    let domain = domain(exits(vec![RunExit::Reset(PORT), RunExit::DebugExit(7)]));
    let _retire = Retire(Arc::clone(&domain));
    let events = listen(&domain);
    domain.unpause().expect("unpause");
    assert_eq!(next(&events), Event::Paused(false));
    assert_eq!(next(&events), Event::Reset(PORT));
    assert_eq!(next(&events), Event::DebugExit(7));
    assert_eq!(next(&events), Event::ShutDown);
    assert_eq!(domain.lock_guest().resets, 1);
}

#[test]
fn an_idle_guest_is_not_polled_and_wakes_for_input() {
    let domain = domain_with(true, |guest: &mut Scripted, _: &RunLimit, _: &AtomicBool| {
        if guest.input.is_empty() {
            return RunExit::Idle { until: Ticks::NEVER };
        }
        RunExit::PowerOff
    });
    let _retire = Retire(Arc::clone(&domain));
    let events = listen(&domain);
    domain.unpause().expect("unpause");
    assert_eq!(next(&events), Event::Paused(false));
    wait_for(&domain, |g| g.runs > 0);
    assert!(events.recv_timeout(Duration::from_millis(50)).is_err());
    assert!(domain.lock_guest().runs < 3);
    domain.console_input(0, b"x");
    assert_eq!(next(&events), Event::ShutDown);
    assert_eq!(domain.lock_guest().input, b"x");
}

#[test]
fn a_sleeping_guest_is_never_ahead_of_host_time() {
    const DEADLINE: u64 = Ticks::PER_SECOND / 50; // 20 ms
    let domain = domain_with(true, |guest: &mut Scripted, _: &RunLimit, _: &AtomicBool| {
        if guest.now < DEADLINE {
            let until = Ticks(DEADLINE);
            return RunExit::Idle { until };
        }
        RunExit::PowerOff
    });
    let _retire = Retire(Arc::clone(&domain));
    let events = listen(&domain);
    let start = Instant::now();
    domain.unpause().expect("unpause");
    assert_eq!(next(&events), Event::Paused(false));
    // Pauses in between lengthen the sleep and don't restart it.
    domain.pause().expect("pause");
    domain.unpause().expect("unpause");
    assert_eq!(next(&events), Event::Paused(true));
    assert_eq!(next(&events), Event::Paused(false));
    assert_eq!(next(&events), Event::ShutDown);
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert_eq!(domain.lock_guest().now, DEADLINE);
}

#[test]
fn without_throttle_a_deadline_is_reached_at_once() {
    let hour = Ticks(Ticks::PER_SECOND * 3600);
    let domain = domain(exits(vec![RunExit::Idle { until: hour }, RunExit::PowerOff]));
    let _retire = Retire(Arc::clone(&domain));
    let events = listen(&domain);
    domain.unpause().expect("unpause");
    assert_eq!(next(&events), Event::Paused(false));
    assert_eq!(next(&events), Event::ShutDown);
    assert_eq!(domain.lock_guest().now, hour.0 + 1000);
}

#[test]
fn a_busy_guest_is_held_back_to_host_time() {
    const END: u64 = Ticks::PER_SECOND / 10; // 100 ms of guest time in no host time at all
    let domain = domain_with(true, |guest: &mut Scripted, limit: &RunLimit, _: &AtomicBool| {
        guest.now += limit.ticks;
        if guest.now >= END {
            RunExit::PowerOff
        } else {
            RunExit::Limit
        }
    });
    let _retire = Retire(Arc::clone(&domain));
    let events = listen(&domain);
    let start = Instant::now();
    domain.unpause().expect("unpause");
    assert_eq!(next(&events), Event::Paused(false));
    assert_eq!(next(&events), Event::ShutDown);
    assert!(start.elapsed() >= Duration::from_millis(70));
}

#[test]
fn input_longer_than_the_fifo_arrives_whole_and_in_order() {
    let domain = domain(|guest: &mut Scripted, limit: &RunLimit, interrupt: &AtomicBool| {
        guest.fifo = 16;
        busy(guest, limit, interrupt)
    });
    let _retire = Retire(Arc::clone(&domain));
    domain.unpause().expect("unpause");
    let text: Vec<u8> = (0..1000u32).map(|n| n as u8).collect();
    domain.console_input(0, &text[..300]);
    domain.console_input(0, &text[300..]);
    domain.console_input(9, b"no such port");
    wait_for(&domain, |g| g.input.len() == text.len());
    let guest = domain.lock_guest();
    assert_eq!(guest.input, text);
    assert!(guest.input_times.is_sorted());
}

#[test]
fn a_step_wants_a_paused_domain_and_a_vcpu_that_is_there() {
    let domain = domain(exits(vec![
        RunExit::Stepped,
        RunExit::Interrupted,
        RunExit::Stepped,
    ]));
    let _retire = Retire(Arc::clone(&domain));
    let step = |vcpu| domain.step(VcpuId(vcpu), StepMode::Alone);
    assert_eq!(step(0), Ok(StepOutcome::Stepped));
    assert_eq!(step(0), Ok(StepOutcome::Stepped));
    assert!(matches!(step(1), Err(Error::NoVcpu { count: 1, .. })));
    domain.unpause().expect("unpause");
    assert!(matches!(step(0), Err(Error::WrongState { .. })));
}

#[test]
fn a_step_of_a_halted_vcpu_skips_to_the_timer_and_gives_up_where_there_is_none() {
    let timer = Ticks(Ticks::PER_SECOND);
    let idle = |until| RunExit::Idle { until };
    let script = vec![idle(Ticks::NEVER), idle(timer), RunExit::Stepped];
    let domain = domain_with(true, exits(script));
    let start = Instant::now();
    let step = || domain.step(VCPU, StepMode::Schedule);
    assert_eq!(step(), Ok(StepOutcome::Waiting));
    assert_eq!(step(), Ok(StepOutcome::Stepped));
    assert_eq!(domain.lock_guest().now, timer.0 + 1000);
    assert!(start.elapsed() < LIMIT);
}

#[test]
fn a_step_that_never_ends_is_waiting() {
    let domain = domain(busy);
    assert_eq!(domain.step(VCPU, StepMode::Schedule), Ok(StepOutcome::Waiting));
}

#[test]
fn a_step_that_ends_the_guest_says_so() {
    let crash = CrashReason::Panic;
    let domain = domain(exits(vec![RunExit::Reset(PORT), RunExit::Crashed(crash.clone())]));
    let events = listen(&domain);
    assert_eq!(domain.step(VCPU, StepMode::Schedule), Ok(StepOutcome::Ended));
    assert_eq!(next(&events), Event::Reset(PORT));
    let reason = StopReason::Crashed(crash.clone());
    let stopped = StepOutcome::Stopped { vcpu: VCPU, reason };
    assert_eq!(domain.step(VCPU, StepMode::Schedule), Ok(stopped));
    assert_eq!(next(&events), Event::Crashed(crash));
}

#[test]
fn a_subscriber_may_control_the_domain_and_even_destroy_it() {
    let domain = domain(exits(vec![RunExit::Reset(PORT)]));
    let weak: Weak<RunControl<Scripted>> = Arc::downgrade(&domain);
    domain.events.subscribe(Box::new(move |event| {
        if let (Event::Reset(_), Some(domain)) = (event, weak.upgrade()) {
            domain.pause().expect("pause");
            domain.destroy();
        }
    }));
    let events = listen(&domain);
    domain.unpause().expect("unpause");
    assert_eq!(next(&events), Event::Paused(false));
    assert_eq!(next(&events), Event::Reset(PORT));
    assert_eq!(next(&events), Event::Paused(true));
    assert_eq!(next(&events), Event::ShutDown);
    // After the last event the sink is let go.
    assert!(
        events
            .recv_timeout(LIMIT)
            .is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Disconnected)
    );
    assert!(domain.reset().is_err());
}

#[test]
fn a_failure_of_the_engine_ends_the_domain_and_its_state_can_be_read() {
    let domain = domain(|guest: &mut Scripted, _: &RunLimit, _: &AtomicBool| {
        guest.now = 5;
        std::panic::resume_unwind(Box::new("engine"))
    });
    let _retire = Retire(Arc::clone(&domain));
    let events = listen(&domain);
    domain.unpause().expect("unpause");
    assert_eq!(next(&events), Event::Paused(false));
    assert_eq!(next(&events), Event::ShutDown);
    assert_eq!(domain.lock_guest().now, 5);
    assert!(domain.reset().is_err());
}

#[test]
fn destroying_a_running_domain_ends_its_thread() {
    let domain = domain(busy);
    domain.unpause().expect("unpause");
    wait_for(&domain, |g| g.now > 0);
    domain.destroy();
    assert_eq!(Arc::strong_count(&domain), 1);
    assert_eq!(domain.state(), DomainState::ShutDown);
    domain.destroy();
}

#[test]
fn a_step_costs_little_more_than_the_engine_does() {
    // No assertion on time: what counts is that thousands of steps need no other thread.
    let domain = domain(|guest: &mut Scripted, _: &RunLimit, _: &AtomicBool| {
        guest.now += 1;
        RunExit::Stepped
    });
    let start = Instant::now();
    for _ in 0..100_000 {
        assert_eq!(domain.step(VCPU, StepMode::Schedule), Ok(StepOutcome::Stepped));
    }
    eprintln!("a step: {:?}", start.elapsed() / 100_000);
    assert_eq!(Arc::strong_count(&domain), 1);
}
