//! Layouts of a kernel without BTF (4.14 to 5.1, or built so), by what its structures must look like.
//!
//! ```text
//!   init_task ── its name ──► comm ──► tasks: the ring on which every entry has a name ──► a sample of tasks
//!                                                                                            │
//!        one offset at which all of the sample agree: pid, stack, thread.sp, signal, mm … ◄──┘
//!   modules ──► a sample of modules ──► their memory, their symbols
//! ```
//!
//! A place counts only if what must be true there is true for every task of the sample; what isn't found stays unknown.
//! Reads are bounded by the sample's size, whatever the memory holds.

mod modules;
mod tasks;

use super::image::KernelImage;
use super::space::Space;
use hv_core::GuestVirtAddr;
use std::collections::HashMap;
use std::fmt;

/// Members' offsets and structures' sizes in bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Inferred {
    offsets: HashMap<(&'static str, &'static str), u64>,
    sizes: HashMap<&'static str, u64>,
}

impl Inferred {
    pub(super) fn offset(&self, structure: &str, member: &str) -> Option<u64> {
        self.offsets.get(&(structure, member)).copied()
    }

    pub(super) fn size(&self, structure: &str) -> Option<u64> {
        self.sizes.get(structure).copied()
    }

    fn set(&mut self, structure: &'static str, member: &'static str, offset: u64) {
        self.offsets.insert((structure, member), offset);
    }

    /// Whether tasks can be walked.
    pub(super) fn is_complete(&self) -> bool {
        ["comm", "tasks", "pid", "stack", "thread.sp", "signal", "mm"]
            .iter()
            .all(|member| self.offset("task_struct", member).is_some())
    }
}

impl fmt::Display for Inferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all: Vec<_> = self.offsets.iter().collect();
        all.sort();
        for (number, ((structure, member), offset)) in all.into_iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{structure}.{member} {offset:#x}")?;
        }
        Ok(())
    }
}

/// What is known of the kernel without its types.
pub(super) struct Kernel<'a, 'm> {
    pub(super) space: &'a Space<'m>,
    pub(super) image: &'a KernelImage,
    pub(super) symbol: &'a dyn Fn(&str) -> Option<GuestVirtAddr>,
}

/// Looks for what it can find.
pub(super) fn infer(kernel: &Kernel<'_, '_>) -> Inferred {
    let mut found = Inferred::default();
    // Each step needs what the ones before it found.
    let _ = tasks::infer(kernel, &mut found);
    let _ = modules::infer(kernel, &mut found);
    found
}

impl Kernel<'_, '_> {
    fn word(&self, address: u64) -> Option<u64> {
        self.space.u64("a structure", GuestVirtAddr(address)).ok()
    }

    fn is_pointer(&self, address: u64) -> bool {
        address.is_multiple_of(8) && self.space.is_kernel(GuestVirtAddr(address))
    }
}

/// A structure's memory, and what may be behind it.
struct Sample {
    address: u64,
    bytes: Vec<u8>,
}

impl Sample {
    fn read(kernel: &Kernel<'_, '_>, address: u64, size: usize) -> Sample {
        let mut bytes = vec![0; size];
        kernel.space.read_some(GuestVirtAddr(address), &mut bytes);
        Sample { address, bytes }
    }

    fn word(&self, offset: u64) -> u64 {
        u64::from(self.half(offset)) | u64::from(self.half(offset + 4)) << 32
    }

    fn half(&self, offset: u64) -> u32 {
        let bytes = self.bytes.get(offset as usize..).unwrap_or_default();
        bytes.first_chunk().map_or(0, |word| u32::from_le_bytes(*word))
    }
}

/// Whether bytes begin with a name: printable, and ended by a NUL.
fn is_name(bytes: &[u8]) -> bool {
    match memchr::memchr(0, bytes) {
        None | Some(0) => false,
        Some(end) => bytes[..end].iter().all(|byte| (0x20..0x7f).contains(byte)),
    }
}
