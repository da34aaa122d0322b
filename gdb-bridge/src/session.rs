//! A session with a client: bytes in, bytes out.
//!
//! ```text
//!  receive(bytes) ─► Receiver ─► packets::handle ─► the answer
//!                                      │ not ours
//!                                      ▼
//!                                 Stub (gdbstub) ─► the answer, or a Plan
//!                                                       │
//!  event(TargetEvent) ──────────────► run ◄─────────────┘
//!  work() ──────────────────────────►  │
//!                                      ▼
//!                                 the stop reply
//! ```
//! No I/O and no waiting happens here, except that calls into the domain take the time they take. Whoever drives a
//! session calls [`GdbSession::receive`] with what came in, [`GdbSession::event`] with what the sink was given,
//! [`GdbSession::work`] while [`GdbSession::is_busy`], and sends what [`GdbSession::take_output`] gives.

mod run;
mod user_step;

use crate::agent::Printer;
use crate::framing::{self, Input, Receiver};
use crate::guest::{Guest, Options};
use crate::packets::{self, Flow};
use crate::process::step::Awaited;
use crate::resume::Plan;
use crate::stub::{Outcome, Stop, Stub};
use introspect::{Target, TargetEvent};
use std::sync::Arc;
use std::time::Instant;

/// When this much waits to be sent, no further packet is taken.
const MOST_OUTPUT: usize = 1 << 20;

/// Passes events on to whoever drives the session, who calls [`GdbSession::event`] with them, soon, and from
/// another place: the sink is called on the domain's threads.
pub type Notify = Box<dyn Fn(TargetEvent) + Send + Sync>;

/// A session with one client. Dropping it leaves the guest as if nobody had been there.
pub struct GdbSession {
    guest: Guest,
    stub: Stub,
    receiver: Receiver,
    output: Vec<u8>,
    /// The last packet sent, in case it must be repeated.
    last: Vec<u8>,
    /// What is being carried out while the client waits for a stop reply.
    plan: Option<Plan>,
    /// Where a thread that is stepped is waited for.
    awaited: Option<Awaited>,
    /// The last stop was the client's own Ctrl-C.
    interrupted: bool,
    /// A Ctrl-C that came while the guest was stopped, and when.
    late: Option<Instant>,
    /// A breakpoint that was hit just before that.
    overtaken: Option<Stop>,
    /// A stop that is told when the client has read the list of modules, which changed.
    after_modules: Option<Stop>,
    /// Another debugger's stops were noted already since the guest was resumed.
    noted: bool,
    closed: bool,
}

/// gdbstub couldn't be set up.
#[derive(Debug, thiserror::Error)]
#[error("a session can't be started: {0}")]
pub struct StartError(String);

impl GdbSession {
    /// A session with a client that has just connected. The guest isn't disturbed before the client asks for it.
    ///
    /// # Errors
    /// [`StartError`]; there is no known reason for it.
    pub fn new(
        target: &Arc<Target>,
        description: &str,
        options: Options,
        notify: Notify,
    ) -> Result<GdbSession, StartError> {
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
        let mut guest = Guest::new(target.clone(), session, options, printer);
        let stub = Stub::new(&mut guest).map_err(StartError)?;
        Ok(GdbSession {
            guest,
            stub,
            receiver: Receiver::new(),
            output: Vec::new(),
            last: Vec::new(),
            plan: None,
            awaited: None,
            interrupted: false,
            late: None,
            overtaken: None,
            after_modules: None,
            noted: false,
            closed: false,
        })
    }

