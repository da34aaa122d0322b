//! `vCont`, `c`, `s`: what is asked is only noted; the session carries it out.
//!
//! Signals that a client wants to pass on are dropped: a machine has no use for them.

use super::thread;
use crate::guest::Guest;
use crate::inferior::Runs;
use crate::resume::{Action, Actions};
use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::multithread::{
    MultiThreadRangeStepping, MultiThreadRangeSteppingOps, MultiThreadResume, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};

impl Guest {
    fn add(&mut self, id: Tid, action: Action) -> Result<(), String> {
        let thread = thread(self, id).ok_or_else(|| format!("there is no thread {id}"))?;
        let runs = self.inferior.runs(self, thread).inspect_err(|why| {
            self.refusal = Some(why.clone());
        })?;
        if action != Action::Continue {
            self.asked = Some(thread);
        }
        // The first action that fits a thread counts.
        let actions = &mut self.actions;
        match runs {
            Runs::Vcpu(vcpu) if !actions.single.iter().any(|(its, _)| *its == vcpu) => {
                actions.single.push((vcpu, action));
            }
            Runs::InUserMode(pid) if !actions.in_user_mode.iter().any(|(its, _)| *its == pid) => {
                actions.in_user_mode.push((pid, action));
            }
            _ => {}
        }
        Ok(())
    }
}

impl MultiThreadResume for Guest {
    fn resume(&mut self) -> Result<(), String> {
        self.requested = Some(self.actions.plan(self.domain().vcpu_count()));
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), String> {
        self.actions = Actions::default();
        self.asked = None;
        Ok(())
    }

    fn set_resume_action_continue(&mut self, thread: Tid, _: Option<Signal>) -> Result<(), String> {
        self.add(thread, Action::Continue)
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }
    fn support_range_step(&mut self) -> Option<MultiThreadRangeSteppingOps<'_, Self>> {
        Some(self)
    }
    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Guest {
    fn set_resume_action_step(&mut self, thread: Tid, _: Option<Signal>) -> Result<(), String> {
        self.add(thread, Action::Step)
    }
}

impl MultiThreadRangeStepping for Guest {
    fn set_resume_action_range_step(&mut self, thread: Tid, start: u64, end: u64) -> Result<(), String> {
        self.add(thread, Action::Range(start..end))
    }
}

impl MultiThreadSchedulerLocking for Guest {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), String> {
        self.actions.locked = true;
        Ok(())
    }
}
