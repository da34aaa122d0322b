//! Finding KdVersionBlock: by its symbol, or by its shape in the kernel's data.

use super::VersionBlock;
use crate::windows::Windows;
use crate::windows::error::Error;
use crate::windows::facts::{Arch, KernelImage};
use crate::windows::field::{Global, Source};
use crate::windows::guest::Guest;
use crate::windows::space::Space;
use hv_core::GuestVirtAddr;
use symbols::pe::Headers;

const WHAT: &str = "KdVersionBlock";
/// Bytes of DBGKD_GET_VERSION64.
const LENGTH: usize = 0x28;
/// KernBase in it.
const KERN_BASE: usize = 0x10;
/// Bytes of data sections that are searched.
const MAX_DATA: usize = 16 << 20;

impl Windows {
    /// KdVersionBlock as it lies in memory.
    ///
    /// # Errors
    /// [`Error`] if it can't be found.
    pub fn version_block(&self, guest: Guest<'_>) -> Result<VersionBlock, Error> {
        let address = self.global(Global::KdVersionBlock)?;
        let source = self
            .find_global(Global::KdVersionBlock)
            .map_or(Source::Structure, |(_, source)| source);
        read(&self.space(guest)?, &self.image, address, source)
    }
}

/// The block at an address, if it is one.
pub(crate) fn read(
    space: &Space<'_>,
    image: &KernelImage,
    address: GuestVirtAddr,
    source: Source,
) -> Result<VersionBlock, Error> {
    let mut bytes = [0; LENGTH];
    space.bytes(WHAT, address, &mut bytes)?;
    parse(space, image, address, source, bytes).ok_or(Error::Implausible {
        what: WHAT,
        address,
        why: "it doesn't describe this kernel".to_owned(),
    })
}

fn parse(
    space: &Space<'_>,
    image: &KernelImage,
    address: GuestVirtAddr,
    source: Source,
    bytes: [u8; LENGTH],
) -> Option<VersionBlock> {
    let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let pointer = |at: usize| Some(space.arch.address(super::layout::u64_at(&bytes, at)?));
    let block = VersionBlock {
        address,
        source,
        bytes,
        major: u16_at(0),
        minor: u16_at(2),
        flags: u16_at(6),
        kernel_base: pointer(KERN_BASE)?,
        loaded_module_list: pointer(0x18)?,
        debugger_data_list: pointer(0x20)?,
    };
    let plausible = matches!(block.major, 0xf | 0xc)
        && u16_at(8) == space.arch.machine()
        && block.kernel_base == image.base
        && image.contains(block.loaded_module_list)
        && image.contains(block.debugger_data_list)
        && block.loaded_module_list != block.debugger_data_list;
    plausible.then_some(block)
}

/// Looks for the block in the kernel's data: the first qword that is the kernel's base with the rest around it.
pub(crate) fn search(space: &Space<'_>, image: &KernelImage, headers: &Headers) -> Option<VersionBlock> {
    let base = space.arch.sign_extend(image.base);
    search_data(space, image, headers, |data, address| {
        let words = data.as_chunks::<8>().0;
        words.iter().enumerate().find_map(|(index, word)| {
            let start = (index * 8).checked_sub(KERN_BASE)?;
            if u64::from_le_bytes(*word) != base {
                return None;
            }
            let bytes = data.get(start..start + LENGTH)?.try_into().ok()?;
            parse(
                space,
                image,
                address.wrapping_add(start as u64),
                Source::Structure,
                bytes,
            )
        })
    })
}

/// Shows the readable stretches of the kernel's writable data to `look`, until it finds what it looks for.
pub(crate) fn search_data<T>(
    space: &Space<'_>,
    image: &KernelImage,
    headers: &Headers,
    mut look: impl FnMut(&[u8], GuestVirtAddr) -> Option<T>,
) -> Option<T> {
    const PAGE: u32 = 0x1000;
    let mut left = MAX_DATA;
    let mut stretch = Vec::new();
    for section in headers.sections.iter().filter(|section| section.is_data()) {
        let end = section.rva.saturating_add(section.virtual_size).min(image.size);
        let mut rva = section.rva;
        while rva < end {
            let start = image.base.wrapping_add(u64::from(rva));
            stretch.clear();
            // As far as pages are there: a structure may cross from one to the next.
            while rva < end && left > 0 {
                let size = (end - rva).min(PAGE - rva % PAGE) as usize;
                let old = stretch.len();
                stretch.resize(old + size, 0);
                rva += size as u32;
                left = left.saturating_sub(size);
                let at = start.wrapping_add(old as u64);
                if space.read(at, &mut stretch[old..]).is_err() {
                    stretch.truncate(old);
                    break;
                }
            }
            if let Some(found) = look(&stretch, start) {
                return Some(found);
            }
            if left == 0 {
                return None;
            }
        }
    }
    None
}

/// Whether the arch encodes its block.
pub(crate) fn may_be_encoded(arch: Arch) -> bool {
    arch == Arch::X64
}
