//! A vCPU for memory that came without any: enough of one that a debugger can use the kernel's address space.

use hv_core::introspect::{KernelHint, ReadMemory};
use hv_core::regs::{Registers, Segment, cr0, cr4, efer, seg};
use introspect::PagingMode;
use introspect::linux::Linux;
use introspect::windows::find_in_memory;

/// Flat segments as descriptors have their attributes (SDM vol. 3A, 3.4.5): 64-bit code, 32-bit code, data.
const CODE_64: u32 = 0xa09b;
const CODE_32: u32 = 0xc09b;
const DATA: u32 = 0xc093;

/// Looks for a kernel, Windows or Linux, in memory alone. The vCPU is said to be at the first byte of its image: where
/// the real ones were, nothing tells.
pub(crate) fn of_memory(memory: &dyn ReadMemory) -> Option<(Registers, KernelHint)> {
    let (mode, hint) = match find_in_memory(memory) {
        Some(found) => (found.mode, found.hint),
        None => {
            let linux = Linux::recognise_in_memory(memory).ok()?;
            let hint = KernelHint {
                root: linux.root(),
                address: linux.kernel().base,
            };
            (linux.paging_mode(), hint)
        }
    };
    let mut registers = Registers::at_reset(true);
    let long = matches!(mode, PagingMode::Level4 | PagingMode::Level5);
    registers.cr0 = cr0::PE | cr0::PG | cr0::WP | cr0::ET;
    registers.cr3 = hint.root.0;
    registers.cr4 = match mode {
        PagingMode::Level5 => cr4::PAE | cr4::LA57,
        PagingMode::Level4 | PagingMode::Pae => cr4::PAE,
        PagingMode::Bits32 { .. } | PagingMode::None => cr4::PSE,
    };
    if long {
        registers.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
    }
    registers.rip = hint.address.0;
    registers.gpr = [0; 16];
    registers.rflags = 2;
    let flat = |selector, attributes| Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        attributes,
    };
    for segment in &mut registers.segments {
        *segment = flat(0x18, DATA);
    }
    // The selectors that both kernels use for themselves on x64; Windows' on x86.
    let (code, stack) = if long { (0x10, 0x18) } else { (8, 0x10) };
    registers.segments[seg::CS] = flat(code, if long { CODE_64 } else { CODE_32 });
    registers.segments[seg::SS] = flat(stack, DATA);
    Some((registers, hint))
}
