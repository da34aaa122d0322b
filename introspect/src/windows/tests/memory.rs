//! A guest made of bytes: sparse physical memory, page tables, registers.

use super::super::Guest;
use super::super::facts::Arch;
use crate::paging::PagingMode;
use hv_core::introspect::{Error, MemoryRegion, ReadMemory, ReadRegisters, Result};
use hv_core::regs::Registers;
use hv_core::{DomId, GuestPhysAddr, VcpuId};
use std::cell::Cell;
use std::collections::BTreeMap;

/// Physical memory of which only what was written is there, and vCPUs.
pub(crate) struct Bytes {
    pub(crate) pages: BTreeMap<u64, Box<[u8; 4096]>>,
    pub(crate) vcpus: Vec<Registers>,
    next: u64,
    /// How often memory was read.
    pub(crate) reads: Cell<usize>,
}

impl Bytes {
    pub(crate) fn new() -> Bytes {
        Bytes {
            pages: BTreeMap::new(),
            vcpus: Vec::new(),
            next: 0x100,
            reads: Cell::new(0),
        }
    }

    pub(crate) fn guest(&self) -> Guest<'_> {
        Guest::new(self, self)
    }

    /// A new page of zeros.
    pub(crate) fn page(&mut self) -> u64 {
        self.next += 1;
        self.pages.insert(self.next, Box::new([0; 4096]));
        self.next << 12
    }

    pub(crate) fn word(&self, phys: u64) -> u64 {
        let page = &self.pages[&(phys >> 12)];
        let at = (phys & 0xfff) as usize;
        u64::from_le_bytes(page[at..at + 8].try_into().unwrap())
    }

    pub(crate) fn set(&mut self, phys: u64, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            let at = phys + index as u64;
            self.pages.get_mut(&(at >> 12)).unwrap()[(at & 0xfff) as usize] = *byte;
        }
    }
}

impl ReadMemory for Bytes {
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<()> {
        self.reads.set(self.reads.get() + 1);
        let wanted = buffer.len();
        let mut done = 0;
        while done < wanted {
            let at = address.wrapping_add(done as u64);
            let size = (4096 - at.page_offset()).min(wanted - done);
            let Some(page) = self.pages.get(&at.frame()) else {
                return Err(Error::NoMemory {
                    domain: DomId(1),
                    address: at,
                    done,
                    wanted,
                });
            };
            buffer[done..done + size].copy_from_slice(&page[at.page_offset()..at.page_offset() + size]);
            done += size;
        }
        Ok(())
    }

    fn memory_regions(&self) -> Vec<MemoryRegion> {
        Vec::new()
    }
}

impl ReadRegisters for Bytes {
    fn vcpu_count(&self) -> u32 {
        self.vcpus.len() as u32
    }

    fn registers(&self, vcpu: VcpuId) -> Result<Registers> {
        self.vcpus.get(vcpu.index()).cloned().ok_or(Error::NoVcpu {
            domain: DomId(1),
            vcpu,
            count: self.vcpu_count(),
        })
    }

    fn read_msr(&self, _: VcpuId, _: u32) -> Result<Option<u64>> {
        Ok(None)
    }
}

/// Page tables under construction.
#[derive(Clone, Copy)]
pub(crate) struct Tables {
    pub(crate) mode: PagingMode,
    pub(crate) root: u64,
}

impl Tables {
    pub(crate) fn new(memory: &mut Bytes, arch: Arch) -> Tables {
        let mode = match arch {
            Arch::X64 => PagingMode::Level4,
            Arch::X86 => PagingMode::Pae,
        };
        Tables {
            mode,
            root: memory.page(),
        }
    }

    fn shifts(self) -> &'static [(u32, u64)] {
        match self.mode {
            PagingMode::Level4 => &[(39, 0x1ff), (30, 0x1ff), (21, 0x1ff)],
            _ => &[(30, 3), (21, 0x1ff)],
        }
    }

    /// Where the PTE of an address is; tables on the way are made.
    fn pte(self, memory: &mut Bytes, address: u64) -> u64 {
        let mut table = self.root;
        for (level, &(shift, mask)) in self.shifts().iter().enumerate() {
            let at = table + ((address >> shift) & mask) * 8;
            if memory.word(at) == 0 {
                let next = memory.page();
                let is_pae_root = self.mode == PagingMode::Pae && level == 0;
                let entry = next | if is_pae_root { 1 } else { 3 };
                memory.set(at, &entry.to_le_bytes());
            }
            table = memory.word(at) & 0x000f_ffff_ffff_f000;
        }
        table + ((address >> 12) & 0x1ff) * 8
    }

    pub(crate) fn map(self, memory: &mut Bytes, address: u64, phys: u64) {
        let pte = self.pte(memory, address);
        memory.set(pte, &(phys | 3).to_le_bytes());
    }

    pub(crate) fn unmap(self, memory: &mut Bytes, address: u64) {
        let pte = self.pte(memory, address);
        memory.set(pte, &[0; 8]);
    }

    /// The physical page of an address, mapped if it wasn't.
    pub(crate) fn phys(self, memory: &mut Bytes, address: u64) -> u64 {
        let pte = self.pte(memory, address);
        if memory.word(pte) == 0 {
            let page = memory.page();
            self.map(memory, address, page);
        }
        (memory.word(pte) & 0x000f_ffff_ffff_f000) | (address & 0xfff)
    }

    pub(crate) fn write(self, memory: &mut Bytes, address: u64, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            let phys = self.phys(memory, address + index as u64);
            memory.set(phys, &[*byte]);
        }
    }
}
