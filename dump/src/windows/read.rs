//! Opening a dump: the header, the map of its pages, and what can be found through the kernel's own structures.

use super::describe;
use super::header::{Header32, Header64, SIGNATURE, VALID32, VALID64, attributes, dump_type};
use super::kdbg::{self, DebuggerBlock};
use super::map::{self, BitmapFacts, Map, wire};
use super::physical::{Pages, Physical};
use super::processors::{Context, Reader};
use super::triage::Triage;
use crate::image::{Absent, Description, Format, Image};
use crate::pages::{Page, PageRange, Pfn};
use crate::{Error, FileBytes, Result};
use hv_core::regs::Registers;
use hv_core::{GuestPhysAddr, GuestVirtAddr};
use introspect::windows::Arch;
use introspect::{PageTables, PagingMode};

/// A Windows dump that was opened.
pub struct WindowsDump {
    physical: Physical,
    description: Description,
    processors: Vec<Registers>,
}

/// Whether a file begins as a Windows dump.
pub fn is_dump(start: &[u8]) -> bool {
    start.get(..4) == Some(&SIGNATURE) && [Some(&VALID64[..]), Some(&VALID32)].contains(&start.get(4..8))
}

/// The two headers' common part.
pub(super) struct Header {
    pub arch: Option<Arch>,
    pub machine: u32,
    /// Bytes of it.
    pub length: u64,
    pub major: u32,
    pub minor: u32,
    pub root: u64,
    pub module_list: u64,
    pub process_list: u64,
    pub processors: u32,
    pub bugcheck: u32,
    pub parameters: [u64; 4],
    /// What a pointer's value is sign-extended from.
    pub debugger_data: u64,
    pub number_of_runs: u32,
    pub number_of_pages: u64,
    pub runs: Option<Vec<(u64, PageRange)>>,
    pub context: Vec<u8>,
    pub exception: (u32, u64),
    pub dump_type: u32,
    pub required_space: i64,
    pub system_time: i64,
    pub up_time: i64,
    pub comment: Vec<u8>,
    pub product_type: u32,
    pub suite_mask: u32,
    pub attributes: u32,
    /// PaeEnabled, where there is one and it was written.
    pub pae: Option<bool>,
}

impl Header {
    fn read(file: &FileBytes) -> Result<Header> {
        let start = file.array::<8>("the signature", 0)?;
        if start[..4] != SIGNATURE {
            return Err(Error::Unknown("it doesn't begin with PAGE".to_owned()));
        }
        if start[4..] == VALID64 {
            return Ok(Header::from64(&wire(file.array::<0x2000>("the header", 0)?)));
        }
        if start[4..] == VALID32 {
            return Ok(Header::from32(&wire(file.array::<0x1000>("the header", 0)?)));
        }
        Err(Error::damaged(
            4,
            "the header is neither of a 64-bit nor of a 32-bit dump",
        ))
    }

    fn from64(header: &Header64) -> Header {
        let machine = header.machine_image_type.get();
        Header {
            arch: (machine == u32::from(Arch::X64.machine())).then_some(Arch::X64),
            machine,
            length: size_of::<Header64>() as u64,
            major: header.major_version.get(),
            minor: header.minor_version.get(),
            root: header.directory_table_base.get(),
            module_list: header.ps_loaded_module_list.get(),
            process_list: header.ps_active_process_head.get(),
            processors: header.number_processors.get(),
            bugcheck: header.bug_check_code.get(),
            parameters: header.bug_check_parameters.map(|value| value.get()),
            debugger_data: header.kd_debugger_data_block.get(),
            number_of_runs: header.memory.number_of_runs.get(),
            number_of_pages: header.memory.number_of_pages.get(),
            runs: map::runs(
                header.memory.number_of_runs.get(),
                map::MOST_RUNS64,
                0x98,
                16,
                |index| {
                    let run = &header.memory.runs[index];
                    (run.base_page.get(), run.page_count.get())
                },
            ),
            context: header.context.to_vec(),
            exception: (header.exception.code.get(), header.exception.address.get()),
            dump_type: header.dump_type.get(),
            required_space: header.required_dump_space.get(),
            system_time: header.system_time.get(),
            up_time: header.system_up_time.get(),
            comment: header.comment.to_vec(),
            product_type: header.product_type.get(),
            suite_mask: header.suite_mask.get(),
            attributes: header.attributes.get(),
            pae: None,
        }
    }

