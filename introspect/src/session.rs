//! A debugger's session: its hold, its steps, its breakpoints.

use crate::error::{Error, ReadError, TranslateError, WriteError};
use crate::hold::{Hold, control_of};
use crate::paging::Translation;
use crate::target::{Concerns, Sees, Target};
use crate::virtual_memory::AddressSpace;
use hv_core::introspect::{self, Breakpoint, BreakpointId, Breakpoints, StepMode, StepOutcome, StopReason};
use hv_core::{GuestVirtAddr, VcpuId};
use std::fmt;
use std::sync::Arc;

/// How often a step is tried again when a breakpoint stopped it whose session was gone by then.
const STEP_RETRIES: usize = 64;

/// A session of a target, counted from 1 and never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A session as others see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionInfo {
    /// Its id.
    pub id: SessionId,
    /// Who it is.
    pub description: String,
    /// Whether it holds the domain.
    pub holds: bool,
    /// How many breakpoints and watchpoints it has.
    pub breakpoints: usize,
}

/// An attached debugger. Dropping it detaches: its breakpoints go, then its hold.
pub struct Session {
    target: Arc<Target>,
    id: SessionId,
}

impl Session {
    pub(crate) fn new(target: Arc<Target>, id: SessionId) -> Session {
        Session { target, id }
    }

    /// Its id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Its target.
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// Holds the domain on behalf of this session; does nothing if it does so already. When this returns, no
    /// instruction runs. The other sessions are told, but hold nothing.
    ///
    /// # Errors
    /// [`Error::Domain`] if it can't be paused.
    pub fn stop(&self) -> Result<(), Error> {
        match self.target.lock().session_mut(self.id) {
            Some(me) if me.hold.is_none() => me.stopping += 1,
            _ => return Ok(()),
        }
        let mut hold = Some(Hold::acquire(self.target.domain()));
        let mut state = self.target.lock();
        let mut waited = None;
        if let Some(me) = state.session_mut(self.id) {
            me.stopping -= 1;
            // A stop of the domain may have given us a hold meanwhile: then this one is left over.
            if me.hold.is_none() {
                match hold.take().transpose() {
                    Ok(taken) => me.hold = taken,
                    Err(error) => return Err(error.into()),
                }
                me.sees = Sees::Stopped;
                state.tell_stopped(Some(self.id));
                waited = state.waiting.take();
            }
        }
        drop(state);
        drop((hold, waited));
        self.target.deliver();
        Ok(())
    }

    /// Gives the hold back, if there is one; the domain runs once nobody holds it.
    ///
    /// # Errors
    /// [`Error::Domain`] if it refuses, because it ended; the session holds nothing then either.
    pub fn resume(&self) -> Result<(), Error> {
        let hold = self.target.lock().session_mut(self.id).and_then(|me| {
            me.sees = Sees::Resuming;
            me.hold.take()
        });
        let result = hold.map_or(Ok(()), Hold::release);
        self.target.look_whether_it_runs();
        Ok(result?)
    }

    /// Whether this session holds the domain.
    pub fn holds(&self) -> bool {
        self.target
            .lock()
            .session(self.id)
            .is_some_and(|me| me.hold.is_some())
    }

    /// Steps one vCPU. The session must hold the domain; whoever else does goes on doing so. If something else
    /// stops the domain first, every other session gets a hold and is told of it; this one has the outcome. Another
    /// session's private watchpoint doesn't end the step.
    ///
    /// # Errors
    /// [`Error::NotHolding`]; [`Error::Domain`] if it can't be done.
    pub fn step(&self, vcpu: VcpuId, mode: StepMode) -> Result<StepOutcome, Error> {
        if !self.holds() {
            return Err(Error::NotHolding(self.id));
        }
        let control = control_of(&**self.target.domain())?;
        let mut outcome = control.step(vcpu, mode)?;
        for _ in 0..STEP_RETRIES {
            let StepOutcome::Stopped { vcpu: at, reason } = &outcome else {
                break;
            };
            let (concerns, at) = (self.target.on_stopped(*at, reason, Some(self.id)), *at);
            self.target.deliver();
            let is_watchpoint = matches!(reason, StopReason::Watchpoint { .. });
            match concerns {
                Concerns::Nobody => {}
                // The instruction that met it is complete: it was the one to step, or another vCPU's.
                Concerns::Others if is_watchpoint && at == vcpu => return Ok(StepOutcome::Stepped),
                Concerns::Others if is_watchpoint => {}
                Concerns::Others | Concerns::Caller => break,
            }
            outcome = control.step(vcpu, mode)?;
        }
        Ok(outcome)
    }

