//! A domain without a machine, which is what a tape says.

use super::{Cause, Live, PAGE, Tape, Wanted};
use hv_core::introspect::{
    Breakpoint, BreakpointId, Breakpoints, ControlRun, CrashReason, DomainState, Error, Event, EventSink,
    Events, Introspect, MemoryRegion, ReadMemory, ReadRegisters, Result, StepMode, StepOutcome,
    SubscriptionId, WriteMemory, WriteRegisters,
};
use hv_core::regs::Registers;
use hv_core::{DomId, GuestPhysAddr, Ticks, VcpuId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const ID: DomId = DomId(1);

/// Plays a tape. It begins paused once; a stop comes when [`Player::deliver`] is called.
pub struct Player {
    tape: Arc<Tape>,
    state: Mutex<State>,
    sinks: Mutex<BTreeMap<u64, Arc<EventSink>>>,
}

struct State {
    /// The index of the present moment.
    at: usize,
    pauses: u32,
    crashed: Option<CrashReason>,
    registers: Vec<Registers>,
    msrs: BTreeMap<(u32, u32), Option<u64>>,
    /// By frame. A page that is looked at earlier than when it was recorded is as it will be.
    pages: BTreeMap<u64, Vec<u8>>,
    live: Live,
    next_id: u64,
    /// Breakpoints that weren't there when the tape was made: those that a newer session has for itself, always.
    more: Option<BTreeSet<Wanted>>,
    /// What was asked for and isn't on the tape.
    strayed: Vec<String>,
}

impl Player {
    /// Of a tape with at least one moment.
    ///
    /// # Panics
    /// There is none.
    pub fn new(tape: &Arc<Tape>) -> Arc<Player> {
        let mut pages = BTreeMap::new();
        for moment in tape.moments.iter().rev() {
            pages.extend(moment.pages.iter().map(|(frame, page)| (*frame, page.clone())));
        }
        let Some(first) = tape.moments.first() else {
            panic!("an empty tape")
        };
        let state = State {
            at: 0,
            pauses: 1,
            crashed: None,
            registers: first.registers.clone(),
            msrs: first.msrs.clone(),
            pages,
            live: Live::new(),
            next_id: 1,
            more: None,
            strayed: Vec::new(),
        };
        Arc::new(Player {
            tape: tape.clone(),
            state: Mutex::new(state),
            sinks: Mutex::default(),
        })
    }

    /// Lets a stop happen, if the guest runs and stops by itself next; whether it did.
    pub fn deliver(&self) -> bool {
        let event = {
            let mut state = self.lock();
            if state.pauses > 0 {
                return false;
            }
            match self.tape.moments.get(state.at + 1).map(|moment| &moment.cause) {
                Some(Cause::Stopped(vcpu, reason)) => {
                    let Some(reason) = reason.now(&state.live) else {
                        state.stray(format!("nobody wants the stop {reason:x?}"));
                        return false;
                    };
                    state.advance(&self.tape);
                    state.pauses = 1;
                    let vcpu = VcpuId(*vcpu);
                    Event::Stopped { vcpu, reason }
                }
                Some(Cause::Crashed(reason)) => {
                    state.advance(&self.tape);
                    state.crashed = Some(reason.clone());
                    Event::Crashed(reason.clone())
                }
                _ => return false,
            }
        };
        let sinks: Vec<Arc<EventSink>> = lock(&self.sinks).values().cloned().collect();
        sinks.iter().for_each(|sink| sink(&event));
        true
    }

    /// The index of the present moment.
    pub fn at(&self) -> usize {
        self.lock().at
    }

    /// How many breakpoints and watchpoints there are.
    pub fn breakpoint_count(&self) -> usize {
        self.lock().live.len()
    }

    /// What was asked for and isn't on the tape: then the tape is older than the code, or the code is wrong.
    pub fn strayed(&self) -> Vec<String> {
        self.lock().strayed.clone()
    }

    /// The vCPUs' registers, and memory: what a debugger can change.
    pub fn contents(&self) -> (Vec<Registers>, BTreeMap<u64, Vec<u8>>) {
        let state = self.lock();
        (state.registers.clone(), state.pages.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn is_memory(&self, address: GuestPhysAddr) -> bool {
        let regions = &self.tape.regions;
        regions
            .iter()
            .any(|(start, length, _)| address.0 >= *start && address.0 - start < *length)
    }

    /// Calls `each` with every piece of a range that is on one page.
    fn pieces(
        &self,
        address: GuestPhysAddr,
        wanted: usize,
        mut each: impl FnMut(&mut [u8], std::ops::Range<usize>),
    ) -> Result<()> {
        let mut state = self.lock();
        let mut done = 0;
        while done < wanted {
            let at = address.wrapping_add(done as u64);
            let size = (PAGE - at.page_offset()).min(wanted - done);
            let moment = state.at;
            match state.pages.get_mut(&at.frame()) {
                Some(page) => each(&mut page[at.page_offset()..][..size], done..done + size),
                None => {
                    if self.is_memory(at) {
                        state.stray(format!(
                            "moment {moment}: nobody looked at frame {:#x}",
                            at.frame()
                        ));
                    }
                    return Err(Error::NoMemory {
                        domain: ID,
                        address: at,
                        done,
                        wanted,
                    });
                }
            }
            done += size;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn advance(&mut self, tape: &Tape) {
        let Some(moment) = tape.moments.get(self.at + 1) else {
            return;
        };
        let now = BTreeSet::<Wanted>::from_iter(self.live.values().copied());
        let missing: Vec<_> = moment.breakpoints.difference(&now).collect();
        let more: BTreeSet<_> = now.difference(&moment.breakpoints).copied().collect();
        if !missing.is_empty() {
            self.stray(format!("moment {}: no breakpoints at {missing:x?}", self.at));
        }
        if *self.more.get_or_insert_with(|| more.clone()) != more {
            self.stray(format!("moment {}: more breakpoints, {more:x?}", self.at));
        }
        self.at += 1;
        self.registers.clone_from(&moment.registers);
        self.msrs.clone_from(&moment.msrs);
        for (frame, page) in &moment.pages {
            self.pages.insert(*frame, page.clone());
        }
    }

    fn stray(&mut self, what: String) {
        if self.strayed.len() < 20 {
            self.strayed.push(what);
        }
    }

    fn vcpu(&self, vcpu: VcpuId) -> Result<usize> {
        match self.registers.get(vcpu.index()) {
            Some(_) => Ok(vcpu.index()),
            None => Err(Error::NoVcpu {
                domain: ID,
                vcpu,
                count: self.registers.len() as u32,
            }),
        }
    }
}

impl ReadMemory for Player {
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<()> {
        self.pieces(address, buffer.len(), |page, range| {
            buffer[range].copy_from_slice(page);
        })
    }

    fn memory_regions(&self) -> Vec<MemoryRegion> {
        let region = |&(start, length, writable): &(u64, u64, bool)| MemoryRegion {
            start: GuestPhysAddr(start),
            length,
            writable,
        };
        self.tape.regions.iter().map(region).collect()
    }
}

impl WriteMemory for Player {
    fn write_physical(&self, address: GuestPhysAddr, bytes: &[u8]) -> Result<()> {
        self.pieces(address, bytes.len(), |page, range| {
            page.copy_from_slice(&bytes[range]);
        })
    }
}

impl ReadRegisters for Player {
    fn vcpu_count(&self) -> u32 {
        self.lock().registers.len() as u32
    }

    fn registers(&self, vcpu: VcpuId) -> Result<Registers> {
        let state = self.lock();
        Ok(state.registers[state.vcpu(vcpu)?].clone())
    }

    fn read_msr(&self, vcpu: VcpuId, msr: u32) -> Result<Option<u64>> {
        let mut state = self.lock();
        state.vcpu(vcpu)?;
        match state.msrs.get(&(vcpu.0, msr)) {
            Some(value) => Ok(*value),
            None => {
                state.stray(format!("MSR {msr:#x}"));
                Ok(None)
            }
        }
    }
}

impl WriteRegisters for Player {
    fn set_registers(&self, vcpu: VcpuId, registers: &Registers) -> Result<()> {
        let mut state = self.lock();
        let vcpu = state.vcpu(vcpu)?;
        state.registers[vcpu] = registers.clone();
        Ok(())
    }

    fn write_msr(&self, vcpu: VcpuId, msr: u32, value: u64) -> Result<bool> {
        let mut state = self.lock();
        state.vcpu(vcpu)?;
        state.msrs.insert((vcpu.0, msr), Some(value));
        Ok(true)
    }
}

impl ControlRun for Player {
    fn pause(&self) -> Result<()> {
        let mut state = self.lock();
        let next = self.tape.moments.get(state.at + 1).map(|moment| &moment.cause);
        if state.pauses == 0 && next == Some(&Cause::Paused) {
            state.advance(&self.tape);
        }
        state.pauses += 1;
        Ok(())
    }

    fn unpause(&self) -> Result<()> {
        let mut state = self.lock();
        let Some(pauses) = state.pauses.checked_sub(1) else {
            let why = "it isn't paused".into();
            return Err(Error::WrongState { domain: ID, why });
        };
        state.pauses = pauses;
        Ok(())
    }

    fn step(&self, vcpu: VcpuId, _: StepMode) -> Result<StepOutcome> {
        let mut state = self.lock();
        state.vcpu(vcpu)?;
        let next = self.tape.moments.get(state.at + 1).map(|moment| &moment.cause);
        let outcome = match next {
            Some(Cause::Stepped(stepped, outcome)) if *stepped == vcpu.0 => outcome.now(&state.live),
            _ => None,
        };
        let Some(outcome) = outcome else {
            state.stray(format!("nobody stepped vCPU {vcpu}: {next:x?}"));
            return Err(Error::Unsupported {
                domain: ID,
                what: "be stepped here: the tape has something else",
            });
        };
        state.advance(&self.tape);
        Ok(outcome)
    }

    fn reset(&self) -> Result<()> {
        Err(Error::Unsupported {
            domain: ID,
            what: "be reset",
        })
    }

    fn destroy(&self) -> Result<()> {
        Ok(())
    }
}

impl Breakpoints for Player {
    fn insert_breakpoint(&self, breakpoint: Breakpoint) -> Result<BreakpointId> {
        let mut state = self.lock();
        let id = BreakpointId(state.next_id);
        state.next_id += 1;
        state.live.insert(id, Wanted::from(&breakpoint));
        Ok(id)
    }

    fn remove_breakpoint(&self, id: BreakpointId) -> bool {
        self.lock().live.remove(&id).is_some()
    }
}

impl Events for Player {
    fn subscribe(&self, sink: EventSink) -> SubscriptionId {
        let mut sinks = lock(&self.sinks);
        let id = sinks.keys().last().map_or(1, |last| last + 1);
        sinks.insert(id, Arc::new(sink));
        SubscriptionId(id)
    }

    fn unsubscribe(&self, id: SubscriptionId) {
        lock(&self.sinks).remove(&id.0);
    }

    fn console_input(&self, _: usize, _: &[u8]) {}
}

impl Introspect for Player {
    fn id(&self) -> DomId {
        ID
    }
    fn name(&self) -> String {
        "tape".into()
    }
    fn state(&self) -> DomainState {
        let state = self.lock();
        match (&state.crashed, state.pauses) {
            (Some(reason), _) => DomainState::Crashed(reason.clone()),
            (None, 0) => DomainState::Running,
            (None, pauses) => DomainState::Paused(pauses),
        }
    }
    fn uptime(&self) -> Ticks {
        Ticks(self.at() as u64)
    }
    fn write_memory(&self) -> Option<&dyn WriteMemory> {
        Some(self)
    }
    fn write_registers(&self) -> Option<&dyn WriteRegisters> {
        Some(self)
    }
    fn control_run(&self) -> Option<&dyn ControlRun> {
        Some(self)
    }
    fn breakpoints(&self) -> Option<&dyn Breakpoints> {
        Some(self)
    }
    fn events(&self) -> Option<&dyn Events> {
        Some(self)
    }
}
