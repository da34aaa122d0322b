//! The kernel in memory alone, where nothing tells of vCPUs: a raw image, or a dump without registers.
//!
//! Page tables are known by their map of themselves (nt maps its own tables into every address space), or by the low
//! stub that starts processors. Of each such root the places are searched where the kernel's image can be.

use super::entry;
use super::facts::Arch;
use super::find;
use super::guest::Guest;
use super::space::Space;
use crate::error::Fault;
use crate::paging::PagingMode;
use hv_core::introspect::{Error, KernelHint, ReadMemory, ReadRegisters, Result};
use hv_core::regs::Registers;
use hv_core::{DomId, GuestPhysAddr, GuestVirtAddr, VcpuId};

const PAGE: usize = 4096;
/// Bytes of memory that are read at once.
const CHUNK: usize = 1 << 20;
/// Roots that are looked at more closely, before the search gives up: every process has one.
const MAX_ROOTS: usize = 64;
/// Mapped pages that are looked at under one root.
const MAX_PAGES: usize = 1 << 18;
/// Steps over what isn't mapped, under one root.
const MAX_STEPS: usize = 1 << 20;
/// Where nt's image is on x64, in every version, and on x86.
const IMAGES_X64: std::ops::Range<u64> = 0xffff_f800_0000_0000..0xffff_f880_0000_0000;
const IMAGES_X86: std::ops::Range<u64> = 0x8000_0000..0xffc0_0000;

/// A kernel that was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InMemory {
    /// Its architecture.
    pub arch: Arch,
    /// How its tables are read.
    pub mode: PagingMode,
    /// Its tables, and its image's base.
    pub hint: KernelHint,
}

/// Looks for a Windows kernel in memory, from the lowest page on.
pub fn find_in_memory(memory: &dyn ReadMemory) -> Option<InMemory> {
    let guest = Guest::new(memory, &NoVcpus);
    let mut roots = 0;
    if let Some(root) = entry::root_of_low_stub(guest)
        && let Some(found) = kernel_under(guest, Arch::X64, PagingMode::Level4, root)
    {
        return Some(found);
    }
    let mut chunk = vec![0; CHUNK];
    for region in memory.memory_regions() {
        let mut at = region.start.0.next_multiple_of(PAGE as u64);
        let end = region.start.0.saturating_add(region.length);
        while at < end {
            let length = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK) / PAGE * PAGE;
            if length == 0 {
                break;
            }
            let got = match memory.read_physical(GuestPhysAddr(at), &mut chunk[..length]) {
                Ok(()) => length,
                Err(Error::NoMemory { done, .. }) => done / PAGE * PAGE,
                Err(_) => 0,
            };
            for (index, page) in chunk[..got].chunks_exact(PAGE).enumerate() {
                let frame = at + (index * PAGE) as u64;
                for (arch, mode, root) in roots_in(memory, frame, page) {
                    roots += 1;
                    if let Some(found) = kernel_under(guest, arch, mode, root) {
                        return Some(found);
                    }
                    if roots == MAX_ROOTS {
                        return None;
                    }
                }
            }
            // Past a page that can't be read.
            at += got.max(PAGE) as u64;
        }
    }
    None
}

