//! From a guest image to guest memory and the bootstrap vCPU's first registers: the part that firmware and a boot
//! loader play on a real machine.
//!
//! ```text
//!  file ──identify──► BzImage ──┬─(own decompressor)──────────────┐
//!                               └─unpack──► ELF ──┐               ├─► Registers, 64-bit entry, RSI = boot_params
//!                     Vmlinux ────────────────────┴─► segments ───┘
//!                     Multiboot ──► segments, information ──────────► Registers, 32-bit entry, EBX = information
//!  PE images ──► nt/ plays winload ────────────────────────────────────► Registers, 64-bit entry, RCX = loader block
//! ```
//!
//! Everything is written through [`LoadContext::write`]; nothing here knows how guest memory is kept. Guest memory
//! is expected to be all zeros before a load, so uninitialised data (.bss) is not written. ACPI tables and whatever
//! else lies in 0xE0000..0x100000 are the machine's; only the address of the RSDP passes through here.
//!
//! An image is hostile until proven otherwise: each offset, size and address is checked against the file and the
//! guest's memory, and no byte sequence may make this module panic or take more memory than the guest has.
//!
//! The `linux-loader` crate was not taken: it writes only through `vm-memory`'s guest memory traits, and neither
//! unpacks a bzImage nor loads multiboot kernels.

mod boot_params;
mod elf;
mod error;
mod layout;
mod linux;
mod multiboot;
mod nt;
mod unpack;

pub use error::{LoadError, OutOfRange};
pub(crate) use nt::load as load_nt;
pub use nt::{NtBoot, NtFile};

use crate::addr::GuestPhysAddr;
use crate::regs::Registers;

/// What a loader needs to know of the machine it loads into.
pub struct LoadContext<'a> {
    /// Bytes of RAM. It lies at 0 up to 3 GiB, and at 4 GiB for what remains.
    pub memory_bytes: u64,
    /// Writes guest-physical memory.
    #[allow(clippy::type_complexity)]
    pub write: &'a mut dyn FnMut(GuestPhysAddr, &[u8]) -> Result<(), OutOfRange>,
    /// The ACPI root pointer that Linux is told of; `None` for a machine without ACPI.
    pub rsdp: Option<GuestPhysAddr>,
    /// Seeds Linux's random number generator, so that it is ready at boot and the same in every run.
    pub random_seed: [u8; 32],
    /// Unpack a bzImage here and enter the vmlinux in it, where its compression is one of LZ4, gzip, zstd and xz.
    /// That saves the guest about 100 million instructions, but there is no KASLR then: see [`may_unpack`].
    pub unpack: bool,
}

/// The kinds of guest image, told apart by their content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Image {
    /// A compressed Linux kernel, as distributions install it (`vmlinuz`).
    BzImage,
    /// A Linux kernel as an ELF file (`vmlinux`).
    Vmlinux,
    /// A kernel with a multiboot (version 1) header.
    Multiboot,
}

/// Tells what kind of image `kernel` is.
///
/// # Errors
/// [`LoadError::Empty`], [`LoadError::NotAKernel`], [`LoadError::WrongArchitecture`] and
/// [`LoadError::NotBootable`]: what it is instead, where that can be told.
pub fn identify(kernel: &[u8]) -> Result<Image, LoadError> {
    if kernel.is_empty() {
        return Err(LoadError::Empty);
    }
    if boot_params::has_setup_header(kernel) {
        return Ok(Image::BzImage);
    }
    if multiboot::find_header(kernel).is_some() {
        return Ok(Image::Multiboot);
    }
    if elf::is_elf(kernel) {
        return elf::check_linux(kernel).map(|()| Image::Vmlinux);
    }
    Err(error::not_a_kernel(kernel))
}

/// Whether kdd unpacks a bzImage itself for this command line: when the user gave up KASLR with `nokaslr`. Otherwise
/// the kernel's own decompressor runs in the guest and chooses the addresses, as on any machine.
pub fn may_unpack(command_line: &str) -> bool {
    command_line
        .split_ascii_whitespace()
        .take_while(|word| *word != "--")
        .any(|word| word == "nokaslr")
}

/// Puts `kernel`, `initrd` and all they need into guest memory, and returns the bootstrap vCPU's registers at the
/// kernel's entry.
///
/// # Errors
/// A [`LoadError`] that says what is wrong with the image or the machine. Guest memory may be partly written then.
pub fn load(
    kernel: &[u8],
    initrd: Option<&[u8]>,
    command_line: &str,
    ctx: &mut LoadContext<'_>,
) -> Result<Registers, LoadError> {
    if let Some(at) = command_line.bytes().position(|byte| byte == 0) {
        return Err(LoadError::CommandLineHasNul { at });
    }
    match identify(kernel)? {
        Image::BzImage => linux::load_bzimage(kernel, initrd, command_line, ctx),
        Image::Vmlinux => linux::load_vmlinux(kernel, initrd, command_line, ctx),
        Image::Multiboot => multiboot::load(kernel, initrd, command_line, ctx),
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