    /// Inserts a breakpoint or watchpoint of this session.
    ///
    /// # Errors
    /// [`Error::Domain`] if the domain has none, or refuses this one.
    pub fn insert_breakpoint(&self, breakpoint: Breakpoint) -> Result<BreakpointId, Error> {
        self.insert(breakpoint, false)
    }

    /// The same for one whose stops are this session's own affair: the others don't get a hold, and are told what they
    /// are told when this session pauses the domain.
    ///
    /// # Errors
    /// As [`Session::insert_breakpoint`].
    pub fn insert_private_breakpoint(&self, breakpoint: Breakpoint) -> Result<BreakpointId, Error> {
        self.insert(breakpoint, true)
    }

    fn insert(&self, breakpoint: Breakpoint, private: bool) -> Result<BreakpointId, Error> {
        let place = (breakpoint.place, breakpoint.kind);
        let breakpoints = self.breakpoints()?;
        if let Some(me) = self.target.lock().session_mut(self.id) {
            me.inserting += 1;
        }
        let result = breakpoints.insert_breakpoint(breakpoint);
        if let Some(me) = self.target.lock().session_mut(self.id) {
            me.inserting -= 1;
            me.breakpoints.extend(result.iter());
            me.private
                .extend(result.iter().filter(|_| private).map(|id| (*id, place)));
        }
        Ok(result?)
    }

    /// Removes one; false if this session has none with this id.
    ///
    /// # Errors
    /// [`Error::Domain`] if the domain has no breakpoints.
    pub fn remove_breakpoint(&self, id: BreakpointId) -> Result<bool, Error> {
        let breakpoints = self.breakpoints()?;
        let mut state = self.target.lock();
        let was_mine = state.session_mut(self.id).is_some_and(|me| {
            me.private.remove(&id);
            me.breakpoints.remove(&id)
        });
        drop(state);
        Ok(was_mine && breakpoints.remove_breakpoint(id))
    }

    /// As [`Target::read_virtual`].
    ///
    /// # Errors
    /// As there.
    pub fn read_virtual(
        &self,
        space: AddressSpace,
        address: GuestVirtAddr,
        buffer: &mut [u8],
    ) -> Result<usize, ReadError> {
        self.target.read_virtual(space, address, buffer)
    }

    /// As [`Target::write_virtual`].
    ///
    /// # Errors
    /// As there.
    pub fn write_virtual(
        &self,
        space: AddressSpace,
        address: GuestVirtAddr,
        bytes: &[u8],
    ) -> Result<usize, WriteError> {
        self.target.write_virtual(space, address, bytes)
    }

    /// As [`Target::translate`].
    ///
    /// # Errors
    /// As there.
    pub fn translate(
        &self,
        space: AddressSpace,
        address: GuestVirtAddr,
    ) -> Result<Translation, TranslateError> {
        self.target.translate(space, address)
    }

    fn breakpoints(&self) -> Result<&dyn Breakpoints, Error> {
        let domain = self.target.domain();
        domain.breakpoints().ok_or_else(|| {
            Error::Domain(introspect::Error::Unsupported {
                domain: domain.id(),
                what: "stop at breakpoints",
            })
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(gone) = self.target.lock().remove(self.id) else {
            return;
        };
        // From here on a hit of its breakpoints concerns nobody: they may go while the domain runs.
        if let Some(breakpoints) = self.target.domain().breakpoints() {
            for id in &gone.breakpoints {
                breakpoints.remove_breakpoint(*id);
            }
        }
        drop(gone);
        self.target.look_whether_it_runs();
        tracing::info!(domain = %self.target.domain().id(), session = %self.id, "detached");
    }
}
