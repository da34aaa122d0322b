//! Carrying out a resume request, up to the stop reply.
//!
//! "All run" is the domain's own doing: the session lets go of it and waits for an event. Everything else is
//! stepped from here, a slice at a time, so that a Ctrl-C in between is seen.

use super::GdbSession;
use super::user_step::Progress;
use crate::breakpoints::Kind;
use crate::guest::{OtherStops, SIGTRAP};
use crate::hex;
use crate::packets::lldb_threads;
use crate::resume::Plan;
use crate::stub::Stop;
use crate::threads;
use gdbstub::target::ext::breakpoints::WatchKind;
use hv_core::addr::VcpuId;
use hv_core::introspect::{
    AccessKind, BreakpointId, CrashReason, DomainState, StepMode, StepOutcome, StopReason,
};
use introspect::TargetEvent;
use std::time::{Duration, Instant};

/// How long stepping goes on before input is looked at again.
const SLICE: Duration = Duration::from_millis(2);

/// How long a Ctrl-C that crossed a stop reply counts for the next resumption.
const LATE: Duration = Duration::from_millis(250);

/// Bytes of text in one packet.
const MOST_SAID: usize = 4096;

/// gdb's numbers.
const SIGINT: u8 = 2;
const SIGSEGV: u8 = 11;

impl GdbSession {
    /// Begins to carry out a plan. The client waits for a stop reply from here on.
    pub(super) fn start(&mut self, plan: Plan) {
        self.guest.last_stop = None;
        self.interrupted = false;
        self.noted = false;
        self.plan = Some(plan);
        // The client has taken notice of the modules, and goes on by itself to where it stopped.
        if let Some(stop) = self.after_modules.take() {
            return self.stop(stop);
        }
        if let Some(stop) = self.overtaken.take()
            && self.plan == Some(Plan::Continue)
        {
            return self.stop(stop);
        }
        if let Some(stop) = self.cannot_run() {
            return self.stop(stop);
        }
        if self.late.take().is_some_and(|at| at.elapsed() < LATE) {
            return self.stop(Stop::Signal(SIGINT, self.guest.vcpu()));
        }
        match self.plan {
            Some(Plan::Continue) => self.go_on(),
            _ => {
                self.guest.hold();
                self.slice();
            }
        }
    }

    /// Why nothing can run, if that is so.
    fn cannot_run(&mut self) -> Option<Stop> {
        if let Some(code) = self.guest.exited {
            return Some(Stop::Exited(code));
        }
        match self.guest.domain().state() {
            DomainState::Crashed(reason) => Some(self.crashed(&reason)),
            DomainState::ShutDown => Some(Stop::Exited(0)),
            _ if self.guest.domain().control_run().is_none() => {
                self.say("this domain can only be looked at\n");
                Some(Stop::Signal(SIGTRAP, self.guest.vcpu()))
            }
            _ => None,
        }
    }

    /// Steps until the plan is done or the slice is over.
    pub(super) fn slice(&mut self) {
        let end = Instant::now() + SLICE;
        while let Some(plan) = self.plan.clone() {
            let stop = match plan {
                Plan::Continue => return,
                Plan::Step { vcpu, mode, range } => {
                    let (stepped, stop) = self.step(vcpu, mode);
                    match (stop, range) {
                        (Some(stop), _) => Some(stop),
                        (None, _) if !stepped => None,
                        (None, Some(range)) => self.leaves(vcpu, &range),
                        (None, None) => Some(Stop::Signal(SIGTRAP, vcpu)),
                    }
                }
                Plan::InUserMode { .. } if self.awaited.is_some() => return,
                Plan::InUserMode { pid, range } => match self.step_in_user_mode(pid, range.as_ref()) {
                    Progress::Stop(stop) => Some(stop),
                    Progress::Again => None,
                    Progress::Waits => return self.say_printed(),
                },
                Plan::Alone { vcpus, next } => {
                    let vcpu = vcpus[next % vcpus.len()];
                    let (stepped, stop) = self.step(vcpu, StepMode::Alone);
                    self.plan = Some(Plan::Alone {
                        next: (next + 1) % vcpus.len(),
                        vcpus,
                    });
                    stop.or_else(|| if stepped { self.breakpoint_at(vcpu) } else { None })
                }
            };
            if let Some(stop) = stop {
                return self.stop(stop);
            }
            if Instant::now() >= end {
                return self.say_printed();
            }
        }
    }

    /// One step: whether an instruction retired, and why to stop if something else happened.
    pub(super) fn step(&mut self, vcpu: VcpuId, mode: StepMode) -> (bool, Option<Stop>) {
        match self.guest.session.step(vcpu, mode) {
            Ok(StepOutcome::Stepped) => (true, None),
            Ok(StepOutcome::Waiting) => (false, None),
            Ok(StepOutcome::Stopped { vcpu, reason }) => (false, Some(self.reason(vcpu, &reason))),
            Ok(StepOutcome::Ended) => match self.cannot_run() {
                Some(stop) => (false, Some(stop)),
                None => {
                    self.say("the guest was reset\n");
                    (false, Some(Stop::Signal(SIGTRAP, vcpu)))
                }
            },
            Err(error) => {
                self.say(&format!("vCPU {vcpu} can't be stepped: {error}\n"));
                (false, Some(Stop::Signal(SIGTRAP, vcpu)))
            }
        }
    }