    fn from32(header: &Header32) -> Header {
        let machine = header.machine_image_type.get();
        Header {
            arch: (machine == u32::from(Arch::X86.machine())).then_some(Arch::X86),
            machine,
            length: size_of::<Header32>() as u64,
            major: header.major_version.get(),
            minor: header.minor_version.get(),
            root: header.directory_table_base.get().into(),
            module_list: header.ps_loaded_module_list.get().into(),
            process_list: header.ps_active_process_head.get().into(),
            processors: header.number_processors.get(),
            bugcheck: header.bug_check_code.get(),
            parameters: header.bug_check_parameters.map(|value| value.get().into()),
            debugger_data: header.kd_debugger_data_block.get().into(),
            number_of_runs: header.memory.number_of_runs.get(),
            number_of_pages: header.memory.number_of_pages.get().into(),
            runs: map::runs(
                header.memory.number_of_runs.get(),
                map::MOST_RUNS32,
                0x6c,
                8,
                |index| {
                    let run = &header.memory.runs[index];
                    (run.base_page.get().into(), run.page_count.get().into())
                },
            ),
            context: header.context.to_vec(),
            exception: (header.exception.code.get(), header.exception.address.get().into()),
            dump_type: header.dump_type.get(),
            required_space: header.required_dump_space.get(),
            system_time: header.system_time.get(),
            up_time: header.system_up_time.get(),
            comment: header.comment.to_vec(),
            product_type: header.product_type.get(),
            suite_mask: header.suite_mask.get(),
            attributes: header.attributes.get(),
            pae: (header.pae_enabled <= 1).then_some(header.pae_enabled == 1),
        }
    }

    /// The paging modes that the root may be of, the likeliest first.
    fn modes(&self) -> &'static [PagingMode] {
        const BITS32: PagingMode = PagingMode::Bits32 { pse: true };
        match (self.arch, self.pae) {
            (Some(Arch::X86), Some(true)) => &[PagingMode::Pae],
            (Some(Arch::X86), Some(false)) => &[BITS32, PagingMode::Pae],
            (Some(Arch::X86), None) => &[PagingMode::Pae, BITS32],
            _ => &[PagingMode::Level4, PagingMode::Level5],
        }
    }
}

/// What was found of the kernel.
pub(super) struct Found {
    pub mode: PagingMode,
    pub root: GuestPhysAddr,
    /// The debugger data block, decoded.
    pub block: Option<Vec<u8>>,
}

/// Opens a dump of any type.
///
/// # Errors
/// [`Error::Unknown`] if it is none; [`Error::Truncated`] and [`Error::Damaged`], with the byte; [`Error::Unsupported`]
/// for encrypted ones.
pub fn open(file: FileBytes) -> Result<WindowsDump> {
    let header = Header::read(&file)?;
    if header.dump_type != 0
        && header.attributes & attributes::ENCRYPTED_DUMP_DATA != 0
        && header.attributes & attributes::DECRYPTED_DUMP == 0
        && header.attributes != super::header::FILLER
    {
        let why = "the dump is encrypted: decrypt it with the key that the machine was configured with";
        return Err(Error::Unsupported(why.to_owned()));
    }
    let at = header.length;
    let mut bitmap_facts = None;
    let mut mapped = |(map, facts): (Map, BitmapFacts)| {
        bitmap_facts = Some(facts);
        Pages::Mapped(map)
    };
    let (format, pages) = match header.dump_type {
        dump_type::FULL => {
            let Some(runs) = header.runs.clone() else {
                let at = if header.arch == Some(Arch::X86) {
                    0x64
                } else {
                    0x88
                };
                let why = format!(
                    "a full dump doesn't have {:#x} runs of memory",
                    header.number_of_runs
                );
                return Err(Error::damaged(at, why));
            };
            let map = map::consecutive(&file, runs.into_iter(), at)?;
            (Format::WindowsFull, Pages::Mapped(map))
        }
        dump_type::SUMMARY => {
            let size = if at == size_of::<Header64>() as u64 { 8 } else { 4 };
            (Format::WindowsSummary, mapped(map::summary(&file, at, size)?))
        }
        dump_type::TRIAGE => {
            let Some(arch) = header.arch else {
                let why = format!("small memory dumps of machine {:#x} aren't read", header.machine);
                return Err(Error::Unsupported(why));
            };
            let block = arch.address(header.debugger_data);
            let mode = header.modes()[0];
            (
                Format::WindowsTriage,
                Pages::Made(Triage::open(&file, at, arch, mode, block)?),
            )
        }
        dump_type::BITMAP_FULL => (Format::WindowsBitmapFull, mapped(map::bitmap(&file, at)?)),
        dump_type::BITMAP_KERNEL | dump_type::AUTOMATIC => {
            (Format::WindowsBitmapKernel, mapped(map::bitmap(&file, at)?))
        }
        kind @ (dump_type::LIVE_KERNEL | dump_type::LIVE_KERNEL_AND_USER | dump_type::LIVE_FULL) => {
            let map = map::live(&file, at, kind == dump_type::LIVE_FULL)?;
            (Format::WindowsLive, Pages::Mapped(map))
        }
        dump_type::HEADER => {
            let why = "a dump of type 3 is a header alone: it holds no memory";
            return Err(Error::Unsupported(why.to_owned()));
        }
        other => {
            let at = if at == size_of::<Header64>() as u64 {
                0xf98
            } else {
                0xf88
            };
            return Err(Error::damaged(
                at,
                format!("there is no type {other:#x} of dumps"),
            ));
        }
    };
    let ram = ram_of(&header, &pages);
    let physical = Physical { file, pages, ram };
    let found = find(&header, &physical);
    let processors = processors_of(&header, &physical, &found);
    let description = describe::describe(format, &header, &physical, &found, processors.len(), bitmap_facts);
    Ok(WindowsDump {
        physical,
        description,
        processors,
    })
}

