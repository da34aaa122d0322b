//! The reader: of our own files and of those of QEMU, the kernel's kdump, makedumpfile -E, VirtualBox.

use super::layout::{
    CLASS_32, CLASS_64, EM_386, EM_X86_64, ET_CORE, Header32, Header64, LITTLE_ENDIAN, MAGIC, PN_XNUM,
    PT_LOAD, PT_NOTE, Program32, Program64, SH_INFO_32, SH_INFO_64,
};
use crate::image::{Absent, Description, Format, Image, Problem};
use crate::linux::{NOTES_LIMIT, Notes, Vmcoreinfo, registers};
use crate::pages::{PAGE_SIZE, Page, PageRange, Pfn};
use crate::spans::{Span, Spans, is_in, pages};
use crate::{Error, FileBytes, Result};
use hv_core::GuestPhysAddr;
use hv_core::regs::Registers;
use zerocopy::FromBytes;

/// More program headers are refused: 56 MiB of them.
const HEADER_LIMIT: u64 = 1 << 20;
/// Physical addresses have no more bits (SDM vol. 3A, 4.1.4).
const PHYSICAL_LIMIT: u64 = 1 << 52;
/// LeechCore looks no further for program headers.
const LEECHCORE_HEADERS: u64 = 0x2000;

/// An ELF vmcore that was opened.
pub struct ElfImage {
    bytes: FileBytes,
    description: Description,
    ram: Vec<PageRange>,
    spans: Spans,
    processors: Vec<Registers>,
}

/// Opens an ELF vmcore.
///
/// # Errors
/// [`Error::Unknown`] if it is no ELF file, [`Error::Unsupported`] for a core that isn't of an x86 machine's memory;
/// [`Error::Truncated`], [`Error::Damaged`], [`Error::Io`].
pub fn open(bytes: FileBytes) -> Result<ElfImage> {
    let header = file_header(&bytes)?;
    let narrow = header.ident[4] == CLASS_32;
    let segments = segments(&bytes, &header, narrow)?;
    let notes = read_notes(&bytes, &segments)?;
    let is_64_bit = header.machine.get() == EM_X86_64;
    let memory = Memory::of(&bytes, &segments, !notes.virtualbox)?;
    let processors = registers(&notes, is_64_bit);
    let description = describe(&header, &segments, &notes, &memory, is_64_bit);
    Ok(ElfImage {
        bytes,
        description,
        ram: memory.ram,
        spans: memory.spans,
        processors,
    })
}

fn file_header(bytes: &FileBytes) -> Result<Header64> {
    let ident: [u8; 16] = bytes.array("the ELF header", 0)?;
    if ident[..4] != MAGIC {
        return Err(Error::Unknown("no ELF file".into()));
    }
    if ident[5] != LITTLE_ENDIAN {
        return Err(Error::Unsupported(
            "a big-endian ELF file is not of an x86 machine".into(),
        ));
    }
    let header: Header64 = match ident[4] {
        CLASS_64 => zerocopy::transmute!(bytes.array::<64>("the ELF header", 0)?),
        CLASS_32 => {
            let header: Header32 = zerocopy::transmute!(bytes.array::<52>("the ELF header", 0)?);
            header.into()
        }
        class => return Err(Error::damaged(4, format!("no ELF file has class {class}"))),
    };
    if header.kind.get() != ET_CORE {
        return Err(Error::Unsupported(format!(
            "an ELF file of type {}, which is no core",
            header.kind
        )));
    }
    if !matches!(header.machine.get(), EM_386 | EM_X86_64) {
        return Err(Error::Unsupported(format!(
            "an ELF core of machine type {}, which is no x86",
            header.machine
        )));
    }
    Ok(header)
}

