//! The software TLB: direct-mapped caches from linear pages to host pointers, one each for reading, writing and
//! fetching, times three privilege views.
//!
//! An entry exists only where an access needs nothing but the copy: RAM, rights granted, accessed and dirty bits
//! set. Everything else (MMIO, ROM writes, pages that hold decoded code or page tables for writes, watched pages) has
//! no entry and so takes the slow path in [`super::mmu`]. An entry goes when the paging entries that it came from
//! change ([`super::tables`]): a hit is never other than a walk would be.

const ENTRIES: usize = 1024;
/// A tag that no page has.
const EMPTY: u64 = 1;

/// Whose rights an access has. Indexes the TLB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum View {
    /// CPL 3.
    User = 0,
    /// CPL 0 to 2, user pages allowed (SMAP off, or AC set).
    Supervisor = 1,
    /// CPL 0 to 2 with SMAP in force.
    SupervisorSmap = 2,
}

#[derive(Clone, Copy)]
struct Entry {
    tag: u64,
    host: *mut u8,
}

const NO_ENTRY: Entry = Entry {
    tag: EMPTY,
    host: std::ptr::null_mut(),
};

type Way = [Entry; ENTRIES];

#[derive(Clone, Copy)]
struct FetchEntry {
    tag: u64,
    physical: u64,
}

const NO_FETCH: FetchEntry = FetchEntry {
    tag: EMPTY,
    physical: 0,
};

pub(crate) struct Tlb {
    read: [Way; 3],
    write: [Way; 3],
    fetch: [[FetchEntry; ENTRIES]; 2],
    /// Whether anything was filled since the last flush of that kind.
    read_used: bool,
    written: bool,
    fetched: bool,
    /// RAM frames with marks of this vCPU in [`super::tables`].
    pub(super) marked: Vec<usize>,
    /// The places in their tables, counted by 8 bytes, of the leaf entries that fetches went through.
    pub(super) fetch_units: [u64; 8],
    /// Everything was dropped since, so the marks can go.
    pub(super) marks_stale: bool,
}

// SAFETY: the pointers lead to pages of the machine that owns this TLB; the machine moves between threads as a whole.
unsafe impl Send for Tlb {}

#[inline(always)]
fn slot(linear: u64) -> usize {
    (linear >> 12) as usize & (ENTRIES - 1)
}

impl Tlb {
    pub(crate) fn new() -> Box<Tlb> {
        Box::new(Tlb {
            read: [[NO_ENTRY; ENTRIES]; 3],
            write: [[NO_ENTRY; ENTRIES]; 3],
            fetch: [[NO_FETCH; ENTRIES]; 2],
            read_used: false,
            written: false,
            fetched: false,
            marked: Vec::new(),
            fetch_units: [0; 8],
            marks_stale: false,
        })
    }

    /// The host address of `size` bytes at `linear`, if the page has an entry and the access doesn't leave it.
    #[inline(always)]
    fn hit(way: &Way, linear: u64, size: usize) -> Option<*mut u8> {
        let entry = &way[slot(linear)];
        if entry.tag == linear.wrapping_add(size as u64 - 1) & !0xfff {
            // SAFETY: the entry's page is 4096 bytes long and the offset is below that.
            Some(unsafe { entry.host.add(linear as usize & 0xfff) })
        } else {
            None
        }
    }

    /// Reads a value through the read entries.
    #[inline(always)]
    pub(crate) fn read<T: Copy>(&self, view: View, linear: u64) -> Option<T> {
        // SAFETY: `hit` gave the address of size_of::<T>() bytes inside a live page of this machine; T is an integer.
        Self::hit(&self.read[view as usize], linear, size_of::<T>())
            .map(|host| unsafe { host.cast::<T>().read_unaligned() })
    }

    /// Writes a value through the write entries; false where there is none.
    #[inline(always)]
    pub(crate) fn write<T: Copy>(&self, view: View, linear: u64, value: T) -> bool {
        match Self::hit(&self.write[view as usize], linear, size_of::<T>()) {
            Some(host) => {
                // SAFETY: as in `read`; a write entry exists only for pages that no other machine shares.
                unsafe { host.cast::<T>().write_unaligned(value) };
                true
            }
            None => false,
        }
    }

    /// Reads a value through the write entries: the first half of a read-modify-write whose write then hits.
    #[inline(always)]
    pub(crate) fn read_for_write<T: Copy>(&self, view: View, linear: u64) -> Option<T> {
        // SAFETY: as in `read`.
        Self::hit(&self.write[view as usize], linear, size_of::<T>())
            .map(|host| unsafe { host.cast::<T>().read_unaligned() })
    }

