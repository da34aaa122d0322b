//! What the vCPUs of a machine share: memory, devices, and who watches which frames.
//!
//! A store that meets a frame with decoded code, a watchpoint or a device is never done by a TLB entry: the
//! slow path asks [`Bus::frame_flags`].

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
    /// Frames that decoded code comes from.
    pub(crate) code: FxHashMap<u64, CodeMask>,
    /// Frames whose code was written since the engine last looked.
    pub(crate) stale_code: Vec<u64>,
    /// A frame gained code, or a page moved: every TLB must drop its write entries (or all) before running on.
    pub(crate) flush: PendingFlush,
    pub(crate) watches: Watches,
    /// Restricted frames.
    pub(crate) rights: FxHashMap<u64, PageRights>,
}

/// What every TLB of the machine must drop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum PendingFlush {
    Nothing,
    Writes,
    All,
}

/// The mask of granules that `length` bytes at `offset` in a page touch.
pub(crate) fn granules(offset: usize, length: usize) -> CodeMask {
    let first = offset / 64;
    let last = (offset + length.max(1) - 1).min(4095) / 64;
    (u64::MAX >> (63 - last)) & (u64::MAX << first)
}

impl Bus {
    pub(crate) fn new(memory: GuestMemory, platform: Platform, vcpus: u32, tsc_hz: u64) -> Bus {
        Bus {
            memory,
            vcpus,
            tsc_hz,
            platform,
            code: FxHashMap::default(),
            stale_code: Vec::new(),
            flush: PendingFlush::Nothing,
            watches: Watches::default(),
            rights: FxHashMap::default(),
        }
    }

    /// Asks for a flush of every TLB.
    pub(crate) fn request_flush(&mut self, what: PendingFlush) {
        self.flush = self.flush.max(what);
    }

    /// Notes that code at `offset..offset + length` of `frame` was decoded.
    pub(crate) fn note_code(&mut self, frame: u64, offset: usize, length: usize) {
        let mask = granules(offset, length);
        match self.code.get_mut(&frame) {
            Some(known) => *known |= mask,
            None => {
                self.code.insert(frame, mask);
                self.request_flush(PendingFlush::Writes);
            }
        }
    }

    /// Whether a write of `length` bytes at `offset` in `frame` meets decoded code.
    pub(crate) fn meets_code(&self, frame: u64, offset: usize, length: usize) -> bool {
        self.code
            .get(&frame)
            .is_some_and(|mask| mask & granules(offset, length) != 0)
    }

    /// Writes physical RAM for a vCPU's page walk or the debugger: decoded code and moved pages are noted.
    pub(crate) fn write_physical(&mut self, address: GuestPhysAddr, bytes: &[u8], rom: bool) -> usize {
        let (done, moved) = self.memory.write(address, bytes, rom);
        if moved {
            self.request_flush(PendingFlush::All);
        }
        let mut at = 0;
        while at < done {
            let here = address.wrapping_add(at as u64);
            let length = (4096 - here.page_offset()).min(done - at);
            self.code_written(here.frame(), here.page_offset(), length);
            at += length;
        }
        done
    }

    /// Notes a write to a frame that may hold decoded code.
    pub(crate) fn code_written(&mut self, frame: u64, offset: usize, length: usize) {
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
