//! STUB. The shape of the machine that a domain runs, so that `domain` compiles; the real one replaces this file.
#![allow(missing_docs, unused_variables)]

use crate::addr::{GuestPhysAddr, Ticks, VcpuId};
use crate::introspect::{Breakpoint, BreakpointId, CrashReason, MemoryRegion, PageRights, StepMode, StopReason};
use crate::regs::Registers;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub struct MachineConfig {
    pub memory_bytes: u64,
    pub vcpus: u32,
    pub seed: u64,
    pub cpu_model: String,
    pub debug_exit: Option<u16>,
    pub guest: GuestImage,
}

#[derive(Clone)]
pub enum GuestImage {
    Linux {
        kernel: Arc<[u8]>,
        initrd: Option<Arc<[u8]>>,
        command_line: String,
    },
}

#[derive(thiserror::Error, Debug)]
pub enum CreateError {
    #[error("stub")]
    Stub,
}

#[derive(thiserror::Error, Debug)]
pub enum RestoreError {
    #[error("stub")]
    Stub,
}

#[derive(Debug)]
pub struct BadRegister {
    pub register: &'static str,
    pub value: u64,
    pub why: &'static str,
}

pub struct RunLimit {
    pub ticks: u64,
    pub step: Option<(VcpuId, StepMode)>,
}

pub enum RunExit {
    Limit,
    Interrupted,
    Stepped,
    Stopped { vcpu: VcpuId, reason: StopReason },
    Idle { until: Ticks },
    Reset,
    PowerOff,
    Crashed(CrashReason),
    DebugExit(u32),
}

pub struct Machine(());

impl Machine {
    pub fn new(config: &MachineConfig) -> Result<Machine, CreateError> {
        Err(CreateError::Stub)
    }
    pub fn run(&mut self, limit: &RunLimit, interrupt: &AtomicBool) -> RunExit {
        RunExit::PowerOff
    }
    pub fn advance_idle(&mut self, to: Ticks) {}
    pub fn now(&self) -> Ticks {
        Ticks(0)
    }
    pub fn retired(&self) -> u64 {
        0
    }
    pub fn vcpu_count(&self) -> u32 {
        1
    }
    pub fn registers(&self, vcpu: VcpuId) -> Registers {
        Registers::at_reset(true)
    }
    pub fn set_registers(&mut self, vcpu: VcpuId, registers: &Registers) -> Result<(), BadRegister> {
        Ok(())
    }
    pub fn read_msr(&self, vcpu: VcpuId, msr: u32) -> Option<u64> {
        None
    }
    pub fn write_msr(&mut self, vcpu: VcpuId, msr: u32, value: u64) -> bool {
        false
    }
    pub fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> usize {
        0
    }
    pub fn write_physical(&mut self, address: GuestPhysAddr, bytes: &[u8]) -> usize {
        0
    }
    pub fn memory_regions(&self) -> Vec<MemoryRegion> {
        Vec::new()
    }
    pub fn insert_breakpoint(&mut self, id: BreakpointId, breakpoint: Breakpoint) {}
    pub fn remove_breakpoint(&mut self, id: BreakpointId) -> bool {
        false
    }
    pub fn set_page_access(&mut self, address: GuestPhysAddr, rights: PageRights) -> bool {
        false
    }
    pub fn console_input(&mut self, port: usize, bytes: &[u8]) -> usize {
        0
    }
    pub fn take_console_output(&mut self, port: usize) -> Vec<u8> {
        Vec::new()
    }
    pub fn take_vcpu_up(&mut self) -> Vec<VcpuId> {
        Vec::new()
    }
    pub fn reset(&mut self) {}
    pub fn fork(&mut self) -> Machine {
        Machine(())
    }
    pub fn save(&self, writer: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
    pub fn restore(reader: &mut dyn Read) -> Result<Machine, RestoreError> {
        Err(RestoreError::Stub)
    }
    pub fn state_hash(&self) -> [u8; 32] {
        [0; 32]
    }
    pub fn describe_devices(&self) -> String {
        String::new()
    }
}
