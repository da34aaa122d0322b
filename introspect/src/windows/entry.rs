//! What a vCPU's registers say about the kernel: addresses in its image, KPCR candidates, page-table roots.

use super::facts::Arch;
use super::guest::Guest;
use super::space::{Space, is_kernel_address};
use crate::paging::PagingMode;
use hv_core::regs::{DescriptorTable, Registers, seg};
use hv_core::{GuestPhysAddr, GuestVirtAddr};

/// KUSER_SHARED_DATA as the kernel maps it, in every version (ntddk.h).
pub(crate) const KUSER_X64: GuestVirtAddr = GuestVirtAddr(0xffff_f780_0000_0000);
/// The same on x86.
pub(crate) const KUSER_X86: GuestVirtAddr = GuestVirtAddr(0xffdf_0000);

/// The exception vectors whose handlers are the kernel's, the least hooked first.
const VECTORS: [u64; 6] = [0, 1, 3, 0xd, 0xe, 2];
/// The GDT selector of the x86 KPCR.
const X86_KPCR_SELECTOR: u64 = 0x30;

/// An address that should lie in the kernel image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct EntryPoint {
    pub(crate) what: &'static str,
    pub(crate) address: GuestVirtAddr,
}

/// The architecture that a vCPU's mode is of; `None` if it doesn't translate addresses yet.
pub(crate) fn arch_of(registers: &Registers) -> Option<(Arch, PagingMode)> {
    match PagingMode::of(registers) {
        PagingMode::None => None,
        mode @ (PagingMode::Level4 | PagingMode::Level5) => Some((Arch::X64, mode)),
        mode => Some((Arch::X86, mode)),
    }
}

/// The kernel's alias of KUSER_SHARED_DATA.
pub(crate) fn kuser(arch: Arch) -> GuestVirtAddr {
    match arch {
        Arch::X64 => KUSER_X64,
        Arch::X86 => KUSER_X86,
    }
}

/// Addresses that the vCPU would enter the kernel at, those that are most surely the kernel's own first. Gates are
/// read through `space`; the IDT is mapped even by the tables of a shadowed process.
pub(crate) fn entry_points(registers: &Registers, space: &Space<'_>) -> Vec<EntryPoint> {
    let mut points = Vec::new();
    let mut add = |what, address| {
        let point = EntryPoint {
            what,
            address: GuestVirtAddr(address),
        };
        if space.is_kernel(point.address) {
            points.push(point);
        }
    };
    match space.arch {
        Arch::X64 => add("LSTAR", registers.msrs.lstar),
        Arch::X86 => add("SYSENTER_EIP", registers.msrs.sysenter_eip & 0xffff_ffff),
    }
    for vector in VECTORS {
        if let Some(handler) = gate(space, registers.idtr, vector) {
            add("IDT", handler);
        }
    }
    if space.arch == Arch::X64 {
        add("CSTAR", registers.msrs.cstar);
    }
    if registers.cpl() == 0 {
        add("RIP", registers.rip);
    }
    points
}

/// The handler that an IDT gate names (SDM vol. 3A, 6.11 and 6.14.1).
pub(crate) fn gate(space: &Space<'_>, idtr: DescriptorTable, vector: u64) -> Option<u64> {
    let size: u64 = match space.arch {
        Arch::X64 => 16,
        Arch::X86 => 8,
    };
    let offset = vector * size;
    if offset + size - 1 > u64::from(idtr.limit) {
        return None;
    }
    let mut gate = [0; 12];
    let used = if size == 16 { 12 } else { 8 };
    let at = GuestVirtAddr(idtr.base).wrapping_add(offset);
    space.read(at, &mut gate[..used]).ok()?;
    let low = u64::from(u16::from_le_bytes([gate[0], gate[1]]));
    let middle = u64::from(u16::from_le_bytes([gate[6], gate[7]])) << 16;
    let high = u64::from(u32::from_le_bytes([gate[8], gate[9], gate[10], gate[11]])) << 32;
    let present = gate[5] & 0x80 != 0;
    present.then_some(low | middle | high)
}

/// Where the vCPU's KPCR may be. Both GS bases count, of the same moment: between a kernel entry and SWAPGS, and the
/// other way, the one in use is the user's.
pub(crate) fn kpcr_candidates(registers: &Registers, space: &Space<'_>) -> Vec<GuestVirtAddr> {
    let mut found = Vec::new();
    let mut add = |address: u64| {
        let address = GuestVirtAddr(address);
        let aligned = address.0.is_multiple_of(0x40);
        if aligned && is_kernel_address(space.arch, space.mode, address) && !found.contains(&address) {
            found.push(address);
        }
    };
    match space.arch {
        Arch::X64 => {
            add(registers.segments[seg::GS].base);
            add(registers.msrs.kernel_gs_base);
        }
        Arch::X86 => {
            // In user mode FS is the TEB's; the descriptor of the kernel's FS stays in the GDT.
            if let Some(base) = gdt_base(registers, space, X86_KPCR_SELECTOR) {
                add(base);
            }
            add(registers.segments[seg::FS].base);
        }
    }
    found
}

