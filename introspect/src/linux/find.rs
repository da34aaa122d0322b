//! From a vCPU to the kernel: page-table roots that its state leads to, and what they map where kernels are.

use super::error::NotLinux;
use super::image::{self, KernelImage};
use super::space::Space;
use super::vmcoreinfo::VmcoreInfo;
use super::{Guest, Report};
use crate::paging::PagingMode;
use hv_core::regs::{Activity, DescriptorTable, Registers};
use hv_core::{GuestPhysAddr, GuestVirtAddr, VcpuId};
use memchr::memmem;
use std::collections::HashSet;
use symbols::kallsyms::{Kallsyms, KallsymsError};

/// The most vCPUs whose registers are looked at.
const MAX_VCPUS: u32 = 64;
/// With PTI, the user half of a pair of roots (arch/x86/entry/calling.h).
const PTI_USER: u64 = 1 << 12;
/// Exception vectors whose gates never lead elsewhere: page fault, divide error, general protection.
const VECTORS: [u64; 3] = [14, 0, 13];
/// How `linux_banner` begins.
pub(super) const BANNER: &[u8] = b"Linux version ";

/// A kernel, and tables that map it.
pub(super) struct Found<'a> {
    pub(super) space: Space<'a>,
    pub(super) image: KernelImage,
    pub(super) bytes: Vec<u8>,
    pub(super) kallsyms: Option<Kallsyms>,
    /// If it led here.
    pub(super) vmcoreinfo: Option<VmcoreInfo>,
}

/// Looks for the kernel from every vCPU.
pub(super) fn find<'a>(guest: Guest<'a>, report: &mut Report) -> Result<Found<'a>, NotLinux> {
    let (mut up, mut tried, mut why) = (false, HashSet::new(), Vec::new());
    for vcpu in (0..guest.vcpus.vcpu_count().min(MAX_VCPUS)).map(VcpuId) {
        let registers = guest.vcpus.registers(vcpu)?;
        let mode = PagingMode::of(&registers);
        let long = matches!(mode, PagingMode::Level4 | PagingMode::Level5);
        if registers.activity == Activity::WaitForSipi || !long {
            continue;
        }
        up = true;
        // Without PTI bit 12 is a bit of the address, so the root as it is comes first.
        let own = mode.root(registers.cr3);
        for (how, root) in [
            ("CR3", own),
            ("CR3 without PTI's bit", GuestPhysAddr(own.0 & !PTI_USER)),
        ] {
            if !tried.insert((mode, root)) {
                continue;
            }
            let Some(image) = image::mapped(guest.memory, mode, root) else {
                why.push(format!(
                    "{root} ({how} of vCPU {vcpu}) maps nothing where kernels are"
                ));
                continue;
            };
            let space = Space::new(guest.memory, mode, root);
            match look(space, image, entry_point(guest, mode, &registers, &image)) {
                Ok(found) => {
                    report.found("page tables", format!("{root}, by {how} of vCPU {vcpu}"));
                    return Ok(found);
                }
                Err(error) => why.push(format!("{root} ({how} of vCPU {vcpu}): {error}")),
            }
        }
    }
    if !up {
        return Err(NotLinux::NotUp);
    }
    let why = why.join("; ");
    report.missing("kernel", why.clone());
    Err(NotLinux::NoKernel(why))
}

/// Looks into what is mapped where kernels are. Without symbols, an entry point and the banner must tell the kernel.
pub(super) fn look<'a>(
    space: Space<'a>,
    mapped: KernelImage,
    entry_point: Option<GuestVirtAddr>,
) -> Result<Found<'a>, KallsymsError> {
    let bytes = mapped.read(&space);
    let accept = |symbols: &Kallsyms| text_start(symbols).is_some_and(|text| mapped.contains(text));
    let kallsyms = match Kallsyms::find(&bytes, Some(mapped.base.0), accept) {
        Ok(symbols) => Some(symbols),
        Err(error) => {
            let banner = memmem::find(&bytes, BANNER).is_some();
            if !banner || entry_point.is_none() {
                return Err(error);
            }
            None
        }
    };
    // Very early, more than the image is mapped.
    let base = kallsyms.as_ref().and_then(text_start).unwrap_or(mapped.base);
    let image = KernelImage {
        base,
        size: mapped.size - (base.0 - mapped.base.0),
        physical: space.physical(base).unwrap_or(mapped.physical),
    };
    let from = ((base.0 - mapped.base.0) as usize).min(bytes.len());
    Ok(Found {
        space,
        image,
        bytes: if from == 0 { bytes } else { bytes[from..].to_vec() },
        kallsyms,
        vmcoreinfo: None,
    })
}

/// `_text`, or `_stext`'s large page in a table without it.
pub(super) fn text_start(symbols: &Kallsyms) -> Option<GuestVirtAddr> {
    let text = symbols.address("_text");
    text.or_else(|| symbols.address("_stext").map(|start| start & !0x1f_ffff))
        .map(GuestVirtAddr)
}

/// An address in the image at which this vCPU enters the kernel.
fn entry_point(
    guest: Guest<'_>,
    mode: PagingMode,
    registers: &Registers,
    image: &KernelImage,
) -> Option<GuestVirtAddr> {
    let space = Space::new(guest.memory, mode, mode.root(registers.cr3));
    let gates = VECTORS
        .iter()
        .filter_map(|&vector| gate(&space, registers.idtr, vector));
    let mut points = std::iter::once(registers.msrs.lstar)
        .chain(gates)
        .map(GuestVirtAddr);
    points.find(|&point| image.contains(point))
}

/// The handler that an IDT gate names (SDM vol. 3A, 6.14.1).
fn gate(space: &Space<'_>, idtr: DescriptorTable, vector: u64) -> Option<u64> {
    let offset = vector * 16;
    if offset + 15 > u64::from(idtr.limit) {
        return None;
    }
    let mut gate = [0; 12];
    let at = GuestVirtAddr(idtr.base).wrapping_add(offset);
    space.read(at, &mut gate).ok()?;
    let low = u64::from(u16::from_le_bytes([gate[0], gate[1]]));
    let middle = u64::from(u16::from_le_bytes([gate[6], gate[7]])) << 16;
    let high = u64::from(u32::from_le_bytes([gate[8], gate[9], gate[10], gate[11]])) << 32;
    (gate[5] & 0x80 != 0).then_some(low | middle | high)
}