    /// Bytes that can be read at `linear` in its page, at most `length`, copied into `buffer`; 0 without an entry.
    pub(crate) fn read_bytes(&self, view: View, linear: u64, buffer: &mut [u8]) -> usize {
        let length = buffer.len().min(0x1000 - (linear as usize & 0xfff));
        match Self::hit(&self.read[view as usize], linear, 1) {
            Some(host) if length > 0 => {
                // SAFETY: the range lies in one live page.
                unsafe { std::ptr::copy_nonoverlapping(host, buffer.as_mut_ptr(), length) };
                length
            }
            _ => 0,
        }
    }

    /// Copies `length` bytes inside guest memory, forwards, where both ranges lie in one page each and have entries
    /// and don't overlap; false otherwise.
    pub(crate) fn copy(&self, view: View, from: u64, to: u64, length: usize) -> bool {
        if length == 0 {
            return true;
        }
        let (Some(source), Some(target)) = (
            Self::hit(&self.read[view as usize], from, length),
            Self::hit(&self.write[view as usize], to, length),
        ) else {
            return false;
        };
        if (source as usize).abs_diff(target as usize) < length {
            return false;
        }
        // SAFETY: both ranges lie in live pages of this machine and were just checked not to overlap.
        unsafe { std::ptr::copy_nonoverlapping(source, target, length) };
        true
    }

    /// Fills `count` elements at `linear`, all in one page with a write entry; false otherwise.
    pub(crate) fn fill<T: Copy>(&self, view: View, linear: u64, value: T, count: usize) -> bool {
        if count == 0 {
            return true;
        }
        match Self::hit(&self.write[view as usize], linear, size_of::<T>() * count) {
            Some(host) => {
                let host = host.cast::<T>();
                for i in 0..count {
                    // SAFETY: `hit` covered all elements.
                    unsafe { host.add(i).write_unaligned(value) };
                }
                true
            }
            None => false,
        }
    }

    /// The physical page of a fetch at `linear`.
    #[inline(always)]
    pub(crate) fn fetch(&self, user: bool, linear: u64) -> Option<u64> {
        let entry = &self.fetch[user as usize][slot(linear)];
        (entry.tag == linear & !0xfff).then_some(entry.physical)
    }

    /// Whether a fetch may have gone through the leaf entry at this place in some table.
    pub(super) fn fetched_by(&self, unit: usize) -> bool {
        self.fetch_units[unit / 64] >> (unit % 64) & 1 != 0
    }

    pub(crate) fn insert_read(&mut self, view: View, linear: u64, host: *const u8) {
        self.read_used = true;
        self.read[view as usize][slot(linear)] = Entry {
            tag: linear & !0xfff,
            host: host.cast_mut(),
        };
    }

    pub(crate) fn insert_write(&mut self, view: View, linear: u64, host: *mut u8) {
        self.written = true;
        self.write[view as usize][slot(linear)] = Entry {
            tag: linear & !0xfff,
            host,
        };
    }

    pub(crate) fn insert_fetch(&mut self, user: bool, linear: u64, physical_page: u64) {
        self.fetched = true;
        self.fetch[user as usize][slot(linear)] = FetchEntry {
            tag: linear & !0xfff,
            physical: physical_page,
        };
    }

    /// Drops everything.
    pub(crate) fn flush(&mut self) {
        self.flush_data();
        for way in &mut self.fetch {
            if self.fetched {
                way.fill(NO_FETCH);
            }
        }
        self.fetched = false;
        self.marks_stale = !self.marked.is_empty();
    }

    /// Drops all host pointers: a page moved, or accesses must be looked at.
    pub(crate) fn flush_data(&mut self) {
        if self.read_used {
            for way in &mut self.read {
                way.fill(NO_ENTRY);
            }
            self.read_used = false;
        }
        self.flush_writes();
    }

    /// Drops the right to write, before a fork.
    pub(crate) fn flush_writes(&mut self) {
        if self.written {
            for way in &mut self.write {
                way.fill(NO_ENTRY);
            }
            self.written = false;
        }
    }

    /// Drops the right to write to a page, wherever it is mapped.
    pub(crate) fn drop_writes(&mut self, page: *const u8) {
        for entry in self.write.iter_mut().flatten() {
            if entry.host.cast_const() == page {
                *entry = NO_ENTRY;
            }
        }
    }

    /// Drops the entries of one linear page, and others that share their places.
    pub(crate) fn drop_page(&mut self, linear: u64) {
        self.drop_slot(slot(linear));
    }

    /// Drops the entries at one place.
    pub(crate) fn drop_slot(&mut self, slot: usize) {
        let slot = slot & (ENTRIES - 1);
        for way in self.read.iter_mut().chain(&mut self.write) {
            way[slot] = NO_ENTRY;
        }
        for way in &mut self.fetch {
            way[slot] = NO_FETCH;
        }
    }
}