/// All program headers.
fn segments(bytes: &FileBytes, header: &Header64, narrow: bool) -> Result<Vec<Program64>> {
    let (size, sh_info) = if narrow {
        (size_of::<Program32>(), SH_INFO_32)
    } else {
        (size_of::<Program64>(), SH_INFO_64)
    };
    let count: u64 = match header.phnum.get() {
        PN_XNUM if header.shoff.get() != 0 => {
            let at = header.shoff.get().saturating_add(sh_info);
            u32::from_le_bytes(bytes.array("the first section header", at)?).into()
        }
        number => number.into(),
    };
    if usize::from(header.phentsize.get()) != size {
        return Err(Error::damaged(
            0,
            format!(
                "program headers have {} bytes and should have {size}",
                header.phentsize
            ),
        ));
    }
    if count > HEADER_LIMIT {
        return Err(Error::Unsupported(format!(
            "{count} program headers; {HEADER_LIMIT} are read at most"
        )));
    }
    let table = bytes.vec("the program headers", header.phoff.get(), count * size as u64)?;
    let damaged = |_| Error::damaged(header.phoff.get(), "the program headers have no even size");
    if narrow {
        let table = <[Program32]>::ref_from_bytes(&table).map_err(|error| damaged(error.to_string()))?;
        Ok(table.iter().map(|&segment| segment.into()).collect())
    } else {
        let table = <[Program64]>::ref_from_bytes(&table).map_err(|error| damaged(error.to_string()))?;
        Ok(table.to_vec())
    }
}

fn read_notes(bytes: &FileBytes, segments: &[Program64]) -> Result<Notes> {
    let mut all = Vec::new();
    for segment in segments.iter().filter(|segment| segment.kind == PT_NOTE) {
        let length = segment.filesz.get();
        if length.saturating_add(all.len() as u64) > NOTES_LIMIT {
            return Err(Error::damaged(
                segment.offset.get(),
                format!("{length} bytes of notes; {NOTES_LIMIT} are read at most"),
            ));
        }
        all.extend(bytes.vec("the notes", segment.offset.get(), length)?);
        all.resize(all.len().next_multiple_of(4), 0);
    }
    Ok(Notes::parse(&all))
}

/// Where memory is.
struct Memory {
    spans: Spans,
    /// That of which nothing is in the file too.
    ram: Vec<PageRange>,
    /// Bytes of segments that aren't in the file.
    left_out: u64,
}

impl Memory {
    fn of(bytes: &FileBytes, segments: &[Program64], whole: bool) -> Result<Memory> {
        let loads = segments.iter().filter(|segment| segment.kind == PT_LOAD);
        let loads: Vec<&Program64> = loads
            .filter(|load| load.memsz.get() > 0 || load.filesz.get() > 0)
            .collect();
        if loads.is_empty() {
            return Err(Error::Unsupported("an ELF core without memory".into()));
        }
        // A process has no physical addresses.
        if whole && loads.len() > 1 && loads.iter().all(|load| load.paddr == 0) {
            return Err(Error::Unsupported(
                "an ELF core of a process, not of a machine: no segment has a physical address".into(),
            ));
        }
        let (mut spans, mut ram) = (Vec::with_capacity(loads.len()), Vec::with_capacity(loads.len()));
        let mut left_out = 0_u64;
        for load in loads {
            let [start, offset, in_file] = [load.paddr, load.offset, load.filesz].map(|value| value.get());
            // /proc/kcore's mark of memory that has none.
            if start == u64::MAX {
                continue;
            }
            bytes.check("a segment", offset, in_file)?;
            let length = load.memsz.get().max(in_file);
            let end = start.checked_add(length).filter(|&end| end <= PHYSICAL_LIMIT);
            let end = end.ok_or_else(|| {
                Error::damaged(
                    offset,
                    format!("a segment of {length:#x} bytes at {start:#x} passes the end of physical memory"),
                )
            })?;
            left_out = left_out.saturating_add(length - in_file);
            ram.push(pages(start, end));
            if in_file > 0 {
                spans.push(Span {
                    start,
                    end: start + in_file,
                    offset,
                });
            }
        }
        Ok(Memory {
            spans: Spans::new(spans),
            ram: PageRange::normalise(ram),
            left_out,
        })
    }
}

