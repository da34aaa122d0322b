//! Each vCPU as the kernel sees it: the page tables that map the kernel, the KPCR and the KPRCB.

use super::Windows;
use super::entry::{self, KpcrOffsets};
use super::error::Error;
use super::facts::{Arch, Processor};
use super::field::{Field, Global};
use super::guest::Guest;
use super::space::Space;
use crate::virtual_memory::AddressSpace;
use hv_core::regs::Registers;
use hv_core::{GuestVirtAddr, VcpuId};

/// The most entries of KiProcessorBlock that are looked at.
const MAX_PROCESSORS: u64 = 64;

impl Windows {
    /// Page tables through which all of the kernel can be read, those of the process that the vCPU is in where that
    /// can be told: the vCPU's own CR3, or with KVA shadowing in user mode the kernel's counterpart.
    ///
    /// # Errors
    /// [`Error::NoKernelRoot`].
    pub fn kernel_space(&self, guest: Guest<'_>, vcpu: VcpuId) -> Result<AddressSpace, Error> {
        let registers = guest.vcpus.registers(vcpu)?;
        let own = self.own_space(guest, &registers);
        let space = match own {
            Some(space) => space,
            None => self.space(guest).map_err(|_| Error::NoKernelRoot { vcpu })?,
        };
        Ok(space.address_space())
    }

    /// The kernel's space by this vCPU's own registers.
    fn own_space<'a>(&self, guest: Guest<'a>, registers: &Registers) -> Option<Space<'a>> {
        let (arch, mode) = entry::arch_of(registers)?;
        if arch != self.arch {
            return None;
        }
        let current = Space::new(guest, arch, mode, registers.cr3);
        if self.maps_this_kernel(&current) {
            return Some(current);
        }
        let offset = self
            .layout
            .find(Field::KprcbKernelDirectoryTableBase)
            .map(|(offset, _)| KpcrOffsets::of(arch).prcb + u64::from(offset));
        entry::root_behind_shadow(registers, &current, offset)
            .map(|root| current.with_root(root))
            .filter(|space| self.maps_this_kernel(space))
    }

    /// Whether tables map this kernel: the alias of KUSER_SHARED_DATA, and the image's header, or where that is gone
    /// the KdVersionBlock.
    fn maps_this_kernel(&self, space: &Space<'_>) -> bool {
        if !space.maps(entry::kuser(self.arch)) {
            return false;
        }
        if self.headers.is_some() {
            let mut signature = [0; 2];
            return space.read(self.image.base, &mut signature).is_ok() && signature == *b"MZ";
        }
        let block = self.find_global(Global::KdVersionBlock);
        block.is_some_and(|(block, _)| {
            space.u64("KdVersionBlock", block.wrapping_add(0x10)).ok() == Some(self.image.base.0)
        })
    }

    /// The kernel's space by whichever vCPU shows one, or that of recognition.
    pub(super) fn space<'a>(&self, guest: Guest<'a>) -> Result<Space<'a>, Error> {
        for index in 0..guest.vcpus.vcpu_count().min(MAX_PROCESSORS as u32) {
            let registers = guest.vcpus.registers(VcpuId(index))?;
            if let Some(space) = self.own_space(guest, &registers) {
                return Ok(space);
            }
        }
        let last = Space::new(guest, self.arch, self.mode, self.root.0);
        if self.maps_this_kernel(&last) {
            Ok(last)
        } else {
            Err(Error::Gone)
        }
    }

    /// The kernel's space as a vCPU sees it, or else as any does.
    pub(super) fn space_of<'a>(&self, guest: Guest<'a>, registers: &Registers) -> Result<Space<'a>, Error> {
        match self.own_space(guest, registers) {
            Some(space) => Ok(space),
            None => self.space(guest),
        }
    }

    /// The vCPU's KPCR, KPRCB and threads, in whatever mode it is.
    ///
    /// # Errors
    /// [`Error::NoProcessor`]: a vCPU that isn't started, or a KPCR that fails the tests.
    pub fn processor(&self, guest: Guest<'_>, vcpu: VcpuId) -> Result<Processor, Error> {
        let registers = guest.vcpus.registers(vcpu)?;
        if entry::arch_of(&registers).is_none_or(|(arch, _)| arch != self.arch) {
            return Err(Error::NoProcessor {
                vcpu,
                why: format!("it isn't in a mode of an {} kernel: not started?", self.arch),
            });
        }
        let space = self.space_of(guest, &registers)?;
        let kpcr = self
            .find_kpcr(&space, &registers)
            .map_err(|why| Error::NoProcessor { vcpu, why })?;
        let offsets = KpcrOffsets::of(self.arch);
        let kprcb = kpcr.wrapping_add(offsets.prcb);
        let thread = |offset| {
            space
                .kernel_pointer("KPRCB", kprcb.wrapping_add(offset))
                .ok()
                .flatten()
        };
        Ok(Processor {
            vcpu,
            kpcr,
            kprcb,
            number: space.u32("KPRCB.Number", kprcb.wrapping_add(offsets.number))?,
            current_thread: thread(offsets.current_thread),
            next_thread: thread(offsets.next_thread),
            idle_thread: thread(offsets.idle_thread),
        })
    }

    /// The KPCR: of the vCPU's own segment bases the one that passes the self test and has the vCPU's IDT or GDT;
    /// else one of KiProcessorBlock by its IDT.
    fn find_kpcr(&self, space: &Space<'_>, registers: &Registers) -> Result<GuestVirtAddr, String> {
        let candidates = entry::kpcr_candidates(registers, space);
        let best = candidates
            .iter()
            .map(|&kpcr| (agreement(space, registers, kpcr), kpcr))
            .max_by_key(|(score, _)| *score);
        if let Some((1.., kpcr)) = best {
            return Ok(kpcr);
        }
        let listed = self.kpcr_by_processor_block(space, registers);
        listed.ok_or_else(|| match candidates.as_slice() {
            [] => "its segment bases hold no kernel address".to_owned(),
            all => format!(
                "{} fail the self test",
                all.iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(" and ")
            ),
        })
    }

    fn kpcr_by_processor_block(&self, space: &Space<'_>, registers: &Registers) -> Option<GuestVirtAddr> {
        let block = self.global(Global::KiProcessorBlock).ok()?;
        let size = self.arch.pointer_size() as u64;
        (0..MAX_PROCESSORS).find_map(|index| {
            let kprcb = space
                .kernel_pointer("KiProcessorBlock", block.wrapping_add(index * size))
                .ok()??;
            let kpcr = GuestVirtAddr(kprcb.0.checked_sub(KpcrOffsets::of(self.arch).prcb)?);
            (agreement(space, registers, kpcr) > 0).then_some(kpcr)
        })
    }
}

/// How surely a KPCR is the vCPU's: 0 not at all; else 1 for the same IDT and 1 for the same GDT.
fn agreement(space: &Space<'_>, registers: &Registers, kpcr: GuestVirtAddr) -> u32 {
    if !entry::is_kpcr(space, kpcr) {
        return 0;
    }
    let offsets = KpcrOffsets::of(space.arch);
    let has = |offset, register: u64| {
        let register = match space.arch {
            Arch::X64 => register,
            Arch::X86 => register & 0xffff_ffff,
        };
        space.word("KPCR", kpcr.wrapping_add(offset)) == Ok(register)
    };
    u32::from(has(offsets.idt, registers.idtr.base)) + u32::from(has(offsets.gdt, registers.gdtr.base))
}
