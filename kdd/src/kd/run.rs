//! Running and stopping: breaks, steps, continues, and what the guest does meanwhile.

use super::hardware_breakpoints::{DR6_BS, DR6_IDLE};
use super::session::{Awaited, KdSession, State};
use super::state_change::{self, ModuleChange, Report};
use super::step::{Progress, Step};
use super::watches::Own;
use super::{bugcheck, int3};
use hv_core::introspect::{BreakpointId, CrashReason, DomainState, StepMode, StepOutcome, StopReason};
use hv_core::regs::Registers;
use hv_core::{GuestVirtAddr, VcpuId};
use introspect::TargetEvent;
use introspect::windows::Arch;
use protocol::manipulate::{Continue2Amd64, Continue2X86, Manipulate};
use protocol::state_change::MAX_STREAM;
use protocol::status::NtStatus;
use std::time::{Duration, Instant};

/// How long stepping goes on before input is looked at again.
const SLICE: Duration = Duration::from_millis(2);

/// What a host wants with its Continue2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ControlSet {
    trace: bool,
    dr7: u64,
}

impl KdSession {
    /// Stops the guest for the host, and reports.
    pub(super) fn stop(&mut self, now: Instant) {
        if let Err(error) = self.guest.session.stop() {
            return self.say(&format!("kdd: the guest can't be stopped: {error}\n"), now);
        }
        let vcpu = match self.state {
            State::Stepping(vcpu, _) => vcpu,
            _ => self.guest.current,
        };
        self.report_break(vcpu, now);
    }

    /// Reports a breakpoint: a kernel's word for most stops.
    pub(super) fn report_break(&mut self, vcpu: VcpuId, now: Instant) {
        self.begin_stop(vcpu, now);
        let report = state_change::exception(&mut self.guest, NtStatus::BREAKPOINT, &[0], &self.debug);
        self.finish_stop(report, now);
    }

    /// Reports a step that is done, or a debug register that was hit.
    fn report_debug(&mut self, vcpu: VcpuId, dr6: u64, now: Instant) {
        self.begin_stop(vcpu, now);
        self.debug.set_dr6(vcpu, DR6_IDLE | dr6);
        let report = state_change::exception(&mut self.guest, NtStatus::SINGLE_STEP, &[], &self.debug);
        self.finish_stop(report, now);
    }

    pub(super) fn report_module(&mut self, change: &ModuleChange, now: Instant) {
        self.ending = *change == ModuleChange::Everything;
        let report = state_change::load_symbols(&mut self.guest, change, &self.debug);
        self.may_lapse = true;
        self.finish_stop(report, now);
    }

    pub(super) fn begin_stop(&mut self, vcpu: VcpuId, now: Instant) {
        self.say_printed(now);
        self.may_lapse = false;
        self.awaited = None;
        self.given_back = None;
        if self.guest.is_kernel_gone() {
            tracing::info!("the kernel that was recognised is gone");
            self.watches.disarm(&self.guest);
            self.guest.forget_kernel();
        }
        match self.guest.begin_stop(vcpu) {
            Ok(()) => self.watches.arm(&mut self.guest),
            Err(why) => {
                self.watches.disarm(&self.guest);
                self.say_unrecognised(&why, now);
            }
        }
    }

    fn finish_stop(&mut self, report: Report, now: Instant) {
        self.table
            .remove_in(report.address, report.length.max(MAX_STREAM));
        self.break_wanted &= self.may_lapse;
        self.report = report.payload;
        self.state = State::Stopped;
        self.asked = false;
        self.send_report(now);
    }

    /// The control set of a Continue2, which each machine has in its own form.
    pub(super) fn control_set(&self, header: &Manipulate) -> (NtStatus, ControlSet) {
        match self.guest.arch() {
            Arch::X64 => {
                let go: Continue2Amd64 = header.get();
                let set = ControlSet {
                    trace: go.trace_flag.get() != 0,
                    dr7: go.dr7.get(),
                };
                (NtStatus(go.status.get()), set)
            }
            Arch::X86 => {
                let go: Continue2X86 = header.get();
                let set = ControlSet {
                    trace: go.trace_flag.get() != 0,
                    dr7: u64::from(go.dr7.get()),
                };
                (NtStatus(go.status.get()), set)
            }
        }
    }

