//! The kernel's image: from an entry point back to its header, with every check that tells it from a driver's.

use super::entry::{self, EntryPoint};
use super::error::NotWindows;
use super::facts::{Arch, KernelImage};
use super::field::Global;
use super::guest::Guest;
use super::known::KnownKernel;
use super::report::Report;
use super::space::Space;
use crate::error::Fault;
use crate::paging::PagingMode;
use hv_core::regs::{Activity, Registers};
use hv_core::{GuestVirtAddr, VcpuId};
use std::collections::{BTreeSet, HashSet};
use symbols::pe::{self, Exports, Headers};

/// How far from an entry point the header may be. The entry code of shadowed kernels lies 11 MiB behind it.
const MAX_IMAGE: u64 = 32 << 20;
/// Pages that are looked at in all, before recognition gives up.
const MAX_PAGES: usize = 3 * (MAX_IMAGE >> 12) as usize;
/// Images that an earlier entry point's search met, and that are looked at again for another.
const MAX_IMAGES_AGAIN: usize = 64;
/// The most vCPUs whose registers are looked at.
const MAX_VCPUS: u32 = 64;
/// Names of kernel PDBs: for several processors and one, with PAE and without.
const PDB_NAMES: [&str; 4] = ["ntkrnlmp.pdb", "ntkrpamp.pdb", "ntkrnlpa.pdb", "ntoskrnl.pdb"];
/// The kernel's name in its export directory, whatever its file is called.
const EXPORT_NAME: &str = "ntoskrnl.exe";

/// The kernel, and tables that map it.
pub(crate) struct Found<'a> {
    pub(crate) space: Space<'a>,
    pub(crate) image: KernelImage,
    /// `None` if the header page is gone, and the image was found by known addresses.
    pub(crate) headers: Option<Headers>,
}

/// A vCPU that translates addresses.
struct Candidate {
    vcpu: VcpuId,
    registers: Registers,
    arch: Arch,
    mode: PagingMode,
}

/// Looks for the kernel from every vCPU, through every root that they lead to.
pub(crate) fn find<'a>(guest: Guest<'a>, report: &mut Report) -> Result<Found<'a>, NotWindows> {
    let vcpus = candidates(guest)?;
    let mut search = Search {
        seen: HashSet::new(),
        images: BTreeSet::new(),
        pages: MAX_PAGES,
        rejected: Vec::new(),
    };
    let mut points_seen = false;
    if let (Some(hint), Some(first)) = (guest.vcpus.kernel_hint(), vcpus.first()) {
        let space = Space::new(guest, first.arch, first.mode, hint.root.0);
        let point = EntryPoint {
            what: "what is said of it",
            address: hint.address,
        };
        if let Some((image, headers)) = search.scan_back(&space, point) {
            report.found("page tables", format!("{}, as is said", space.root));
            report.found(
                "kernel",
                format!(
                    "{} at {}, {:#x} bytes, as is said",
                    first.arch, image.base, image.size
                ),
            );
            return Ok(Found {
                space,
                image,
                headers,
            });
        }
    }
    for (how, root, candidate) in roots(guest, &vcpus) {
        let space = Space::new(guest, candidate.arch, candidate.mode, root);
        let points = entry::entry_points(&candidate.registers, &space);
        points_seen |= !points.is_empty();
        for point in &points {
            let found = search
                .scan_back(&space, *point)
                .or_else(|| by_known_addresses(&space, &points));
            if let Some((image, headers)) = found {
                let vcpu = candidate.vcpu;
                report.found("page tables", format!("{} of vCPU {vcpu}, by {how}", space.root));
                report.found(
                    "kernel",
                    format!(
                        "{} at {}, {:#x} bytes, back from {} ({}) of vCPU {vcpu}",
                        candidate.arch, image.base, image.size, point.what, point.address
                    ),
                );
                return Ok(Found {
                    space,
                    image,
                    headers,
                });
            }
        }
    }
    let why = if !points_seen {
        "no vCPU has an entry point in the kernel's half of the address space".to_owned()
    } else if search.rejected.is_empty() {
        "no image's header lies before the vCPUs' entry points".to_owned()
    } else {
        search.rejected.join("; ")
    };
    report.missing("kernel", why.clone());
    Err(NotWindows::NoKernel(why))
}

