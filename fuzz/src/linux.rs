//! The stock Linux guest at its shell's prompt: booted once, kept beside the program as a dump of our own, and shown with
//! damage.

use crate::patch::Patch;
use dump::elf::ElfOptions;
use dump::{Ignore, NewFile, PAGE_SIZE, Page, Pfn, Source};
use hv_core::introspect::{Error, MemoryRegion, ReadMemory, ReadRegisters, Result};
use hv_core::regs::Registers;
use hv_core::{DomId, GuestPhysAddr, GuestVirtAddr, VcpuId};
use introspect::PageTables;
use introspect::linux::{Guest, Linux};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tests::LinuxMachine;

const MEMORY: u64 = 128 << 20;
/// Page tables that are worth damage.
const MAX_TABLES: usize = 64;

/// Variables that everything starts from, and tables.
const NAMES: [&str; 28] = [
    "init_task",
    "modules",
    "prb",
    "printk_rb_static",
    "_printk_rb_static_descs",
    "_printk_rb_static_infos",
    "nr_cpu_ids",
    "__per_cpu_offset",
    "vmcoreinfo_data",
    "vmcoreinfo_size",
    "vmcoreinfo_note",
    "page_offset_base",
    "vmemmap_base",
    "panic_cpu",
    "die_counter",
    "tainted_mask",
    "linux_banner",
    "init_uts_ns",
    "phys_base",
    "kexec_crash_image",
    "init_top_pgt",
    "__start_BTF",
    "__stop_BTF",
    "__start_orc_unwind_ip",
    "__stop_orc_unwind_ip",
    "__start_orc_unwind",
    "_text",
    "init_mm",
];

/// The guest, as it stood still.
pub struct LinuxGuest {
    ram: Vec<(u64, Vec<u8>)>,
    registers: Vec<Registers>,
    /// What recognition makes of it undamaged.
    linux: OnceLock<Option<Linux>>,
    places: OnceLock<Places>,
}

/// Where damage does something.
struct Places {
    frames: Vec<u64>,
    /// Addresses of structures, and entries of page tables.
    pointers: Vec<u64>,
}

/// The guest; `None`, and it is said, where set-up hasn't fetched its files.
pub fn guest() -> Option<&'static LinuxGuest> {
    static GUEST: OnceLock<Option<LinuxGuest>> = OnceLock::new();
    GUEST.get_or_init(LinuxGuest::load).as_ref()
}

/// Where it is kept; another place for other files.
pub fn kept() -> Option<PathBuf> {
    let files = tests::guest(None)?;
    let size = |path: &Path| path.metadata().map_or(0, |facts| facts.len());
    let name = format!(
        "fuzz-linux-{}-{}.vmcore",
        size(&files.kernel),
        size(&files.initrd)
    );
    Some(std::env::current_exe().ok()?.with_file_name(name))
}

impl LinuxGuest {
    fn load() -> Option<LinuxGuest> {
        let path = kept()?;
        if !path.is_file() {
            boot(&path)?;
        }
        let image = dump::open(&path).ok()?;
        let mut ram = Vec::new();
        for range in image.ram() {
            let mut bytes = vec![0; range.count as usize * PAGE_SIZE];
            for (n, page) in bytes.as_chunks_mut::<PAGE_SIZE>().0.iter_mut().enumerate() {
                image.read_page(Pfn(range.first.0 + n as u64), page).ok()?;
            }
            ram.push((range.first.address().0, bytes));
        }
        Some(LinuxGuest {
            ram,
            registers: image.processors().to_vec(),
            linux: OnceLock::new(),
            places: OnceLock::new(),
        })
    }

    /// What is known of it undamaged.
    pub fn linux(&self) -> Option<&Linux> {
        let recognise = || {
            let whole = self.damaged(&[]);
            Linux::recognise(Guest::new(&whole, &whole)).ok()
        };
        self.linux.get_or_init(recognise).as_ref()
    }

