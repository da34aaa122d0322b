//! A Windows guest seen from outside: its kernel found and read from vCPU state and memory alone.
//!
//! ```text
//!   vCPU registers ── entry points (LSTAR, IDT) ──► kernel image ──► PdbId
//!        │                                                            │
//!        └── page-table root that maps the kernel                     │
//!                                                                     ▼
//!      PDB on the symbol path ► table of known kernels ► structure: Layout and globals
//!                                                                     │
//!        KdVersionBlock ► KDDEBUGGER_DATA64 (decoded)                 ▼
//!        KPCR and KPRCB of each vCPU              modules, processes, threads, bugcheck
//! ```
//!
//! [`Windows`] holds what doesn't change while the same kernel runs; everything else is read anew at each call, from
//! a guest that stands still. Guest memory is hostile: every pointer is checked, every walk has a limit, and a list
//! that breaks off says so and gives what was read before ([`Walk`]). A field whose place isn't known in this build
//! is absent and never guessed.

mod bugcheck;
mod entry;
mod error;
mod facts;
mod field;
mod find;
mod guest;
mod in_memory;
mod kdbg;
mod known;
mod layout;
mod learn;
mod list;
mod modules;
mod processes;
mod processor;
mod release;
mod report;
mod space;
pub mod state;
mod system;
#[cfg(test)]
mod tests;
mod threads;

pub use error::{Error, NotWindows, Unknown};
pub use facts::{
    Arch, Broken, Bugcheck, KernelImage, Module, PhysicalRun, Process, Processor, SharedData, Thread,
    ThreadState, UnloadedModule, Walk,
};
pub use field::{Field, Global, Source};
pub use guest::Guest;
pub use in_memory::{InMemory, find_in_memory};
pub use kdbg::{DebuggerData, Encoding, VersionBlock};
pub use layout::Layout;
pub use release::name as release_name;
pub use report::{Report, Step};

use crate::paging::PagingMode;
use hv_core::{GuestPhysAddr, GuestVirtAddr};
use std::sync::Arc;
use symbols::pe::Headers;
use symbols::{Pdb, PdbId, SymbolPath};

/// Finds the PDB of a kernel, or says why not.
trait FindPdb: FnOnce(&PdbId) -> Result<Arc<Pdb>, String> {}

impl<F: FnOnce(&PdbId) -> Result<Arc<Pdb>, String>> FindPdb for F {}

/// A recognised Windows kernel.
pub struct Windows {
    arch: Arch,
    mode: PagingMode,
    /// Tables that mapped the kernel when it was recognised.
    root: GuestPhysAddr,
    image: KernelImage,
    headers: Option<Headers>,
    pdb: Option<Arc<Pdb>>,
    layout: Layout,
    globals: Vec<Option<(GuestVirtAddr, Source)>>,
    build: Option<u32>,
    build_lab: Option<String>,
    /// KUSER_SHARED_DATA at the time of recognition.
    shared: Option<SharedData>,
    /// How far the guest's boot had come; see [`Windows::progress`].
    progress: u32,
    report: Report,
}

impl Windows {
    /// Recognises the Windows kernel of a guest that stands still, whatever its vCPUs are doing.
    ///
    /// # Errors
    /// [`NotWindows`], with what was looked at.
    pub fn recognise(guest: Guest<'_>, symbols: &SymbolPath) -> Result<Windows, NotWindows> {
        Windows::recognise_with(guest, |id| {
            let path = symbols.locate(id).map_err(|error| error.to_string())?.path;
            match Pdb::open(&path, Some(id)) {
                Ok(pdb) => Ok(Arc::new(pdb)),
                Err(error) => Err(format!("{}: {error}", path.display())),
            }
        })
    }

    /// As [`Windows::recognise`], with the kernel's PDB read before: a large one takes a while, in which the guest need
    /// not stand still. One of another kernel isn't used.
    ///
    /// # Errors
    /// [`NotWindows`].
    pub fn recognise_with_pdb(guest: Guest<'_>, pdb: &Arc<Pdb>) -> Result<Windows, NotWindows> {
        Windows::recognise_with(guest, |id| {
            if pdb.is(id) {
                Ok(pdb.clone())
            } else {
                Err(format!("it isn't {id}"))
            }
        })
    }

    fn recognise_with(guest: Guest<'_>, find_pdb: impl FindPdb) -> Result<Windows, NotWindows> {
        let mut report = Report::default();
        let found = find::find(guest, &mut report)?;
        let mut windows = Windows {
            arch: found.space.arch,
            mode: found.space.mode,
            root: found.space.root,
            image: found.image,
            headers: found.headers,
            pdb: None,
            layout: Layout::default(),
            globals: vec![None; Global::COUNT],
            build: None,
            build_lab: None,
            shared: system::shared_data(&found.space).ok(),
            progress: 0,
            report,
        };
        windows.learn(&found.space, find_pdb);
        windows.progress = windows.progress(&found.space);
        Ok(windows)
    }