fn describe(
    header: &Header64,
    segments: &[Program64],
    notes: &Notes,
    memory: &Memory,
    is_64_bit: bool,
) -> Description {
    let info = Vmcoreinfo::new(&notes.vmcoreinfo);
    let mut description = Description::new(Format::Elf);
    description.arch = Some(if is_64_bit { "x64" } else { "x86" });
    description.os = info.release().map(|release| format!("Linux {release}"));
    description.time = info.crash_time();
    description.crash = info.crash_time().map(|_| "kernel panic".to_string());
    description.root = info.root().map(GuestPhysAddr);
    description.kernel = info.symbol("_stext").map(hv_core::GuestVirtAddr);
    description.pages = memory.spans.ram().iter().map(|range| range.count).sum();
    let mut field = |name: &str, value: String| description.fields.push((name.to_string(), value));
    field(
        "segments",
        segments
            .iter()
            .filter(|segment| segment.kind == PT_LOAD)
            .count()
            .to_string(),
    );
    field("NT_PRSTATUS notes", notes.prstatus_count.to_string());
    field("QEMU notes", notes.qemu_count.to_string());
    field("VMCOREINFO", format!("{} bytes", notes.vmcoreinfo.len()));
    for key in ["BUILD-ID", "KERNELOFFSET", "NUMBER(phys_base)"] {
        if let Some(value) = info.get(key) {
            field(key, value.to_string());
        }
    }
    description.problems = problems(header, segments, notes, memory);
    description
}

fn problems(header: &Header64, segments: &[Program64], notes: &Notes, memory: &Memory) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut problem = |there: bool, what: String, readers: &[&'static str]| {
        if there {
            problems.push(Problem {
                what,
                readers: readers.to_vec(),
            });
        }
    };
    let headers_end = header.phoff.get() + segments.len() as u64 * u64::from(header.phentsize.get());
    let no_info = notes.vmcoreinfo.is_empty();
    problem(
        no_info && notes.qemu_count == 0,
        "neither VMCOREINFO nor notes of QEMU: nothing tells where the kernel is".into(),
        &["crash", "drgn", "makedumpfile"],
    );
    problem(
        no_info && notes.qemu_count > 0,
        "no VMCOREINFO: nothing tells which kernel it is".into(),
        &["drgn", "makedumpfile"],
    );
    problem(
        notes.prstatus_count == 0,
        "no NT_PRSTATUS: nothing tells the processors' registers".into(),
        &["gdb", "drgn"],
    );
    problem(
        header.phoff.get() != u64::from(header.ehsize.get()) || header.phoff.get() != 64,
        format!("the program headers begin at byte {} and not at 64", header.phoff),
        &["makedumpfile"],
    );
    problem(
        header.phnum.get() == PN_XNUM,
        "more program headers than the ELF header can count".into(),
        &["volatility3", "LeechCore"],
    );
    problem(
        headers_end > LEECHCORE_HEADERS,
        format!("the program headers pass byte {LEECHCORE_HEADERS:#x}"),
        &["LeechCore"],
    );
    problem(
        segments.first().is_some_and(|segment| segment.kind != PT_NOTE),
        "the first segment is not the notes".into(),
        &["crash"],
    );
    let first = segments.iter().find(|segment| segment.kind == PT_LOAD);
    problem(
        first.is_some_and(|load| load.align.get() != 0 && load.offset.get() % PAGE_SIZE as u64 == 0),
        "segments with an alignment, and data that begins at a page: taken for a netdump".into(),
        &["crash"],
    );
    problem(
        memory.spans.overlapped,
        "segments overlap, as in a file that is meant for gdb".into(),
        &["volatility3", "LeechCore"],
    );
    problem(
        memory.left_out > 0,
        format!(
            "{} pages are not in the file, because they were zero or unwanted: they read as zeros",
            memory.left_out / PAGE_SIZE as u64
        ),
        &["volatility3", "LeechCore"],
    );
    problems
}

impl Image for ElfImage {
    fn description(&self) -> &Description {
        &self.description
    }

    fn ram(&self) -> &[PageRange] {
        &self.ram
    }

    fn read_page(&self, pfn: Pfn, page: &mut Page) -> std::result::Result<(), Absent> {
        if !is_in(&self.ram, pfn) {
            return Err(Absent::NoMemory);
        }
        // As ELF has it: memory that isn't in the file is zero.
        Ok(self.spans.fill(&self.bytes, pfn, page)?)
    }

    fn processors(&self) -> &[Registers] {
        &self.processors
    }
}
