//! A domain with 2 MiB of memory, paging off, and vCPUs that know six instructions: enough for a debugger to
//! attach to, read, step, break and watch, without an engine.

use hv_core::addr::{DomId, GuestPhysAddr, GuestVirtAddr, Ticks, VcpuId};
use hv_core::introspect::*;
use hv_core::regs::{Activity, Registers, gpr};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};

/// Bytes of memory, from address 0.
pub const MEMORY: usize = 2 << 20;
/// Where vCPU 0 counts in RAX, stores the count at [`CELL`] and loads it again.
pub const LOOP: u64 = 0x1000;
/// Where vCPU 1 counts in RAX.
pub const SECOND: u64 = 0x2000;
/// The memory cell of [`LOOP`].
pub const CELL: u64 = 0x8000;

const INC_RAX: &[u8] = &[0x48, 0xff, 0xc0];
const STORE: &[u8] = &[0x48, 0x89, 0x03]; // mov [rbx], rax
const LOAD: &[u8] = &[0x48, 0x8b, 0x0b]; // mov rcx, [rbx]

pub struct Toy {
    state: Mutex<State>,
    changed: Condvar,
    sinks: Mutex<Vec<(SubscriptionId, Arc<EventSink>)>>,
}

struct State {
    memory: Vec<u8>,
    vcpus: Vec<Registers>,
    breakpoints: BTreeMap<BreakpointId, Breakpoint>,
    next_id: u64,
    pauses: u32,
    /// The vCPU that runs instructions just now has the state borrowed; a pause waits for it by the lock alone.
    crashed: Option<CrashReason>,
    ended: bool,
    retired: u64,
}

enum Done {
    Retired,
    Stopped(StopReason),
    Halted,
    Event(Event),
}

impl Toy {
    /// A running domain with `count` vCPUs.
    pub fn new(count: u32) -> Arc<Toy> {
        let mut memory = vec![0; MEMORY];
        let mut put = |at: u64, code: &[&[u8]]| {
            let code = code.concat();
            memory[at as usize..at as usize + code.len()].copy_from_slice(&code);
        };
        put(LOOP, &[INC_RAX, STORE, LOAD, &[0x90], &[0xeb, 0xf4]]);
        put(SECOND, &[INC_RAX, &[0xeb, 0xfb]]);
        let vcpu = |index: u32| {
            let mut registers = Registers::at_reset(index == 0);
            registers.activity = Activity::Running;
            registers.rip = if index == 0 { LOOP } else { SECOND };
            registers.gpr[gpr::RBX] = CELL;
            registers.gpr[gpr::RSP] = 0x10000;
            for segment in &mut registers.segments {
                segment.base = 0;
            }
            registers
        };
        let toy = Arc::new(Toy {
            state: Mutex::new(State {
                memory,
                vcpus: (0..count).map(vcpu).collect(),
                breakpoints: BTreeMap::new(),
                next_id: 1,
                pauses: 0,
                crashed: None,
                ended: false,
                retired: 0,
            }),
            changed: Condvar::new(),
            sinks: Mutex::default(),
        });
        let weak = Arc::downgrade(&toy);
        std::thread::spawn(move || Toy::run(&weak));
        toy
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn emit(&self, event: &Event) {
        let sinks: Vec<_> = self
            .sinks
            .lock()
            .unwrap()
            .iter()
            .map(|(_, sink)| sink.clone())
            .collect();
        for sink in sinks {
            sink(event);
        }
    }

    fn run(weak: &Weak<Toy>) {
        while let Some(toy) = weak.upgrade() {
            let mut state = toy.lock();
            if state.pauses > 0 || state.crashed.is_some() || state.ended {
                let patience = std::time::Duration::from_millis(50);
                drop(toy.changed.wait_timeout(state, patience).unwrap());
                continue;
            }
            let mut event = None;
            'slice: for index in 0..state.vcpus.len() {
                for _ in 0..100 {
                    match state.execute(index, false) {
                        Done::Retired => {}
                        Done::Halted => break,
                        Done::Stopped(reason) => {
                            state.pauses += 1;
                            let vcpu = VcpuId(index as u32);
                            event = Some(Event::Stopped { vcpu, reason });
                            break 'slice;
                        }
                        Done::Event(e) => {
                            event = Some(e);
                            break 'slice;
                        }
                    }
                }
            }
            drop(state);
            if let Some(event) = event {
                toy.emit(&event);
            }
        }
    }
}