fn candidates(guest: Guest<'_>) -> Result<Vec<Candidate>, NotWindows> {
    let mut found = Vec::new();
    for index in 0..guest.vcpus.vcpu_count().min(MAX_VCPUS) {
        let vcpu = VcpuId(index);
        let registers = guest.vcpus.registers(vcpu)?;
        if registers.activity == Activity::WaitForSipi {
            continue;
        }
        if let Some((arch, mode)) = entry::arch_of(&registers) {
            found.push(Candidate {
                vcpu,
                registers,
                arch,
                mode,
            });
        }
    }
    if found.is_empty() {
        return Err(NotWindows::NotUp);
    }
    Ok(found)
}

/// The roots to try: first those that map the kernel for sure, at last the vCPUs' own.
fn roots<'v>(guest: Guest<'_>, vcpus: &'v [Candidate]) -> Vec<(&'static str, u64, &'v Candidate)> {
    let mut roots: Vec<(&'static str, u64, &Candidate)> = Vec::new();
    let mut add = |how, root, candidate| {
        if !roots.iter().any(|(_, known, _)| *known == root) {
            roots.push((how, root, candidate));
        }
    };
    for candidate in vcpus {
        let space = Space::new(guest, candidate.arch, candidate.mode, candidate.registers.cr3);
        if entry::maps_the_kernel(&space, &candidate.registers) {
            add("CR3", candidate.registers.cr3, candidate);
        } else if let Some(root) = entry::root_behind_shadow(&candidate.registers, &space, None) {
            add("KernelDirectoryTableBase of its KPRCB", root, candidate);
        }
    }
    if let Some(long) = vcpus.iter().find(|candidate| candidate.arch == Arch::X64)
        && roots_are_missing(&roots)
        && let Some(root) = entry::root_of_low_stub(guest)
    {
        roots.push(("the low stub", root, long));
    }
    if roots_are_missing(&roots) {
        for candidate in vcpus {
            roots.push(("CR3, which doesn't map all", candidate.registers.cr3, candidate));
        }
    }
    roots
}

