//! A session with a host: bytes in, bytes out.
//!
//! ```text
//!            0x62, a stop of the guest                 Continue, Continue2
//!  Running ───────────────────────────► Stopped ───────────────────────────► Running
//!                                          │ ▲                              or Stepping ─► Stopped
//!                                          ▼ │
//!                                        requests
//! ```
//! No I/O and no waiting happens here, except that calls into the domain take the time they take. Whoever drives a
//! session calls [`KdSession::receive`], [`KdSession::event`] with what the notifier was given, [`KdSession::work`]
//! while [`KdSession::is_busy`], [`KdSession::tick`] at [`KdSession::deadline`], and sends
//! [`KdSession::take_output`].

use super::breakpoints::Table;
use super::context::TrapFlags;
use super::guest::Guest;
use super::hardware_breakpoints::DebugRegisters;
use super::kernel::Recogniser;
use super::prints::Printer;
use super::reply::Reply;
use super::services::Question;
use super::state_change::{ModuleChange, PROCESSOR_LEVEL};
use super::step::Step;
use super::stops::Installed;
use super::watches::Watches;
use hv_core::VcpuId;
use introspect::{Target, TargetEvent};
use protocol::debug_io;
use protocol::link::{Event, Lapse, Link, Patience};
use protocol::packet::PacketType;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A break-in that nothing follows for so long asks for the last report again.
const SILENCE: Duration = Duration::from_millis(500);
/// How often a kernel is looked for while the guest runs: at first, and at last.
const FIRST_LOOK: Duration = Duration::from_millis(250);
const LAST_LOOK: Duration = Duration::from_secs(4);

/// Passes events on to whoever drives the session, who calls [`KdSession::event`] with them, soon, and from another
/// place: the sink is called on the domain's threads.
pub type Notify = Box<dyn Fn(TargetEvent) + Send + Sync>;

/// A session with one host. Dropping it leaves the guest as if nobody had been there.
pub struct KdSession {
    pub(super) link: Link,
    pub(super) guest: Guest,
    pub(super) state: State,
    /// The last report's payload.
    pub(super) report: Vec<u8>,
    /// It is of a module: a guest whose host is gone doesn't wait for an answer to that.
    pub(super) may_lapse: bool,
    /// The host has asked something since the last report: it knows of it.
    pub(super) asked: bool,
    /// A break-in came while the guest was stopped; if nothing follows, this is when the report is sent again.
    silence: Option<Instant>,
    pub(super) table: Table,
    pub(super) debug: DebugRegisters,
    pub(super) trap: TrapFlags,
    pub(super) installed: Installed,
    pub(super) watches: Watches,
    /// Modules that the host is still to be told of.
    pub(super) changes: VecDeque<ModuleChange>,
    pub(super) reply: Reply,
    /// What the host is to be told once a kernel is recognised.
    pub(super) awaited: Option<Awaited>,
    /// The host was told that everything is unloaded: its next Continue ends the old kernel's streams.
    pub(super) ending: bool,
    /// When a kernel is looked for next, and how long after that again.
    look: Option<(Instant, Duration)>,
    /// The host was told that no kernel is recognised.
    told: bool,
    /// The last report was of a breakpoint instruction of the guest's own.
    pub(super) stands_at_int3: bool,
    /// The host gave that exception back to the guest, on this vCPU.
    pub(super) given_back: Option<VcpuId>,
    /// The host asked for the reset that is under way.
    pub(super) rebooting: bool,
    /// Another debugger's stops were noted since the guest was resumed.
    pub(super) noted: bool,
    /// What the guest asks the host, while it waits for the answer.
    pub(super) question: Option<Question>,
    /// A break-in came at a report of a module, which hosts let pass by themselves: the guest stops once more.
    pub(super) break_wanted: bool,
}