    /// Continue and Continue2. The only exception of the guest's own that is reported, and so can be given back to it, is
    /// a breakpoint instruction.
    pub(super) fn go_on(&mut self, status: NtStatus, control: Option<ControlSet>, now: Instant) {
        let mut trace = self.trap.take(self.guest.current);
        if std::mem::take(&mut self.stands_at_int3) && !status.is_success() {
            self.given_back = Some(self.guest.current);
        }
        if let Some(control) = control
            && status.is_success()
        {
            trace |= control.trace;
            self.debug.dr7 = control.dr7;
            self.debug.clear_dr6();
        }
        if let Some(change) = self.changes.pop_front() {
            return self.report_module(&change, now);
        }
        if let Some(why) = self.cannot_run() {
            self.say(&why, now);
            return self.report_break(self.guest.current, now);
        }
        let break_wanted = std::mem::take(&mut self.break_wanted);
        if std::mem::take(&mut self.ending) {
            self.link.restart();
            self.awaited = Some(Awaited::Kernel);
        } else if break_wanted && !trace {
            return self.report_break(self.guest.current, now);
        }
        self.noted = false;
        self.install();
        if trace {
            self.state = State::Stepping(self.guest.current, Step::default());
            return self.step_slice(now);
        }
        self.state = State::Running;
        if let Err(error) = self.guest.session.resume() {
            self.say(&format!("kdd: the guest can't run: {error}\n"), now);
        }
    }

    /// Gives the engine what the host wants to stop at.
    pub(super) fn install(&mut self) {
        let arch = self.guest.arch();
        let hardware = self.debug.wanted(arch);
        let mut wanted: Vec<_> = self.table.wanted().collect();
        wanted.extend(hardware.into_iter().map(|(_, place, kind)| (place, kind)));
        self.installed.make(&self.guest.session, &wanted);
    }

    /// Why nothing can run, if that is so.
    pub(super) fn cannot_run(&self) -> Option<String> {
        match self.guest.domain().state() {
            DomainState::Crashed(reason) => Some(crash_text(&reason)),
            DomainState::ShutDown => Some("kdd: the guest has shut down\n".into()),
            _ if self.guest.domain().control_run().is_none() => {
                Some("kdd: this guest can only be looked at\n".into())
            }
            _ => None,
        }
    }

    /// Steps until an instruction is done or the slice is over.
    pub(super) fn step_slice(&mut self, now: Instant) {
        let begin = Instant::now();
        while let State::Stepping(vcpu, step) = self.state {
            let before = self.guest.registers(vcpu);
            match self.guest.session.step(vcpu, StepMode::Schedule) {
                Ok(StepOutcome::Stepped) => match (before, self.guest.registers(vcpu)) {
                    (Ok(before), Ok(after)) => self.advance(vcpu, step, &before, &after, now),
                    _ => self.stepped(vcpu, now),
                },
                Ok(StepOutcome::Waiting) => {}
                Ok(StepOutcome::Stopped { vcpu: at, reason }) => self.stopped_in_step(vcpu, at, &reason, now),
                // The event tells of the reset.
                Ok(StepOutcome::Ended) => self.state = State::Running,
                Err(error) => {
                    self.say(&format!("kdd: processor {vcpu} can't be stepped: {error}\n"), now);
                    self.report_break(vcpu, now);
                }
            }
            if begin.elapsed() >= SLICE {
                return;
            }
        }
    }

    fn advance(&mut self, vcpu: VcpuId, mut step: Step, before: &Registers, after: &Registers, now: Instant) {
        match step.advance(&mut self.guest, before, after) {
            Progress::Done => self.stepped(vcpu, now),
            // The host's breakpoints in a handler count.
            Progress::More if step.is_in_handler() && self.table.is_at(GuestVirtAddr(after.rip)) => {
                self.report_break(vcpu, now);
            }
            Progress::More => self.state = State::Stepping(vcpu, step),
        }
    }

    fn stepped(&mut self, vcpu: VcpuId, now: Instant) {
        self.report_debug(vcpu, DR6_BS, now);
    }

