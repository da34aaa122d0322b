//! What run control needs of the thing it runs: a narrow waist, so that it is tested with a scripted guest and
//! another engine can take the machine's place.

use crate::addr::{Ticks, VcpuId};
use crate::introspect::GuestCrash;
use crate::machine::{Machine, RunExit, RunLimit};
use std::sync::atomic::AtomicBool;

/// Serial ports of a domain: COM1 and COM2.
pub(super) const SERIAL_PORTS: usize = 2;

/// A guest that runs until something happens. Everything is deterministic but for when `interrupt` ends a run, and
/// that the guest can't tell.
pub(super) trait Guest: Send + 'static {
    /// Runs it; `interrupt` ends the run at an instruction boundary.
    fn run(&mut self, limit: &RunLimit, interrupt: &AtomicBool) -> RunExit;
    /// Lets virtual time pass while every vCPU is halted, to at most the deadline of [`RunExit::Idle`].
    fn advance_idle(&mut self, to: Ticks);
    /// Virtual time.
    fn now(&self) -> Ticks;
    /// How many vCPUs it has.
    fn vcpu_count(&self) -> u32;
    /// Offers bytes to a serial port; how many of them it took.
    fn console_input(&mut self, port: usize, bytes: &[u8]) -> usize;
    /// What it wrote to a serial port since the last call.
    fn take_console_output(&mut self, port: usize) -> Vec<u8>;
    /// vCPUs that came up since the last call.
    fn take_vcpu_up(&mut self) -> Vec<VcpuId>;
    /// What it said of crashes of its own since the last call.
    fn take_guest_crashes(&mut self) -> Vec<GuestCrash> {
        Vec::new()
    }
    /// Back to its state at creation.
    fn reset(&mut self);
}

impl Guest for Machine {
    fn run(&mut self, limit: &RunLimit, interrupt: &AtomicBool) -> RunExit {
        Machine::run(self, limit, interrupt)
    }
    fn advance_idle(&mut self, to: Ticks) {
        Machine::advance_idle(self, to);
    }
    fn now(&self) -> Ticks {
        Machine::now(self)
    }
    fn vcpu_count(&self) -> u32 {
        Machine::vcpu_count(self)
    }
    fn console_input(&mut self, port: usize, bytes: &[u8]) -> usize {
        Machine::console_input(self, port, bytes)
    }
    fn take_console_output(&mut self, port: usize) -> Vec<u8> {
        Machine::take_console_output(self, port)
    }
    fn take_vcpu_up(&mut self) -> Vec<VcpuId> {
        Machine::take_vcpu_up(self)
    }
    fn take_guest_crashes(&mut self) -> Vec<GuestCrash> {
        Machine::take_guest_crashes(self)
    }
    fn reset(&mut self) {
        Machine::reset(self);
    }
}