    /// After a step in a range: a stop if it left the range, or came to a breakpoint in it.
    pub(super) fn leaves(&mut self, vcpu: VcpuId, range: &std::ops::Range<u64>) -> Option<Stop> {
        match self.guest.domain().registers(vcpu) {
            Ok(registers) if range.contains(&registers.rip) => self.breakpoint_at(vcpu),
            _ => Some(Stop::Signal(SIGTRAP, vcpu)),
        }
    }

    fn breakpoint_at(&self, vcpu: VcpuId) -> Option<Stop> {
        if self.guest.breakpoints.len() == 0 {
            return None;
        }
        let registers = self.guest.domain().registers(vcpu).ok()?;
        let kind = self.guest.breakpoints.hit(&self.guest.target, vcpu, &registers)?;
        Some(self.breakpoint(vcpu, kind))
    }

    /// The stop at an execution breakpoint, in words that the client knows.
    ///
    /// gdb goes on by itself from a breakpoint that it doesn't know at RIP: one at a physical address is a signal.
    fn breakpoint(&self, vcpu: VcpuId, kind: Kind) -> Stop {
        let registers = self.guest.domain().registers(vcpu);
        if !registers.is_ok_and(|registers| self.guest.breakpoints.is_known_at(kind, registers.rip)) {
            return Stop::Signal(SIGTRAP, vcpu);
        }
        match kind {
            Kind::Hardware if self.guest.client.hwbreak => Stop::Breakpoint { vcpu, hardware: true },
            Kind::Software if self.guest.client.swbreak => Stop::Breakpoint {
                vcpu,
                hardware: false,
            },
            _ => Stop::Signal(SIGTRAP, vcpu),
        }
    }

    /// The domain's reason as a stop.
    fn reason(&mut self, vcpu: VcpuId, reason: &StopReason) -> Stop {
        match reason {
            StopReason::Breakpoint { ids, .. } => {
                let mine = ids.iter().find_map(|id| self.guest.breakpoints.kind_of(*id));
                match mine {
                    Some(kind) => self.breakpoint(vcpu, kind),
                    None => self.anothers(vcpu, "breakpoint"),
                }
            }
            // gdb would look for a changed value at the virtual address of that number, and go on.
            StopReason::Watchpoint { id, address, access } if self.is_physical(*id) => {
                let done = match access {
                    AccessKind::Read => "read",
                    AccessKind::Write | AccessKind::ReadWrite => "written",
                };
                self.say(&format!("guest-physical {address:#x} is {done}\n"));
                Stop::Signal(SIGTRAP, vcpu)
            }
            StopReason::Watchpoint { id, address, .. } => {
                let kind = match self.guest.breakpoints.kind_of(*id) {
                    Some(Kind::Write) => WatchKind::Write,
                    Some(Kind::Read) => WatchKind::Read,
                    Some(Kind::Access) => WatchKind::ReadWrite,
                    _ => return self.anothers(vcpu, "watchpoint"),
                };
                Stop::Watch {
                    vcpu,
                    kind,
                    address: *address,
                }
            }
            StopReason::Crashed(reason) => self.crashed(reason),
            StopReason::PageAccess { frame, access } => {
                let access = access.map_or_else(|| "fetch".to_owned(), |kind| format!("{kind:?}"));
                self.say(&format!("page access: {access} in the frame {frame}\n"));
                Stop::Signal(SIGTRAP, vcpu)
            }
        }
    }

    /// Whether this is a watchpoint at a guest-physical address, while the client's addresses are virtual.
    fn is_physical(&self, id: BreakpointId) -> bool {
        !self.guest.physical && self.guest.breakpoints.is_physical(id)
    }

    /// A stop that another debugger asked for.
    fn anothers(&mut self, vcpu: VcpuId, what: &str) -> Stop {
        self.say(&format!("the guest is at a {what} of another debugger\n"));
        Stop::Signal(SIGTRAP, vcpu)
    }

    fn crashed(&mut self, reason: &CrashReason) -> Stop {
        self.say(&format!(
            "the guest crashed: {reason}; it can be looked at, or reset with R or monitor reset\n"
        ));
        let vcpu = match reason {
            CrashReason::TripleFault { vcpu, .. } => *vcpu,
            _ => self.guest.vcpu(),
        };
        Stop::Signal(SIGSEGV, vcpu)
    }

    /// Ctrl-C. While the guest is stopped, it crossed a stop reply on the way: to a client that goes on at once,
    /// because it carries out `stepi 1000` or passes a breakpoint, it is due at the next stop.
    pub(super) fn interrupt(&mut self) {
        if self.plan.is_none() {
            self.late = Some(Instant::now());
            return;
        }
        self.guest.hold();
        self.stop(Stop::Signal(SIGINT, self.guest.vcpu()));
        self.interrupted = true;
    }