impl State {
    fn execute(&mut self, index: usize, stepping: bool) -> Done {
        if self.vcpus[index].activity != Activity::Running {
            return Done::Halted;
        }
        let rip = self.vcpus[index].rip;
        if !stepping && let Some(stop) = self.breakpoint_at(index, rip) {
            return Done::Stopped(stop);
        }
        let code = self
            .memory
            .get(rip as usize..rip as usize + 3)
            .map(<[u8]>::to_vec);
        let registers = &mut self.vcpus[index];
        let mut touched = None;
        match code.as_deref() {
            Some(INC_RAX) => {
                registers.gpr[gpr::RAX] = registers.gpr[gpr::RAX].wrapping_add(1);
                registers.rip += 3;
            }
            Some(STORE | LOAD) => {
                let at = registers.gpr[gpr::RBX] as usize % (MEMORY - 8);
                let cell = &mut self.memory[at..at + 8];
                registers.rip += 3;
                let access = if code.as_deref() == Some(STORE) {
                    cell.copy_from_slice(&registers.gpr[gpr::RAX].to_le_bytes());
                    AccessKind::Write
                } else {
                    registers.gpr[gpr::RCX] = u64::from_le_bytes(cell.try_into().unwrap());
                    AccessKind::Read
                };
                touched = Some((at as u64, access));
            }
            Some([0x90, ..]) => registers.rip += 1,
            Some([0xeb, offset, _]) => {
                registers.rip = rip.wrapping_add(2).wrapping_add(*offset as i8 as u64);
            }
            Some([0xf4, ..]) => {
                registers.rip += 1;
                registers.activity = Activity::Halted;
            }
            Some([0xe6, 0xf4, _]) => {
                registers.rip += 2;
                self.ended = true;
                return Done::Event(Event::DebugExit(registers.gpr[gpr::RAX] as u32 & 0xff));
            }
            Some([0xe6, 0x04, _]) => {
                self.ended = true;
                return Done::Event(Event::ShutDown);
            }
            _ => {
                let vcpu = VcpuId(index as u32);
                let reason = CrashReason::TripleFault { vcpu, rip };
                self.crashed = Some(reason.clone());
                return Done::Event(Event::Crashed(reason));
            }
        }
        self.retired += 1;
        if let Some((at, access)) = touched {
            for (id, breakpoint) in &self.breakpoints {
                let BreakpointKind::Watch {
                    length,
                    access: wanted,
                } = breakpoint.kind
                else {
                    continue;
                };
                let start = place(breakpoint.place);
                if access.matches(wanted) && start < at + 8 && at < start.saturating_add(length) {
                    let address = start.max(at);
                    return Done::Stopped(StopReason::Watchpoint {
                        id: *id,
                        address,
                        access,
                    });
                }
            }
        }
        Done::Retired
    }

    fn breakpoint_at(&self, index: usize, rip: u64) -> Option<StopReason> {
        let mut context = Context {
            vcpu: VcpuId(index as u32),
            registers: &self.vcpus[index],
            memory: &self.memory,
        };
        let here = self.breakpoints.iter().filter(|(_, b)| {
            b.kind == BreakpointKind::Execute
                && place(b.place) == rip
                && b.condition.as_ref().is_none_or(|c| c.should_stop(&mut context))
        });
        let ids: Vec<_> = here.map(|(id, _)| *id).collect();
        let address = GuestVirtAddr(rip);
        (!ids.is_empty()).then_some(StopReason::Breakpoint { ids, address })
    }
}

fn place(place: Place) -> u64 {
    match place {
        Place::Virtual(a) | Place::InAddressSpace(a, _) => a.0,
        Place::Physical(a) => a.0,
    }
}

