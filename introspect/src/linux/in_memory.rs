//! From memory alone to the kernel: by VMCOREINFO, which says where everything is; else by kallsyms, which are looked for in
//! physical memory, where the image is contiguous.

use super::Report;
use super::error::NotLinux;
use super::find::{BANNER, Found, look, text_start};
use super::image::{self, START_KERNEL_MAP};
use super::space::Space;
use super::vmcoreinfo::{NOTE_NAME, START, VmcoreInfo};
use crate::paging::PagingMode;
use hv_core::introspect::ReadMemory;
use hv_core::{GuestPhysAddr, GuestVirtAddr};
use memchr::memmem;
use std::ops::Range;
use symbols::kallsyms::Kallsyms;

/// Bytes of a note that are read.
const NOTE: usize = 0x1000;
/// VMCOREINFO texts that are looked into: a kernel keeps two, and earlier ones may have left theirs.
const MAX_NOTES: usize = 64;
/// Bytes before and behind a table of kallsyms that may belong to the image's tables.
const AROUND: u64 = 24 << 20;
/// Bytes that are searched at a time.
const CHUNK: u64 = 4 << 20;
/// Windows that are searched for kallsyms.
const MAX_WINDOWS: usize = 16;
/// Banners that are tried in one.
const MAX_BANNERS: usize = 64;
/// What kallsyms' table of tokens has in any case; see [`symbols::kallsyms`].
const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";
/// The kernel's own page tables, by version.
pub(super) const ROOTS: [&str; 3] = ["init_top_pgt", "swapper_pg_dir", "init_level4_pgt"];

/// Looks for a kernel in memory.
pub(super) fn find<'a>(memory: &'a dyn ReadMemory, report: &mut Report) -> Result<Found<'a>, NotLinux> {
    let (notes, mut why) = (notes(memory), Vec::new());
    for (at, info) in &notes {
        match by_vmcoreinfo(memory, info) {
            Ok(found) => {
                report.found(
                    "page tables",
                    format!("{}, by VMCOREINFO in memory at {at}", found.space.root),
                );
                return Ok(found);
            }
            Err(error) => why.push(format!("VMCOREINFO at {at}: {error}")),
        }
    }
    if notes.is_empty() {
        why.push("no VMCOREINFO in memory".to_owned());
    }
    match by_kallsyms(memory) {
        Ok((at, found)) => {
            report.found(
                "page tables",
                format!("{}, by kallsyms in memory at {at}", found.space.root),
            );
            Ok(found)
        }
        Err(error) => {
            why.push(error);
            let why = why.join("; ");
            report.missing("kernel", why.clone());
            Err(NotLinux::NoKernel(why))
        }
    }
}

/// Every VMCOREINFO at the start of a page: the note, and the page that its text is made in.
pub(super) fn notes(memory: &dyn ReadMemory) -> Vec<(GuestPhysAddr, VmcoreInfo)> {
    let mut found: Vec<(GuestPhysAddr, VmcoreInfo)> = Vec::new();
    for region in memory.memory_regions() {
        for offset in (0..region.length).step_by(NOTE) {
            let at = region.start.wrapping_add(offset).page_base();
            let mut start = [0; 24 + START.len()];
            if memory.read_physical(at, &mut start).is_err() {
                continue;
            }
            let skip = match (&start[12..24] == NOTE_NAME, start.starts_with(START)) {
                (true, _) => 24,
                (_, true) => 0,
                _ => continue,
            };
            // The note's text may run into the next page, where physical memory goes on.
            let mut text = vec![0; 2 * NOTE];
            if memory.read_physical(at, &mut text).is_err() {
                text.truncate(NOTE);
                if memory.read_physical(at, &mut text).is_err() {
                    continue;
                }
            }
            let Some(info) = VmcoreInfo::parse(&text[skip..]) else {
                continue;
            };
            if !found.iter().any(|(_, other)| other.text() == info.text()) {
                found.push((at, info));
            }
            if found.len() == MAX_NOTES {
                return found;
            }
        }
    }
    found
}

