//! What the vCPUs of a machine share: memory, devices, and who watches which frames.
//!
//! A store that meets a frame with decoded code, a watchpoint or a device is never done by a TLB entry: the
//! slow path asks [`Bus::frame_flags`].

use super::hyperv::HyperV;
use super::tables::Tables;
use super::watch::Watches;
use crate::addr::GuestPhysAddr;
use crate::devices::Platform;
use crate::introspect::PageRights;
use crate::memory::GuestMemory;
use rustc_hash::FxHashMap;

/// Granules of 64 bytes in a page that decoded instructions come from, one bit each.
pub(crate) type CodeMask = u64;

pub(crate) struct Bus {
    pub(crate) memory: GuestMemory,
    pub(crate) vcpus: u32,
    pub(crate) tsc_hz: u64,
    pub(crate) platform: Platform,
    /// The Microsoft hypervisor interface, if the CPU model has it.
    pub(crate) hyperv: Option<HyperV>,
    /// Frames that decoded code comes from.
    pub(crate) code: FxHashMap<u64, CodeMask>,
    /// Frames whose code was written since the engine last looked.
    pub(crate) stale_code: Vec<u64>,
    /// A page moved: these vCPUs, a bit each, must drop their pointers before they run on.
    pub(crate) moved: u8,
    pub(crate) tables: Tables,
    pub(crate) watches: Watches,
    /// Restricted frames.
    pub(crate) rights: FxHashMap<u64, PageRights>,
}

/// The mask of granules that `length` bytes at `offset` in a page touch.
pub(crate) fn granules(offset: usize, length: usize) -> CodeMask {
    let first = offset / 64;
    let last = (offset + length.max(1) - 1).min(4095) / 64;
    (u64::MAX >> (63 - last)) & (u64::MAX << first)
}

/// The pieces of a range that lie in one page each, and where they are in its bytes.
fn by_page(
    address: GuestPhysAddr,
    length: usize,
) -> impl Iterator<Item = (GuestPhysAddr, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let here = address.wrapping_add(at as u64);
        let start = at;
        at = (at + 4096 - here.page_offset()).min(length);
        (start < length).then_some((here, start..at))
    })
}

impl Bus {
    pub(crate) fn new(memory: GuestMemory, platform: Platform, vcpus: u32, tsc_hz: u64) -> Bus {
        Bus {
            tables: Tables::new(memory.ram_frames()),
            memory,
            vcpus,
            tsc_hz,
            platform,
            hyperv: None,
            code: FxHashMap::default(),
            stale_code: Vec::new(),
            moved: 0,
            watches: Watches::default(),
            rights: FxHashMap::default(),
        }
    }

    /// Notes that code at `offset..offset + length` of `frame` was decoded; true if the frame had none.
    pub(super) fn note_code(&mut self, frame: u64, offset: usize, length: usize) -> bool {
        let mask = granules(offset, length);
        match self.code.get_mut(&frame) {
            Some(known) => {
                *known |= mask;
                false
            }
            None => {
                self.code.insert(frame, mask);
                true
            }
        }
    }

    /// Whether a write of `length` bytes at `offset` in `frame` meets decoded code.
    pub(crate) fn meets_code(&self, frame: u64, offset: usize, length: usize) -> bool {
        self.code
            .get(&frame)
            .is_some_and(|mask| mask & granules(offset, length) != 0)
    }

    /// Writes physical RAM: changed page tables, decoded code and moved pages are noted.
    pub(crate) fn write_physical(&mut self, address: GuestPhysAddr, bytes: &[u8]) -> usize {
        for (here, range) in by_page(address, bytes.len()) {
            self.table_written(here, &bytes[range]);
        }
        self.write_ram(address, bytes)
    }

    /// The same where no translation can end by it.
    pub(super) fn write_ram(&mut self, address: GuestPhysAddr, bytes: &[u8]) -> usize {
        let (done, moved) = self.memory.write(address, bytes, false);
        if moved {
            self.moved = u8::MAX;
        }
        for (here, range) in by_page(address, done) {
            self.code_written(here.frame(), here.page_offset(), range.len());
        }
        done
    }

    /// Notes a write to a frame that may hold decoded code.
    fn code_written(&mut self, frame: u64, offset: usize, length: usize) {
        if self.meets_code(frame, offset, length) {
            self.code.remove(&frame);
            self.stale_code.push(frame);
        }
    }

    /// Whether the frame is a device's.
    pub(crate) fn is_mmio(&self, physical: u64) -> bool {
        self.platform.is_mmio(GuestPhysAddr(physical))
    }
}
