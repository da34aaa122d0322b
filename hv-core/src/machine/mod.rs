//! A machine: memory, devices and vCPUs, run deterministically on one thread.
//!
//! ```text
//! run(limit) ─► due timers ─► signals (INIT, SIPI, reset, power-off …) ─► which vCPU's slice ─► its events ─► Runner::run
//!    ▲                                                                                             │
//!    └──────────────── the clock: one tick a retired instruction, whichever vCPU retired it ◄──────┘
//! ```
//! The schedule is part of the state: vCPUs take turns of [`SLICE`] ticks, ended early by HLT and PAUSE. How often
//! and why `run` returns never changes what the guest sees.

mod access;
mod breakpoints;
mod config;
mod signals;
mod state;

pub use access::BadRegister;
pub use config::{CreateError, GuestImage, MachineConfig, TSC_HZ};
pub use state::RestoreError;

use crate::addr::{GuestPhysAddr, Ticks, VcpuId};
use crate::engine::block::CodeCache;
use crate::engine::bus::Bus;
use crate::engine::run::{Exit, Runner};
use crate::introspect::{AccessKind, CrashReason, GuestCrash, ResetCause, StepMode, StopReason};
use crate::regs::{Activity, rflags};
use std::sync::atomic::{AtomicBool, Ordering};

/// Ticks of a vCPU's turn.
pub const SLICE: u64 = 20_000;
/// Ticks between looks at the interrupt flag.
const CHUNK: u64 = 20_000;

/// How far to run.
#[derive(Clone, Copy, Debug)]
pub struct RunLimit {
    /// Ticks at most.
    pub ticks: u64,
    /// Stop once this vCPU has retired an instruction or taken an event.
    pub step: Option<(VcpuId, StepMode)>,
}

/// Why a run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RunExit {
    /// The ticks are used up.
    Limit,
    /// The caller's flag was set, or [`Machine::take_guest_crashes`] has something new.
    Interrupted,
    /// The step is done.
    Stepped,
    /// Something for the debugger's side.
    Stopped {
        /// Where.
        vcpu: VcpuId,
        /// Why.
        reason: StopReason,
    },
    /// Every vCPU is halted: time may pass to `until`, the next timer, or for ever if that is [`Ticks::NEVER`].
    Idle {
        /// The next deadline.
        until: Ticks,
    },
    /// The guest asked for a reset; nothing runs until [`Machine::reset`].
    Reset(ResetCause),
    /// The guest powered off.
    PowerOff,
    /// The machine died; running it again gives the same answer.
    Crashed(CrashReason),
    /// The guest wrote this to the debug-exit device.
    DebugExit(u32),
}

/// Where the last reported breakpoint stop was: the next run passes it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct PassedBreak {
    vcpu: usize,
    rip: u64,
    clock: u64,
}

/// A machine with its guest.
pub struct Machine {
    bus: Bus,
    runners: Vec<Runner>,
    cache: CodeCache,
    clock: u64,
    /// Instructions retired, without idle time.
    idle_ticks: u64,
    current: usize,
    slice_left: u64,
    config: MachineConfig,
    crashed: Option<CrashReason>,
    passed: Option<PassedBreak>,
    came_up: Vec<VcpuId>,
    guest_crashes: Vec<GuestCrash>,
}

impl Machine {
    /// A machine with its guest loaded, ready to run.
    ///
    /// # Errors
    /// [`CreateError`]: what is wrong with the configuration or the image.
    pub fn new(config: &MachineConfig) -> Result<Machine, CreateError> {
        let (bus, vcpus) = config::build(config)?;
        Ok(Machine {
            bus,
            runners: vcpus.into_iter().map(Runner::new).collect(),
            cache: CodeCache::default(),
            clock: 0,
            idle_ticks: 0,
            current: 0,
            slice_left: SLICE,
            config: config.clone(),
            crashed: None,
            passed: None,
            came_up: Vec::new(),
            guest_crashes: Vec::new(),
        })
    }

    /// Virtual time.
    pub fn now(&self) -> Ticks {
        Ticks(self.clock)
    }

    /// Instructions retired by all vCPUs.
    pub fn retired(&self) -> u64 {
        self.clock - self.idle_ticks
    }

    /// How many vCPUs there are.
    pub fn vcpu_count(&self) -> u32 {
        self.runners.len() as u32
    }

    /// What it was made from.
    pub fn config(&self) -> &MachineConfig {
        &self.config
    }

