//! Guest-physical memory: 4 KiB pages under 2 MiB chunks, each shared by reference until written.
//!
//! ```text
//! GuestMemory ── chunks: Vec<Arc<Chunk>>          cloning the vector is what a fork costs
//!                   └── pages: [Option<Arc<Page>>; 512]   None: never touched, reads as zeros
//! ```
//! Whoever holds a host pointer to a page (the TLBs) drops it when [`GuestMemory::writable_page`] says that the
//! page moved, and drops its right to write when the memory is forked.

use crate::addr::GuestPhysAddr;
use crate::introspect::MemoryRegion;
use std::cell::UnsafeCell;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;
const PAGES_PER_CHUNK: usize = 512;
/// What a page holds that was never touched.
static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
/// RAM below 4 GiB ends here at the latest; the rest of it starts at 4 GiB.
pub const LOW_RAM_LIMIT: u64 = 0xc000_0000;
const HIGH_RAM_START: u64 = 1 << 32;
/// The legacy video window: neither RAM nor ROM, reads as all ones.
const VIDEO_HOLE: std::ops::Range<u64> = 0xa_0000..0xe_0000;
/// Firmware ROM: ACPI tables and the reset vector; the guest's writes are dropped.
const ROM: std::ops::Range<u64> = 0xe_0000..0x10_0000;

/// One page of guest memory. Not aligned to its size: the counters of its `Arc` would cost another page.
#[repr(C, align(16))]
pub(crate) struct Page(UnsafeCell<[u8; PAGE_SIZE]>);

// SAFETY: a page is written only by the machine whose `Arc` to it is the only one, through `&mut GuestMemory` or
// through TLB entries of that machine's vCPUs, which run on one thread; shared pages are only read.
unsafe impl Sync for Page {}
// SAFETY: plain bytes.
unsafe impl Send for Page {}

impl Page {
    fn zeroed() -> Arc<Page> {
        Arc::new(Page(UnsafeCell::new([0; PAGE_SIZE])))
    }
    fn copied(&self) -> Arc<Page> {
        let copy = Page::zeroed();
        // SAFETY: both are valid pages, the new one is not shared yet, and nobody writes to a page while a machine
        // that shares it reads it (see Sync above).
        unsafe { std::ptr::copy_nonoverlapping(self.pointer(), copy.pointer(), PAGE_SIZE) };
        copy
    }
    fn pointer(&self) -> *mut u8 {
        self.0.get().cast()
    }
}

#[derive(Clone)]
struct Chunk {
    pages: [Option<Arc<Page>>; PAGES_PER_CHUNK],
}

impl Chunk {
    fn empty() -> Chunk {
        Chunk {
            pages: [const { None }; PAGES_PER_CHUNK],
        }
    }
}

/// What backs a frame of the guest-physical space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Backing {
    /// RAM; the number counts RAM frames without holes.
    Ram(usize),
    /// ROM, kept in the RAM frame of that number.
    Rom(usize),
    /// Nothing: reads as all ones.
    None,
}

/// The memory of one machine.
pub(crate) struct GuestMemory {
    chunks: Vec<Arc<Chunk>>,
    low_frames: u64,
    total_frames: u64,
}

impl GuestMemory {
    /// Memory of `bytes` (rounded down to whole pages), all zeros.
    pub(crate) fn new(bytes: u64) -> GuestMemory {
        let total_frames = bytes / PAGE_SIZE as u64;
        let chunks = (total_frames as usize).div_ceil(PAGES_PER_CHUNK);
        let empty = Arc::new(Chunk::empty());
        GuestMemory {
            chunks: vec![empty; chunks],
            low_frames: total_frames.min(LOW_RAM_LIMIT / PAGE_SIZE as u64),
            total_frames,
        }
    }

    /// A copy that shares every page. The caller takes away its own TLBs' right to write.
    pub(crate) fn fork(&self) -> GuestMemory {
        GuestMemory {
            chunks: self.chunks.clone(),
            ..*self
        }
    }

    /// What is at frame number `frame`.
    pub(crate) fn backing(&self, frame: u64) -> Backing {
        let address = frame << 12;
        if frame < self.low_frames {
            if (VIDEO_HOLE.start..ROM.end).contains(&address) {
                return if address < VIDEO_HOLE.end {
                    Backing::None
                } else {
                    Backing::Rom(frame as usize)
                };
            }
            return Backing::Ram(frame as usize);
        }
        let high = frame.wrapping_sub(HIGH_RAM_START >> 12);
        if address >= HIGH_RAM_START && high < self.total_frames - self.low_frames {
            return Backing::Ram((self.low_frames + high) as usize);
        }
        Backing::None
    }

