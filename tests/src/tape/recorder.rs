//! A domain that passes everything on to another, and notes it.

use super::{Cause, Live, Moment, Outcome, PAGE, Reason, Tape, Wanted};
use hv_core::introspect::{
    Breakpoint, BreakpointId, Breakpoints, ControlRun, DomainState, Error, Event, EventSink, Events,
    Introspect, MemoryRegion, ReadMemory, ReadRegisters, Result, StepMode, StepOutcome, SubscriptionId,
    WriteMemory, WriteRegisters,
};
use hv_core::regs::Registers;
use hv_core::{DomId, GuestPhysAddr, Ticks, VcpuId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Records one debugger's session with a domain, which must have all capabilities.
pub struct Recorder {
    inner: Arc<dyn Introspect>,
    notes: Arc<Mutex<Notes>>,
}

#[derive(Default)]
struct Notes {
    tape: Tape,
    live: Live,
    /// Pages as they were when they were last read or written.
    known: BTreeMap<u64, Vec<u8>>,
}

impl Recorder {
    /// Of a paused domain.
    pub fn new(inner: Arc<dyn Introspect>) -> Arc<Recorder> {
        let recorder = Recorder {
            inner,
            notes: Arc::default(),
        };
        let regions = recorder.inner.memory_regions();
        recorder.notes().tape.regions = regions
            .iter()
            .map(|region| (region.start.0, region.length, region.writable))
            .collect();
        begin(&*recorder.inner, &mut recorder.notes(), Cause::Start);
        Arc::new(recorder)
    }

    /// What was recorded so far.
    pub fn tape(&self) -> Tape {
        self.notes().tape.clone()
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        lock(&self.notes)
    }

    fn begin(&self, cause: Cause) {
        begin(&*self.inner, &mut self.notes(), cause);
    }

    /// Notes the pages of a range, those that there are.
    fn note(&self, address: GuestPhysAddr, length: usize) {
        if self.inner.state() == DomainState::Running {
            return;
        }
        let end = address.0.saturating_add(length as u64);
        for frame in address.0 / PAGE as u64..end.div_ceil(PAGE as u64) {
            let mut page = vec![0; PAGE];
            let start = GuestPhysAddr(frame * PAGE as u64);
            if self.inner.read_physical(start, &mut page).is_err() {
                continue;
            }
            let notes = &mut *self.notes();
            if notes.known.get(&frame) != Some(&page)
                && let Some(moment) = notes.tape.moments.last_mut()
            {
                moment.pages.insert(frame, page.clone());
                notes.known.insert(frame, page);
            }
        }
    }

    fn missing(&self, what: &'static str) -> Error {
        Error::Unsupported {
            domain: self.inner.id(),
            what,
        }
    }

    fn control(&self) -> Result<&dyn ControlRun> {
        self.inner.control_run().ok_or(self.missing("run"))
    }
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

fn begin(inner: &dyn Introspect, notes: &mut Notes, cause: Cause) {
    let registers = (0..inner.vcpu_count()).map(|vcpu| inner.registers(VcpuId(vcpu)));
    let moment = Moment {
        cause,
        registers: registers.filter_map(Result::ok).collect(),
        msrs: BTreeMap::new(),
        pages: BTreeMap::new(),
        breakpoints: BTreeSet::from_iter(notes.live.values().copied()),
    };
    notes.tape.moments.push(moment);
}

impl ReadMemory for Recorder {
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<()> {
        self.note(address, buffer.len());
        self.inner.read_physical(address, buffer)
    }

    fn memory_regions(&self) -> Vec<MemoryRegion> {
        self.inner.memory_regions()
    }
}

impl WriteMemory for Recorder {
    fn write_physical(&self, address: GuestPhysAddr, bytes: &[u8]) -> Result<()> {
        self.note(address, bytes.len());
        let memory = self.inner.write_memory().ok_or(self.missing("be written"))?;
        let result = memory.write_physical(address, bytes);
        // Whoever plays it back writes, too.
        let mut notes = self.notes();
        for (n, byte) in bytes.iter().enumerate() {
            let at = address.wrapping_add(n as u64);
            if let Some(page) = notes.known.get_mut(&at.frame()) {
                page[at.page_offset()] = *byte;
            }
        }
        result
    }
}

impl ReadRegisters for Recorder {
    fn vcpu_count(&self) -> u32 {
        self.inner.vcpu_count()
    }

    fn registers(&self, vcpu: VcpuId) -> Result<Registers> {
        self.inner.registers(vcpu)
    }

    fn read_msr(&self, vcpu: VcpuId, msr: u32) -> Result<Option<u64>> {
        let value = self.inner.read_msr(vcpu, msr)?;
        if let Some(moment) = self.notes().tape.moments.last_mut() {
            moment.msrs.entry((vcpu.0, msr)).or_insert(value);
        }
        Ok(value)
    }
}

impl WriteRegisters for Recorder {
    fn set_registers(&self, vcpu: VcpuId, registers: &Registers) -> Result<()> {
        let inner = self.inner.write_registers().ok_or(self.missing("be written"))?;
        inner.set_registers(vcpu, registers)
    }

    fn write_msr(&self, vcpu: VcpuId, msr: u32, value: u64) -> Result<bool> {
        let inner = self.inner.write_registers().ok_or(self.missing("be written"))?;
        inner.write_msr(vcpu, msr, value)
    }
}

impl ControlRun for Recorder {
    fn pause(&self) -> Result<()> {
        let running = self.inner.state() == DomainState::Running;
        self.control()?.pause()?;
        if running {
            self.begin(Cause::Paused);
        }
        Ok(())
    }

    fn unpause(&self) -> Result<()> {
        self.control()?.unpause()
    }

    fn step(&self, vcpu: VcpuId, mode: StepMode) -> Result<StepOutcome> {
        let outcome = self.control()?.step(vcpu, mode)?;
        let noted = Outcome::of(&outcome, &self.notes().live);
        if let Some(noted) = noted {
            self.begin(Cause::Stepped(vcpu.0, noted));
        }
        Ok(outcome)
    }

    fn reset(&self) -> Result<()> {
        Err(self.missing("be recorded across a reset"))
    }

    fn destroy(&self) -> Result<()> {
        self.control()?.destroy()
    }
}

impl Breakpoints for Recorder {
    fn insert_breakpoint(&self, breakpoint: Breakpoint) -> Result<BreakpointId> {
        let inner = self.inner.breakpoints().ok_or(self.missing("stop"))?;
        let wanted = Wanted::from(&breakpoint);
        // A stop at it waits for its being noted.
        let mut notes = self.notes();
        let id = inner.insert_breakpoint(breakpoint)?;
        notes.live.insert(id, wanted);
        Ok(id)
    }

    fn remove_breakpoint(&self, id: BreakpointId) -> bool {
        self.notes().live.remove(&id);
        let inner = self.inner.breakpoints();
        inner.is_some_and(|inner| inner.remove_breakpoint(id))
    }
}

impl Events for Recorder {
    fn subscribe(&self, sink: EventSink) -> SubscriptionId {
        let (notes, inner) = (self.notes.clone(), Arc::downgrade(&self.inner));
        let noting = move |event: &Event| {
            if let Some(inner) = inner.upgrade() {
                let notes = &mut *lock(&notes);
                let cause = match event {
                    Event::Stopped { vcpu, reason } => {
                        Reason::of(reason, &notes.live).map(|reason| Cause::Stopped(vcpu.0, reason))
                    }
                    Event::Crashed(reason) => Some(Cause::Crashed(reason.clone())),
                    _ => None,
                };
                if let Some(cause) = cause {
                    begin(&*inner, notes, cause);
                }
            }
            sink(event);
        };
        match self.inner.events() {
            Some(events) => events.subscribe(Box::new(noting)),
            None => panic!("a domain without events can't be recorded"),
        }
    }

    fn unsubscribe(&self, id: SubscriptionId) {
        if let Some(events) = self.inner.events() {
            events.unsubscribe(id);
        }
    }

    fn console_input(&self, port: usize, bytes: &[u8]) {
        if let Some(events) = self.inner.events() {
            events.console_input(port, bytes);
        }
    }
}

impl Introspect for Recorder {
    fn id(&self) -> DomId {
        self.inner.id()
    }
    fn name(&self) -> String {
        self.inner.name()
    }
    fn state(&self) -> DomainState {
        self.inner.state()
    }
    fn uptime(&self) -> Ticks {
        self.inner.uptime()
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
