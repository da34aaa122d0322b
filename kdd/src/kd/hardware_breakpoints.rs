//! `ba`: the debug registers as the host wrote them, mapped on watchpoints of the engine.
//!
//! The guest's own debug registers are never touched. A host thinks of one set for the machine: it writes addresses
//! through one processor and DR7 for all (Continue2), so there is one set here, but for DR6.

use super::stops::Installed;
use hv_core::introspect::{AccessKind, BreakpointKind, Place};
use hv_core::regs::Registers;
use hv_core::{GuestVirtAddr, VcpuId};
use introspect::windows::Arch;
use std::collections::BTreeMap;

/// DR6 with nothing to tell (SDM vol. 3B, 18.2.3).
pub(super) const DR6_IDLE: u64 = 0xffff_0ff0;
/// DR6.BS: a step is done.
pub(super) const DR6_BS: u64 = 1 << 14;
/// DR7 with nothing enabled.
const DR7_IDLE: u64 = 0x400;

/// The debug registers that a host sees.
pub(super) struct DebugRegisters {
    /// DR0 to DR3.
    pub addresses: [u64; 4],
    pub dr7: u64,
    dr6: BTreeMap<VcpuId, u64>,
}

impl Default for DebugRegisters {
    fn default() -> Self {
        DebugRegisters {
            addresses: [0; 4],
            dr7: DR7_IDLE,
            dr6: BTreeMap::new(),
        }
    }
}

impl DebugRegisters {
    pub fn dr6(&self, vcpu: VcpuId) -> u64 {
        self.dr6.get(&vcpu).copied().unwrap_or(DR6_IDLE)
    }

    pub fn set_dr6(&mut self, vcpu: VcpuId, value: u64) {
        self.dr6.insert(vcpu, value);
    }

    /// Puts them in the place of the guest's own.
    pub fn show(&self, vcpu: VcpuId, registers: &mut Registers) {
        registers.dr = self.addresses;
        registers.dr6 = self.dr6(vcpu);
        registers.dr7 = self.dr7;
    }

    /// Takes what a host wrote to a vCPU's registers, and gives those the guest's own back.
    pub fn take(&mut self, vcpu: VcpuId, registers: &mut Registers, own: &Registers) {
        self.addresses = registers.dr;
        self.set_dr6(vcpu, registers.dr6);
        self.dr7 = registers.dr7;
        (registers.dr, registers.dr6, registers.dr7) = (own.dr, own.dr6, own.dr7);
    }

    /// As a kernel that continues: nothing has been hit.
    pub fn clear_dr6(&mut self) {
        self.dr6.clear();
    }

    /// What is to be watched: the register's number with each.
    pub fn wanted(&self, arch: Arch) -> Vec<(usize, Place, BreakpointKind)> {
        let enabled = |n: &usize| self.dr7 >> (2 * n) & 3 != 0;
        let watch = |n: usize| {
            let control = self.dr7 >> (16 + 4 * n);
            let length: u64 = match control >> 2 & 3 {
                0 => 1,
                1 => 2,
                2 => 8,
                _ => 4,
            };
            let address = arch.address(self.addresses[n]);
            let access = match control & 3 {
                0 => {
                    return Some((n, Place::Virtual(address), BreakpointKind::Execute));
                }
                1 => AccessKind::Write,
                3 => AccessKind::ReadWrite,
                // I/O ports, which nobody can watch from here.
                _ => return None,
            };
            let place = Place::Virtual(GuestVirtAddr(address.0 & !(length - 1)));
            Some((n, place, BreakpointKind::Watch { length, access }))
        };
        (0..4).filter(enabled).filter_map(watch).collect()
    }

    /// The bits of DR6 for what was hit.
    pub fn hit_bits(
        &self,
        arch: Arch,
        installed: &Installed,
        ids: &[hv_core::introspect::BreakpointId],
    ) -> u64 {
        let hit = |(n, place, kind): (usize, Place, BreakpointKind)| {
            installed
                .id_of(place, kind)
                .is_some_and(|id| ids.contains(&id))
                .then_some(1 << n)
        };
        self.wanted(arch).into_iter().filter_map(hit).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(dr7: u64, address: u64) -> Vec<(usize, Place, BreakpointKind)> {
        let debug = DebugRegisters {
            addresses: [address; 4],
            dr7,
            ..DebugRegisters::default()
        };
        debug.wanted(Arch::X64)
    }

    #[test]
    fn dr7_says_what_is_watched() {
        assert!(wanted(0x400, 0x1234).is_empty());
        let place = |address| Place::Virtual(GuestVirtAddr(address));
        assert_eq!(
            wanted(0x402, 0x1235),
            [(0, place(0x1235), BreakpointKind::Execute)]
        );
        let watch = |length, access| BreakpointKind::Watch { length, access };
        // DR1: write of 4 bytes; DR2: access of 8.
        assert_eq!(
            wanted(0x0bd0_0414, 0x1235),
            [
                (1, place(0x1234), watch(4, AccessKind::Write)),
                (2, place(0x1230), watch(8, AccessKind::ReadWrite)),
            ]
        );
        assert!(wanted(0x0002_0401, 0x60).is_empty(), "an I/O breakpoint");
    }

    #[test]
    fn thirty_two_bit_addresses_are_not_sign_extended() {
        let debug = DebugRegisters {
            addresses: [0xffff_ffff_8010_0000; 4],
            dr7: 1,
            ..DebugRegisters::default()
        };
        let (_, place, _) = debug.wanted(Arch::X86)[0];
        assert_eq!(place, Place::Virtual(GuestVirtAddr(0x8010_0000)));
    }
}