/// The kernel that a VMCOREINFO is of.
pub(super) fn by_vmcoreinfo<'a>(memory: &'a dyn ReadMemory, info: &VmcoreInfo) -> Result<Found<'a>, String> {
    let phys_base = info.number("phys_base").ok_or("it has no phys_base")?;
    let tables = ROOTS.iter().find_map(|name| info.symbol(name));
    let tables = tables.ok_or("it has no swapper_pg_dir")?;
    let root = GuestPhysAddr(tables.wrapping_sub(START_KERNEL_MAP.0).wrapping_add(phys_base));
    let mode = match info.number("pgtable_l5_enabled") {
        Some(1) => PagingMode::Level5,
        _ => PagingMode::Level4,
    };
    let mapped = image::mapped(memory, mode, root)
        .ok_or_else(|| format!("its page tables at {root} map nothing where kernels are"))?;
    if mapped.phys_base() != phys_base {
        return Err(format!("its page tables at {root} map another image"));
    }
    let start = info.symbol("_stext").map(GuestVirtAddr);
    let start = start.filter(|&start| mapped.contains(start));
    let found = look(Space::new(memory, mode, root), mapped, start).map_err(|error| error.to_string())?;
    let same = found
        .kallsyms
        .as_ref()
        .is_none_or(|symbols| symbols.address("_stext").map(GuestVirtAddr) == start);
    if same {
        Ok(Found {
            vmcoreinfo: Some(info.clone()),
            ..found
        })
    } else {
        Err("it is another kernel's than the one in memory".to_owned())
    }
}

fn by_kallsyms(memory: &dyn ReadMemory) -> Result<(GuestPhysAddr, Found<'_>), String> {
    let mut why = "no kallsyms in memory".to_owned();
    let mut windows = 0;
    for region in memory.memory_regions() {
        let (start, end) = (region.start.0, region.start.0.saturating_add(region.length));
        let mut at = start;
        while let Some(hit) = next_hit(memory, at..end) {
            windows += 1;
            if windows > MAX_WINDOWS {
                return Err(format!("{why}; more places weren't tried"));
            }
            let window = hit.saturating_sub(AROUND).max(start)..hit.saturating_add(AROUND).min(end);
            match in_window(memory, window) {
                Ok(found) => return Ok((GuestPhysAddr(hit), found)),
                Err(error) => why = format!("kallsyms at {}: {error}", GuestPhysAddr(hit)),
            }
            at = hit + DIGITS.len() as u64;
        }
    }
    Err(why)
}

/// The next place of the token table's digits.
fn next_hit(memory: &dyn ReadMemory, range: Range<u64>) -> Option<u64> {
    let mut at = range.start;
    let mut bytes = Vec::new();
    while at < range.end {
        let size = (range.end - at).min(CHUNK + DIGITS.len() as u64);
        bytes.resize(size as usize, 0);
        read_some(memory, GuestPhysAddr(at), &mut bytes);
        if let Some(hit) = memmem::find(&bytes, DIGITS) {
            return Some(at + hit as u64);
        }
        at += CHUNK;
    }
    None
}

fn in_window(memory: &dyn ReadMemory, window: Range<u64>) -> Result<Found<'_>, String> {
    let mut bytes = vec![0; (window.end - window.start) as usize];
    read_some(memory, GuestPhysAddr(window.start), &mut bytes);
    let symbols = Kallsyms::find(&bytes, None, |symbols| text_start(symbols).is_some())
        .map_err(|error| error.to_string())?;
    let banner = symbols.address("linux_banner").ok_or("no linux_banner in them")?;
    let tables = ROOTS.iter().find_map(|name| symbols.address(name));
    let tables = tables.ok_or("no init_top_pgt in them")?;
    let text = text_start(&symbols).ok_or("no _text in them")?;
    for at in memmem::find_iter(&bytes, BANNER).take(MAX_BANNERS) {
        let delta = (window.start + at as u64).wrapping_sub(banner);
        let root = GuestPhysAddr(tables.wrapping_add(delta));
        if root.page_offset() != 0 {
            continue;
        }
        for mode in [PagingMode::Level4, PagingMode::Level5] {
            let Some(mapped) = image::mapped(memory, mode, root) else {
                continue;
            };
            let space = Space::new(memory, mode, root);
            if space.physical(text) == Some(GuestPhysAddr(text.0.wrapping_add(delta)))
                && let Ok(found) = look(space, mapped, None)
            {
                return Ok(found);
            }
        }
    }
    Err("no banner and page tables that fit them".to_owned())
}

/// Fills the buffer, with zeros where there is no memory.
fn read_some(memory: &dyn ReadMemory, address: GuestPhysAddr, buffer: &mut [u8]) {
    if memory.read_physical(address, buffer).is_ok() {
        return;
    }
    for (page, part) in (0..).zip(buffer.chunks_mut(0x1000)) {
        if memory
            .read_physical(address.wrapping_add(page * 0x1000), part)
            .is_err()
        {
            part.fill(0);
        }
    }
}
