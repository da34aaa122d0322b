//! A domain in memory that does what the test says: sparse physical memory, counted pauses, breakpoints without
//! a guest, and a "runner" that executes between pauses and sends events as a real one does.

#![allow(dead_code, missing_docs)] // each test file uses a part of it

use hv_core::introspect::*;
use hv_core::regs::Registers;
use hv_core::{DomId, GuestPhysAddr, GuestVirtAddr, Ticks, VcpuId};
use introspect::{EventSink as TargetSink, TargetEvent};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

pub const ID: DomId = DomId(0xd0);

#[derive(Default)]
pub struct Scripted {
    pages: Mutex<BTreeMap<u64, Box<[u8; 4096]>>>,
    read_only: Mutex<BTreeSet<u64>>,
    pub registers: Mutex<Vec<Registers>>,
    pub run: Mutex<Run>,
    changed: Condvar,
    subscribers: Mutex<Vec<(SubscriptionId, Arc<EventSink>)>>,
    pub breakpoints: Mutex<BTreeSet<BreakpointId>>,
    next_id: AtomicUsize,
    /// What the next calls of `step` return; then `Stepped`.
    pub steps: Mutex<VecDeque<StepOutcome>>,
    /// A breakpoint is hit before `insert_breakpoint` has returned.
    pub hit_at_once: AtomicBool,
    /// Only there to be read, as a crash dump.
    pub dump: bool,
    pub register_reads: AtomicUsize,
    pub memory_reads: AtomicUsize,
}

#[derive(Default)]
pub struct Run {
    pub pauses: u32,
    /// The runner is in the guest.
    pub executing: bool,
    /// Unpauses of a domain that wasn't paused.
    pub underflows: u32,
    /// How often the last pause was given back.
    pub starts: u32,
    pub quit: bool,
}

impl Scripted {
    pub fn new() -> Arc<Scripted> {
        let domain = Scripted::default();
        domain
            .registers
            .lock()
            .unwrap()
            .extend([Registers::at_reset(true), Registers::at_reset(false)]);
        Arc::new(domain)
    }

    pub fn map(&self, phys: u64, bytes: &[u8]) {
        let mut pages = self.pages.lock().unwrap();
        for (at, byte) in (phys..).zip(bytes) {
            pages.entry(at >> 12).or_insert_with(|| Box::new([0; 4096]))[at as usize & 0xfff] = *byte;
        }
    }

    pub fn put64(&self, phys: u64, value: u64) {
        self.map(phys, &value.to_le_bytes());
    }

    pub fn put32(&self, phys: u64, value: u32) {
        self.map(phys, &value.to_le_bytes());
    }

    pub fn make_rom(&self, phys: u64) {
        self.read_only.lock().unwrap().insert(phys >> 12);
    }

    pub fn pauses(&self) -> u32 {
        let run = self.run.lock().unwrap();
        assert_eq!(run.underflows, 0, "unpaused more often than paused");
        run.pauses
    }

    pub fn emit(&self, event: &Event) {
        let subscribers = self.subscribers.lock().unwrap().clone();
        for (_, sink) in subscribers {
            sink(event);
        }
    }

    /// The domain stops by itself, if it runs.
    pub fn stop_by_itself(&self, reason: StopReason) {
        let mut run = self.run.lock().unwrap();
        run.executing = false;
        let runs = run.pauses == 0;
        run.pauses += u32::from(runs);
        self.changed.notify_all();
        drop(run);
        if runs {
            self.emit(&Event::Stopped {
                vcpu: VcpuId(0),
                reason,
            });
        }
    }

    pub fn hit(&self, id: BreakpointId) {
        self.stop_by_itself(at_breakpoint(id));
    }

    /// What the domain's own thread does: execute while not paused, send events, and stop now and then.
    pub fn runner(&self, mut random: Random) {
        loop {
            let mut run = self.run.lock().unwrap();
            while run.pauses > 0 && !run.quit {
                run = self.changed.wait(run).unwrap();
            }
            if run.quit {
                return;
            }
            run.executing = true;
            drop(run);
            self.emit(&Event::Console {
                port: 0,
                bytes: vec![b'x'],
            });
            let hit = self.breakpoints.lock().unwrap().iter().next().copied();
            match (hit, random.below(8)) {
                (Some(id), 0..4) => self.hit(id),
                (_, 4) => self.stop_by_itself(StopReason::PageAccess {
                    frame: GuestPhysAddr(0),
                    access: None,
                }),
                _ => {}
            }
            self.run.lock().unwrap().executing = false;
            self.changed.notify_all();
            std::thread::yield_now();
        }
    }

    pub fn quit(&self) {
        self.run.lock().unwrap().quit = true;
        self.changed.notify_all();
    }

    fn copy(
        &self,
        address: GuestPhysAddr,
        length: usize,
        mut f: impl FnMut(usize, &mut [u8]) -> bool,
    ) -> Result<()> {
        let mut pages = self.pages.lock().unwrap();
        let mut done = 0;
        while done < length {
            let at = address.wrapping_add(done as u64);
            let n = (4096 - at.page_offset()).min(length - done);
            let page = pages
                .get_mut(&at.frame())
                .map(|page| &mut page[at.page_offset()..][..n]);
            if !page.is_some_and(|page| f(done, page)) {
                return Err(Error::NoMemory {
                    domain: ID,
                    address: at,
                    done,
                    wanted: length,
                });
            }
            done += n;
        }
        Ok(())
    }
}

pub fn at_breakpoint(id: BreakpointId) -> StopReason {
    StopReason::Breakpoint {
        ids: vec![id],
        address: GuestVirtAddr(0x1000),
    }
}