/// What the host takes the guest to be doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Running,
    /// One instruction of the vCPU, which may be halted for long.
    Stepping(VcpuId, Step),
    /// Reported.
    Stopped,
    /// It waits for the host's answer to a question.
    Asking,
}

/// What a host waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Awaited {
    /// A break: it synchronized while no kernel was known.
    Break,
    /// The next kernel's first word, after a reset.
    Kernel,
}

impl KdSession {
    /// A session with a host that has just connected. The guest isn't disturbed before the host speaks.
    pub fn new(target: &Arc<Target>, description: &str, recogniser: Recogniser, notify: Notify) -> KdSession {
        let notify = Arc::new(notify);
        let waker = notify.clone();
        let printer = Printer::new(Box::new(move || waker(TargetEvent::Woken)));
        let sink = move |event: &TargetEvent| {
            // Console output has readers of its own.
            if !matches!(event, TargetEvent::Console { .. } | TargetEvent::VcpuUp(_)) {
                notify(event.clone());
            }
        };
        let session = target.attach(description, Box::new(sink));
        KdSession {
            link: Link::new(),
            guest: Guest::new(target.clone(), session, recogniser),
            state: State::Running,
            report: Vec::new(),
            may_lapse: false,
            asked: false,
            silence: None,
            table: Table::default(),
            debug: DebugRegisters::default(),
            trap: TrapFlags::default(),
            installed: Installed::default(),
            watches: Watches::new(printer),
            changes: VecDeque::new(),
            reply: Reply::default(),
            awaited: None,
            ending: false,
            look: None,
            told: false,
            stands_at_int3: false,
            given_back: None,
            rebooting: false,
            noted: false,
            question: None,
            break_wanted: false,
        }
    }

    /// Takes bytes from the host.
    pub fn receive(&mut self, mut bytes: &[u8], now: Instant) {
        if !bytes.is_empty() {
            self.silence = None;
        }
        while let Some(event) = self.link.receive(&mut bytes, now) {
            match event {
                Event::BreakIn => self.break_in(now),
                Event::Reset { repeated } => self.reset(repeated, now),
                Event::Resend if self.state == State::Stopped => self.repeat_report(now),
                Event::Resend if self.state == State::Asking => self.ask(now),
                Event::Data {
                    packet_type: PacketType::StateManipulate,
                    payload,
                } => self.request(&payload, now),
                Event::Data {
                    packet_type: PacketType::DebugIo,
                    payload,
                } if self.state == State::Asking => self.answered(&payload),
                // Answers to questions that were never asked.
                Event::Resend | Event::Data { .. } => {}
            }
        }
        self.plan_look(now);
    }

    /// Takes an event that the notifier was called with.
    pub fn event(&mut self, event: TargetEvent, now: Instant) {
        self.on_event(event, now);
        self.plan_look(now);
    }

    /// Does a slice of the step that the host waits for, a few milliseconds.
    pub fn work(&mut self, now: Instant) {
        self.step_slice(now);
    }

    /// Whether [`KdSession::work`] has anything to do.
    pub fn is_busy(&self) -> bool {
        matches!(self.state, State::Stepping(..))
    }

