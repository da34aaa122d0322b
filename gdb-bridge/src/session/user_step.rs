//! Carrying out steps in user mode: see [`crate::process::step`].

use super::GdbSession;
use crate::guest::SIGTRAP;
use crate::process::end::End;
use crate::process::step::Whereabouts;
use crate::resume::Plan;
use crate::stub::Stop;
use hv_core::addr::VcpuId;
use hv_core::introspect::{BreakpointId, StepMode};
use std::ops::Range;

/// What came of a look at a thread that is stepped.
pub(super) enum Progress {
    /// The client gets this stop.
    Stop(Stop),
    /// Go on.
    Again,
    /// The guest runs until the thread is where it is waited for.
    Waits,
}

impl GdbSession {
    /// A piece of a step of a thread.
    pub(super) fn step_in_user_mode(&mut self, pid: u32, range: Option<&Range<u64>>) -> Progress {
        let stop = |session: &mut GdbSession, why: &str| {
            session.say(&format!("{why}\n"));
            Progress::Stop(Stop::Signal(SIGTRAP, session.guest.vcpu()))
        };
        let guest = &self.guest;
        let Some(process) = guest.inferior.process() else {
            return stop(self, "there is no process");
        };
        let whereabouts = match process.whereabouts(guest, pid) {
            Ok(Whereabouts::On(vcpu)) => {
                let Ok(before) = guest.domain().registers(vcpu) else {
                    return stop(self, "the vCPU can't be read");
                };
                let (stepped, other) = self.step(vcpu, StepMode::Schedule);
                if let Some(other) = other {
                    return Progress::Stop(other);
                }
                if !stepped {
                    return Progress::Again;
                }
                match self.guest.domain().registers(vcpu) {
                    Ok(after) if after.cpl() == 3 => return self.stepped(vcpu, range),
                    _ => {}
                }
                match self.guest.inferior.process() {
                    Some(process) => process.after_entry(&self.guest, &before),
                    None => return Progress::Again,
                }
            }
            Ok(elsewhere) => elsewhere,
            Err(why) => return stop(self, &why),
        };
        let Whereabouts::Returns { to, again } = whereabouts else {
            return Progress::Again;
        };
        let guest = &self.guest;
        let awaited = guest
            .inferior
            .process()
            .map(|process| process.wait(guest, to, again));
        match awaited {
            Some(Ok(awaited)) => self.awaited = Some(awaited),
            Some(Err(why)) => return stop(self, &why),
            None => return Progress::Again,
        }
        self.go_on();
        Progress::Waits
    }

    /// After an instruction of a thread: it goes on in a range, unless it came to a breakpoint.
    fn stepped(&mut self, vcpu: VcpuId, range: Option<&Range<u64>>) -> Progress {
        let stop = match range {
            Some(range) => self.leaves(vcpu, range),
            None => Some(Stop::Signal(SIGTRAP, vcpu)),
        };
        stop.map_or(Progress::Again, Progress::Stop)
    }

    /// The guest stopped at breakpoints of the session's own: what is to be told of it, if anything. `None` if they are others'.
    pub(super) fn at_own_breakpoint(&mut self, vcpu: VcpuId, ids: &[BreakpointId]) -> Option<Progress> {
        if ids.iter().any(|id| self.guest.end_watch.is(*id)) {
            let mut watch = std::mem::take(&mut self.guest.end_watch);
            let end = self.guest.inferior.process();
            let end = end.and_then(|process| watch.ends(&self.guest, process, vcpu));
            self.guest.end_watch = watch;
            return Some(match end {
                Some(End::Exited(status)) => Progress::Stop(Stop::Exited(status)),
                Some(End::Killed(signal)) => Progress::Stop(Stop::Killed(signal)),
                None => Progress::Waits,
            });
        }
        let again = self.awaited.as_ref().filter(|it| ids.contains(&it.id))?.again;
        let Some(Plan::InUserMode { pid, range }) = self.plan.clone() else {
            return Some(Progress::Waits);
        };
        let tasks = self.guest.tasks();
        let current = tasks.as_ref().and_then(|tasks| tasks.current(vcpu));
        if current.is_none_or(|task| task.pid != pid) {
            // Another thread came by.
            return Some(Progress::Waits);
        }
        self.await_no_longer();
        Some(if again {
            Progress::Again
        } else {
            self.stepped(vcpu, range.as_ref())
        })
    }

    /// Takes out the breakpoint at which a thread was waited for.
    pub(super) fn await_no_longer(&mut self) {
        if let Some(awaited) = self.awaited.take()
            && let Err(error) = self.guest.session.remove_breakpoint(awaited.id)
        {
            tracing::debug!(%error, "a breakpoint can't be removed");
        }
    }

    /// Lets the guest run, with the plan as it is.
    pub(super) fn go_on(&mut self) {
        self.guest.watch_for_end();
        if let Err(error) = self.guest.session.resume() {
            self.say(&format!("the guest can't run: {error}\n"));
            self.stop(Stop::Signal(SIGTRAP, self.guest.vcpu()));
        }
    }
}
