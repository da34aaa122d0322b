//! Writing dumps of types 1, 5 and 6.

use super::bitmap::{self, BitmapHeader, PageSet};
use super::body;
use super::facts::Facts;
use super::header::{
    ExceptionRecord32, ExceptionRecord64, Header32, Header64, MAX_RUNS32, MAX_RUNS64, MemoryBlock32,
    MemoryBlock64, VALID32, VALID64, attributes, blank, dump_type,
};
use super::select;
use crate::pages::{PAGE_SIZE, PageRange};
use crate::source::{Observer, Source, Written};
use crate::{Error, Result, Sink};
use hv_core::VcpuId;
use introspect::windows::{Arch, Bugcheck, Guest, Windows, state};
use std::io;
use zerocopy::{FromZeros, IntoBytes};

/// STATUS_BREAKPOINT: the exception that a kernel reports in a dump.
const BREAKPOINT: u32 = 0x8000_0003;

/// Which dump is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Kind {
    /// Type 1: all RAM, in at most 42 runs (86 on x86). Every reader takes it.
    #[default]
    Full,
    /// Type 5: all RAM, in any number of runs.
    BitmapFull,
    /// Type 6: what the kernel has mapped.
    BitmapKernel,
}

/// What a dump is to be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Its type.
    pub kind: Kind,
    /// A line that debuggers show; at most 127 ASCII characters of it.
    pub comment: String,
    /// The guest ran on while it was written (what is given is a fork). The header says so, if there is no
    /// bugcheck.
    pub live: bool,
    /// The bugcheck, where the caller knows better than the guest's memory: at its very beginning.
    pub bugcheck: Option<Bugcheck>,
    /// The vCPU whose registers the header has; by default one that stands at KeBugCheckEx, or the first.
    pub vcpu: Option<VcpuId>,
}

/// Writes a dump of a Windows guest that stands still.
///
/// # Errors
/// [`Error::WrongGuest`] if the kernel isn't there any more; [`Error::Unsupported`] if the guest's RAM doesn't fit the
/// format; [`Error::Guest`], [`Error::Io`], [`Error::Cancelled`].
pub fn write(
    guest: Guest<'_>,
    windows: &Windows,
    options: &Options,
    sink: &mut dyn Sink,
    observer: &mut dyn Observer,
) -> Result<Written> {
    let mut source = Source::new(guest.memory);
    let facts = Facts::gather(guest, windows, options, &mut source)?;
    let mut written = Written {
        warnings: facts.warnings.clone(),
        ..Written::default()
    };
    let header_length = match facts.arch {
        Arch::X64 => size_of::<Header64>() as u64,
        Arch::X86 => size_of::<Header32>() as u64,
    };
    if options.kind == Kind::Full {
        let most = match facts.arch {
            Arch::X64 => MAX_RUNS64,
            Arch::X86 => MAX_RUNS32,
        };
        let runs = source.ram().len();
        if runs > most {
            return Err(Error::Unsupported(format!(
                "the guest's RAM lies in {runs} ranges, and a full dump (type 1) has room for {most}: use a full bitmap dump (type 5)"
            )));
        }
        let pages = source.page_count();
        written.length = header_length;
        let length = header_length + pages * PAGE_SIZE as u64;
        put(sink, &header(&facts, options, &source, length))?;
        body::write(
            &source,
            source.ram().iter().copied(),
            pages,
            sink,
            observer,
            &mut written,
        )?;
        return Ok(written);
    }

    let end = source.ram().last().map_or(0, |range| range.end().0);
    if end > bitmap::MAX_BITS {
        return Err(Error::Unsupported(format!(
            "the guest has memory above {:#x}, which readers of bitmap dumps don't take",
            bitmap::MAX_BITS * PAGE_SIZE as u64
        )));
    }
    let kernel_only = options.kind == Kind::BitmapKernel;
    let pages = if kernel_only {
        let roots = facts.roots.iter().copied();
        let (pages, sane) = select::kernel_pages(guest.memory, &source, facts.mode, roots);
        if !sane {
            let why = "the guest's page tables map far more than there is: all memory is in the dump";
            written.warnings.push(why.to_owned());
        }
        pages
    } else {
        let mut pages = PageSet::new(end);
        source.ram().iter().for_each(|range| pages.insert(*range));
        pages
    };
    let total = pages.count();
    written.excluded = source.page_count() - total;
    let bitmap_end = header_length + size_of::<BitmapHeader>() as u64 + pages.bits() / 8;
    let first_page = bitmap_end.next_multiple_of(PAGE_SIZE as u64);
    written.length = first_page;
    let length = first_page + total * PAGE_SIZE as u64;
    put(sink, &header(&facts, options, &source, length))?;
    let bitmap_header = BitmapHeader {
        signature: if kernel_only {
            bitmap::SUMMARY
        } else {
            bitmap::FULL
        },
        valid_dump: bitmap::VALID,
        dump_options: if kernel_only {
            bitmap::KERNEL_VA_VALID
        } else {
            bitmap::KERNEL_VA_VALID | bitmap::USER_VA_VALID
        }
        .into(),
        unused: [0; 20],
        first_page: first_page.into(),
        total_present_pages: total.into(),
        pages: pages.bits().into(),
    };
    put(sink, bitmap_header.as_bytes())?;
    put_bitmap(sink, &pages)?;
    sink.zeros(first_page - bitmap_end)
        .map_err(Error::io("writing the bitmap"))?;
    body::write(&source, pages.ranges(), total, sink, observer, &mut written)?;
    Ok(written)
}