/// The roots that a page holds: a PML4 or a page directory that maps itself, or page-directory pointers to such ones.
fn roots_in(memory: &dyn ReadMemory, frame: u64, page: &[u8]) -> Vec<(Arch, PagingMode, u64)> {
    const PRESENT_AND_WRITABLE: u64 = 3;
    const FRAME: u64 = 0x000f_ffff_ffff_f000;
    let entry = |index: usize| word(page, index);
    let mut roots = Vec::new();
    let maps = |entry: u64, frame: u64| entry & PRESENT_AND_WRITABLE == 3 && entry & FRAME == frame;
    // nt's own place for it in the upper half is random since 1607.
    if (256..512).any(|index| maps(entry(index), frame)) {
        roots.push((Arch::X64, PagingMode::Level4, frame));
    }
    // PAE: four pointers, of which the last leads to a directory that begins with all four.
    for slot in 0..PAGE / 32 {
        let pointers: [u64; 4] = std::array::from_fn(|n| entry(slot * 4 + n));
        if pointers
            .iter()
            .all(|pointer| pointer & !FRAME == 1 && pointer & FRAME != 0)
        {
            let mut directory = [0; 32];
            let last = GuestPhysAddr(pointers[3] & FRAME);
            let maps_itself = memory.read_physical(last, &mut directory).is_ok()
                && (0..4).all(|n| maps(word(&directory, n), pointers[n] & FRAME));
            if maps_itself {
                roots.push((Arch::X86, PagingMode::Pae, frame + slot as u64 * 32));
            }
        }
    }
    // Without PAE: the directory's entry for 0xc0000000 leads to itself.
    let own = page.get(0xc00..0xc04).map_or(0, |bytes| {
        u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    });
    if own & PRESENT_AND_WRITABLE == 3 && own & 0xffff_f000 == frame {
        roots.push((Arch::X86, PagingMode::Bits32 { pse: true }, frame));
    }
    roots
}

fn word(bytes: &[u8], index: usize) -> u64 {
    bytes.get(index * 8..index * 8 + 8).map_or(0, |word| {
        word.iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte))
    })
}

/// The kernel's image under a root, if that is one of Windows.
fn kernel_under(guest: Guest<'_>, arch: Arch, mode: PagingMode, root: u64) -> Option<InMemory> {
    let space = Space::new(guest, arch, mode, root);
    if !entry::maps_kuser(&space) {
        return None;
    }
    let images = match arch {
        Arch::X64 => IMAGES_X64,
        Arch::X86 => IMAGES_X86,
    };
    let (mut pages, mut at) = (0, images.start);
    for _ in 0..MAX_STEPS {
        if at >= images.end || pages == MAX_PAGES {
            return None;
        }
        let mut signature = [0; 2];
        let step = match space.read(GuestVirtAddr(at), &mut signature) {
            Ok(()) => {
                pages += 1;
                let base = GuestVirtAddr(at);
                if signature == *b"MZ" && find::check(&space, base, base).is_ok() {
                    let hint = KernelHint {
                        root: space.root,
                        address: base,
                    };
                    return Some(InMemory { arch, mode, hint });
                }
                PAGE as u64
            }
            Err(Fault::NotPresent(level)) => {
                let hole = mode.covers(level.name);
                hole - (at & (hole - 1))
            }
            Err(_) => PAGE as u64,
        };
        at = at.checked_add(step)?;
    }
    None
}

/// A machine of which only the memory is left.
struct NoVcpus;

impl ReadRegisters for NoVcpus {
    fn vcpu_count(&self) -> u32 {
        0
    }

    fn registers(&self, vcpu: VcpuId) -> Result<Registers> {
        Err(Error::NoVcpu {
            domain: DomId(0),
            vcpu,
            count: 0,
        })
    }

    fn read_msr(&self, vcpu: VcpuId, _msr: u32) -> Result<Option<u64>> {
        self.registers(vcpu).map(|_| None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl ReadMemory for Nothing {
        fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<()> {
            Err(Error::NoMemory {
                domain: DomId(0),
                address,
                done: 0,
                wanted: buffer.len(),
            })
        }

        fn memory_regions(&self) -> Vec<hv_core::introspect::MemoryRegion> {
            Vec::new()
        }
    }

    #[test]
    fn tables_that_map_themselves_are_roots() {
        let mut page = vec![0; PAGE];
        page[0x1ed * 8..0x1ed * 8 + 8].copy_from_slice(&0x1a_a063_u64.to_le_bytes());
        let found = roots_in(&Nothing, 0x1a_a000, &page);
        assert_eq!(found, [(Arch::X64, PagingMode::Level4, 0x1a_a000)]);
        assert_eq!(roots_in(&Nothing, 0x1a_b000, &page), []);
    }

    #[test]
    fn memory_that_is_not_there_holds_no_kernel() {
        assert_eq!(find_in_memory(&Nothing), None);
    }
}