    /// Bytes of guest RAM that were ever touched.
    pub fn touched_memory(&self) -> u64 {
        self.bus.memory.touched_frames() as u64 * 4096
    }

    /// Lets virtual time pass while every vCPU is halted.
    pub fn advance_idle(&mut self, to: Ticks) {
        if to.0 > self.clock && to != Ticks::NEVER {
            self.idle_ticks += to.0 - self.clock;
            self.clock = to.0;
        }
    }

    /// vCPUs that came up since the last call.
    pub fn take_vcpu_up(&mut self) -> Vec<VcpuId> {
        std::mem::take(&mut self.came_up)
    }

    /// What the guest said of crashes of its own since the last call.
    pub fn take_guest_crashes(&mut self) -> Vec<GuestCrash> {
        std::mem::take(&mut self.guest_crashes)
    }

    /// Back to the state at creation, at the present time; breakpoints stay.
    pub fn reset(&mut self) {
        match config::build(&self.config) {
            Ok((mut bus, vcpus)) => {
                std::mem::swap(&mut bus.watches, &mut self.bus.watches);
                self.bus = bus;
                self.runners = vcpus.into_iter().map(Runner::new).collect();
                self.cache = CodeCache::default();
                self.current = 0;
                self.slice_left = SLICE;
                self.crashed = None;
                self.passed = None;
                self.bus.platform.advance(Ticks(self.clock));
            }
            // The same configuration was built once.
            Err(error) => tracing::error!("reset: {error}"),
        }
    }

    /// A machine that shares all memory until either writes. Debugger state stays with the parent.
    pub fn fork(&mut self) -> Machine {
        self.settle();
        for runner in &mut self.runners {
            runner.cpu.tlb.flush_writes();
        }
        let mut bus = Bus::new(
            self.bus.memory.fork(),
            self.bus.platform.clone(),
            self.bus.vcpus,
            self.bus.tsc_hz,
        );
        bus.hyperv = self.bus.hyperv.clone();
        let runners = self
            .runners
            .iter()
            .map(|parent| Runner::new(parent.cpu.copy()))
            .collect();
        Machine {
            bus,
            runners,
            cache: CodeCache::default(),
            came_up: Vec::new(),
            guest_crashes: Vec::new(),
            config: self.config.clone(),
            crashed: self.crashed.clone(),
            passed: None,
            ..*self
        }
    }

    fn flush_all(&mut self) {
        for runner in &mut self.runners {
            runner.cpu.flush_tlb();
        }
    }

    /// Carries out what the engine noted: stale code and flushes.
    fn settle(&mut self) {
        for frame in std::mem::take(&mut self.bus.stale_code) {
            self.cache.drop_frame(frame);
        }
        for runner in &mut self.runners {
            runner.cpu.settle(&mut self.bus);
        }
        self.bus.settled();
    }

    /// Runs until the limit or until something happens. `interrupt` ends the run soon, at an instruction boundary.
    pub fn run(&mut self, limit: &RunLimit, interrupt: &AtomicBool) -> RunExit {
        if let Some(reason) = &self.crashed {
            return RunExit::Crashed(reason.clone());
        }
        let end = self.clock.saturating_add(limit.ticks);
        let passed = self.passed.take();
        loop {
            self.settle();
            if self.bus.platform.next_deadline().0 <= self.clock {
                self.bus.platform.advance(Ticks(self.clock));
            }
            if self.bus.platform.has_signals()
                && let Some(exit) = self.handle_signals_of_run()
            {
                return exit;
            }
            if interrupt.load(Ordering::Relaxed) {
                return RunExit::Interrupted;
            }
            if self.clock >= end {
                return RunExit::Limit;
            }
            for (n, runner) in self.runners.iter_mut().enumerate() {
                runner.cpu.interrupt_line = self.bus.platform.interrupt_pending(VcpuId(n as u32));
            }
            let Some(n) = self.choose(limit.step) else {
                return self.nothing_runs();
            };
            if let Some(exit) = self.run_vcpu(n, end, limit.step, passed) {
                return exit;
            }
        }
    }

    /// The vCPU whose turn it is; `None` if none can run.
    fn choose(&mut self, step: Option<(VcpuId, StepMode)>) -> Option<usize> {
        if let Some((vcpu, StepMode::Alone)) = step {
            let n = vcpu.index();
            return self.runners.get(n).is_some_and(Runner::runnable).then_some(n);
        }
        let count = self.runners.len();
        if self.slice_left == 0 || !self.runners[self.current].runnable() {
            let first = self.current;
            let next = (1..=count)
                .map(|k| (first + k) % count)
                .find(|n| self.runners[*n].runnable())?;
            self.current = next;
            self.slice_left = SLICE;
        }
        Some(self.current)
    }