    /// Something else stopped the domain while a vCPU was stepped.
    fn stopped_in_step(&mut self, stepped: VcpuId, at: VcpuId, reason: &StopReason, now: Instant) {
        if self.watches.own(ids_of(reason)) == Some(Own::Modules) {
            let changes = self.watches.module_changes(&mut self.guest, at);
            self.changes.extend(changes);
            // Its own step is done with the write; another's goes on.
            if at == stepped {
                self.stepped(stepped, now);
            }
            return;
        }
        self.stopped(at, reason, now);
    }

    /// The domain stopped by itself, and the session holds it.
    fn stopped(&mut self, vcpu: VcpuId, reason: &StopReason, now: Instant) {
        let ids = ids_of(reason);
        let bits = self.debug.hit_bits(self.guest.arch(), &self.installed, ids);
        match self.watches.own(ids) {
            Some(Own::Bugcheck) => return self.bugcheck(vcpu, now),
            Some(Own::Int3) => return self.int3(vcpu, now),
            Some(Own::Service) => return self.service(vcpu, now),
            Some(Own::Modules) if !self.installed.has_any(ids) => return self.modules_written(vcpu, now),
            _ => {}
        }
        if bits != 0 {
            return self.report_debug(vcpu, bits, now);
        }
        match reason {
            StopReason::Crashed(reason) => self.say(&crash_text(reason), now),
            StopReason::PageAccess { frame, .. } => {
                self.say(&format!("kdd: an access to the restricted frame {frame}\n"), now);
            }
            _ if !self.installed.has_any(ids) => {
                self.say("kdd: the guest is at a breakpoint of another debugger\n", now);
            }
            _ => {}
        }
        self.report_break(vcpu, now);
    }

    pub(super) fn bugcheck(&mut self, vcpu: VcpuId, now: Instant) {
        self.begin_stop(vcpu, now);
        let text = bugcheck::text(&mut self.guest);
        self.say(&text, now);
        let report = state_change::exception(&mut self.guest, NtStatus::BREAKPOINT, &[0], &self.debug);
        self.finish_stop(report, now);
    }

    /// The kernel ran into a breakpoint instruction of its own. One that the host gave back is the guest's.
    fn int3(&mut self, vcpu: VcpuId, now: Instant) {
        self.guest.memory_changed();
        self.guest.current = vcpu;
        if self.given_back.take() == Some(vcpu) {
            return self.run_on();
        }
        if int3::take_back(&mut self.guest, vcpu) {
            self.stands_at_int3 = true;
        }
        self.report_break(vcpu, now);
    }

    /// Nothing for the host: the guest goes on.
    pub(super) fn run_on(&mut self) {
        self.state = State::Running;
        if let Err(error) = self.guest.session.resume() {
            tracing::debug!(%error, "the guest doesn't go on");
        }
    }

    /// A link of the list of modules was written: the host is told if a module came or went.
    fn modules_written(&mut self, vcpu: VcpuId, now: Instant) {
        self.begin_stop(vcpu, now);
        let changes = self.watches.module_changes(&mut self.guest, vcpu);
        self.changes.extend(changes);
        match self.changes.pop_front() {
            Some(change) => self.report_module(&change, now),
            None => self.run_on(),
        }
    }

    /// SwitchProcessor: another processor reports, or the same one again.
    pub(super) fn switch_processor(&mut self, vcpu: VcpuId, now: Instant) {
        if vcpu != self.guest.current {
            self.guest.switch(vcpu);
            let code = NtStatus::WAKE_SYSTEM_DEBUGGER;
            self.report = state_change::exception(&mut self.guest, code, &[], &self.debug).payload;
        }
        self.send_report(now);
    }

    /// Reboot: the machine resets, and the streams begin anew.
    pub(super) fn reboot(&mut self, now: Instant) {
        let reset = self.guest.domain().control_run().map(|control| control.reset());
        match reset {
            Some(Ok(())) => {
                self.rebooting = true;
                self.forget_guest();
                self.link.restart();
                self.state = State::Running;
                if let Err(error) = self.guest.session.resume() {
                    self.say(&format!("kdd: the guest can't run: {error}\n"), now);
                }
            }
            Some(Err(error)) => self.say(&format!("kdd: the guest can't be reset: {error}\n"), now),
            None => self.say("kdd: this guest can only be looked at\n", now),
        }
    }