/// The base in a 32-bit segment descriptor: bytes 2, 3, 4 and 7.
fn gdt_base(registers: &Registers, space: &Space<'_>, selector: u64) -> Option<u64> {
    if selector + 7 > u64::from(registers.gdtr.limit) {
        return None;
    }
    let mut descriptor = [0; 8];
    let at = GuestVirtAddr(registers.gdtr.base).wrapping_add(selector);
    space.read(at, &mut descriptor).ok()?;
    let [_, _, b2, b3, b4, _, _, b7] = descriptor;
    Some(u64::from(u32::from_le_bytes([b2, b3, b4, b7])))
}

/// Whether tables map the kernel and not only its entry code: its alias of KUSER_SHARED_DATA, and its IDT.
pub(crate) fn maps_the_kernel(space: &Space<'_>, registers: &Registers) -> bool {
    maps_kuser(space) && space.maps(GuestVirtAddr(registers.idtr.base))
}

/// Whether tables have the kernel's alias of KUSER_SHARED_DATA, which those of a shadowed process lack.
pub(crate) fn maps_kuser(space: &Space<'_>) -> bool {
    space.maps(kuser(space.arch))
}

/// Offsets from a KPCR at which KPRCB.KernelDirectoryTableBase was seen: it begins a page, and it is in the part
/// of the KPCR that the tables of a shadowed process in user mode map, too.
const SHADOW_TAIL: std::ops::RangeInclusive<u64> = 5..=0xf;

/// The root that the kernel's entry code would switch to, if shadowing is on: found through the vCPU's own
/// tables, and tested.
pub(crate) fn root_behind_shadow(
    registers: &Registers,
    space: &Space<'_>,
    known_offset: Option<u64>,
) -> Option<u64> {
    let offsets = known_offset.into_iter().chain(SHADOW_TAIL.map(|page| page << 12));
    let candidates = kpcr_candidates(registers, space);
    for offset in offsets {
        for kpcr in &candidates {
            let Ok(root) = space.word("KernelDirectoryTableBase", kpcr.wrapping_add(offset)) else {
                continue;
            };
            if space.mode.root(root) == GuestPhysAddr(0) {
                continue;
            }
            let kernel = space.with_root(root);
            if maps_the_kernel(&kernel, registers) && is_kpcr(&kernel, *kpcr) {
                return Some(root);
            }
        }
    }
    None
}

/// Whether a KPCR is at `kpcr`: its self pointer, and the pointer to the KPRCB inside it.
pub(crate) fn is_kpcr(space: &Space<'_>, kpcr: GuestVirtAddr) -> bool {
    let at = |offset| space.pointer("KPCR", kpcr.wrapping_add(offset)).ok();
    let offsets = KpcrOffsets::of(space.arch);
    at(offsets.self_pointer) == Some(kpcr)
        && at(offsets.current_prcb) == Some(kpcr.wrapping_add(offsets.prcb))
}

/// The offsets in a KPCR that are the same in every version of an architecture (nt kernel public PDBs, 7 to 11).
pub(crate) struct KpcrOffsets {
    pub(crate) self_pointer: u64,
    pub(crate) current_prcb: u64,
    pub(crate) prcb: u64,
    pub(crate) idt: u64,
    pub(crate) gdt: u64,
    /// Of the KPRCB, as the next ones.
    pub(crate) current_thread: u64,
    pub(crate) next_thread: u64,
    pub(crate) idle_thread: u64,
    pub(crate) number: u64,
}

impl KpcrOffsets {
    pub(crate) const fn of(arch: Arch) -> KpcrOffsets {
        match arch {
            Arch::X64 => KpcrOffsets {
                self_pointer: 0x18,
                current_prcb: 0x20,
                prcb: 0x180,
                idt: 0x38,
                gdt: 0,
                current_thread: 8,
                next_thread: 0x10,
                idle_thread: 0x18,
                number: 0x24,
            },
            Arch::X86 => KpcrOffsets {
                self_pointer: 0x1c,
                current_prcb: 0x20,
                prcb: 0x120,
                idt: 0x38,
                gdt: 0x3c,
                current_thread: 4,
                next_thread: 8,
                idle_thread: 0xc,
                number: 0x3cc,
            },
        }
    }
}

/// Physical pages that may hold the PROCESSOR_START_BLOCK, the kernel's low stub for starting processors.
const LOW_STUB_PAGES: std::ops::Range<u64> = 1..0xa0;

/// The root in the low stub (PROCESSOR_START_BLOCK, x64): the last resort where every vCPU is in user mode behind
/// tables that hide the kernel.
pub(crate) fn root_of_low_stub(guest: Guest<'_>) -> Option<u64> {
    LOW_STUB_PAGES.into_iter().find_map(|page| {
        let mut block = [0; 0xa8];
        guest
            .memory
            .read_physical(GuestPhysAddr(page << 12), &mut block)
            .ok()?;
        let word = |at: usize| {
            block
                .get(at..at + 8)
                .map(|b| b.iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b)))
        };
        let jump = word(0)? & 0xffff_ffff_ffff_00ff == 0x0000_0001_0006_00e9;
        let target = word(0x70)? & 0xffff_f800_0000_0003 == 0xffff_f800_0000_0000;
        let root = word(0xa0)?;
        (jump && target && root != 0 && root & 0xffff_ff00_0000_0fff == 0).then_some(root)
    })
}