fn put(sink: &mut dyn Sink, bytes: &[u8]) -> Result<()> {
    sink.write_all(bytes).map_err(Error::io("writing the header"))
}

fn put_bitmap(sink: &mut dyn Sink, pages: &PageSet) -> Result<()> {
    let mut write = || -> io::Result<()> {
        for words in pages.as_words().chunks(1 << 13) {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            sink.write_all(&bytes)?;
        }
        Ok(())
    };
    write().map_err(Error::io("writing the bitmap"))
}

/// The header's bytes, for a file of so many.
fn header(facts: &Facts, options: &Options, source: &Source<'_>, length: u64) -> Vec<u8> {
    match facts.arch {
        Arch::X64 => header64(facts, options, source, length).as_bytes().to_vec(),
        Arch::X86 => header32(facts, options, source, length).as_bytes().to_vec(),
    }
}

const fn type_of(kind: Kind) -> u32 {
    match kind {
        Kind::Full => dump_type::FULL,
        Kind::BitmapFull => dump_type::BITMAP_FULL,
        Kind::BitmapKernel => dump_type::BITMAP_KERNEL,
    }
}

fn attributes_of(facts: &Facts, options: &Options) -> u32 {
    let live = options.live && !facts.crashed;
    attributes::DUMP_IS_GENERATED_OFFLINE
        | if live {
            attributes::LIVE_DUMP_GENERATED_DUMP
        } else {
            0
        }
}

/// The comment's bytes: ASCII, a NUL at the end.
fn comment(text: &str) -> [u8; 128] {
    let mut bytes = [0; 128];
    for (place, character) in bytes.iter_mut().zip(text.chars().take(127)) {
        *place = if character.is_ascii() && !character.is_ascii_control() {
            character as u8
        } else {
            b'?'
        };
    }
    bytes
}

fn time(value: Option<u64>) -> i64 {
    value
        .and_then(|value| i64::try_from(value).ok())
        .unwrap_or_default()
}

fn header64(facts: &Facts, options: &Options, source: &Source<'_>, length: u64) -> Header64 {
    let mut header: Header64 = blank();
    header.valid_dump = VALID64;
    header.major_version = u32::from(facts.major).into();
    header.minor_version = facts.build.into();
    header.directory_table_base = facts.root.0.into();
    let pfn_database = facts.pfn_database();
    header.pfn_database = pfn_database.0.into();
    header.ps_loaded_module_list = facts.module_list.0.into();
    header.ps_active_process_head = facts.process_list.0.into();
    header.machine_image_type = u32::from(facts.arch.machine()).into();
    header.number_processors = facts.processors.into();
    header.bug_check_code = facts.bugcheck.code.into();
    header.padding1 = 0.into();
    header.bug_check_parameters = facts.bugcheck.parameters.map(Into::into);
    header.version_user = [0; 32];
    let block = facts.debugger_data.as_ref().map_or(0, |data| data.address.0);
    header.kd_debugger_data_block = block.into();
    header.memory = memory64(source.ram());
    header.context = [0; 3000];
    let context = state::context(facts.arch, &facts.registers);
    header.context[..context.len()].copy_from_slice(&context);
    header.exception = ExceptionRecord64 {
        code: BREAKPOINT.into(),
        address: facts.registers.rip.into(),
        ..ExceptionRecord64::new_zeroed()
    };
    header.dump_type = type_of(options.kind).into();
    header.padding2 = 0.into();
    header.required_dump_space = i64::try_from(length).unwrap_or(i64::MAX).into();
    let shared = facts.shared.as_ref();
    header.system_time = time(shared.map(|shared| shared.system_time)).into();
    header.comment = comment(&options.comment);
    header.system_up_time = time(shared.map(|shared| shared.interrupt_time)).into();
    header.mini_dump_fields = 0.into();
    header.secondary_data_state = 0.into();
    header.product_type = shared.map_or(0, |shared| shared.product_type).into();
    header.suite_mask = shared.map_or(0, |shared| shared.suite_mask).into();
    header.writer_status = 0.into();
    header.unused1 = 0;
    header.kd_secondary_version = facts.secondary_version;
    header.unused2 = [0; 2];
    header.attributes = attributes_of(facts, options).into();
    header.boot_id = facts.boot_id.into();
    header
}

