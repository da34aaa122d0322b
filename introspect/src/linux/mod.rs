//! A Linux guest seen from outside: its kernel found and read from vCPU state and memory alone, or from memory alone.
//!
//! ```text
//!   vCPU registers ──► page-table root ──► kernel image ──► kallsyms ──► names ↔ addresses
//!                          ▲                  ▲                │
//!   memory alone ──► VMCOREINFO ──────────────┘                ├─► init_top_pgt, phys_base, banner, VMCOREINFO
//!                └─► kallsyms in physical memory ──────────────┘
//!                                                              ├─► BTF ──► Layout: structure offsets
//!                                                              │   (or what the structures look like: infer)
//!                                                              ▼
//!                            log, crash, page kinds, tasks, modules: read anew at each call
//! ```
//!
//! [`Linux`] holds what doesn't change while the same kernel runs; everything else is read anew at each call, from a
//! guest that stands still. Layouts are detected, never chosen by version. Guest memory is hostile: every pointer is
//! checked, every walk has a limit, and a list that breaks off says so and gives what was read before ([`Walk`]). A
//! field whose place isn't known in this build is an error and never guessed. x86-64 only.

mod boot;
mod cpus;
mod crash;
mod error;
mod file;
mod find;
mod image;
mod in_memory;
mod infer;
mod known;
mod layout;
mod learn;
mod list;
mod log;
mod maple;
mod modules;
mod pages;
mod process;
mod registers;
mod space;
mod stack;
mod symbol_file;
mod tasks;
mod uts;
mod vmcoreinfo;

pub use crate::windows::{Broken, Guest, Report, Step, Walk};
pub use cpus::Cpu;
pub use crash::{Crash, Taint};
pub use error::{Error, NotLinux, Unknown};
pub use file::File;
pub use image::KernelImage;
pub(crate) use known::Known;
pub use layout::Source;
pub use log::{Caller, Level, Log, Record};
pub use modules::{Module, ModulePart, ModuleSection, ModuleState, ModuleSymbol};
pub use pages::{PageKind, PageKinds};
pub use process::Mapping;
pub use registers::TaskRegisters;
pub use stack::{StackFrame, Unwinder};
pub use symbol_file::SymbolFileError;
pub use tasks::{Task, TaskState};
pub use uts::{UTS_FIELD, Utsname};
pub use vmcoreinfo::VmcoreInfo;

use crate::paging::PagingMode;
use crate::virtual_memory::AddressSpace;
use hv_core::introspect::ReadMemory;
use hv_core::{GuestPhysAddr, GuestVirtAddr};
use infer::Inferred;
use space::Space;
use std::sync::{Arc, OnceLock};
use symbols::btf::Btf;
use symbols::kallsyms::{Kallsyms, Symbol};
use symbols::synthetic::Orc;

/// A recognised Linux kernel.
pub struct Linux {
    mode: PagingMode,
    /// The kernel's own tables, where they are known: they outlive every process.
    root: GuestPhysAddr,
    image: KernelImage,
    kallsyms: Option<Arc<Kallsyms>>,
    btf: Option<Arc<Btf>>,
    /// Without BTF.
    inferred: Option<Inferred>,
    vmcoreinfo: Option<VmcoreInfo>,
    banner: Option<String>,
    regions: Regions,
    report: Report,
    /// The image's ORC, from the first stack on that was unwound.
    orc: OnceLock<Arc<Orc>>,
}

/// The kernel's regions of virtual memory, which KASLR moves (Documentation/arch/x86/x86_64/mm.rst).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Regions {
    /// `page_offset_base`: where all physical memory is mapped.
    pub direct_map: GuestVirtAddr,
    /// `vmalloc_base`.
    pub vmalloc: GuestVirtAddr,
    /// `vmemmap_base`: where the array of `struct page` is.
    pub vmemmap: GuestVirtAddr,
}

impl Linux {
    /// Recognises the Linux kernel of a guest that stands still, from whatever its vCPUs are doing: in user mode, with
    /// the page tables of PTI, in the kernel.
    ///
    /// # Errors
    /// [`NotLinux`], with what was looked at. What an earlier kernel left behind in memory doesn't count here.
    pub fn recognise(guest: Guest<'_>) -> Result<Linux, NotLinux> {
        let mut report = Report::default();
        let found = find::find(guest, &mut report)?;
        Ok(learn::learn(found, report))
    }

    /// Recognises a Linux kernel in memory alone: a raw image, or a dump without registers.
    ///
    /// # Errors
    /// [`NotLinux::NoKernel`].
    pub fn recognise_in_memory(memory: &dyn ReadMemory) -> Result<Linux, NotLinux> {
        let mut report = Report::default();
        let found = in_memory::find(memory, &mut report)?;
        Ok(learn::learn(found, report))
    }

