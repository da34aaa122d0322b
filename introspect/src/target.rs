//! The target: who is attached, who holds the domain, and who is told what.
//!
//! All state is in [`State`] under one lock, which is never held while the domain or a sink is called. Pauses are
//! therefore taken before the lock, moved into place as [`Hold`] values under it, and what is left over is dropped
//! after it.

use crate::error::Error;
use crate::event::{EventSink, TargetEvent};
use crate::hold::Hold;
use crate::linux;
use crate::outbox::Outbox;
use crate::session::{Session, SessionId, SessionInfo};
use hv_core::VcpuId;
use hv_core::introspect::{
    BreakpointId, BreakpointKind, DomainState, Event, Introspect, Place, StopReason, SubscriptionId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// A domain as all its debuggers share it.
pub struct Target {
    domain: Arc<dyn Introspect>,
    subscription: OnceLock<SubscriptionId>,
    state: Mutex<State>,
    pub(crate) linux: linux::Known,
}

#[derive(Default)]
pub(crate) struct State {
    sessions: Vec<Attached>,
    /// See [`Target::wait_for_debugger`].
    pub(crate) waiting: Option<Hold>,
    next_id: u64,
    /// Counts the moments at which `sees` of a session may have changed; see [`Target::compare_with_domain`].
    generation: u64,
}

/// A session as the target keeps it.
pub(crate) struct Attached {
    id: SessionId,
    description: String,
    outbox: Arc<Outbox>,
    pub(crate) hold: Option<Hold>,
    pub(crate) breakpoints: BTreeSet<BreakpointId>,
    /// Those of them whose stops are this session's own affair.
    pub(crate) private: BTreeMap<BreakpointId, (Place, BreakpointKind)>,
    /// Calls of `stop` that are just pausing the domain: the pause they cause is no news to this session.
    pub(crate) stopping: u32,
    /// Calls of `insert_breakpoint` whose id isn't in `breakpoints` yet, though it may be hit already.
    pub(crate) inserting: u32,
    pub(crate) sees: Sees,
}

/// Whom a stop concerns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Concerns {
    /// Its breakpoints belong to nobody any more: nobody is disturbed.
    Nobody,
    /// It is the private affair of sessions that don't step now.
    Others,
    /// Everybody, or at least whoever steps.
    Caller,
}

/// What a session takes the domain to be doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sees {
    /// It runs.
    Running,
    /// It is stopped: the session did that or was told.
    Stopped,
    /// The session has given its hold back, and doesn't know yet whether the domain runs: others may hold it.
    Resuming,
}

impl Target {
    /// The target of a domain; make one per domain. It subscribes to the domain's events.
    pub fn new(domain: Arc<dyn Introspect>) -> Arc<Target> {
        let target = Arc::new(Target {
            domain,
            subscription: OnceLock::new(),
            state: Mutex::default(),
            linux: linux::Known::default(),
        });
        if let Some(events) = target.domain.events() {
            let weak_target = Arc::downgrade(&target);
            let weak_domain = Arc::downgrade(&target.domain);
            let id = events.subscribe(Box::new(move |event| match weak_target.upgrade() {
                Some(target) => target.on_event(event),
                // The target is just being dropped: nobody is attached, the domain runs on.
                None => {
                    if let (Event::Stopped { .. }, Some(domain)) = (event, weak_domain.upgrade()) {
                        drop(Hold::adopt(&domain));
                    }
                }
            }));
            target.subscription.get_or_init(|| id);
        }
        target
    }

    /// The domain.
    pub fn domain(&self) -> &Arc<dyn Introspect> {
        &self.domain
    }

    /// A new session, which neither holds nor stops the domain yet. `description` is for people (who is it, from
    /// where).
    pub fn attach(self: &Arc<Self>, description: &str, sink: EventSink) -> Session {
        let mut state = self.lock();
        state.next_id += 1;
        let id = SessionId(state.next_id);
        state.sessions.push(Attached {
            id,
            description: description.to_owned(),
            outbox: Arc::new(Outbox::new(sink)),
            hold: None,
            breakpoints: BTreeSet::new(),
            private: BTreeMap::new(),
            stopping: 0,
            inserting: 0,
            sees: Sees::Running,
        });
        drop(state);
        self.compare_with_domain(|state, domain| {
            if let (Some(new), DomainState::Paused(_)) = (state.session_mut(id), domain) {
                new.sees = Sees::Stopped;
            }
        });
        tracing::info!(domain = %self.domain.id(), session = %id, description, "attached");
        Session::new(self.clone(), id)
    }

