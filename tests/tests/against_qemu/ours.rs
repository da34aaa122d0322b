//! hv-core's side of the comparison.

use crate::state::{self, State};
use hv_core::introspect::StepMode;
use hv_core::machine::{GuestImage, Machine, MachineConfig, RunExit, RunLimit};
use hv_core::regs::{Registers, seg};
use hv_core::{GuestPhysAddr, VcpuId};
use iced_x86::{Decoder, DecoderOptions, Instruction};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// More steps than anything takes that is run in one go.
const FAR: usize = 100_000;

pub struct Ours(Machine);

impl Ours {
    /// A machine that will start this multiboot kernel.
    pub fn start(kernel: &Path, megabytes: u64) -> Ours {
        let machine = Machine::new(&MachineConfig {
            memory_bytes: megabytes << 20,
            vcpus: 1,
            seed: 1,
            cpu_model: String::new(),
            debug_exit: None,
            guest: GuestImage::Linux {
                kernel: std::fs::read(kernel).unwrap().into(),
                initrd: None,
                command_line: String::new(),
            },
        });
        Ours(machine.unwrap())
    }

    pub fn registers(&self) -> Registers {
        self.0.registers(VcpuId(0))
    }

    pub fn state(&self) -> State {
        state::of_registers(&self.registers())
    }

    /// One instruction, iteration or event.
    pub fn step(&mut self) {
        let limit = RunLimit {
            ticks: 1,
            step: Some((VcpuId(0), StepMode::Alone)),
        };
        let exit = self.0.run(&limit, &AtomicBool::new(false));
        let done = matches!(exit, RunExit::Stepped | RunExit::Limit);
        assert!(done, "{exit:?}: {:x?}", self.registers());
    }

    /// The linear address of the next instruction.
    pub fn at(&self) -> u64 {
        let r = self.registers();
        let base = if state::is_wide(&r) {
            0
        } else {
            r.segments[seg::CS].base
        };
        base.wrapping_add(r.rip)
    }

    /// Runs until it is at one of these linear addresses.
    pub fn run_to(&mut self, addresses: &[u64]) {
        for _ in 0..FAR {
            if addresses.contains(&self.at()) {
                return;
            }
            self.step();
        }
        panic!("never at {addresses:x?}");
    }

    /// The next instruction, at its linear address. The guest's code is mapped where it is.
    pub fn next(&self) -> Instruction {
        let r = self.registers();
        let mut bytes = [0; 15];
        let there = self.0.read_physical(GuestPhysAddr(self.at()), &mut bytes);
        let bits = match r.segments[seg::CS] {
            _ if state::is_wide(&r) => 64,
            code if code.default_big() => 32,
            _ => 16,
        };
        Decoder::with_ip(bits, &bytes[..there], self.at(), DecoderOptions::NONE).decode()
    }

    pub fn memory(&self, start: GuestPhysAddr, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        assert_eq!(self.0.read_physical(start, &mut bytes), bytes.len());
        bytes
    }

    pub fn set_memory(&mut self, start: GuestPhysAddr, bytes: &[u8]) {
        assert_eq!(self.0.write_physical(start, bytes), bytes.len());
    }
}
