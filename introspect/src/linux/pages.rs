//! What each page frame of memory is used for, from the kernel's array of `struct page`: what the filters of crash dumps
//! ask (the levels of makedumpfile).
//!
//! The array is read a block at a time, as many pages as the largest free block has, so that one pass over all frames
//! takes constant memory. A guest may lie in it as it likes: then the wrong frames are called free, and nothing worse.

use super::error::{Error, Unknown};
use super::space::Space;
use super::{Linux, VmcoreInfo};
use hv_core::introspect::ReadMemory;
use hv_core::{GuestPhysAddr, GuestVirtAddr};

/// The largest order of a block of free pages that is believed (MAX_PAGE_ORDER is 10; some configurations have more).
const MAX_FREE_ORDER: u64 = 16;
/// The largest order of a compound page that is believed: 1 GiB.
const MAX_COMPOUND_ORDER: u64 = 18;
/// PAGE_MAPPING_ANON: the lowest bit of an anonymous page's mapping.
const ANONYMOUS: u64 = 1;
/// The largest `struct page` that is believed, in bytes.
const MAX_STRUCT_PAGE: u64 = 512;

/// What a page frame is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum PageKind {
    /// Whatever the kernel needs, and all that nothing says more of.
    Kernel,
    /// In the page cache, with nothing of a file system's attached.
    Cache,
    /// In the page cache, with a file system's private data (PG_private).
    CachePrivate,
    /// Memory of processes: anonymous, or of hugetlbfs.
    User,
    /// Free.
    Free,
    /// Faulty (PG_hwpoison) or given away (a balloon's): not to be read.
    Unusable,
}

impl PageKind {
    /// Whether a dump of this level (makedumpfile's `-d`) is without such pages. Bit 0, pages of zeros, is not for the
    /// kernel to say.
    pub fn is_left_out_at(self, level: u32) -> bool {
        const CACHE: u32 = 2;
        const CACHE_PRIVATE: u32 = 4;
        const USER: u32 = 8;
        const FREE: u32 = 16;
        match self {
            PageKind::Kernel => false,
            PageKind::Cache => level & (CACHE | CACHE_PRIVATE) != 0,
            PageKind::CachePrivate => level & CACHE_PRIVATE != 0,
            PageKind::User => level & USER != 0,
            PageKind::Free => level & FREE != 0,
            PageKind::Unusable => true,
        }
    }
}

/// Tells page frames' kinds; see [`Linux::page_kinds`].
pub struct PageKinds<'a> {
    space: Space<'a>,
    vmemmap: GuestVirtAddr,
    layout: Layout,
    /// Frames in a block.
    block: u64,
    /// The block that is here.
    number: Option<u64>,
    bytes: Vec<u8>,
    kinds: Vec<PageKind>,
}

/// Where everything is in `struct page`, and what it means (VMCOREINFO).
struct Layout {
    size: u64,
    flags: u64,
    mapping: u64,
    mapcount: u64,
    private: u64,
    compound_head: u64,
    /// In the second page of a compound one; without it the low byte of its flags has the order (from 6.6).
    compound_order: Option<u64>,
    /// Bits of flags, as masks; 0 where there is no such bit.
    lru: u64,
    has_private: u64,
    swap_cache: u64,
    swap_backed: u64,
    slab: u64,
    poison: u64,
    head: u64,
    /// Values of `_mapcount` (or `page_type`).
    buddy: u32,
    unaccepted: Option<u32>,
    offline: Option<u32>,
    slab_type: Option<u32>,
    hugetlb: Hugetlb,
}

/// How the head of a hugetlbfs page is told.
enum Hugetlb {
    /// By its `_mapcount` (from 6.9).
    Type(u32),
    /// By a bit in the second page's flags (6.6 to 6.8).
    Flag(u64),
    /// By the number of its destructor, a byte in the second page (before 6.6).
    Destructor(u64, u8),
    Unknown,
}

impl Linux {
    /// A reader of page frames' kinds, for a guest that stands still.
    ///
    /// # Errors
    /// [`Error::Unknown`] if VMCOREINFO lacks what is needed.
    pub fn page_kinds<'a>(&self, memory: &'a dyn ReadMemory) -> Result<PageKinds<'a>, Error> {
        let info = self.vmcoreinfo.as_ref().ok_or(Unknown::Number("VMCOREINFO"))?;
        let layout = Layout::of(self, info)?;
        let orders = info.length("zone.free_area").unwrap_or(11);
        Ok(PageKinds {
            space: self.space(memory),
            vmemmap: self.regions.vmemmap,
            block: 1 << orders.saturating_sub(1).clamp(10, MAX_FREE_ORDER),
            layout,
            number: None,
            bytes: Vec::new(),
            kinds: Vec::new(),
        })
    }
}

