//! The dom0 side of a domain: one [`Target`] per domain, shared by all debuggers.
//!
//! A stand-in with the interface that gdb-bridge is written against.
#![allow(missing_docs)]

use hv_core::addr::{GuestPhysAddr, GuestVirtAddr, VcpuId};
use hv_core::introspect::*;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, Weak};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PagingMode {
    Level4,
}
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressSpace {
    Vcpu(VcpuId),
    Root(PagingMode, GuestPhysAddr),
    Physical,
}
#[derive(Clone, Debug)]
pub struct Level {
    pub name: &'static str,
    pub index: u64,
    pub entry_addr: GuestPhysAddr,
    pub entry: u64,
}
#[derive(Clone, Debug)]
pub struct Translation {
    pub address: GuestPhysAddr,
    pub levels: Vec<Level>,
}
#[derive(Clone, Debug, thiserror::Error)]
#[error("not present")]
pub struct TranslateError {
    pub levels: Vec<Level>,
}
#[derive(Clone, Debug, thiserror::Error)]
#[error("not present")]
pub struct ReadError;
#[derive(Clone, Debug, thiserror::Error)]
#[error("not present")]
pub struct WriteError;

#[derive(Clone, Debug)]
pub enum TargetEvent {
    Stopped { vcpu: VcpuId, reason: StopReason, mine: bool },
    OtherStopped,
    OtherResumed,
    Crashed(CrashReason),
    Reset,
    ShutDown,
    DebugExit(u32),
    Console { port: usize, bytes: Vec<u8> },
    VcpuUp(VcpuId),
}
pub type EventSink = Box<dyn Fn(&TargetEvent) + Send + Sync>;
#[derive(Clone, Debug)]
pub struct SessionInfo {
    pub id: u64,
    pub description: String,
    pub holds: bool,
    pub breakpoints: usize,
}