    /// Takes bytes from the client and returns how many it took: all, unless so much output waits that it must be
    /// sent first, or the session ended.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        for (index, &byte) in bytes.iter().enumerate() {
            if self.closed || self.output.len() > MOST_OUTPUT {
                return index;
            }
            if let Some(input) = self.receiver.pump(byte) {
                self.input(&input);
            }
        }
        bytes.len()
    }

    /// Takes an event that the notifier was called with.
    pub fn event(&mut self, event: TargetEvent) {
        if !self.closed {
            self.on_event(event);
        }
    }

    /// Does a slice of the stepping that the client waits for, a few milliseconds.
    pub fn work(&mut self) {
        if !self.closed {
            self.slice();
        }
    }

    /// Whether [`GdbSession::work`] has anything to do.
    pub fn is_busy(&self) -> bool {
        let steps = match self.plan {
            Some(Plan::Step { .. } | Plan::Alone { .. }) => true,
            Some(Plan::InUserMode { .. }) => self.awaited.is_none(),
            Some(Plan::Continue) | None => false,
        };
        !self.closed && steps
    }

    /// Whether the client waits for the guest to stop.
    pub fn is_running(&self) -> bool {
        self.plan.is_some()
    }

    /// What is to be sent.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// Takes what is to be sent.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Whether the session is over: send the rest of the output and close the connection.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    fn input(&mut self, input: &Input) {
        match input {
            Input::Packet => {
                if !self.guest.client.no_acks {
                    self.output.push(b'+');
                }
                let body = self.receiver.take_body();
                self.packet(&body);
                self.receiver.recycle(body);
            }
            Input::Damaged if self.guest.client.no_acks => {
                tracing::warn!("a packet with a wrong checksum is dropped");
            }
            Input::Damaged => self.output.push(b'-'),
            Input::TooLong => {
                if !self.guest.client.no_acks {
                    self.output.push(b'+');
                }
                self.send(b"E22");
            }
            Input::Interrupt => self.interrupt(),
            Input::Again if self.guest.client.no_acks => {}
            Input::Again => self.output.extend_from_slice(&self.last),
        }
    }

    fn packet(&mut self, body: &[u8]) {
        tracing::trace!(packet = %String::from_utf8_lossy(&body[..body.len().min(200)]), "received");
        // Only a confused client asks while it waits for a stop. It gets its stop.
        if self.plan.is_some() && body == b"?" {
            return self.interrupt();
        }
        match packets::handle(&mut self.guest, body) {
            Flow::Answer(answer) => self.send(&answer),
            Flow::Silent => self.plan = None,
            Flow::PassOn => self.pass_on(body),
            Flow::PassOnAs(other) => self.pass_on(&other),
            Flow::Detach(answer) => {
                if let Some(answer) = answer {
                    self.send(&answer);
                }
                self.detach();
            }
        }
        if self.guest.detached {
            // A monitor command may have held the guest.
            self.guest.release();
        }
    }

    fn pass_on(&mut self, body: &[u8]) {
        self.guest.refusal = None;
        let mut answers = Vec::new();
        let outcome = self.stub.packet(&mut self.guest, body, &mut answers);
        for answer in answers {
            if answer.starts_with(b"E") {
                self.refuse(&answer);
            } else {
                self.send(&answer);
            }
        }
        match outcome {
            Outcome::Answered => {}
            Outcome::Resumed => {
                if let Some(plan) = self.guest.requested.take() {
                    self.start(plan);
                }
            }
            Outcome::Detached => self.detach(),
            Outcome::Refused(why) => {
                tracing::info!(%why, "a packet is refused");
                self.plan = None;
                self.refuse(b"E22");
            }
        }
    }

    /// An error, in words if there are any and the client shows them: gdb does after "remote failure reply".
    fn refuse(&mut self, error: &[u8]) {
        match self.guest.refusal.take() {
            Some(why) if self.guest.client.gdb => self.send(format!("E.{}", printable(&why)).as_bytes()),
            Some(why) if self.guest.client.error_strings => {
                let mut answer = error.to_vec();
                answer.push(b';');
                crate::hex::encode(&mut answer, why.as_bytes());
                self.send(&answer);
            }
            _ => self.send(error),
        }
    }

    /// The client lets go. With `extended-remote` it may stay and come back.
    fn detach(&mut self) {
        self.plan = None;
        self.after_modules = None;
        self.guest.release();
        self.guest.last_stop = None;
        self.guest.detached = true;
        self.closed = !self.guest.client.extended;
    }

    fn send(&mut self, body: &[u8]) {
        if self.guest.client.no_acks {
            framing::frame(&mut self.output, body);
        } else {
            self.last.clear();
            framing::frame(&mut self.last, body);
            self.output.extend_from_slice(&self.last);
        }
    }
}

/// A sentence without what has a meaning in packets.
fn printable(text: &str) -> String {
    let plain = |c: &char| (' '..='~').contains(c) && !"#$}*".contains(*c);
    text.chars().filter(plain).collect()
}