/// The RAM that the machine had: the pages that are there, and with a bitmap also the header's runs.
fn ram_of(header: &Header, pages: &Pages) -> Vec<PageRange> {
    let map = match pages {
        Pages::Made(triage) => {
            let (first, count) = triage.extent();
            return vec![PageRange { first, count }];
        }
        Pages::Mapped(map) => map,
    };
    let mut ram = map.ranges();
    if matches!(map, Map::Bits(_))
        && let Some(runs) = &header.runs
    {
        let sane = |range: &PageRange| {
            let end = range.first.0.checked_add(range.count);
            end.is_some_and(|end| end <= super::bitmap::MAX_BITS)
        };
        let told: Vec<PageRange> = runs.iter().map(|(_, range)| *range).collect();
        if told.iter().all(sane) {
            ram.extend(told);
        }
    }
    PageRange::normalise(ram)
}

/// The page-table root, and what it leads to.
fn find(header: &Header, physical: &Physical) -> Found {
    let root = match &physical.pages {
        Pages::Made(triage) => triage.root(),
        _ => GuestPhysAddr(header.root),
    };
    let arch = header.arch.unwrap_or(Arch::X64);
    let modes = header.modes();
    for &mode in modes {
        // The low bits are a process-context identifier.
        let root = mode.root(root.0);
        let mut tables = PageTables::new(physical, mode, root);
        let address = arch.address(header.debugger_data);
        let mut start = [0; kdbg::HEADER];
        if tables.read(address, &mut start).is_err() {
            continue;
        }
        let Some(size) = DebuggerBlock::size(&start) else {
            continue;
        };
        let mut block = vec![0; size];
        if tables.read(address, &mut block).is_ok() {
            return Found {
                mode,
                root,
                block: Some(block),
            };
        }
    }
    // By the module list, then, which any dump should have.
    let list = arch.address(header.module_list);
    let maps = |mode: &&PagingMode| {
        PageTables::new(physical, **mode, GuestPhysAddr(header.root))
            .translate(list)
            .is_ok()
    };
    let mode = *modes.iter().find(maps).unwrap_or(&modes[0]);
    Found {
        mode,
        root: mode.root(root.0),
        block: None,
    }
}

/// The processors' registers: of each KPRCB, or the one CONTEXT in the header.
fn processors_of(header: &Header, physical: &Physical, found: &Found) -> Vec<Registers> {
    let Some(arch) = header.arch else {
        return Vec::new();
    };
    let mut tables = PageTables::new(physical, found.mode, found.root);
    let mut reader = Reader {
        arch,
        mode: found.mode,
        root: found.root,
        tables: &mut tables,
    };
    let block = found
        .block
        .as_ref()
        .and_then(|block| DebuggerBlock::new(arch, block));
    let all = block
        .map(|block| reader.all(&block, header.processors))
        .unwrap_or_default();
    if !all.is_empty() {
        return all;
    }
    Context::new(arch, &header.context)
        .map(|context| reader.registers(&context, None, None))
        .into_iter()
        .collect()
}

impl Image for WindowsDump {
    fn description(&self) -> &Description {
        &self.description
    }

    fn ram(&self) -> &[PageRange] {
        &self.physical.ram
    }

    fn read_page(&self, pfn: Pfn, page: &mut Page) -> Result<(), Absent> {
        self.physical.read_page(pfn, page)
    }

    fn processors(&self) -> &[Registers] {
        &self.processors
    }
}

/// An address as the header has it.
pub(super) fn address(header: &Header, value: u64) -> GuestVirtAddr {
    header.arch.unwrap_or(Arch::X64).address(value)
}