struct Inner {
    next: u64,
    held: bool,
    sessions: Vec<Arc<Shared>>,
}
struct Shared {
    id: u64,
    description: String,
    sink: EventSink,
    state: Mutex<SessionState>,
}
#[derive(Default)]
struct SessionState {
    holds: bool,
    breakpoints: BTreeSet<BreakpointId>,
}
pub struct Target {
    domain: Arc<dyn Introspect>,
    inner: Mutex<Inner>,
}
impl Target {
    pub fn new(domain: Arc<dyn Introspect>) -> Arc<Target> {
        let target = Arc::new(Target {
            domain: domain.clone(),
            inner: Mutex::new(Inner { next: 1, held: false, sessions: vec![] }),
        });
        let weak = Arc::downgrade(&target);
        if let Some(events) = domain.events() {
            events.subscribe(Box::new(move |e| Self::on_event(&weak, e)));
        }
        target
    }
    fn on_event(weak: &Weak<Target>, event: &Event) {
        let Some(target) = weak.upgrade() else { return };
        let sessions = {
            let mut inner = target.inner.lock().unwrap();
            if let Event::Stopped { .. } = event {
                if inner.held {
                    let _ = target.domain.control_run().unwrap().unpause();
                }
                inner.held = true;
                for s in &inner.sessions {
                    s.state.lock().unwrap().holds = true;
                }
            }
            inner.sessions.clone()
        };
        for s in &sessions {
            let out = match event {
                Event::Stopped { vcpu, reason } => {
                    let state = s.state.lock().unwrap();
                    let mine = match reason {
                        StopReason::Breakpoint { ids, .. } => ids.iter().any(|i| state.breakpoints.contains(i)),
                        StopReason::Watchpoint { id, .. } => state.breakpoints.contains(id),
                        _ => false,
                    };
                    TargetEvent::Stopped { vcpu: *vcpu, reason: reason.clone(), mine }
                }
                Event::Paused(_) => continue,
                Event::Crashed(r) => TargetEvent::Crashed(r.clone()),
                Event::Reset => TargetEvent::Reset,
                Event::ShutDown => TargetEvent::ShutDown,
                Event::DebugExit(n) => TargetEvent::DebugExit(*n),
                Event::VcpuUp(v) => TargetEvent::VcpuUp(*v),
                Event::Console { port, bytes } => TargetEvent::Console { port: *port, bytes: bytes.clone() },
            };
            (s.sink)(&out);
        }
    }
    pub fn domain(&self) -> &Arc<dyn Introspect> {
        &self.domain
    }
    pub fn attach(self: &Arc<Self>, description: &str, sink: EventSink) -> Session {
        let mut inner = self.inner.lock().unwrap();
        let id = inner.next;
        inner.next += 1;
        let shared = Arc::new(Shared {
            id,
            description: description.into(),
            sink,
            state: Mutex::default(),
        });
        inner.sessions.push(shared.clone());
        Session { target: self.clone(), shared }
    }
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let inner = self.inner.lock().unwrap();
        let of = |s: &Arc<Shared>| {
            let state = s.state.lock().unwrap();
            SessionInfo {
                id: s.id,
                description: s.description.clone(),
                holds: state.holds,
                breakpoints: state.breakpoints.len(),
            }
        };
        inner.sessions.iter().map(of).collect()
    }
    fn settle(&self) {
        let mut inner = self.inner.lock().unwrap();
        let want = inner.sessions.iter().any(|s| s.state.lock().unwrap().holds);
        if want != inner.held {
            inner.held = want;
            let run = self.domain.control_run().unwrap();
            drop(inner);
            let _ = if want { run.pause() } else { run.unpause() };
        }
    }
    pub fn read_virtual(
        &self,
        _: AddressSpace,
        addr: GuestVirtAddr,
        buf: &mut [u8],
    ) -> std::result::Result<usize, ReadError> {
        match self.domain.read_physical(GuestPhysAddr(addr.0), buf) {
            Ok(()) => Ok(buf.len()),
            Err(Error::NoMemory { done, .. }) if done > 0 => Ok(done),
            Err(_) => Err(ReadError),
        }
    }
    pub fn write_virtual(
        &self,
        _: AddressSpace,
        addr: GuestVirtAddr,
        bytes: &[u8],
    ) -> std::result::Result<usize, WriteError> {
        let write = self.domain.write_memory().ok_or(WriteError)?;
        match write.write_physical(GuestPhysAddr(addr.0), bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(Error::NoMemory { done, .. }) if done > 0 => Ok(done),
            Err(_) => Err(WriteError),
        }
    }
    pub fn translate(
        &self,
        _: AddressSpace,
        addr: GuestVirtAddr,
    ) -> std::result::Result<Translation, TranslateError> {
        Ok(Translation { address: GuestPhysAddr(addr.0), levels: vec![] })
    }
}
pub struct Session {
    target: Arc<Target>,
    shared: Arc<Shared>,
}
impl Session {
    pub fn id(&self) -> u64 {
        self.shared.id
    }
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }
    pub fn stop(&self) -> Result<()> {
        self.shared.state.lock().unwrap().holds = true;
        self.target.settle();
        Ok(())
    }
    pub fn resume(&self) -> Result<()> {
        self.shared.state.lock().unwrap().holds = false;
        self.target.settle();
        Ok(())
    }
    pub fn holds(&self) -> bool {
        self.shared.state.lock().unwrap().holds
    }
    pub fn step(&self, vcpu: VcpuId, mode: StepMode) -> Result<StepOutcome> {
        self.target.domain.control_run().unwrap().step(vcpu, mode)
    }
    pub fn insert_breakpoint(&self, b: Breakpoint) -> Result<BreakpointId> {
        let id = self.target.domain.breakpoints().unwrap().insert_breakpoint(b)?;
        self.shared.state.lock().unwrap().breakpoints.insert(id);
        Ok(id)
    }
    pub fn remove_breakpoint(&self, id: BreakpointId) -> Result<bool> {
        if !self.shared.state.lock().unwrap().breakpoints.remove(&id) {
            return Ok(false);
        }
        Ok(self.target.domain.breakpoints().unwrap().remove_breakpoint(id))
    }
}
impl Drop for Session {
    fn drop(&mut self) {
        let ids = std::mem::take(&mut self.shared.state.lock().unwrap().breakpoints);
        for id in ids {
            self.target.domain.breakpoints().unwrap().remove_breakpoint(id);
        }
        self.shared.state.lock().unwrap().holds = false;
        self.target.settle();
        let id = self.shared.id;
        self.target.inner.lock().unwrap().sessions.retain(|s| s.id != id);
    }
}