    /// The regions of RAM and ROM.
    pub(crate) fn regions(&self) -> Vec<MemoryRegion> {
        let low = self.low_frames << 12;
        let mut regions = Vec::new();
        let mut add = |start: u64, end: u64, writable| {
            if start < end {
                regions.push(MemoryRegion {
                    start: GuestPhysAddr(start),
                    length: end - start,
                    writable,
                });
            }
        };
        add(0, low.min(VIDEO_HOLE.start), true);
        add(ROM.start, low.min(ROM.end), false);
        add(ROM.end, low, true);
        add(
            HIGH_RAM_START,
            HIGH_RAM_START + ((self.total_frames - self.low_frames) << 12),
            true,
        );
        regions
    }

    fn page(&self, ram_frame: usize) -> Option<&Arc<Page>> {
        self.chunks[ram_frame / PAGES_PER_CHUNK].pages[ram_frame % PAGES_PER_CHUNK].as_ref()
    }

    /// A host pointer for reading a RAM or ROM frame. The page is made if it was never touched, so that a later
    /// write doesn't move it; a page shared with a fork stays shared. Valid until [`Self::writable_page`] reports a
    /// move, or the memory is dropped.
    pub(crate) fn readable_page(&mut self, ram_frame: usize) -> *const u8 {
        if let Some(page) = self.page(ram_frame) {
            return page.pointer();
        }
        let chunk = Arc::make_mut(&mut self.chunks[ram_frame / PAGES_PER_CHUNK]);
        chunk.pages[ram_frame % PAGES_PER_CHUNK]
            .insert(Page::zeroed())
            .pointer()
    }

    /// A host pointer for reading and writing a RAM frame, and whether the page moved (it was shared): then every
    /// pointer to the old one must be dropped. Valid as for [`Self::readable_page`], and until the next fork.
    pub(crate) fn writable_page(&mut self, ram_frame: usize) -> (*mut u8, bool) {
        let chunk = Arc::make_mut(&mut self.chunks[ram_frame / PAGES_PER_CHUNK]);
        let slot = &mut chunk.pages[ram_frame % PAGES_PER_CHUNK];
        match slot {
            None => (slot.insert(Page::zeroed()).pointer(), false),
            Some(page) => {
                if Arc::get_mut(page).is_some() {
                    (page.pointer(), false)
                } else {
                    let copy = page.copied();
                    let pointer = copy.pointer();
                    *page = copy;
                    (pointer, true)
                }
            }
        }
    }

    /// The bytes of a RAM frame, or `None` if it was never touched and so holds zeros.
    pub(crate) fn page_bytes(&self, ram_frame: usize) -> Option<&[u8; PAGE_SIZE]> {
        // SAFETY: the page is alive as long as `self`; writes need `&mut` to this memory or to a vCPU that is driven
        // together with it, and end before this borrow starts.
        self.page(ram_frame).map(|page| unsafe { &*page.0.get() })
    }

    /// Replaces the bytes of a RAM frame; false if there is no such frame.
    pub(crate) fn fill_frame(&mut self, ram_frame: u64, bytes: &[u8; PAGE_SIZE]) -> bool {
        if ram_frame >= self.total_frames {
            return false;
        }
        let (pointer, _) = self.writable_page(ram_frame as usize);
        // SAFETY: `pointer` is a whole page that nobody shares.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer, PAGE_SIZE) };
        true
    }

    /// How many RAM frames there are.
    pub(crate) fn ram_frames(&self) -> usize {
        self.total_frames as usize
    }

    /// How many RAM frames were ever touched.
    pub(crate) fn touched_frames(&self) -> usize {
        self.chunks
            .iter()
            .map(|chunk| chunk.pages.iter().flatten().count())
            .sum()
    }