fn header32(facts: &Facts, options: &Options, source: &Source<'_>, length: u64) -> Header32 {
    let low = |value: u64| (value as u32).into();
    let mut header: Header32 = blank();
    header.valid_dump = VALID32;
    header.major_version = u32::from(facts.major).into();
    header.minor_version = facts.build.into();
    header.directory_table_base = low(facts.root.0);
    header.pfn_database = low(facts.pfn_database().0);
    header.ps_loaded_module_list = low(facts.module_list.0);
    header.ps_active_process_head = low(facts.process_list.0);
    header.machine_image_type = u32::from(facts.arch.machine()).into();
    header.number_processors = facts.processors.into();
    header.bug_check_code = facts.bugcheck.code.into();
    header.bug_check_parameters = facts.bugcheck.parameters.map(low);
    header.version_user = [0; 32];
    header.pae_enabled = u8::from(facts.mode == introspect::PagingMode::Pae);
    header.kd_secondary_version = facts.secondary_version;
    header.spare = [0; 2];
    let block = facts.debugger_data.as_ref().map_or(0, |data| data.address.0);
    header.kd_debugger_data_block = low(block);
    header.memory = memory32(source.ram());
    header.context = [0; 1200];
    let context = state::context(facts.arch, &facts.registers);
    header.context[..context.len()].copy_from_slice(&context);
    header.exception = ExceptionRecord32 {
        code: BREAKPOINT.into(),
        address: low(facts.registers.rip),
        ..ExceptionRecord32::new_zeroed()
    };
    header.comment = comment(&options.comment);
    header.attributes = attributes_of(facts, options).into();
    header.boot_id = facts.boot_id.into();
    header.dump_type = type_of(options.kind).into();
    header.mini_dump_fields = 0.into();
    header.secondary_data_state = 0.into();
    let shared = facts.shared.as_ref();
    header.product_type = shared.map_or(0, |shared| shared.product_type).into();
    header.suite_mask = shared.map_or(0, |shared| shared.suite_mask).into();
    header.writer_status = 0.into();
    header.required_dump_space = i64::try_from(length).unwrap_or(i64::MAX).into();
    header.system_up_time = time(shared.map(|shared| shared.interrupt_time)).into();
    header.system_time = time(shared.map(|shared| shared.system_time)).into();
    header
}

/// The runs, or none where they don't fit: then the dump has a bitmap.
fn memory64(ram: &[PageRange]) -> MemoryBlock64 {
    let mut block: MemoryBlock64 = blank();
    let fits = ram.len() <= MAX_RUNS64;
    block.number_of_runs = if fits { ram.len() as u32 } else { 0 }.into();
    block.padding = 0.into();
    block.number_of_pages = ram.iter().map(|run| run.count).sum::<u64>().into();
    for (place, run) in block.runs.iter_mut().zip(ram).take(ram.len() * usize::from(fits)) {
        place.base_page = run.first.0.into();
        place.page_count = run.count.into();
    }
    block
}

fn memory32(ram: &[PageRange]) -> MemoryBlock32 {
    let mut block: MemoryBlock32 = blank();
    let fits = ram.len() <= MAX_RUNS32;
    block.number_of_runs = if fits { ram.len() as u32 } else { 0 }.into();
    block.number_of_pages = (ram.iter().map(|run| run.count).sum::<u64>() as u32).into();
    for (place, run) in block.runs.iter_mut().zip(ram).take(ram.len() * usize::from(fits)) {
        place.base_page = (run.first.0 as u32).into();
        place.page_count = (run.count as u32).into();
    }
    block
}