struct Context<'a> {
    vcpu: VcpuId,
    registers: &'a Registers,
    memory: &'a [u8],
}

impl StopContext for Context<'_> {
    fn vcpu(&self) -> VcpuId {
        self.vcpu
    }
    fn gpr(&self, index: usize) -> u64 {
        self.registers.gpr[index]
    }
    fn rip(&self) -> u64 {
        self.registers.rip
    }
    fn rflags(&self) -> u64 {
        self.registers.rflags
    }
    fn registers(&self) -> Registers {
        self.registers.clone()
    }
    fn read_virtual(&mut self, address: GuestVirtAddr, buffer: &mut [u8]) -> bool {
        let start = address.0 as usize;
        match self.memory.get(start..start.saturating_add(buffer.len())) {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }
}

impl ReadMemory for Toy {
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<()> {
        let state = self.lock();
        let start = (address.0 as usize).min(MEMORY);
        let done = buffer.len().min(MEMORY - start);
        buffer[..done].copy_from_slice(&state.memory[start..start + done]);
        if done == buffer.len() {
            return Ok(());
        }
        let wanted = buffer.len();
        Err(Error::NoMemory {
            domain: self.id(),
            address: address.wrapping_add(done as u64),
            done,
            wanted,
        })
    }
    fn memory_regions(&self) -> Vec<MemoryRegion> {
        vec![MemoryRegion {
            start: GuestPhysAddr(0),
            length: MEMORY as u64,
            writable: true,
        }]
    }
}

impl WriteMemory for Toy {
    fn write_physical(&self, address: GuestPhysAddr, bytes: &[u8]) -> Result<()> {
        let mut state = self.lock();
        let start = (address.0 as usize).min(MEMORY);
        let done = bytes.len().min(MEMORY - start);
        state.memory[start..start + done].copy_from_slice(&bytes[..done]);
        if done == bytes.len() {
            return Ok(());
        }
        let wanted = bytes.len();
        Err(Error::NoMemory {
            domain: self.id(),
            address: address.wrapping_add(done as u64),
            done,
            wanted,
        })
    }
}

impl ReadRegisters for Toy {
    fn vcpu_count(&self) -> u32 {
        self.lock().vcpus.len() as u32
    }
    fn registers(&self, vcpu: VcpuId) -> Result<Registers> {
        let state = self.lock();
        let count = state.vcpus.len() as u32;
        state.vcpus.get(vcpu.index()).cloned().ok_or(Error::NoVcpu {
            domain: DomId(7),
            vcpu,
            count,
        })
    }
    fn read_msr(&self, _: VcpuId, msr: u32) -> Result<Option<u64>> {
        Ok((msr == 0x10).then(|| self.lock().retired))
    }
}

impl WriteRegisters for Toy {
    fn set_registers(&self, vcpu: VcpuId, registers: &Registers) -> Result<()> {
        let domain = self.id();
        if registers.efer & !hv_core::regs::efer::ALL != 0 {
            let (register, value, why) = ("EFER", registers.efer, "reserved bits");
            return Err(Error::BadRegister {
                domain,
                vcpu,
                register,
                value,
                why,
            });
        }
        let mut state = self.lock();
        if state.pauses == 0 {
            return Err(Error::WrongState {
                domain,
                why: "it runs".into(),
            });
        }
        let count = state.vcpus.len() as u32;
        match state.vcpus.get_mut(vcpu.index()) {
            Some(slot) => *slot = registers.clone(),
            None => return Err(Error::NoVcpu { domain, vcpu, count }),
        }
        Ok(())
    }
    fn write_msr(&self, _: VcpuId, _: u32, _: u64) -> Result<bool> {
        Ok(false)
    }
}