    /// Whether the recognised kernel is still there, and no more can be learned of it: a reset or another kernel ends
    /// what is known, and one that was recognised while it booted is worth another look.
    pub fn is_still_there(&self, guest: Guest<'_>) -> bool {
        let Ok(space) = self.space(guest) else {
            return false;
        };
        // Where there is no header, finding the space has read the KdVersionBlock.
        let same = self.headers.is_none()
            || find::check(&space, self.image.base, self.image.base)
                .is_ok_and(|(image, _)| image == self.image);
        same && self.progress(&space) <= self.progress
    }

    /// What of the kernel's own directories is filled: they are empty while it boots.
    fn progress(&self, space: &space::Space<'_>) -> u32 {
        let version = match self.find_global(Global::KdVersionBlock) {
            Some((address, source)) => kdbg::version::read(space, &self.image, address, source).is_ok(),
            None => {
                let search = |headers| kdbg::version::search(space, &self.image, headers);
                self.headers.as_ref().and_then(search).is_some()
            }
        };
        let system = matches!(self.system_process(space), Ok(Some(_)));
        let shared = system::shared_data(space).ok();
        let filled = shared.as_ref().is_some_and(|shared| shared.version.0 != 0);
        // Lists can't prove a layout before there is something on them: a look more when the clock ticks, and after a
        // second of it.
        let ticks = shared
            .filter(|_| !self.knows_what_is_needed())
            .map_or(0, |it| it.tick_count);
        [version, system, filled, ticks > 0, ticks >= 64]
            .map(u32::from)
            .iter()
            .sum()
    }

    /// The kernel's architecture.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// Its image.
    pub fn kernel(&self) -> &KernelImage {
        &self.image
    }

    /// The build number, such as 19041, without the high bits of NtBuildNumber.
    pub fn build(&self) -> Option<u32> {
        self.build
    }

    /// NtBuildLab, where it is known: `19041.1.amd64fre.vb_release.191206-1406`.
    pub fn build_lab(&self) -> Option<&str> {
        self.build_lab.as_deref()
    }

    /// `Windows 10 1903 x64, build 18362`: a line for people.
    pub fn description(&self) -> String {
        let product_type = self.shared.as_ref().map_or(1, |shared| shared.product_type);
        let name = self
            .build
            .map_or("Windows", |build| release::name(build, product_type != 1));
        match self.build {
            Some(build) => format!("{name} {}, build {build}", self.arch),
            None => format!("{name} {}, build unknown", self.arch),
        }
    }

    /// The structure offsets of this build.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How recognition went.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The kernel's PDB, if it was found on the symbol path.
    pub fn pdb(&self) -> Option<&Arc<Pdb>> {
        self.pdb.as_ref()
    }

    /// The address of a variable or function, and where that was learned.
    pub fn find_global(&self, global: Global) -> Option<(GuestVirtAddr, Source)> {
        self.globals[global as usize]
    }

    /// The same.
    ///
    /// # Errors
    /// [`Unknown::Global`].
    pub fn global(&self, global: Global) -> Result<GuestVirtAddr, Unknown> {
        self.find_global(global)
            .map(|(address, _)| address)
            .ok_or(Unknown::Global(global))
    }

    /// The address of a name of the kernel (without `nt!`): of its PDB, or of what is known without it.
    pub fn symbol(&self, name: &str) -> Option<GuestVirtAddr> {
        let by_pdb = self.pdb.as_ref().and_then(|pdb| pdb.rva(name));
        if let Some(rva) = by_pdb {
            return self.image.base.checked_add(u64::from(rva));
        }
        let global = Global::ALL.iter().find(|global| global.name() == name)?;
        self.global(*global).ok()
    }

    /// The nearest name at or before an address in the kernel image, and the distance from it.
    pub fn nearest_symbol(&self, address: GuestVirtAddr) -> Option<(&str, u64)> {
        if !self.image.contains(address) {
            return None;
        }
        if let Some(pdb) = &self.pdb {
            let rva = u32::try_from(address.0 - self.image.base.0).ok()?;
            let (name, start) = pdb.nearest(rva)?;
            return Some((name, u64::from(rva - start)));
        }
        let known = Global::ALL
            .iter()
            .filter_map(|&global| Some((self.find_global(global)?.0, global)));
        let (start, global) = known
            .filter(|(start, _)| *start <= address)
            .max_by_key(|(start, _)| *start)?;
        Some((global.name(), address.0 - start.0))
    }

    /// Learns a variable's address, unless a better source knew it.
    fn learn_global(&mut self, global: Global, address: GuestVirtAddr, source: Source) {
        if self.image.contains(address) {
            self.globals[global as usize].get_or_insert((address, source));
        }
    }
}
