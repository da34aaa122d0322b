//! Memory and registers of the bench's machine, looked at and changed between runs.

use super::layout::TABLES;
use super::{Bench, CPU0};
use hv_core::regs::Registers;
use hv_core::{GuestPhysAddr, VcpuId};

impl Bench {
    pub fn write(&mut self, address: u64, bytes: &[u8]) {
        assert_eq!(
            self.m.write_physical(GuestPhysAddr(address), bytes),
            bytes.len(),
            "RAM at {address:#x}"
        );
    }
    pub fn write_u16(&mut self, address: u64, value: u16) {
        self.write(address, &value.to_le_bytes());
    }
    pub fn write_u32(&mut self, address: u64, value: u32) {
        self.write(address, &value.to_le_bytes());
    }
    pub fn write_u64(&mut self, address: u64, value: u64) {
        self.write(address, &value.to_le_bytes());
    }
    pub fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        assert_eq!(
            self.m.read_physical(GuestPhysAddr(address), &mut bytes),
            N,
            "RAM at {address:#x}"
        );
        bytes
    }
    pub fn u16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.read(address))
    }
    pub fn u32(&self, address: u64) -> u32 {
        u32::from_le_bytes(self.read(address))
    }
    pub fn u64(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.read(address))
    }

    /// The address of the page-table entry of a page below 8 MiB in 64-bit mode.
    pub fn pte(&self, linear: u64) -> u64 {
        TABLES + 0x3000 + 8 * (linear >> 12)
    }
    /// Maps a page below 8 MiB.
    pub fn map(&mut self, linear: u64, entry: u64) {
        self.write_u64(self.pte(linear), entry);
    }

    pub fn regs(&self) -> Registers {
        self.m.registers(CPU0)
    }
    pub fn set(&mut self, change: impl FnOnce(&mut Registers)) {
        self.set_of(CPU0, change);
    }
    pub fn set_of(&mut self, vcpu: VcpuId, change: impl FnOnce(&mut Registers)) {
        let mut r = self.m.registers(vcpu);
        change(&mut r);
        self.m.set_registers(vcpu, &r).expect("registers");
    }
    pub fn gpr(&self, n: usize) -> u64 {
        self.regs().gpr[n]
    }
}