pub fn breakpoint() -> Breakpoint {
    Breakpoint {
        place: Place::Virtual(GuestVirtAddr(0x1000)),
        kind: BreakpointKind::Execute,
        condition: None,
    }
}

impl ReadMemory for Scripted {
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<()> {
        self.memory_reads.fetch_add(1, Ordering::Relaxed);
        self.copy(address, buffer.len(), |done, page| {
            buffer[done..done + page.len()].copy_from_slice(page);
            true
        })
    }
    fn memory_regions(&self) -> Vec<MemoryRegion> {
        Vec::new()
    }
}

impl WriteMemory for Scripted {
    fn write_physical(&self, address: GuestPhysAddr, bytes: &[u8]) -> Result<()> {
        self.copy(address, bytes.len(), |done, page| {
            let frame = address.wrapping_add(done as u64).frame();
            let writable = !self.read_only.lock().unwrap().contains(&frame);
            if writable {
                page.copy_from_slice(&bytes[done..done + page.len()]);
            }
            writable
        })
    }
}

impl ReadRegisters for Scripted {
    fn vcpu_count(&self) -> u32 {
        self.registers.lock().unwrap().len() as u32
    }
    fn registers(&self, vcpu: VcpuId) -> Result<Registers> {
        self.register_reads.fetch_add(1, Ordering::Relaxed);
        let registers = self.registers.lock().unwrap();
        let count = registers.len() as u32;
        registers.get(vcpu.index()).cloned().ok_or(Error::NoVcpu {
            domain: ID,
            vcpu,
            count,
        })
    }
    fn read_msr(&self, _: VcpuId, _: u32) -> Result<Option<u64>> {
        Ok(None)
    }
}

impl ControlRun for Scripted {
    fn pause(&self) -> Result<()> {
        let mut run = self.run.lock().unwrap();
        run.pauses += 1;
        let rose = run.pauses == 1;
        while run.executing {
            run = self.changed.wait(run).unwrap();
        }
        drop(run);
        if rose {
            self.emit(&Event::Paused(true));
        }
        Ok(())
    }
    fn unpause(&self) -> Result<()> {
        let mut run = self.run.lock().unwrap();
        if run.pauses == 0 {
            run.underflows += 1;
            return Err(Error::WrongState {
                domain: ID,
                why: "it isn't paused".into(),
            });
        }
        run.pauses -= 1;
        let fell = run.pauses == 0;
        run.starts += u32::from(fell);
        self.changed.notify_all();
        drop(run);
        if fell {
            self.emit(&Event::Paused(false));
        }
        Ok(())
    }
    fn step(&self, _: VcpuId, _: StepMode) -> Result<StepOutcome> {
        assert!(self.pauses() > 0);
        Ok(self
            .steps
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or(StepOutcome::Stepped))
    }
    fn reset(&self) -> Result<()> {
        Ok(())
    }
    fn destroy(&self) -> Result<()> {
        Ok(())
    }
}

impl Breakpoints for Scripted {
    fn insert_breakpoint(&self, _: Breakpoint) -> Result<BreakpointId> {
        let id = BreakpointId(self.next_id.fetch_add(1, Ordering::Relaxed) as u64);
        self.breakpoints.lock().unwrap().insert(id);
        if self.hit_at_once.load(Ordering::Relaxed) {
            self.hit(id);
        }
        Ok(id)
    }
    fn remove_breakpoint(&self, id: BreakpointId) -> bool {
        self.breakpoints.lock().unwrap().remove(&id)
    }
}

impl Events for Scripted {
    fn subscribe(&self, sink: EventSink) -> SubscriptionId {
        let id = SubscriptionId(self.next_id.fetch_add(1, Ordering::Relaxed) as u64);
        self.subscribers.lock().unwrap().push((id, Arc::new(sink)));
        id
    }
    fn unsubscribe(&self, id: SubscriptionId) {
        self.subscribers.lock().unwrap().retain(|(other, _)| *other != id);
    }
    fn console_input(&self, _: usize, _: &[u8]) {}
}

impl Introspect for Scripted {
    fn id(&self) -> DomId {
        ID
    }
    fn name(&self) -> String {
        "scripted".into()
    }
    fn state(&self) -> DomainState {
        match self.run.lock().unwrap().pauses {
            0 => DomainState::Running,
            n => DomainState::Paused(n),
        }
    }
    fn uptime(&self) -> Ticks {
        Ticks(0)
    }
    fn write_memory(&self) -> Option<&dyn WriteMemory> {
        (!self.dump).then_some(self)
    }
    fn control_run(&self) -> Option<&dyn ControlRun> {
        (!self.dump).then_some(self)
    }
    fn breakpoints(&self) -> Option<&dyn Breakpoints> {
        (!self.dump).then_some(self)
    }
    fn events(&self) -> Option<&dyn Events> {
        (!self.dump).then_some(self)
    }
}

/// A sink that keeps what it is told.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<TargetEvent>>>);

impl Heard {
    pub fn sink(&self) -> TargetSink {
        let heard = self.0.clone();
        Box::new(move |event| heard.lock().unwrap().push(event.clone()))
    }

    /// What was told since the last call.
    pub fn take(&self) -> Vec<TargetEvent> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A small generator of repeatable numbers (xorshift64).
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }
}

/// Runs `test`, and fails if it isn't done in time: a deadlock is a failure, not a hang.
pub fn within_a_minute(test: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    match wait.recv_timeout(Duration::from_secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("deadlock: not done within a minute"),
        _ => thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
    }
}