impl Layout {
    fn of(linux: &Linux, info: &VmcoreInfo) -> Result<Layout, Error> {
        let size = linux.size("page")?;
        if !(1..=MAX_STRUCT_PAGE).contains(&size) {
            return Err(Unknown::Size("page").into());
        }
        let bit = |name: &str| {
            let number = info.number(name).filter(|&number| number < 64);
            number.map_or(0, |number| 1 << number)
        };
        let value = |name: &str| info.number(name).map(|value| value as u32);
        // In 6.3 they moved to struct folio, which covers more than one struct page.
        let second = |page: &str, folio: &str| {
            let in_folio = || info.offset("folio", folio)?.checked_sub(size);
            info.offset("page", page).or_else(in_folio)
        };
        let destructor = second("compound_dtor", "_folio_dtor").zip(info.number("HUGETLB_PAGE_DTOR"));
        let hugetlb = match (
            value("PAGE_HUGETLB_MAPCOUNT_VALUE"),
            bit("PG_hugetlb"),
            destructor,
        ) {
            (Some(value), _, _) => Hugetlb::Type(value),
            (_, mask, _) if mask != 0 => Hugetlb::Flag(mask),
            (_, _, Some((offset, number))) => Hugetlb::Destructor(offset, number as u8),
            _ => Hugetlb::Unknown,
        };
        Ok(Layout {
            size,
            flags: linux.offset("page", "flags")?,
            mapping: linux.offset("page", "mapping")?,
            mapcount: linux.offset("page", "_mapcount")?,
            private: linux.offset("page", "private")?,
            compound_head: linux.offset("page", "compound_head")?,
            compound_order: second("compound_order", "_folio_order"),
            lru: bit("PG_lru"),
            has_private: bit("PG_private"),
            swap_cache: bit("PG_swapcache"),
            swap_backed: bit("PG_swapbacked"),
            slab: bit("PG_slab"),
            poison: bit("PG_hwpoison"),
            head: info.number("PG_head_mask").unwrap_or(0),
            buddy: linux.number("PAGE_BUDDY_MAPCOUNT_VALUE")? as u32,
            unaccepted: value("PAGE_UNACCEPTED_MAPCOUNT_VALUE"),
            offline: value("PAGE_OFFLINE_MAPCOUNT_VALUE"),
            slab_type: value("PAGE_SLAB_MAPCOUNT_VALUE"),
            hugetlb,
        })
    }

    fn word(&self, page: &[u8], offset: u64, size: usize) -> u64 {
        let mut word = [0; 8];
        if let Some(part) = page.get(offset as usize..offset as usize + size) {
            word[..size].copy_from_slice(part);
        }
        u64::from_le_bytes(word)
    }

    /// The head of a tail page.
    fn head_of(&self, page: &[u8]) -> Option<GuestVirtAddr> {
        let head = self.word(page, self.compound_head, 8);
        (head & 1 != 0).then_some(GuestVirtAddr(head & !1))
    }

    /// What a page is that is no tail, and how many from it on are the same: 2^order.
    fn kind(&self, page: &[u8], second: &[u8], largest_free: u64) -> (PageKind, u64) {
        let flags = self.word(page, self.flags, 8);
        let mapcount = self.word(page, self.mapcount, 4) as u32;
        let is = |mask: u64| flags & mask != 0;
        let slab = is(self.slab) || Some(mapcount) == self.slab_type;
        if !slab && mapcount == self.buddy {
            let order = self.word(page, self.private, 8);
            return (PageKind::Free, if order <= largest_free { order } else { 0 });
        }
        if Some(mapcount) == self.unaccepted {
            return (PageKind::Free, largest_free);
        }
        let head = is(self.head);
        let order = match self.compound_order {
            _ if !head => 0,
            Some(offset) => self.word(second, offset, 1),
            None => self.word(second, self.flags, 8) & 0xff,
        };
        let order = if order <= MAX_COMPOUND_ORDER { order } else { 0 };
        let anonymous = !slab && self.word(page, self.mapping, 8) & ANONYMOUS != 0;
        let swapped = is(self.swap_cache) && (self.swap_backed == 0 || is(self.swap_backed));
        let cache = is(self.lru) || swapped;
        let hugetlb = head
            && match self.hugetlb {
                Hugetlb::Type(value) => mapcount == value,
                Hugetlb::Flag(mask) => self.word(second, self.flags, 8) & mask != 0,
                Hugetlb::Destructor(offset, number) => self.word(second, offset, 1) as u8 == number,
                Hugetlb::Unknown => false,
            };
        let kind = if cache && !anonymous {
            if is(self.has_private) {
                PageKind::CachePrivate
            } else {
                PageKind::Cache
            }
        } else if anonymous || hugetlb {
            PageKind::User
        } else if is(self.poison) || Some(mapcount) == self.offline {
            PageKind::Unusable
        } else {
            PageKind::Kernel
        };
        (kind, order)
    }
}