    /// Ends the plan with a stop reply.
    pub(super) fn stop(&mut self, stop: Stop) {
        self.guest.hold();
        self.await_no_longer();
        self.say_printed();
        let went = self.plan.take() == Some(Plan::Continue);
        if let Some(vcpu) = stop.vcpu() {
            let thread = self.guest.thread_on(vcpu);
            self.guest.stopped = vcpu;
            self.guest.selected = thread;
            self.guest.viewed = thread;
        }
        match stop {
            Stop::Exited(code) => self.guest.exited = Some(code),
            // As a shell says it.
            Stop::Killed(signal) => self.guest.exited = Some(0x80 | signal),
            _ => {}
        }
        let modules = went && stop.vcpu().is_some() && self.guest.modules_changed();
        let told = match stop.vcpu() {
            Some(vcpu) if modules => Stop::Signal(SIGTRAP, vcpu),
            _ => stop,
        };
        match self.stub.report(&mut self.guest, told) {
            Some(mut body) if modules => {
                // gdb asks for them, and goes on without a word: the stop itself is told then.
                self.after_modules = Some(stop);
                self.guest.told_modules = None;
                self.guest.last_stop = Some(body.clone());
                body.extend_from_slice(b"library:;");
                self.send(&body);
            }
            Some(mut body) => {
                if self.guest.client.lldb && stop.vcpu().is_some() {
                    threads::put_name(&self.guest, self.guest.selected, &mut body);
                }
                self.guest.last_stop = Some(body.clone());
                if stop.vcpu().is_some() {
                    lldb_threads::put_list(&self.guest, &mut body);
                }
                self.send(&body);
            }
            None => tracing::error!(?stop, "gdbstub waits for no stop"),
        }
    }

    /// Text on the client's console; only while it waits for a stop reply.
    pub(super) fn say(&mut self, text: &str) {
        if self.plan.is_none() {
            return;
        }
        let mut body = vec![b'O'];
        hex::encode(&mut body, text.as_bytes());
        self.send(&body);
    }

    /// What commands of breakpoints printed.
    fn say_printed(&mut self) {
        if self.plan.is_none() {
            return;
        }
        let text = self.guest.printer.take();
        for chunk in text.as_bytes().chunks(MOST_SAID) {
            let mut body = vec![b'O'];
            hex::encode(&mut body, chunk);
            self.send(&body);
        }
    }

    pub(super) fn on_event(&mut self, event: TargetEvent) {
        let running = self.plan == Some(Plan::Continue) || self.awaited.is_some();
        match event {
            TargetEvent::Stopped { vcpu, reason, .. } if running => {
                // Else it is of before the guest was resumed.
                if self.guest.session.holds() {
                    self.stopped(vcpu, &reason);
                }
            }
            // It happened, but the client's Ctrl-C was answered first: told at the next continue.
            TargetEvent::Stopped { vcpu, reason, mine } if self.interrupted && mine => {
                self.overtaken = Some(self.reason(vcpu, &reason));
            }
            TargetEvent::Crashed(reason) if self.plan.is_some() => {
                let stop = self.crashed(&reason);
                self.stop(stop);
            }
            TargetEvent::OtherStopped if running => match self.guest.other_stops {
                OtherStops::Stop => self.stop(Stop::Signal(SIGTRAP, self.guest.vcpu())),
                OtherStops::Note if !self.noted => {
                    self.noted = true;
                    self.say("another debugger stopped the guest; it runs on when that one lets go\n");
                }
                OtherStops::Note => {}
            },
            TargetEvent::Woken => self.say_printed(),
            TargetEvent::Reset(_) => self.say("the guest was reset\n"),
            TargetEvent::GuestCrash(crash) => self.say(&format!("{crash}\n")),
            TargetEvent::ShutDown => self.exit(0),
            // The exit status of a Unix process has 8 bits.
            TargetEvent::DebugExit(value) => self.exit(value as u8),
            TargetEvent::Stopped { .. }
            | TargetEvent::Crashed(_)
            | TargetEvent::OtherStopped
            | TargetEvent::OtherResumed
            | TargetEvent::Console { .. }
            | TargetEvent::VcpuUp(_) => {}
        }
    }

    /// The guest stopped by itself.
    fn stopped(&mut self, vcpu: VcpuId, reason: &StopReason) {
        let own = match reason {
            StopReason::Breakpoint { ids, .. }
                if ids.iter().all(|id| self.guest.breakpoints.kind_of(*id).is_none()) =>
            {
                self.at_own_breakpoint(vcpu, ids)
            }
            _ => None,
        };
        match own {
            // The next slice goes on.
            Some(Progress::Again) => {}
            Some(Progress::Waits) => self.go_on(),
            Some(Progress::Stop(stop)) => self.stop(stop),
            None => {
                let stop = self.reason(vcpu, reason);
                self.stop(stop);
            }
        }
    }

    /// The guest is gone.
    fn exit(&mut self, code: u8) {
        if self.plan.is_some() {
            self.stop(Stop::Exited(code));
        } else {
            self.guest.exited.get_or_insert(code);
        }
    }
}