fn roots_are_missing(roots: &[(&'static str, u64, &Candidate)]) -> bool {
    roots.is_empty()
}

/// A search with a bound on all its work.
struct Search {
    /// Pages that were looked at: (root, page).
    seen: HashSet<(u64, u64)>,
    /// Those that begin as an image does.
    images: BTreeSet<(u64, u64)>,
    /// How many more may be looked at.
    pages: usize,
    /// Why images that were met are no kernels; the first few.
    rejected: Vec<String>,
}

impl Search {
    /// Goes back page by page from an entry point. A page that isn't there is not the end: with HVCI the header is
    /// followed by holes.
    fn scan_back(&mut self, space: &Space<'_>, point: EntryPoint) -> Option<(KernelImage, Option<Headers>)> {
        let root = space.root.0;
        let mut at = point.address.page_base().0;
        let last = at.saturating_sub(MAX_IMAGE);
        while at > last && self.pages > 0 {
            if !self.seen.insert((root, at)) {
                // Another entry point's search went over this page and on: what it met is known.
                let met: Vec<u64> = self
                    .images
                    .range((root, last)..=(root, at))
                    .rev()
                    .take(MAX_IMAGES_AGAIN)
                    .map(|&(_, base)| base)
                    .collect();
                return met.into_iter().find_map(|base| self.check(space, base, point));
            }
            self.pages -= 1;
            let mut signature = [0; 2];
            let mut step = 0x1000;
            match space.read(GuestVirtAddr(at), &mut signature) {
                Ok(()) if signature == *b"MZ" => {
                    self.images.insert((root, at));
                    if let Some(found) = self.check(space, at, point) {
                        return Some(found);
                    }
                }
                Err(Fault::NotPresent(level)) => {
                    // To the last page before the hole's beginning.
                    let hole = space.mode.covers(level.name);
                    step = (at & (hole - 1)) + 0x1000;
                }
                _ => {}
            }
            at = at.checked_sub(step)?;
        }
        None
    }

    fn check(
        &mut self,
        space: &Space<'_>,
        base: u64,
        point: EntryPoint,
    ) -> Option<(KernelImage, Option<Headers>)> {
        let base = GuestVirtAddr(base);
        match check(space, base, point.address) {
            Ok((image, headers)) => return Some((image, Some(headers))),
            Err(why) if self.rejected.len() < 4 => self.rejected.push(format!("image at {base}: {why}")),
            Err(_) => {}
        }
        None
    }
}

/// Whether the image at `base` is a Windows kernel that reaches beyond `point`.
pub(crate) fn check(
    space: &Space<'_>,
    base: GuestVirtAddr,
    point: GuestVirtAddr,
) -> Result<(KernelImage, Headers), String> {
    let mut page = vec![0; 0x1000];
    space.read(base, &mut page).map_err(|fault| fault.to_string())?;
    let headers = Headers::parse(&page).map_err(|error| error.to_string())?;
    if headers.machine != space.arch.machine() || headers.is_64_bit != (space.arch == Arch::X64) {
        return Err(format!("it is for machine {:#x}", headers.machine));
    }
    if point
        .0
        .checked_sub(base.0)
        .is_none_or(|rva| rva >= u64::from(headers.size_of_image))
    {
        return Err(format!("it ends before {point}"));
    }
    let image = space.image(base);
    let pdb = pe::code_view(&headers, &image);
    let by_pdb = pdb
        .as_ref()
        .is_some_and(|id| PDB_NAMES.iter().any(|name| id.name.eq_ignore_ascii_case(name)));
    // Exports are pageable, so either name is enough.
    let by_exports = || {
        let exports = Exports::open(&headers, &image).ok()?;
        exports
            .image_name()
            .filter(|name| name.eq_ignore_ascii_case(EXPORT_NAME))
    };
    if !by_pdb && by_exports().is_none() {
        return Err(match &pdb {
            Some(id) => format!("it is of {}", id.name),
            None => "neither its exports nor its PDB name it a kernel".to_owned(),
        });
    }
    let found = KernelImage {
        base,
        size: headers.size_of_image,
        time_date_stamp: headers.time_date_stamp,
        check_sum: headers.check_sum,
        pdb,
    };
    Ok((found, headers))
}

/// A kernel whose header page is gone: entry points at a known kernel's addresses, and its KdVersionBlock agrees.
fn by_known_addresses(space: &Space<'_>, points: &[EntryPoint]) -> Option<(KernelImage, Option<Headers>)> {
    const FIRST: [Global; 4] = [
        Global::KiSystemCall64Shadow,
        Global::KiSystemCall64,
        Global::KiDivideErrorFaultShadow,
        Global::KiDivideErrorFault,
    ];
    if space.arch != Arch::X64 {
        return None;
    }
    let point = points.first()?;
    KnownKernel::all().iter().find_map(|kernel| {
        FIRST.iter().find_map(|&entry| {
            let base = point.address.0.checked_sub(u64::from(kernel.rva(entry)?))?;
            let base = GuestVirtAddr(base);
            if base.page_offset() != 0 {
                return None;
            }
            let block = base.checked_add(u64::from(kernel.rva(Global::KdVersionBlock)?))?;
            let agrees = space.u64("KdVersionBlock", block.wrapping_add(0x10)).ok()? == base.0
                && space.u16("KdVersionBlock", block.wrapping_add(8)).ok()? == space.arch.machine();
            agrees.then(|| (kernel.image(base), None))
        })
    })
}