impl PageKinds<'_> {
    /// What the frame is used for that an address lies in.
    pub fn kind(&mut self, address: GuestPhysAddr) -> PageKind {
        let frame = address.frame();
        self.load(frame / self.block);
        self.kinds[(frame % self.block) as usize]
    }

    /// What the frames from one on are used for. Fastest in rising order.
    pub fn kinds(&mut self, first: GuestPhysAddr, kinds: &mut [PageKind]) {
        let (mut frame, mut done) = (first.frame(), 0);
        while done < kinds.len() {
            self.load(frame / self.block);
            let here = &self.kinds[(frame % self.block) as usize..];
            let count = here.len().min(kinds.len() - done);
            kinds[done..done + count].copy_from_slice(&here[..count]);
            done += count;
            frame = frame.wrapping_add(count as u64);
        }
    }

    /// Reads a block's pages and classifies them.
    fn load(&mut self, number: u64) {
        if self.number == Some(number) {
            return;
        }
        let first = number.wrapping_mul(self.block);
        let size = self.layout.size;
        // One more, for the second page of a compound one at the end.
        self.bytes.resize(((self.block + 1) * size) as usize, 0);
        let mut bytes = std::mem::take(&mut self.bytes);
        self.space.read_some(self.address(first), &mut bytes);
        self.kinds.clear();
        self.kinds.resize(self.block as usize, PageKind::Kernel);
        let largest = u64::from(self.block.ilog2());
        let (mut at, mut tails) = (0, None);
        while at < self.block {
            let page = &bytes[(at * size) as usize..][..size as usize];
            let next = &bytes[((at + 1) * size) as usize..][..size as usize];
            let (kind, count) = match self.layout.head_of(page) {
                // A compound page that began in an earlier block, or one that was kept.
                Some(head) => match tails {
                    Some((known, kind)) if known == head => (kind, 1),
                    _ => {
                        let kind = self.kind_of_head(head, first + at);
                        tails = Some((head, kind));
                        (kind, 1)
                    }
                },
                None => {
                    let (kind, order) = self.layout.kind(page, next, largest);
                    let count = 1_u64 << order;
                    let aligned = (first + at).is_multiple_of(count);
                    (
                        kind,
                        if aligned && kind != PageKind::Kernel {
                            count
                        } else {
                            1
                        },
                    )
                }
            };
            let count = count.min(self.block - at);
            self.kinds[at as usize..(at + count) as usize].fill(kind);
            at += count;
        }
        self.bytes = bytes;
        self.number = Some(number);
    }

    /// The kind of the compound page that a tail is part of, if it reaches so far.
    fn kind_of_head(&self, head: GuestVirtAddr, tail: u64) -> PageKind {
        let size = self.layout.size;
        let offset = head.0.wrapping_sub(self.vmemmap.0);
        let frame = offset / size;
        if !offset.is_multiple_of(size) || frame >= tail || tail - frame >= 1 << MAX_COMPOUND_ORDER {
            return PageKind::Kernel;
        }
        let mut pages = vec![0; 2 * size as usize];
        self.space.read_some(head, &mut pages);
        let (page, second) = pages.split_at(size as usize);
        if self.layout.head_of(page).is_some() {
            return PageKind::Kernel;
        }
        let (kind, order) = self.layout.kind(page, second, u64::from(self.block.ilog2()));
        let reaches = frame.is_multiple_of(1 << order) && tail - frame < 1 << order;
        if reaches { kind } else { PageKind::Kernel }
    }

    fn address(&self, frame: u64) -> GuestVirtAddr {
        self.vmemmap.wrapping_add(frame.wrapping_mul(self.layout.size))
    }
}
