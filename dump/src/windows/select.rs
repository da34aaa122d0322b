//! Which pages a kernel dump has: those that the kernel's half of any page tables leads to, tables and all.
//!
//! User pages are left out, and memory that nobody uses. The page tables are the guest's: they may lead anywhere, and
//! more often than there is memory. Then all of it is taken.

use super::bitmap::PageSet;
use crate::pages::{PAGE_SIZE, PageRange, Pfn};
use crate::source::Source;
use hv_core::GuestPhysAddr;
use hv_core::introspect::ReadMemory;
use introspect::{KernelHalf, PagingMode};

/// How often the kernel may map each page of RAM, on the average: its self-map alone maps tables twice.
const MAPPINGS: u64 = 16;

/// The pages of RAM that the kernel's half under `roots` leads to, and those that differ in the file. The second is
/// whether the page tables made sense; if not, it is all RAM.
pub(super) fn kernel_pages(
    memory: &dyn ReadMemory,
    source: &Source<'_>,
    mode: PagingMode,
    roots: impl Iterator<Item = GuestPhysAddr>,
) -> (PageSet, bool) {
    let end = source.ram().last().map_or(0, |range| range.end().0);
    let mut pages = PageSet::new(end);
    let mut budget = (source.page_count() + 0x10_0000).saturating_mul(MAPPINGS);
    let mut half = KernelHalf::new(memory, mode);
    let mut sane = true;
    for root in roots {
        sane &= half.visit(root, &mut |start, length| {
            let range = PageRange {
                first: Pfn::of(start),
                count: length / PAGE_SIZE as u64,
            };
            // What is beyond RAM costs a step all the same.
            let first = range.first.0.min(end);
            let used = range.first.0.saturating_add(range.count).min(end) - first;
            let Some(left) = budget.checked_sub(used.max(1)) else {
                return false;
            };
            budget = left;
            pages.insert(range);
            true
        });
    }
    if !sane {
        for range in source.ram() {
            pages.insert(*range);
        }
    }
    for pfn in source.patched() {
        pages.insert(PageRange { first: pfn, count: 1 });
    }
    pages.retain(source.ram());
    (pages, sane)
}