impl ControlRun for Toy {
    fn pause(&self) -> Result<()> {
        let mut state = self.lock();
        state.pauses += 1;
        let first = state.pauses == 1;
        drop(state);
        if first {
            self.emit(&Event::Paused(true));
        }
        Ok(())
    }
    fn unpause(&self) -> Result<()> {
        let mut state = self.lock();
        let Some(left) = state.pauses.checked_sub(1) else {
            return Err(Error::WrongState {
                domain: DomId(7),
                why: "it isn't paused".into(),
            });
        };
        state.pauses = left;
        drop(state);
        self.changed.notify_all();
        if left == 0 {
            self.emit(&Event::Paused(false));
        }
        Ok(())
    }
    fn step(&self, vcpu: VcpuId, mode: StepMode) -> Result<StepOutcome> {
        let mut state = self.lock();
        let me = vcpu.index();
        if me >= state.vcpus.len() {
            let count = state.vcpus.len() as u32;
            return Err(Error::NoVcpu {
                domain: DomId(7),
                vcpu,
                count,
            });
        }
        if mode == StepMode::Schedule {
            for other in (0..state.vcpus.len()).filter(|i| *i != me) {
                if let Done::Stopped(reason) = state.execute(other, false) {
                    return Ok(StepOutcome::Stopped {
                        vcpu: VcpuId(other as u32),
                        reason,
                    });
                }
            }
        }
        let outcome = match state.execute(me, true) {
            Done::Retired => StepOutcome::Stepped,
            Done::Halted => StepOutcome::Waiting,
            Done::Stopped(reason) => StepOutcome::Stopped { vcpu, reason },
            Done::Event(event) => {
                drop(state);
                self.emit(&event);
                match event {
                    Event::Crashed(reason) => StepOutcome::Stopped {
                        vcpu,
                        reason: StopReason::Crashed(reason),
                    },
                    _ => StepOutcome::Ended,
                }
            }
        };
        Ok(outcome)
    }
    fn reset(&self) -> Result<()> {
        let mut state = self.lock();
        state.crashed = None;
        state.ended = false;
        for (index, registers) in state.vcpus.iter_mut().enumerate() {
            registers.rip = if index == 0 { LOOP } else { SECOND };
            registers.gpr[gpr::RAX] = 0;
            registers.activity = Activity::Running;
        }
        drop(state);
        self.emit(&Event::Reset(ResetCause::Operator));
        Ok(())
    }
    fn destroy(&self) -> Result<()> {
        self.lock().ended = true;
        self.emit(&Event::ShutDown);
        Ok(())
    }
}

impl Breakpoints for Toy {
    fn insert_breakpoint(&self, breakpoint: Breakpoint) -> Result<BreakpointId> {
        if let BreakpointKind::Watch { length, .. } = breakpoint.kind
            && (length == 0 || place(breakpoint.place).checked_add(length - 1).is_none())
        {
            return Err(Error::WrongState {
                domain: self.id(),
                why: "a watch of no length".into(),
            });
        }
        let mut state = self.lock();
        let id = BreakpointId(state.next_id);
        state.next_id += 1;
        state.breakpoints.insert(id, breakpoint);
        Ok(id)
    }
    fn remove_breakpoint(&self, id: BreakpointId) -> bool {
        self.lock().breakpoints.remove(&id).is_some()
    }
}

impl Events for Toy {
    fn subscribe(&self, sink: EventSink) -> SubscriptionId {
        let mut sinks = self.sinks.lock().unwrap();
        let id = SubscriptionId(sinks.len() as u64);
        sinks.push((id, Arc::new(sink)));
        id
    }
    fn unsubscribe(&self, id: SubscriptionId) {
        self.sinks.lock().unwrap().retain(|(i, _)| *i != id);
    }
    fn console_input(&self, _: usize, _: &[u8]) {}
}

impl Introspect for Toy {
    fn id(&self) -> DomId {
        DomId(7)
    }
    fn name(&self) -> String {
        "toy".into()
    }
    fn state(&self) -> DomainState {
        let state = self.lock();
        match (&state.crashed, state.ended, state.pauses) {
            (Some(reason), ..) => DomainState::Crashed(reason.clone()),
            (None, true, _) => DomainState::ShutDown,
            (None, false, 0) => DomainState::Running,
            (None, false, n) => DomainState::Paused(n),
        }
    }
    fn uptime(&self) -> Ticks {
        Ticks(self.lock().retired)
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
