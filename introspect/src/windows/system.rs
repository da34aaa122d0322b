//! Facts about the whole system: bugcheck, KUSER_SHARED_DATA, the guest's map of its memory.

use super::Windows;
use super::entry::kuser;
use super::error::Error;
use super::facts::{Arch, Bugcheck, PhysicalRun, SharedData};
use super::field::Global;
use super::guest::Guest;
use super::space::Space;
use hv_core::{GuestPhysAddr, GuestVirtAddr, VcpuId};

/// The most runs of physical memory.
const MAX_RUNS: u64 = 1024;

impl Windows {
    /// The bugcheck that a vCPU at the first instruction of KeBugCheckEx is about to begin; see [`Bugcheck::at_entry`].
    pub fn bugcheck_at_entry(&self, guest: Guest<'_>, vcpu: VcpuId) -> Option<Bugcheck> {
        let registers = guest.vcpus.registers(vcpu).ok()?;
        let space = Space::new(guest, self.arch, self.mode, registers.cr3);
        Bugcheck::at_entry(self.arch, &registers, |address, buffer| {
            space.read(address, buffer).is_ok()
        })
    }

    /// The bugcheck in KiBugCheckData; `None` while there is none.
    ///
    /// # Errors
    /// [`Error`] if it isn't known or can't be read.
    pub fn bugcheck(&self, guest: Guest<'_>) -> Result<Option<Bugcheck>, Error> {
        const WHAT: &str = "KiBugCheckData";
        let data = self.global(Global::KiBugCheckData)?;
        let space = self.space(guest)?;
        let size = self.arch.pointer_size() as u64;
        let word = |index| space.word(WHAT, data.wrapping_add(index * size));
        let code = word(0)? as u32;
        if code == 0 {
            return Ok(None);
        }
        Ok(Some(Bugcheck {
            code,
            parameters: [word(1)?, word(2)?, word(3)?, word(4)?],
        }))
    }

    /// KUSER_SHARED_DATA.
    ///
    /// # Errors
    /// [`Error`] if it can't be read.
    pub fn shared_data(&self, guest: Guest<'_>) -> Result<SharedData, Error> {
        shared_data(&self.space(guest)?)
    }

    /// The guest's own map of physical memory (MmPhysicalMemoryBlock). Some versions have none.
    ///
    /// # Errors
    /// [`Error`] if it isn't known or can't be read.
    pub fn physical_runs(&self, guest: Guest<'_>) -> Result<Vec<PhysicalRun>, Error> {
        const WHAT: &str = "MmPhysicalMemoryBlock";
        let variable = self.global(Global::MmPhysicalMemoryBlock)?;
        let space = self.space(guest)?;
        let Some(block) = space.kernel_pointer(WHAT, variable)? else {
            return Ok(Vec::new());
        };
        let size = self.arch.pointer_size() as u64;
        let count = u64::from(space.u32(WHAT, block)?);
        let pages = space.word(WHAT, block.wrapping_add(size))?;
        let implausible = |why: String| Error::Implausible {
            what: WHAT,
            address: block,
            why,
        };
        if count > MAX_RUNS {
            return Err(implausible(format!("it has {count} runs")));
        }
        let runs = (0..count)
            .map(|index| {
                let run = block.wrapping_add(2 * size * (index + 1));
                let base = space.word(WHAT, run)?;
                Ok(PhysicalRun {
                    start: GuestPhysAddr(base.saturating_mul(0x1000)),
                    pages: space.word(WHAT, run.wrapping_add(size))?,
                })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let sum = runs.iter().try_fold(0u64, |sum, run| sum.checked_add(run.pages));
        if sum == Some(pages) {
            Ok(runs)
        } else {
            Err(implausible(format!("its runs don't add up to {pages:#x} pages")))
        }
    }
}

/// KUSER_SHARED_DATA through its kernel alias. The layout only grows (ntddk.h).
pub(super) fn shared_data(space: &Space<'_>) -> Result<SharedData, Error> {
    const WHAT: &str = "KUSER_SHARED_DATA";
    let address = kuser(space.arch);
    let at = |offset| address.wrapping_add(offset);
    let u32_at = |offset| space.u32(WHAT, at(offset));
    let version = (u32_at(0x26c)?, u32_at(0x270)?);
    Ok(SharedData {
        address,
        version,
        // Before 10 the field has another meaning.
        build: (version.0 >= 10)
            .then(|| u32_at(0x260).map(|build| build & 0xffff))
            .transpose()?,
        product_type: u32_at(0x264)?,
        suite_mask: u32_at(0x2d0)?,
        system_root: space.utf16(WHAT, at(0x30), 2 * 260)?,
        system_time: system_time(space, at(0x14))?,
        interrupt_time: system_time(space, at(8))?,
        tick_count: match space.arch {
            Arch::X64 => space.u64(WHAT, at(0x320))?,
            Arch::X86 => system_time(space, at(0x320))?,
        },
        tick_count_multiplier: u32_at(4)?,
        kd_debugger_enabled: space.u8(WHAT, at(0x2d4))?,
        physical_pages: u32_at(0x2e8)?,
        active_processors: u32_at(0x3c0)?,
    })
}

/// A KSYSTEM_TIME: LowPart, High1Time, High2Time. The guest may stand in the middle of writing one: High2 is written
/// first, so it goes with what was there, and both are the same but for that moment.
fn system_time(space: &Space<'_>, address: GuestVirtAddr) -> Result<u64, Error> {
    let low = u64::from(space.u32("KSYSTEM_TIME", address)?);
    let high = u64::from(space.u32("KSYSTEM_TIME", address.wrapping_add(4))?);
    Ok(high << 32 | low)
}
