//! Loaded and unloaded kernel modules.

use super::Windows;
use super::error::Error;
use super::facts::{Arch, Module, UnloadedModule, Walk};
use super::field::Global;
use super::guest::Guest;
use super::list::List;
use super::space::Space;
use hv_core::GuestVirtAddr;
use symbols::pe::Headers;

/// The most modules.
const MAX_MODULES: usize = 4096;
/// Entries of MmUnloadedDrivers, in every version.
const UNLOADED: u32 = 50;

/// Offsets in KLDR_DATA_TABLE_ENTRY: the same from XP to 11 (nt kernel public PDBs, 14393 to 22000).
struct Entry {
    dll_base: u64,
    entry_point: u64,
    size_of_image: u64,
    full_name: u64,
    base_name: u64,
    flags: u64,
    load_count: u64,
    check_sum: u64,
}

impl Entry {
    const fn of(arch: Arch) -> Entry {
        match arch {
            Arch::X64 => Entry {
                dll_base: 0x30,
                entry_point: 0x38,
                size_of_image: 0x40,
                full_name: 0x48,
                base_name: 0x58,
                flags: 0x68,
                load_count: 0x6c,
                check_sum: 0x78,
            },
            Arch::X86 => Entry {
                dll_base: 0x18,
                entry_point: 0x1c,
                size_of_image: 0x20,
                full_name: 0x24,
                base_name: 0x2c,
                flags: 0x34,
                load_count: 0x38,
                check_sum: 0x40,
            },
        }
    }
}

impl Windows {
    /// The head of the loaded-module list.
    ///
    /// # Errors
    /// [`super::Unknown::Global`].
    pub fn loaded_module_list(&self) -> Result<GuestVirtAddr, super::Unknown> {
        self.global(Global::PsLoadedModuleList)
    }

    /// Loaded modules, the kernel first; at most 4096. A name that can't be read is empty.
    ///
    /// # Errors
    /// [`Error`] if not even the head can be read.
    pub fn modules(&self, guest: Guest<'_>) -> Result<Walk<Module>, Error> {
        let space = self.space(guest)?;
        self.modules_in(&space)
    }

    pub(super) fn modules_in(&self, space: &Space<'_>) -> Result<Walk<Module>, Error> {
        let list = List {
            name: "PsLoadedModuleList",
            head: self.loaded_module_list()?,
            link: 0,
            limit: MAX_MODULES,
        };
        list.walk(space, |entry| module(space, entry))
    }

    /// Modules that were unloaded, the latest first; at most 50.
    ///
    /// # Errors
    /// [`Error`] if the array isn't known or can't be read.
    pub fn unloaded_modules(&self, guest: Guest<'_>) -> Result<Vec<UnloadedModule>, Error> {
        let array = self.global(Global::MmUnloadedDrivers)?;
        let last = self.global(Global::MmLastUnloadedDriver)?;
        let space = self.space(guest)?;
        let Some(array) = space.kernel_pointer("MmUnloadedDrivers", array)? else {
            return Ok(Vec::new());
        };
        let count = space.u32("MmLastUnloadedDriver", last)?;
        // Name, StartAddress, EndAddress, CurrentTime.
        let (size, start, end, time) = match self.arch {
            Arch::X64 => (0x28, 0x10, 0x18, 0x20),
            Arch::X86 => (0x18, 8, 0xc, 0x10),
        };
        (1..=count.min(UNLOADED))
            .map(|back| {
                let slot = u64::from(count.wrapping_sub(back) % UNLOADED);
                let entry = array.wrapping_add(slot * size);
                Ok(UnloadedModule {
                    name: space
                        .unicode_string("MmUnloadedDrivers", entry)
                        .unwrap_or_default(),
                    start: space.pointer("MmUnloadedDrivers", entry.wrapping_add(start))?,
                    end: space.pointer("MmUnloadedDrivers", entry.wrapping_add(end))?,
                    time: space.u64("MmUnloadedDrivers", entry.wrapping_add(time))?,
                })
            })
            .collect()
    }
}

fn module(space: &Space<'_>, entry: GuestVirtAddr) -> Result<Module, Error> {
    const WHAT: &str = "KLDR_DATA_TABLE_ENTRY";
    let offsets = Entry::of(space.arch);
    let at = |offset| entry.wrapping_add(offset);
    let base = space.pointer(WHAT, at(offsets.dll_base))?;
    if !space.is_kernel(base) || base.page_offset() != 0 {
        return Err(Error::Implausible {
            what: WHAT,
            address: entry,
            why: format!("its DllBase is {base}"),
        });
    }
    Ok(Module {
        entry,
        base,
        size: space.u32(WHAT, at(offsets.size_of_image))?,
        entry_point: space.pointer(WHAT, at(offsets.entry_point))?,
        name: space
            .unicode_string(WHAT, at(offsets.base_name))
            .unwrap_or_default(),
        path: space
            .unicode_string(WHAT, at(offsets.full_name))
            .unwrap_or_default(),
        flags: space.u32(WHAT, at(offsets.flags))?,
        load_count: space.u16(WHAT, at(offsets.load_count))?,
        check_sum: space.u32(WHAT, at(offsets.check_sum))?,
        time_date_stamp: headers(space, base).map(|headers| headers.time_date_stamp),
    })
}

/// An image's headers. Session drivers' aren't mapped outside their session.
fn headers(space: &Space<'_>, base: GuestVirtAddr) -> Option<Headers> {
    let mut page = [0; 0x1000];
    space.read(base, &mut page).ok()?;
    Headers::parse(&page).ok()
}