    /// Another kernel is about to be there.
    fn forget_guest(&mut self) {
        self.watches.disarm(&self.guest);
        self.table.clear();
        self.debug = Default::default();
        self.changes.clear();
        self.question = None;
        self.installed.make(&self.guest.session, &[]);
        self.guest.forget_kernel();
        self.guest.current = VcpuId(0);
    }

    pub(super) fn on_event(&mut self, event: TargetEvent, now: Instant) {
        let running = self.state == State::Running;
        match event {
            // Else it is of before the guest was resumed.
            TargetEvent::Stopped { vcpu, reason, .. } if running && self.guest.session.holds() => {
                self.stopped(vcpu, &reason, now);
            }
            TargetEvent::Crashed(reason) if running && self.link.is_heard() => {
                self.say(&crash_text(&reason), now);
                let vcpu = match reason {
                    CrashReason::TripleFault { vcpu, .. } => vcpu,
                    _ => self.guest.current,
                };
                self.report_break(vcpu, now);
            }
            TargetEvent::OtherStopped if running => {
                if !std::mem::replace(&mut self.noted, true) {
                    self.say(
                        "kdd: another debugger stopped the guest; it runs on when that one lets go\n",
                        now,
                    );
                }
            }
            TargetEvent::Woken => self.say_printed(now),
            TargetEvent::Reset(_) => self.was_reset(now),
            TargetEvent::GuestCrash(crash) => self.say(&format!("kdd: {crash}\n"), now),
            TargetEvent::ShutDown | TargetEvent::DebugExit(_) => self.say_gone("has shut down", now),
            TargetEvent::Stopped { .. }
            | TargetEvent::Crashed(_)
            | TargetEvent::OtherStopped
            | TargetEvent::OtherResumed
            | TargetEvent::Console { .. }
            | TargetEvent::VcpuUp(_) => {}
        }
    }

    /// The guest was reset: its host forgets all modules, and hears again from the next kernel.
    fn was_reset(&mut self, now: Instant) {
        if std::mem::take(&mut self.rebooting) {
            self.awaited = Some(Awaited::Kernel);
            return;
        }
        let known = self.guest.kernel.is_some();
        self.forget_guest();
        self.awaited = Some(Awaited::Kernel);
        if !known || !self.link.is_heard() {
            return;
        }
        self.say("kdd: the guest was reset\n", now);
        if self.state == State::Stopped {
            // The host speaks now: it hears of it when it lets the guest run.
            self.changes.push_back(ModuleChange::Everything);
        } else if self.guest.session.stop().is_ok() {
            self.report_module(&ModuleChange::Everything, now);
        }
    }

    /// The first word of a kernel that has come up after a reset: its image is loaded. Hosts go on by themselves.
    pub(super) fn greet(&mut self, now: Instant) {
        if self.guest.session.stop().is_err() {
            return;
        }
        self.begin_stop(self.guest.current, now);
        match self.watches.kernel_module() {
            Some(module) => self.report_module(&module, now),
            None => self.report_break(self.guest.current, now),
        }
    }

    fn say_gone(&mut self, what: &str, now: Instant) {
        self.say(&format!("kdd: the guest {what}\n"), now);
        if self.state != State::Stopped && self.link.is_heard() {
            self.report_module(&ModuleChange::Everything, now);
        }
    }

    pub(super) fn say_printed(&mut self, now: Instant) {
        for text in self.watches.printed() {
            self.print(&text, now);
        }
    }
}

fn ids_of(reason: &StopReason) -> &[BreakpointId] {
    match reason {
        StopReason::Breakpoint { ids, .. } => ids,
        StopReason::Watchpoint { id, .. } => std::slice::from_ref(id),
        StopReason::Crashed(_) | StopReason::PageAccess { .. } => &[],
    }
}

fn crash_text(reason: &CrashReason) -> String {
    format!("kdd: the guest crashed: {reason}; it can be looked at, or reset with .reboot\n")
}