    /// Copies from guest memory; returns the bytes done before the first that isn't RAM or ROM.
    pub(crate) fn read(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> usize {
        let (mut done, wanted) = (0, buffer.len());
        let end = self.visit(address, wanted, |bytes| {
            buffer[done..done + bytes.len()].copy_from_slice(bytes);
            done += bytes.len();
            ControlFlow::Continue(())
        });
        end.unwrap_or(wanted)
    }

    /// Shows `length` bytes of RAM and ROM from `address` on, page by page, until `visit` breaks off. If memory ends
    /// before that: the bytes that were shown.
    pub(crate) fn visit(
        &self,
        address: GuestPhysAddr,
        length: usize,
        mut visit: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Option<usize> {
        let mut done = 0;
        while done < length {
            let Some(at) = address.checked_add(done as u64) else {
                return Some(done);
            };
            let (Backing::Ram(frame) | Backing::Rom(frame)) = self.backing(at.frame()) else {
                return Some(done);
            };
            let bytes = self.page_bytes(frame).unwrap_or(&ZEROS);
            let offset = at.page_offset();
            let part = (PAGE_SIZE - offset).min(length - done);
            if visit(&bytes[offset..offset + part]).is_break() {
                return None;
            }
            done += part;
        }
        None
    }

    /// Copies to RAM (and to ROM if `rom` allows it); returns the bytes done, and whether a page moved.
    pub(crate) fn write(&mut self, address: GuestPhysAddr, bytes: &[u8], rom: bool) -> (usize, bool) {
        let (mut done, mut any_moved) = (0, false);
        while done < bytes.len() {
            let Some(at) = address.checked_add(done as u64) else {
                break;
            };
            let frame = match self.backing(at.frame()) {
                Backing::Ram(frame) => frame,
                Backing::Rom(frame) if rom => frame,
                _ => break,
            };
            let length = (PAGE_SIZE - at.page_offset()).min(bytes.len() - done);
            let (pointer, moved) = self.writable_page(frame);
            any_moved |= moved;
            // SAFETY: `pointer` is a page of ours that nobody shares; the range lies inside it.
            unsafe {
                std::ptr::copy_nonoverlapping(bytes[done..].as_ptr(), pointer.add(at.page_offset()), length)
            };
            done += length;
        }
        (done, any_moved)
    }

    /// A 64-bit little-endian read of RAM or ROM at an 8-byte aligned address.
    pub(crate) fn read_u64(&self, address: u64) -> Option<u64> {
        let (Backing::Ram(frame) | Backing::Rom(frame)) = self.backing(address >> 12) else {
            return None;
        };
        let Some(bytes) = self.page_bytes(frame) else {
            return Some(0);
        };
        let offset = (address & 0xff8) as usize;
        bytes[offset..offset + 8].try_into().ok().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_shares_until_either_writes() {
        let mut parent = GuestMemory::new(8 << 20);
        parent.write(GuestPhysAddr(0x1000), b"both", false);
        let mut child = parent.fork();
        assert!(
            child.write(GuestPhysAddr(0x1000), b"kid!", false).1,
            "the shared page moves on write"
        );
        assert!(
            !parent.write(GuestPhysAddr(0x1004), b"parent", false).1,
            "the parent is the only owner again"
        );
        let mut bytes = [0; 4];
        parent.read(GuestPhysAddr(0x1000), &mut bytes);
        assert_eq!(&bytes, b"both");
        child.read(GuestPhysAddr(0x1000), &mut bytes);
        assert_eq!(&bytes, b"kid!");
    }

    #[test]
    fn holes_and_ends_are_reported_not_invented() {
        let mut memory = GuestMemory::new(16 << 20);
        let mut buffer = [1; 32];
        assert_eq!(memory.read(GuestPhysAddr(0x9_fff0), &mut buffer), 16);
        assert_eq!(memory.read(GuestPhysAddr((16 << 20) - 8), &mut buffer), 8);
        assert_eq!(memory.read(GuestPhysAddr(u64::MAX - 3), &mut buffer), 0);
        assert_eq!(memory.write(GuestPhysAddr(0xe_0000), &buffer, false).0, 0, "ROM");
        assert_eq!(memory.write(GuestPhysAddr(0xe_0000), &buffer, true).0, 32);
    }

    #[test]
    fn a_visit_shows_pages_in_order_up_to_a_hole_or_until_it_is_enough() {
        let mut memory = GuestMemory::new(16 << 20);
        memory.write(GuestPhysAddr(0x9_e010), b"touched", false);
        let mut seen = Vec::new();
        let mut all = |bytes: &[u8]| {
            seen.push(bytes.to_vec());
            ControlFlow::Continue(())
        };
        let end = memory.visit(GuestPhysAddr(0x9_e010), 1 << 16, &mut all);
        assert_eq!(end, Some(0x1ff0), "the video window");
        assert_eq!(seen.iter().map(Vec::len).collect::<Vec<_>>(), [0xff0, 0x1000]);
        assert_eq!(&seen[0][..8], b"touched\0");
        assert!(seen[1].iter().all(|byte| *byte == 0));

        let mut pieces = 0;
        let end = memory.visit(GuestPhysAddr(0x9_e010), 1 << 16, |_| {
            pieces += 1;
            ControlFlow::Break(())
        });
        assert_eq!((end, pieces), (None, 1));
    }

    #[test]
    fn ram_above_the_hole_starts_at_four_gib() {
        let memory = GuestMemory::new(LOW_RAM_LIMIT + (1 << 20));
        assert_eq!(memory.backing(LOW_RAM_LIMIT >> 12), Backing::None);
        assert_eq!(
            memory.backing(HIGH_RAM_START >> 12),
            Backing::Ram((LOW_RAM_LIMIT >> 12) as usize)
        );
        assert_eq!(memory.backing((HIGH_RAM_START >> 12) + 256), Backing::None);
    }
}