    /// When [`KdSession::tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let look = self.look.map(|(at, _)| at);
        [self.link.deadline(), self.silence, look]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        if self.link.tick(now) == Lapse::GaveUp {
            tracing::info!("the host doesn't acknowledge: it counts as absent");
            if self.state == State::Stopped && self.may_lapse && !self.asked {
                self.run_on();
            }
        }
        if self.silence.is_some_and(|at| at <= now) {
            self.silence = None;
            match self.state {
                State::Stopped if self.link.is_idle() => self.repeat_report(now),
                State::Asking if self.link.is_idle() => self.ask(now),
                _ => {}
            }
        }
        if let Some((at, delay)) = self.look
            && at <= now
        {
            self.look = None;
            self.look_for_kernel(delay, now);
        }
    }

    /// What is to be sent to the host: whole packets.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.link.take_output()
    }

    fn break_in(&mut self, now: Instant) {
        // A kernel that waits for its host there keeps the break-in for later.
        self.break_wanted |= self.state == State::Stopped && self.may_lapse;
        match self.state {
            State::Running | State::Stepping(..) => self.stop(now),
            // A host that has asked something knows that the guest is stopped.
            State::Stopped if self.link.is_idle() && !self.asked => self.repeat_report(now),
            State::Stopped | State::Asking if self.link.is_idle() => self.silence = Some(now + SILENCE),
            State::Stopped | State::Asking => {}
        }
    }

    fn reset(&mut self, repeated: bool, now: Instant) {
        tracing::debug!(repeated, state = ?self.state, "the host begins anew");
        match self.state {
            State::Stopped | State::Asking if repeated => {}
            State::Stopped => self.repeat_report(now),
            State::Asking => self.ask(now),
            State::Stepping(..) => self.stop(now),
            State::Running => {
                // What WinDbg makes of a stop without a kernel is no use to anybody: it waits.
                if self.guest.kernel.is_some() || self.find_kernel(now) {
                    self.stop(now);
                } else {
                    self.awaited = Some(Awaited::Break);
                    // A guest that waits for its first debugger boots under this one.
                    self.guest.target.wait_no_longer();
                }
            }
        }
    }

    fn repeat_report(&mut self, now: Instant) {
        self.asked = false;
        self.send_report(now);
    }

    pub(super) fn send_report(&mut self, now: Instant) {
        if !self.link.is_pending(PacketType::StateChange64) {
            let patience = if self.may_lapse {
                Patience::Limited
            } else {
                Patience::Forever
            };
            self.link
                .send(PacketType::StateChange64, &self.report, patience, now);
        }
    }

    /// Text on the host's console.
    pub(super) fn say(&mut self, text: &str, now: Instant) {
        self.print(text.as_bytes(), now);
    }

    pub(super) fn print(&mut self, text: &[u8], now: Instant) {
        if !self.link.is_heard() {
            return;
        }
        for piece in text.chunks(debug_io::MAX_TEXT) {
            let payload = debug_io::print(self.guest.current.0 as u16, PROCESSOR_LEVEL, piece);
            self.link
                .send(PacketType::DebugIo, &payload, Patience::Limited, now);
        }
    }

    /// Tells once that no kernel is recognised, and why.
    pub(super) fn say_unrecognised(&mut self, why: &str, now: Instant) {
        if !std::mem::replace(&mut self.told, true) {
            let name = self.guest.domain().name();
            self.say(
                &format!("kdd: domain '{name}' isn't a Windows that can be debugged yet: {why}\n"),
                now,
            );
        }
    }

    /// While the guest runs and no kernel is known, one is looked for, for a host that is there.
    fn plan_look(&mut self, now: Instant) {
        let wanted = self.link.is_heard() && self.guest.kernel.is_none() && self.state == State::Running;
        match self.look {
            None if wanted => self.look = Some((now + FIRST_LOOK, FIRST_LOOK)),
            Some(_) if !wanted => self.look = None,
            _ => {}
        }
    }

    fn look_for_kernel(&mut self, delay: Duration, now: Instant) {
        if self.state != State::Running {
            return;
        }
        if !self.find_kernel(now) {
            let delay = (delay * 2).min(LAST_LOOK);
            self.look = Some((now + delay, delay));
            return;
        }
        match self.awaited.take() {
            Some(Awaited::Break) => self.stop(now),
            Some(Awaited::Kernel) => self.greet(now),
            None => {}
        }
    }

    /// Whether there is a kernel. The guest may run: what is found is looked at again at the next stop.
    fn find_kernel(&mut self, now: Instant) -> bool {
        match self.guest.recognise() {
            Ok(()) => true,
            Err(why) => {
                self.say_unrecognised(&why, now);
                false
            }
        }
    }
}
