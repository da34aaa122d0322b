//! Pauses: the operator's, which last, and those for the time of a look.

use super::{Managed, domain_failure, lock};
use crate::Failure;
use hv_core::introspect::{ControlRun, DomainState, Error};
use std::sync::Arc;

const UNPAUSE_HINT: &str = "'kdd info' shows who holds it";

impl Managed {
    /// How many pauses are the operator's.
    pub fn operator_pauses(&self) -> u32 {
        *lock(&self.operator_pauses)
    }

    /// Pauses it until [`Managed::unpause`].
    pub fn pause(&self) -> Result<(), Failure> {
        self.check_alive()?;
        self.control()?
            .pause()
            .map_err(|error| self.failure(&error, "'kdd info' shows its state"))?;
        *lock(&self.operator_pauses) += 1;
        Ok(())
    }

    /// Holds it until its first debugger does so itself, or until [`Managed::unpause`].
    pub(super) fn wait_for_debugger(&self) -> Result<(), Failure> {
        self.target()
            .wait_for_debugger()
            .map_err(|error| self.failure(&error, "'kdd info' shows its state"))
    }

    /// Takes one of the operator's pauses back. Those of debuggers are theirs.
    pub fn unpause(&self) -> Result<(), Failure> {
        let control = self.control()?;
        {
            let mut pauses = lock(&self.operator_pauses);
            if *pauses == 0 {
                if self.target().wait_no_longer() {
                    return Ok(());
                }
                let why = match self.domain().state() {
                    DomainState::Paused(_) => "only debuggers hold it paused",
                    DomainState::Crashed(_) => "it has crashed",
                    DomainState::ShutDown => "it is shut down",
                    DomainState::Running => "it isn't paused",
                };
                let hint = match self.domain().state() {
                    DomainState::Paused(_) => "let it go on from there, or end their sessions",
                    DomainState::Crashed(_) | DomainState::ShutDown => "'kdd reset' boots it again",
                    DomainState::Running => "there is nothing to do",
                };
                return Err(self.failure(&Plain(why), hint));
            }
            *pauses -= 1;
        }
        control
            .unpause()
            .map_err(|error| self.failure(&error, UNPAUSE_HINT))
    }

    /// Boots the same guest again.
    pub fn reset(&self) -> Result<(), Failure> {
        self.control()?
            .reset()
            .map_err(|error| self.failure(&error, "'kdd info' shows its state"))
    }

    /// Pauses it until the result is dropped. A domain that has ended needs no pause and gets none.
    pub(super) fn hold(self: &Arc<Self>) -> Result<Held, Failure> {
        let held = match (self.domain().control_run(), self.domain().state()) {
            (None, _) | (_, DomainState::Crashed(_) | DomainState::ShutDown) => false,
            (Some(control), _) => match control.pause() {
                Ok(()) => true,
                // It ended just now.
                Err(Error::WrongState { .. }) if !self.is_alive() => false,
                Err(error) => return Err(self.failure(&error, "'kdd info' shows its state")),
            },
        };
        Ok(Held {
            managed: self.clone(),
            held,
        })
    }

    fn is_alive(&self) -> bool {
        matches!(
            self.domain().state(),
            DomainState::Running | DomainState::Paused(_)
        )
    }

    fn check_alive(&self) -> Result<(), Failure> {
        let why = match self.domain().state() {
            DomainState::Crashed(_) => "it has crashed",
            DomainState::ShutDown => "it is shut down",
            DomainState::Running | DomainState::Paused(_) => return Ok(()),
        };
        Err(self.failure(&Plain(why), "'kdd reset' boots it again, 'kdd destroy' ends it"))
    }

    fn control(&self) -> Result<&dyn ControlRun, Failure> {
        self.domain()
            .control_run()
            .ok_or_else(|| self.failure(&Plain("it can't be run or stopped"), "it is there to be read"))
    }

    /// A failure of this domain.
    pub(super) fn failure(&self, error: &dyn std::error::Error, hint: &str) -> Failure {
        domain_failure(self.domain(), error, hint)
    }
}

/// A pause for as long as it lives.
pub(super) struct Held {
    managed: Arc<Managed>,
    held: bool,
}

impl Held {
    /// Whose.
    pub fn managed(&self) -> &Managed {
        &self.managed
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.held {
            return;
        }
        if let Some(Err(error)) = self.managed.domain().control_run().map(ControlRun::unpause) {
            // It ended while it was held.
            tracing::debug!(%error, "a pause is gone already");
        }
    }
}

/// A reason in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Plain(pub &'static str);
