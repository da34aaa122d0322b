//! What the formats of Linux's crash tools have in common: notes with the processors and VMCOREINFO, and what a writer
//! must be told of the kernel.
//!
//! ```text
//!  writing:  Registers, LinuxFacts ─► notes::build ─► notes of an ELF vmcore or a kdump file
//!  reading:  notes ─► notes::Notes (NT_PRSTATUS, QEMU, VirtualBox, VMCOREINFO) ─► processors ─► Registers
//! ```

mod notes;
mod processors;
mod prstatus;
mod qemu_note;
mod vbox_note;
mod vmcoreinfo;

pub(crate) use notes::{NOTES_LIMIT, Notes, build as build_notes, vmcoreinfo_range};
pub(crate) use processors::registers;
pub use vmcoreinfo::Vmcoreinfo;

use crate::pages::Pfn;
use hv_core::GuestVirtAddr;
use hv_core::regs::{Registers, efer};

/// Where the kernel's image lies without KASLR and with `phys_base` 0 (`__START_KERNEL_map`, x86-64).
pub(crate) const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

/// `struct new_utsname`: sysname, nodename, release, version, machine, domainname, each ended by a NUL.
pub type Utsname = [[u8; 65]; 6];

/// What is known of the Linux kernel whose memory is dumped. All of it is optional; a reader of the file misses what is.
#[derive(Clone, Debug, Default)]
pub struct LinuxFacts {
    /// VMCOREINFO's text, byte for byte as the kernel has it.
    pub vmcoreinfo: Option<Vec<u8>>,
    /// Where the direct map of physical memory begins.
    pub page_offset_base: Option<GuestVirtAddr>,
    /// Physical address of the kernel's image less the one that it was linked for. VMCOREINFO's is used without it.
    pub phys_base: Option<i64>,
    /// The kernel's image, `_text` to `_end`, at the addresses that it runs at.
    pub image: Option<KernelImage>,
    /// `init_uts_ns.name`.
    pub utsname: Option<Utsname>,
    /// When the kernel crashed: seconds since 1970. VMCOREINFO's is used without it.
    pub crash_time: Option<u64>,
    /// The processor that crashed.
    pub crashed_processor: Option<u32>,
}

/// Where the kernel's image is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelImage {
    /// Its first byte.
    pub start: GuestVirtAddr,
    /// Its length in bytes.
    pub length: u64,
}

impl LinuxFacts {
    pub(crate) fn parsed_vmcoreinfo(&self) -> Vmcoreinfo<'_> {
        Vmcoreinfo::new(self.vmcoreinfo.as_deref().unwrap_or_default())
    }

    pub(crate) fn known_phys_base(&self) -> Option<i64> {
        self.phys_base
            .or_else(|| self.parsed_vmcoreinfo().number("phys_base"))
    }

    pub(crate) fn known_crash_time(&self) -> Option<u64> {
        self.crash_time.or_else(|| self.parsed_vmcoreinfo().crash_time())
    }
}

/// Says which pages of a guest's RAM go into a file: what makedumpfile's dump levels leave out.
pub trait PageFilter {
    /// Whether the page is wanted. Asked once for each page, in rising order.
    fn keep(&mut self, pfn: Pfn) -> bool;

    /// makedumpfile's number for what is left out (1 zero, 2 and 4 cache, 8 user, 16 free), which kdump files record.
    fn level(&self) -> u32;
}

/// Keeps every page.
pub struct KeepAll;

impl PageFilter for KeepAll {
    fn keep(&mut self, _pfn: Pfn) -> bool {
        true
    }

    fn level(&self) -> u32 {
        0
    }
}

/// Whether any processor is in long mode: then all of the dump's structures are the 64-bit ones.
pub(crate) fn is_64_bit(processors: &[Registers]) -> bool {
    processors.is_empty() || processors.iter().any(|cpu| cpu.efer & efer::LMA != 0)
}