    /// The sessions that are attached, in the order in which they came.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let describe = |session: &Attached| SessionInfo {
            id: session.id,
            description: session.description.clone(),
            holds: session.hold.is_some(),
            breakpoints: session.breakpoints.len(),
        };
        self.lock().sessions.iter().map(describe).collect()
    }

    /// Holds the domain until the first session does so itself: a machine that waits for its debugger. The
    /// session's own hold takes the place of this one without an instruction run in between.
    ///
    /// # Errors
    /// The domain can't be paused.
    pub fn wait_for_debugger(&self) -> Result<(), Error> {
        let hold = Hold::acquire(&self.domain)?;
        let before = self.lock().waiting.replace(hold);
        drop(before);
        Ok(())
    }

    /// Ends the wait of [`Target::wait_for_debugger`]; false if there was none any more.
    pub fn wait_no_longer(&self) -> bool {
        let hold = self.lock().waiting.take();
        hold.is_some()
    }

    /// Whether it still waits for its first debugger.
    pub fn waits_for_debugger(&self) -> bool {
        self.lock().waiting.is_some()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_event(&self, event: &Event) {
        match event {
            Event::Stopped { vcpu, reason } => {
                let stop = Hold::adopt(&self.domain);
                self.on_stopped(*vcpu, reason, None);
                drop(stop);
                self.deliver();
            }
            Event::Paused(true) => self.compare_with_domain(|state, domain| {
                if matches!(domain, DomainState::Paused(_)) {
                    state.tell_stopped(None);
                }
            }),
            Event::Paused(false) => self.look_whether_it_runs(),
            Event::Crashed(reason) => self.tell_all(&TargetEvent::Crashed(reason.clone())),
            Event::Reset(cause) => self.tell_all(&TargetEvent::Reset(*cause)),
            Event::GuestCrash(crash) => self.tell_all(&TargetEvent::GuestCrash(crash.clone())),
            Event::ShutDown => self.tell_all(&TargetEvent::ShutDown),
            Event::DebugExit(value) => self.tell_all(&TargetEvent::DebugExit(*value)),
            Event::VcpuUp(vcpu) => self.tell_all(&TargetEvent::VcpuUp(*vcpu)),
            Event::Console { port, bytes } => self.tell_all(&TargetEvent::Console {
                port: *port,
                bytes: bytes.clone(),
            }),
        }
    }

    /// Gives every session that the stop concerns a hold and tells it of the stop (all but `stepper`, who learns it
    /// otherwise): all that are attached, or of a stop at private breakpoints only their owners. The others then see
    /// a pause. The caller holds the domain until this is done, and delivers.
    pub(crate) fn on_stopped(
        &self,
        vcpu: VcpuId,
        reason: &StopReason,
        stepper: Option<SessionId>,
    ) -> Concerns {
        let mut holds = Vec::new();
        let mut refused = false;
        loop {
            let mut state = self.lock();
            if !state.concerns_anyone(reason) {
                return Concerns::Nobody;
            }
            let owners = state.private_owners(reason);
            let concerned = |id: SessionId| owners.as_ref().is_none_or(|owners| owners.contains_key(&id));
            let missing = state
                .sessions
                .iter()
                .filter(|s| s.hold.is_none() && concerned(s.id))
                .count();
            if holds.len() < missing && !refused {
                drop(state);
                match Hold::acquire(&self.domain) {
                    Ok(hold) => holds.push(hold),
                    Err(error) => {
                        tracing::warn!(%error, "a stopped domain can't be held");
                        refused = true;
                    }
                }
                continue;
            }
            let held_before = state.sessions.iter().any(|s| s.hold.is_some());
            state.generation += 1;
            for session in state.sessions.iter_mut().filter(|s| concerned(s.id)) {
                if session.hold.is_none() {
                    session.hold = holds.pop();
                }
                session.sees = Sees::Stopped;
                if Some(session.id) != stepper {
                    let own = owners.as_ref().and_then(|owners| owners.get(&session.id));
                    session.outbox.put(TargetEvent::Stopped {
                        vcpu,
                        reason: own.map_or_else(|| reason.clone(), |id| named(reason, *id)),
                        mine: own.is_some() || session.owns_any(breakpoints_of(reason)),
                    });
                }
            }
            if owners.is_some() {
                state.tell_pause(held_before, stepper);
            }
            // The lock goes first, then holds that found no taker.
            return match stepper {
                Some(stepper) if !concerned(stepper) => Concerns::Others,
                _ => Concerns::Caller,
            };
        }
    }

    /// Tells those who were told that the domain stopped, and don't hold it, that it runs, if it does.
    pub(crate) fn look_whether_it_runs(&self) {
        self.compare_with_domain(|state, domain| {
            if matches!(domain, DomainState::Running) {
                state.tell_running();
            }
        });
    }

    /// Runs `change` with the domain's present state. The domain is asked without the lock, so it is asked again
    /// if anything changed meanwhile: an old answer never overwrites a newer one.
    fn compare_with_domain(&self, change: impl Fn(&mut State, &DomainState)) {
        loop {
            let generation = self.lock().generation;
            let domain = self.domain.state();
            let mut state = self.lock();
            if state.generation == generation {
                state.generation += 1;
                change(&mut state, &domain);
                break;
            }
        }
        self.deliver();
    }

    fn tell_all(&self, event: &TargetEvent) {
        for session in &self.lock().sessions {
            session.outbox.put(event.clone());
        }
        self.deliver();
    }

    /// Calls the sinks for all events that are queued. Not with the lock held.
    pub(crate) fn deliver(&self) {
        let outboxes: Vec<_> = self.lock().sessions.iter().map(|s| s.outbox.clone()).collect();
        for outbox in outboxes {
            outbox.deliver();
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let (Some(events), Some(id)) = (self.domain.events(), self.subscription.get()) {
            events.unsubscribe(*id);
        }
    }
}

impl State {
    pub(crate) fn session(&self, id: SessionId) -> Option<&Attached> {
        self.sessions.iter().find(|s| s.id == id)
    }

    pub(crate) fn session_mut(&mut self, id: SessionId) -> Option<&mut Attached> {
        self.sessions.iter_mut().find(|s| s.id == id)
    }

    /// Takes a session out. Its outbox is closed; its hold is the caller's to drop, after the lock.
    pub(crate) fn remove(&mut self, id: SessionId) -> Option<Attached> {
        let index = self.sessions.iter().position(|s| s.id == id)?;
        let gone = self.sessions.remove(index);
        gone.outbox.close();
        Some(gone)
    }

    /// The domain stands still, because of session `by` or of somebody outside.
    pub(crate) fn tell_stopped(&mut self, by: Option<SessionId>) {
        // If nobody else holds it, it did run until now, even if a session that resumed hasn't seen that yet.
        let held_before = self.sessions.iter().any(|s| Some(s.id) != by && s.hold.is_some());
        self.tell_pause(held_before, by);
    }

    fn tell_pause(&mut self, held_before: bool, by: Option<SessionId>) {
        self.generation += 1;
        for session in &mut self.sessions {
            let knows = session.hold.is_some() || session.stopping > 0 || Some(session.id) == by;
            let ran = match session.sees {
                Sees::Running => true,
                Sees::Resuming => !held_before,
                Sees::Stopped => false,
            };
            if ran && !knows {
                session.sees = Sees::Stopped;
                session.outbox.put(TargetEvent::OtherStopped);
            }
        }
    }

    fn tell_running(&mut self) {
        if self.sessions.iter().any(|s| s.hold.is_some()) {
            return; // held again since the domain was asked
        }
        for session in &mut self.sessions {
            if session.stopping == 0 && session.sees == Sees::Stopped {
                session.outbox.put(TargetEvent::OtherResumed);
            }
            session.sees = Sees::Running;
        }
    }

    /// The sessions whose private affair a stop is, and what each calls it; `None` if it is everybody's.
    ///
    /// A domain tells of one watchpoint where several are at a place: whoever has one there is an owner.
    fn private_owners(&self, reason: &StopReason) -> Option<BTreeMap<SessionId, BreakpointId>> {
        let ids = breakpoints_of(reason);
        if self.sessions.iter().any(|s| s.inserting > 0) {
            return None; // whose an unknown one is can't be told
        }
        let mut places = Vec::new();
        for id in ids {
            if let Some(owner) = self.sessions.iter().find(|s| s.breakpoints.contains(id)) {
                places.push(owner.private.get(id)?);
            }
        }
        let own = |s: &Attached| {
            let named = s.private.keys().find(|id| ids.contains(id));
            let there = || s.private.iter().find(|(_, place)| places.contains(place));
            Some((s.id, *named.or_else(|| there().map(|(id, _)| id))?))
        };
        (!places.is_empty()).then(|| self.sessions.iter().filter_map(own).collect())
    }

    /// Whether a stop is of interest: always, except at breakpoints whose sessions are gone or removed them while
    /// the stop was under way. With nobody attached nothing is.
    fn concerns_anyone(&self, reason: &StopReason) -> bool {
        let ids = breakpoints_of(reason);
        match ids {
            [] => !self.sessions.is_empty(),
            ids => self.sessions.iter().any(|s| s.owns_any(ids)),
        }
    }
}

impl Attached {
    /// Whether one of `ids` is this session's, or may be because it is just being inserted.
    fn owns_any(&self, ids: &[BreakpointId]) -> bool {
        ids.iter().any(|id| self.breakpoints.contains(id)) || (!ids.is_empty() && self.inserting > 0)
    }
}

/// The same stop, at the session's own watchpoint.
fn named(reason: &StopReason, own: BreakpointId) -> StopReason {
    match reason {
        StopReason::Watchpoint { address, access, .. } => StopReason::Watchpoint {
            id: own,
            address: *address,
            access: *access,
        },
        other => other.clone(),
    }
}

fn breakpoints_of(reason: &StopReason) -> &[BreakpointId] {
    match reason {
        StopReason::Breakpoint { ids, .. } => ids,
        StopReason::Watchpoint { id, .. } => std::slice::from_ref(id),
        StopReason::Crashed(_) | StopReason::PageAccess { .. } => &[],
    }
}