    /// The guest with these changes.
    pub fn damaged(&self, patches: &[Patch]) -> Damaged<'_> {
        let mut pages = BTreeMap::new();
        if !patches.is_empty() {
            let places = self.places.get_or_init(|| self.places());
            for patch in patches {
                let Some(&frame) = places.frames.get(patch.choice(places.frames.len())) else {
                    continue;
                };
                let page = pages.entry(frame).or_insert_with(|| {
                    let mut page = Box::new([0; PAGE_SIZE]);
                    self.copy(frame << 12, page.as_mut_slice());
                    page
                });
                if !patch.point(page.as_mut_slice(), &places.pointers) {
                    patch.apply(page.as_mut_slice());
                }
            }
        }
        Damaged {
            guest: self,
            pages,
            registers: self.registers.clone(),
        }
    }

    /// Copies what is there; how much.
    fn copy(&self, address: u64, buffer: &mut [u8]) -> usize {
        let part = self.ram.iter().find_map(|(start, bytes)| {
            let at = usize::try_from(address.checked_sub(*start)?).ok()?;
            bytes.get(at..).filter(|rest| !rest.is_empty())
        });
        let part = part.unwrap_or_default();
        let length = part.len().min(buffer.len());
        buffer[..length].copy_from_slice(&part[..length]);
        length
    }

    fn places(&self) -> Places {
        let (mut frames, mut pointers) = (
            BTreeSet::new(),
            vec![0, u64::MAX, 0x67, 1 << 63, 0xdead_4ead_0000_0000],
        );
        let whole = self.damaged(&[]);
        if let Some(linux) = self.linux() {
            let tables = self.tables(linux.root().0);
            pointers.extend(tables.iter().map(|table| table << 12 | 0x63));
            frames.extend(tables);
            let mut at: Vec<u64> = NAMES
                .iter()
                .filter_map(|name| linux.symbol(name).map(|it| it.0))
                .collect();
            let tasks = linux.tasks(&whole).map(|walk| walk.items).unwrap_or_default();
            let modules = linux.modules(&whole).map(|walk| walk.items).unwrap_or_default();
            for task in &tasks {
                at.extend((0..3).map(|page| task.address.0 + page * 0x1000));
                at.extend(task.mm.map(|mm| mm.0));
            }
            at.extend(modules.iter().map(|module| module.address.0));
            pointers.extend(&at);
            // The first pages of large tables, and of the array of page frames.
            for name in ["__start_BTF", "__start_orc_unwind_ip", "__start_orc_unwind"] {
                let start = linux.symbol(name).map_or(0, |it| it.0);
                at.extend((1..16).map(|page| start + page * 0x7000));
            }
            at.extend((0..16).map(|page| linux.regions().vmemmap.0 + page * 0x4000));
            let mut tables = PageTables::new(&whole, linux.paging_mode(), linux.root());
            let physical = at
                .iter()
                .filter_map(|&at| tables.translate(GuestVirtAddr(at)).ok());
            frames.extend(physical.map(|(place, _)| place.frame()));
            if let Some(kallsyms) = linux.kallsyms() {
                let tables = kallsyms.tables();
                let starts = [
                    tables.names,
                    tables.token_table,
                    tables.token_index,
                    tables.addresses,
                ];
                for start in starts {
                    let place = linux.kernel().physical.0 + start as u64;
                    frames.extend([place >> 12, (place >> 12) + 1, (place >> 12) + 9]);
                    frames.insert((place >> 12).wrapping_sub(1));
                }
            }
        }
        frames.retain(|frame| self.copy(frame << 12, &mut [0]) == 1);
        Places {
            frames: frames.into_iter().collect(),
            pointers,
        }
    }

    /// Frames of page tables, breadth first.
    fn tables(&self, root: u64) -> BTreeSet<u64> {
        let (mut found, mut level) = (BTreeSet::from([root >> 12]), vec![root]);
        for _ in 0..3 {
            let mut next = Vec::new();
            for table in level {
                let mut page = [0; PAGE_SIZE];
                self.copy(table, &mut page);
                let entries = page
                    .as_chunks::<8>()
                    .0
                    .iter()
                    .map(|entry| u64::from_le_bytes(*entry));
                // Present, and no large page.
                for entry in entries.filter(|entry| entry & 0x81 == 1) {
                    let table = entry & 0x000f_ffff_ffff_f000;
                    if found.len() < MAX_TABLES && found.insert(table >> 12) {
                        next.push(table);
                    }
                }
            }
            level = next;
        }
        found
    }
}

/// Boots the guest, and keeps it.
fn boot(path: &Path) -> Option<()> {
    let machine = LinuxMachine::boot(MEMORY, 2)?;
    let mut file = NewFile::create(path, true).ok()?;
    dump::elf::write(
        &Source::new(&machine),
        &machine.processors(),
        &machine.facts(),
        &ElfOptions::default(),
        &mut file,
        &mut Ignore,
    )
    .ok()?;
    file.commit().ok()
}

/// The guest with damage.
pub struct Damaged<'a> {
    guest: &'a LinuxGuest,
    pages: BTreeMap<u64, Box<Page>>,
    /// Of its vCPUs.
    pub registers: Vec<Registers>,
}

impl ReadMemory for Damaged<'_> {
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<()> {
        let (done, wanted) = (self.guest.copy(address.0, buffer), buffer.len());
        if done < wanted {
            return Err(Error::NoMemory {
                domain: DomId(1),
                address: address.wrapping_add(done as u64),
                done,
                wanted,
            });
        }
        let last = (address.0 + wanted.saturating_sub(1) as u64) >> 12;
        for (frame, page) in self.pages.range(address.frame()..=last) {
            let start = frame << 12;
            let (from, to) = (
                start.max(address.0),
                (start + 4096).min(address.0 + wanted as u64),
            );
            buffer[(from - address.0) as usize..(to - address.0) as usize]
                .copy_from_slice(&page[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }

    fn memory_regions(&self) -> Vec<MemoryRegion> {
        let region = |(start, bytes): &(u64, Vec<u8>)| MemoryRegion {
            start: GuestPhysAddr(*start),
            length: bytes.len() as u64,
            writable: true,
        };
        self.guest.ram.iter().map(region).collect()
    }
}

impl ReadRegisters for Damaged<'_> {
    fn vcpu_count(&self) -> u32 {
        self.registers.len() as u32
    }

    fn registers(&self, vcpu: VcpuId) -> Result<Registers> {
        let found = self.registers.get(vcpu.index());
        found.cloned().ok_or(Error::NoVcpu {
            domain: DomId(1),
            vcpu,
            count: self.vcpu_count(),
        })
    }

    fn read_msr(&self, _: VcpuId, _: u32) -> Result<Option<u64>> {
        Ok(None)
    }
}
