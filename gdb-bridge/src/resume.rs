//! What a resume request asks for.

use hv_core::addr::VcpuId;
use hv_core::introspect::StepMode;
use std::ops::Range;

/// What one vCPU shall do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Run.
    Continue,
    /// One instruction.
    Step,
    /// Instructions until RIP leaves the range.
    Range(Range<u64>),
}

impl Action {
    fn range(&self) -> Option<Range<u64>> {
        match self {
            Action::Range(range) => Some(range.clone()),
            Action::Continue | Action::Step => None,
        }
    }
}

/// A request as it comes in: actions for single vCPUs, and whether the others stand still.
#[derive(Clone, Default, Debug)]
pub struct Actions {
    /// In the order of the request.
    pub single: Vec<(VcpuId, Action)>,
    /// The same for tasks in user mode, by their pids.
    pub in_user_mode: Vec<(u32, Action)>,
    /// The vCPUs that weren't named don't run (gdb's `scheduler-locking`).
    pub locked: bool,
}

/// A request as it is carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Plan {
    /// Everything runs.
    Continue,
    /// One vCPU is stepped.
    Step {
        /// Which.
        vcpu: VcpuId,
        /// What the others do meanwhile.
        mode: StepMode,
        /// Where it goes on stepping.
        range: Option<Range<u64>>,
    },
    /// Everything runs until a task has gone on in user mode.
    InUserMode {
        /// Its pid.
        pid: u32,
        /// Where it goes on stepping.
        range: Option<Range<u64>>,
    },
    /// Only these run, the others stand still: done by stepping them in turn.
    Alone {
        /// Which; at least one.
        vcpus: Vec<VcpuId>,
        /// The index of the next one.
        next: usize,
    },
}

impl Actions {
    /// The plan for a domain of `count` vCPUs.
    pub fn plan(&self, count: u32) -> Plan {
        let in_user_mode = self.in_user_mode.iter();
        if let Some((pid, action)) = in_user_mode
            .clone()
            .find(|(_, action)| *action != Action::Continue)
        {
            return Plan::InUserMode {
                pid: *pid,
                range: action.range(),
            };
        }
        let step = self.single.iter().find(|(_, action)| *action != Action::Continue);
        if let Some((vcpu, action)) = step {
            let others_run = self
                .single
                .iter()
                .any(|(v, action)| v != vcpu && *action == Action::Continue);
            return Plan::Step {
                vcpu: *vcpu,
                mode: if self.locked && !others_run {
                    StepMode::Alone
                } else {
                    StepMode::Schedule
                },
                range: action.range(),
            };
        }
        // Tasks can't be kept from running: nothing stands still for them.
        let mut vcpus: Vec<_> = self.single.iter().map(|(vcpu, _)| *vcpu).collect();
        vcpus.sort_unstable();
        vcpus.dedup();
        if !self.locked || vcpus.is_empty() || vcpus.len() == count as usize {
            Plan::Continue
        } else {
            Plan::Alone { vcpus, next: 0 }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actions(single: &[(u32, Action)], locked: bool) -> Actions {
        let single = single.iter().map(|(v, a)| (VcpuId(*v), a.clone())).collect();
        Actions {
            single,
            locked,
            ..Actions::default()
        }
    }

    #[test]
    fn a_step_with_a_default_continue_lets_the_others_run() {
        let Plan::Step { vcpu, mode, .. } = actions(&[(1, Action::Step)], false).plan(2) else {
            panic!("not a step")
        };
        assert_eq!((vcpu, mode), (VcpuId(1), StepMode::Schedule));
    }

    #[test]
    fn a_step_of_one_alone_keeps_the_others_still() {
        let Plan::Step { mode, range, .. } = actions(&[(0, Action::Range(1..9))], true).plan(2) else {
            panic!("not a step")
        };
        assert_eq!((mode, range), (StepMode::Alone, Some(1..9)));
    }

    #[test]
    fn continuing_one_of_two_is_told_from_continuing_all() {
        assert_eq!(actions(&[], false).plan(2), Plan::Continue);
        assert_eq!(
            actions(&[(0, Action::Continue), (1, Action::Continue)], true).plan(2),
            Plan::Continue
        );
        assert_eq!(
            actions(&[(1, Action::Continue)], true).plan(2),
            Plan::Alone {
                vcpus: vec![VcpuId(1)],
                next: 0
            }
        );
    }
}