    fn nothing_runs(&mut self) -> RunExit {
        // Others can run when a vCPU that can't is stepped alone.
        let nmi = self.bus.platform.has_nmi_source();
        let can_wake = self.runners.iter().any(|runner| {
            runner.runnable()
                || runner.cpu.r.activity == Activity::Halted && (nmi || runner.cpu.rflags & rflags::IF != 0)
        });
        if !can_wake {
            self.crashed = Some(CrashReason::HaltedForever);
            return RunExit::Crashed(CrashReason::HaltedForever);
        }
        RunExit::Idle {
            until: self.bus.platform.next_deadline(),
        }
    }

    /// Runs vCPU `n` for its turn; `Some` if the run ends.
    fn run_vcpu(
        &mut self,
        n: usize,
        end: u64,
        step: Option<(VcpuId, StepMode)>,
        passed: Option<PassedBreak>,
    ) -> Option<RunExit> {
        let stepping = step.filter(|(vcpu, _)| vcpu.index() == n);
        let alone = matches!(step, Some((_, StepMode::Alone)));
        let runner = &mut self.runners[n];
        runner.cpu.clock = self.clock;
        let taken = runner.take_event(&mut self.bus);
        self.clock = runner.cpu.clock;
        match taken {
            Ok(false) => {}
            Ok(true) => {
                if !self.bus.watches.hits.is_empty()
                    && let Some(stop) = self.at_watchpoint(n)
                {
                    return Some(stop);
                }
                if stepping.is_some() {
                    return Some(RunExit::Stepped);
                }
            }
            Err(Exit::PageAccess(frame, access)) => return Some(page_access(n, frame, access)),
            Err(_) => return Some(self.triple_fault(n)),
        }
        let runner = &mut self.runners[n];
        let cpu = &mut runner.cpu;
        cpu.clock = self.clock;
        let turn = if alone { CHUNK } else { self.slice_left };
        cpu.stop_at = end
            .min(self.bus.platform.next_deadline().0)
            .min(self.clock + turn.min(CHUNK))
            .max(self.clock + 1);
        cpu.yield_slice = false;
        let here = PassedBreak {
            vcpu: n,
            rip: cpu.rip,
            clock: self.clock,
        };
        let exit = if stepping.is_some() || passed == Some(here) {
            cpu.stop_at = self.clock + 1;
            runner.run_precise(&mut self.bus)
        } else {
            runner.run(&mut self.bus, &mut self.cache)
        };
        let exit = if exit == Exit::Break {
            self.at_breakpoint(n)
        } else {
            Ok(exit)
        };
        let cpu = &mut self.runners[n].cpu;
        let used = cpu.clock - self.clock;
        self.clock = cpu.clock;
        // A step of the one whose turn it is counts: gdb passes its breakpoints so, and the schedule stays as it was.
        if !alone || n == self.current {
            self.slice_left = if cpu.yield_slice {
                0
            } else {
                self.slice_left.saturating_sub(used)
            };
        }
        match exit {
            Err(stop) => Some(stop),
            Ok(Exit::Watch) => self
                .at_watchpoint(n)
                .or_else(|| stepping.map(|_| RunExit::Stepped)),
            Ok(Exit::TripleFault) => Some(self.triple_fault(n)),
            Ok(Exit::PageAccess(frame, access)) => Some(page_access(n, frame, access)),
            Ok(Exit::Time | Exit::Look | Exit::Break) => stepping.map(|_| {
                self.settle();
                // A step that powers off, resets or crashes the machine says so.
                if self.bus.platform.has_signals()
                    && let Some(exit) = self.handle_signals()
                {
                    return exit;
                }
                RunExit::Stepped
            }),
        }
    }

    fn triple_fault(&mut self, n: usize) -> RunExit {
        let rip = self.runners[n].cpu.rip;
        self.clock = self.clock.max(self.runners[n].cpu.clock);
        let reason = CrashReason::TripleFault {
            vcpu: VcpuId(n as u32),
            rip,
        };
        self.crashed = Some(reason.clone());
        RunExit::Crashed(reason)
    }
}

fn page_access(n: usize, frame: GuestPhysAddr, access: Option<AccessKind>) -> RunExit {
    RunExit::Stopped {
        vcpu: VcpuId(n as u32),
        reason: StopReason::PageAccess { frame, access },
    }
}