    /// Recognises the kernel that a VMCOREINFO is of: a dump has it as a note, and nothing has to be looked for.
    ///
    /// # Errors
    /// [`NotLinux::NoKernel`].
    pub fn recognise_by_vmcoreinfo(memory: &dyn ReadMemory, info: &VmcoreInfo) -> Result<Linux, NotLinux> {
        let mut report = Report::default();
        let found = in_memory::by_vmcoreinfo(memory, info).map_err(NotLinux::NoKernel)?;
        report.found("page tables", format!("{}, by VMCOREINFO", found.space.root));
        Ok(learn::learn(found, report))
    }

    /// Whether the recognised kernel is still there: a reset or another kernel (kexec) ends what is known.
    pub fn is_still_there(&self, memory: &dyn ReadMemory) -> bool {
        let space = self.space(memory);
        let text = space.physical(self.image.base) == Some(self.image.physical);
        let banner = self.banner.is_none() || learn::banner(&space, self.kallsyms.as_deref()) == self.banner;
        text && banner
    }

    /// Whether it told all that a kernel tells once it has started.
    fn is_complete(&self) -> bool {
        let types = self.btf.is_some() || self.inferred.as_ref().is_some_and(Inferred::is_complete);
        self.kallsyms.is_some() && self.vmcoreinfo.is_some() && types
    }

    /// The kernel's image.
    pub fn kernel(&self) -> &KernelImage {
        &self.image
    }

    /// 4- or 5-level paging.
    pub fn paging_mode(&self) -> PagingMode {
        self.mode
    }

    /// Page tables that map the whole kernel: its own (`init_top_pgt`) where they are known.
    pub fn root(&self) -> GuestPhysAddr {
        self.root
    }

    /// The kernel's address space, for [`crate::Target::read_virtual`].
    pub fn address_space(&self) -> AddressSpace {
        AddressSpace::Root(self.mode, self.root)
    }

    /// Where the kernel's regions are.
    pub fn regions(&self) -> Regions {
        self.regions
    }

    /// `Linux version 6.1.0-… (…) … #1 SMP …`: `linux_banner`, where it was found.
    pub fn banner(&self) -> Option<&str> {
        self.banner.as_deref()
    }

    /// What `uname -r` says.
    pub fn release(&self) -> Option<&str> {
        let banner = self.banner.as_deref();
        banner
            .and_then(|banner| banner.split_whitespace().nth(2))
            .or_else(|| self.vmcoreinfo.as_ref()?.get("OSRELEASE"))
    }

    /// `Linux 6.1.0-56-cloud-amd64`: a line for people.
    pub fn description(&self) -> String {
        format!("Linux {}", self.release().unwrap_or("of unknown release"))
    }

    /// The text that the kernel keeps for crash dumps.
    pub fn vmcoreinfo(&self) -> Option<&VmcoreInfo> {
        self.vmcoreinfo.as_ref()
    }

    /// The kernel's symbols.
    pub fn kallsyms(&self) -> Option<&Arc<Kallsyms>> {
        self.kallsyms.as_ref()
    }

    /// The kernel's types.
    pub fn btf(&self) -> Option<&Arc<Btf>> {
        self.btf.as_ref()
    }

    /// How recognition went.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The address of a name of the kernel: of its kallsyms, or of VMCOREINFO without them.
    pub fn symbol(&self, name: &str) -> Option<GuestVirtAddr> {
        let by_name = self.kallsyms.as_ref().and_then(|symbols| symbols.address(name));
        let address = by_name.or_else(|| self.vmcoreinfo.as_ref()?.symbol(name));
        address.map(GuestVirtAddr)
    }

    /// The symbol that names an address in the kernel's image, and the distance from it.
    pub fn nearest_symbol(&self, address: GuestVirtAddr) -> Option<(Symbol<'_>, u64)> {
        if !self.image.contains(address) {
            return None;
        }
        self.kallsyms.as_ref()?.nearest(address.0)
    }

    /// The same as [`Linux::symbol`].
    ///
    /// # Errors
    /// [`Unknown::Symbol`].
    fn needed(&self, name: &'static str) -> Result<GuestVirtAddr, Unknown> {
        self.symbol(name).ok_or(Unknown::Symbol(name))
    }

    /// The kernel's memory.
    fn space<'a>(&self, memory: &'a dyn ReadMemory) -> Space<'a> {
        Space::new(memory, self.mode, self.root)
    }
}
