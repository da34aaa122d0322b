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

mod error;
mod facts;
mod field;
mod guest;
mod kdbg;
mod layout;
mod report;

pub use error::{Error, NotWindows, Unknown};
pub use facts::{
    Arch, Broken, Bugcheck, KernelImage, Module, PhysicalRun, Process, Processor, SharedData, Thread,
    ThreadState, UnloadedModule, Walk,
};
pub use field::{Field, Global, Source};
pub use guest::Guest;
pub use kdbg::{DebuggerData, Encoding, VersionBlock};
pub use layout::Layout;
pub use report::{Report, Step};

use crate::virtual_memory::AddressSpace;
use hv_core::{GuestVirtAddr, VcpuId};
use symbols::SymbolPath;

/// A recognised Windows kernel.
pub struct Windows {
    arch: Arch,
    image: KernelImage,
    layout: Layout,
    report: Report,
}

impl Windows {
    /// Recognises the Windows kernel of a guest that stands still, whatever its vCPUs are doing.
    ///
    /// # Errors
    /// [`NotWindows`], with what was looked at.
    pub fn recognise(guest: Guest<'_>, symbols: &SymbolPath) -> Result<Windows, NotWindows> {
        let _ = (guest, symbols);
        Err(NotWindows::NotUp)
    }

    /// Whether the recognised kernel is still there: a reset or another kernel ends what is known.
    pub fn is_still_there(&self, guest: Guest<'_>) -> bool {
        let _ = guest;
        false
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
        None
    }

    /// NtBuildLab, where it is known: `19041.1.amd64fre.vb_release.191206-1406`.
    pub fn build_lab(&self) -> Option<&str> {
        None
    }

    /// `Windows 10 1903 x64, build 18362`: a line for people.
    pub fn description(&self) -> String {
        String::new()
    }

    /// The structure offsets of this build.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How recognition went.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The address of a variable or function, and where that was learned.
    pub fn find_global(&self, global: Global) -> Option<(GuestVirtAddr, Source)> {
        let _ = global;
        None
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
        let _ = name;
        None
    }

    /// The nearest name at or before an address in the kernel image, and the distance from it.
    pub fn nearest_symbol(&self, address: GuestVirtAddr) -> Option<(&str, u64)> {
        let _ = address;
        None
    }

    /// Page tables through which all of the kernel can be read, those of the process that the vCPU is in where that
    /// can be told: the vCPU's own CR3, or with KVA shadowing in user mode the kernel's counterpart.
    ///
    /// # Errors
    /// [`Error::NoKernelRoot`].
    pub fn kernel_space(&self, guest: Guest<'_>, vcpu: VcpuId) -> Result<AddressSpace, Error> {
        let _ = guest;
        Err(Error::NoKernelRoot { vcpu })
    }

    /// The vCPU's KPCR, KPRCB and threads, in whatever mode it is.
    ///
    /// # Errors
    /// [`Error::NoProcessor`]: a vCPU that isn't started, or a KPCR that fails the tests.
    pub fn processor(&self, guest: Guest<'_>, vcpu: VcpuId) -> Result<Processor, Error> {
        let _ = guest;
        Err(Error::NoProcessor {
            vcpu,
            why: String::new(),
        })
    }

    /// KdVersionBlock as it lies in memory.
    ///
    /// # Errors
    /// [`Error`] if it can't be found.
    pub fn version_block(&self, guest: Guest<'_>) -> Result<VersionBlock, Error> {
        let _ = guest;
        Err(Error::Gone)
    }

    /// The debugger data block, decoded. Ask again after each stop: a bugcheck decodes the guest's own copy.
    ///
    /// # Errors
    /// [`Error::NoDebuggerData`] if the guest has none and nothing is known of which one could be composed.
    pub fn debugger_data(&self, guest: Guest<'_>) -> Result<DebuggerData, Error> {
        let _ = guest;
        Err(Error::Gone)
    }

    /// The head of the loaded-module list.
    ///
    /// # Errors
    /// [`Unknown::Global`].
    pub fn loaded_module_list(&self) -> Result<GuestVirtAddr, Unknown> {
        self.global(Global::PsLoadedModuleList)
    }

    /// Loaded modules, the kernel first; at most 4096.
    ///
    /// # Errors
    /// [`Error`] if not even the head can be read.
    pub fn modules(&self, guest: Guest<'_>) -> Result<Walk<Module>, Error> {
        let _ = guest;
        Err(Error::Gone)
    }

    /// Modules that were unloaded, the latest first; at most 50.
    ///
    /// # Errors
    /// [`Error`] if the array isn't known or can't be read.
    pub fn unloaded_modules(&self, guest: Guest<'_>) -> Result<Vec<UnloadedModule>, Error> {
        let _ = guest;
        Err(Error::Gone)
    }

    /// Processes on the active list; at most 65536.
    ///
    /// # Errors
    /// [`Error`] if not even the head can be read.
    pub fn processes(&self, guest: Guest<'_>) -> Result<Walk<Process>, Error> {
        let _ = guest;
        Err(Error::Gone)
    }

    /// The process at an address.
    ///
    /// # Errors
    /// [`Error::Implausible`] if none is there.
    pub fn process(&self, guest: Guest<'_>, address: GuestVirtAddr) -> Result<Process, Error> {
        let _ = (guest, address);
        Err(Error::Gone)
    }

    /// The threads of a process; at most 65536.
    ///
    /// # Errors
    /// [`Error`] if not even the head can be read.
    pub fn threads(&self, guest: Guest<'_>, process: GuestVirtAddr) -> Result<Walk<Thread>, Error> {
        let _ = (guest, process);
        Err(Error::Gone)
    }

    /// The thread at an address.
    ///
    /// # Errors
    /// [`Error::Implausible`] if none is there.
    pub fn thread(&self, guest: Guest<'_>, address: GuestVirtAddr) -> Result<Thread, Error> {
        let _ = (guest, address);
        Err(Error::Gone)
    }

    /// The bugcheck in KiBugCheckData; `None` while there is none.
    ///
    /// # Errors
    /// [`Error`] if it isn't known or can't be read.
    pub fn bugcheck(&self, guest: Guest<'_>) -> Result<Option<Bugcheck>, Error> {
        let _ = guest;
        Err(Error::Gone)
    }

    /// KUSER_SHARED_DATA.
    ///
    /// # Errors
    /// [`Error`] if it can't be read.
    pub fn shared_data(&self, guest: Guest<'_>) -> Result<SharedData, Error> {
        let _ = guest;
        Err(Error::Gone)
    }

    /// The guest's own map of physical memory (MmPhysicalMemoryBlock).
    ///
    /// # Errors
    /// [`Error`] if it isn't known or can't be read.
    pub fn physical_runs(&self, guest: Guest<'_>) -> Result<Vec<PhysicalRun>, Error> {
        let _ = guest;
        Err(Error::Gone)
    }
}
