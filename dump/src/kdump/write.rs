//! The writer.

use super::codec::Compression;
use super::layout::{
    BLOCK, DESCRIPTOR_SIZE, Descriptor, HEADER_SIZE, Header, SIGNATURE, SUB_HEADER_SIZE, SubHeader, VERSION,
};
use super::pipeline::{CHUNK, Chunk, Packed, Pipeline};
use crate::flattened;
use crate::linux::{LinuxFacts, PageFilter, Utsname, build_notes, is_64_bit, vmcoreinfo_range};
use crate::output::Sink;
use crate::pages::{PAGE_SIZE, PageRange, Pfn};
use crate::source::{Observer, Source, Written};
use crate::{Error, Result};
use hv_core::regs::Registers;
use zerocopy::{FromZeros, IntoBytes};

const NAME: &str = "writing the kdump file";
/// Bits of a bitmap in one block.
const BLOCK_BITS: u64 = BLOCK * 8;

/// How a kdump file is written.
#[derive(Clone, Debug, Default)]
pub struct KdumpOptions {
    /// How pages are compressed.
    pub compression: Compression,
    /// Writes makedumpfile's flattened form, as is done anyway where the sink can't rewrite.
    pub flattened: bool,
    /// Threads that compress; one for each core without it.
    pub threads: Option<usize>,
}

/// Writes a kdump-compressed file. Memory is read once; one bit for each page of RAM is all that grows with it.
///
/// # Errors
/// The sink's, the guest's, [`Error::Cancelled`] by the observer; [`Error::WrongGuest`] for a guest that isn't in long
/// mode, or has no RAM.
pub fn write(
    source: &Source<'_>,
    processors: &[Registers],
    facts: &LinuxFacts,
    options: &KdumpOptions,
    filter: &mut dyn PageFilter,
    sink: &mut dyn Sink,
    observer: &mut dyn Observer,
) -> Result<Written> {
    if !is_64_bit(processors) {
        return Err(Error::WrongGuest(
            "kdump files are written of 64-bit guests only; the ELF format takes this one".into(),
        ));
    }
    let kept = Kept::ask(source.ram(), filter);
    let plan = Plan::new(source.ram(), &kept, processors, facts, options, filter.level())?;
    let mut out = Out::new(sink, options.flattened)?;
    out.append(&plan.head)?;
    for bits in [None, Some(&kept)] {
        for block in 0..plan.bitmap_blocks {
            out.append(&bitmap_block(block, source.ram(), bits))?;
        }
    }
    let zero_page = plan.descriptors_at + kept.count * DESCRIPTOR_SIZE as u64;
    out.skip(zero_page)?;
    // One page of zeros for all.
    out.append(&[0; PAGE_SIZE])?;

    let mut table = Table {
        next: plan.descriptors_at,
        zero_page,
        zero_pages: 0,
        flag: options.compression.flag(),
        bytes: Vec::new(),
    };
    let total = source.page_count();
    std::thread::scope(|scope| {
        let mut pipeline = Pipeline::start(scope, options.compression, options.threads)?;
        let mut done = |chunk: &Chunk| table.add(chunk, &mut out);
        let mut chunk = pipeline.chunk(&mut done)?;
        let mut looked_at = 0;
        for (first, count, keep) in kept.runs(source.ram()) {
            let mut first = first;
            let end = Pfn(first.0 + count);
            while first < end {
                let room = (CHUNK - chunk.pages.len() / PAGE_SIZE) as u64;
                let now = if keep {
                    room.min(end.0 - first.0)
                } else {
                    end.0 - first.0
                };
                if keep {
                    let at = chunk.pages.len();
                    chunk.pages.resize(at + now as usize * PAGE_SIZE, 0);
                    source.read(first, &mut chunk.pages[at..])?;
                }
                (first, looked_at) = (Pfn(first.0 + now), looked_at + now);
                if chunk.pages.len() == CHUNK * PAGE_SIZE {
                    pipeline.send(chunk)?;
                    chunk = pipeline.chunk(&mut done)?;
                    if observer.progress(looked_at, total).is_break() {
                        return Err(Error::Cancelled);
                    }
                }
            }
        }
        pipeline.send(chunk)?;
        pipeline.finish(&mut done)?;
        if observer.progress(total, total).is_break() {
            return Err(Error::Cancelled);
        }
        Ok(())
    })?;
    let (zero_pages, length) = (table.zero_pages, out.finish()?);
    Ok(Written {
        length,
        pages: kept.count,
        zero_pages,
        excluded: total - kept.count,
        warnings: plan.warnings,
    })
}

/// One bit for each page of RAM, in order: whether it goes into the file.
struct Kept {
    bits: Vec<u64>,
    count: u64,
    /// Number of pages before each range.
    starts: Vec<u64>,
}

impl Kept {
    fn ask(ram: &[PageRange], filter: &mut dyn PageFilter) -> Kept {
        let total: u64 = ram.iter().map(|range| range.count).sum();
        let mut kept = Kept {
            bits: vec![0; total.div_ceil(64) as usize],
            count: 0,
            starts: Vec::with_capacity(ram.len()),
        };
        let mut number = 0;
        for range in ram {
            kept.starts.push(number);
            for pfn in (range.first.0..range.end().0).map(Pfn) {
                if filter.keep(pfn) {
                    kept.bits[(number / 64) as usize] |= 1 << (number % 64);
                    kept.count += 1;
                }
                number += 1;
            }
        }
        kept
    }

    fn has(&self, number: u64) -> bool {
        self.bits[(number / 64) as usize] >> (number % 64) & 1 != 0
    }

    /// Runs of pages that are all kept or all not.
    fn runs<'a>(&'a self, ram: &'a [PageRange]) -> impl Iterator<Item = (Pfn, u64, bool)> + 'a {
        ram.iter().zip(&self.starts).flat_map(move |(range, &start)| {
            let mut at = 0;
            std::iter::from_fn(move || {
                let from = at;
                let keep = (from < range.count).then(|| self.has(start + from))?;
                while at < range.count && self.has(start + at) == keep {
                    at += 1;
                }
                Some((Pfn(range.first.0 + from), at - from, keep))
            })
        })
    }
}

/// A block of the bitmap of RAM, or of what is kept of it.
fn bitmap_block(block: u64, ram: &[PageRange], kept: Option<&Kept>) -> [u8; BLOCK as usize] {
    let mut bytes = [0; BLOCK as usize];
    let (start, end) = (block * BLOCK_BITS, (block + 1) * BLOCK_BITS);
    let first = ram.partition_point(|range| range.end().0 <= start);
    for (n, range) in ram
        .iter()
        .enumerate()
        .skip(first)
        .take_while(|(_, range)| range.first.0 < end)
    {
        for pfn in range.first.0.max(start)..range.end().0.min(end) {
            if kept.is_none_or(|kept| kept.has(kept.starts[n] + pfn - range.first.0)) {
                bytes[((pfn - start) / 8) as usize] |= 1 << (pfn % 8);
            }
        }
    }
    bytes
}

/// Everything before the bitmaps, and where things are.
struct Plan {
    head: Vec<u8>,
    /// Of one bitmap.
    bitmap_blocks: u64,
    descriptors_at: u64,
    warnings: Vec<String>,
}

impl Plan {
    fn new(
        ram: &[PageRange],
        kept: &Kept,
        processors: &[Registers],
        facts: &LinuxFacts,
        options: &KdumpOptions,
        level: u32,
    ) -> Result<Plan> {
        let last = ram
            .last()
            .ok_or_else(|| Error::WrongGuest("the machine has no RAM".into()))?;
        let max_mapnr = last.end().0;
        let bitmap_blocks = max_mapnr.div_ceil(BLOCK_BITS);
        let both = u32::try_from(2 * bitmap_blocks);
        let both = both.map_err(|_| Error::WrongGuest("the machine's memory reaches too far".into()))?;
        let mut warnings = Vec::new();
        if facts.vmcoreinfo.is_none() {
            warnings.push("no VMCOREINFO was found: drgn and makedumpfile will refuse the file".to_string());
        }
        if facts.utsname.is_none() {
            warnings.push("the kernel's name and version are not known: they are partly made up".into());
        }
        let notes = build_notes(processors, facts, true);
        let notes_at = BLOCK as usize + SUB_HEADER_SIZE;
        let data_at = (notes_at + notes.len()).next_multiple_of(BLOCK as usize);

        let mut header = Header::new_zeroed();
        (header.signature, header.version) = (SIGNATURE, VERSION.into());
        header.utsname = utsname(facts);
        header.seconds = facts.known_crash_time().unwrap_or(0).into();
        (header.status, header.block_size) = (options.compression.flag().into(), (BLOCK as u32).into());
        header.sub_header_size = (data_at as u32 / BLOCK as u32 - 1).into();
        header.bitmap_blocks = both.into();
        header.max_mapnr = u32::try_from(max_mapnr).unwrap_or(u32::MAX).into();
        header.current_cpu = facts.crashed_processor.unwrap_or(0).into();
        header.cpu_count = (processors.len().max(1) as u32).into();

        let mut sub = SubHeader::new_zeroed();
        // makedumpfile takes this one to filter the file again.
        sub.phys_base = facts.known_phys_base().unwrap_or(0).cast_unsigned().into();
        sub.dump_level = level.into();
        if let Some(text) = vmcoreinfo_range(&notes) {
            sub.vmcoreinfo_at = ((notes_at + text.start) as u64).into();
            sub.vmcoreinfo_size = (text.len() as u64).into();
        }
        (sub.notes_at, sub.notes_size) = ((notes_at as u64).into(), (notes.len() as u64).into());
        sub.max_mapnr_64 = max_mapnr.into();
        sub.end_pfn_64 = max_mapnr.into();

        let mut head = vec![0; data_at];
        head[..HEADER_SIZE].copy_from_slice(header.as_bytes());
        head[BLOCK as usize..notes_at].copy_from_slice(sub.as_bytes());
        head[notes_at..notes_at + notes.len()].copy_from_slice(&notes);
        let descriptors_at = data_at as u64 + 2 * bitmap_blocks * BLOCK;
        debug_assert!(kept.count <= ram.iter().map(|range| range.count).sum());
        Ok(Plan {
            head,
            bitmap_blocks,
            descriptors_at,
            warnings,
        })
    }
}

/// libkdumpfile, and drgn with it, refuse a file in which one of these is empty.
fn utsname(facts: &LinuxFacts) -> Utsname {
    let mut names = facts.utsname.unwrap_or([[0; 65]; 6]);
    let info = facts.parsed_vmcoreinfo();
    let defaults = [
        "Linux",
        "(none)",
        info.release().unwrap_or("unknown"),
        "unknown",
        "x86_64",
        "(none)",
    ];
    for (name, default) in names.iter_mut().zip(defaults) {
        if name[0] == 0 {
            let length = default.len().min(64);
            name[..length].copy_from_slice(&default.as_bytes()[..length]);
        }
        name[64] = 0;
    }
    names
}

/// The descriptors, chunk by chunk.
struct Table {
    next: u64,
    zero_page: u64,
    zero_pages: u64,
    flag: u32,
    bytes: Vec<u8>,
}

impl Table {
    fn add(&mut self, chunk: &Chunk, out: &mut Out<'_>) -> Result<()> {
        self.bytes.clear();
        let mut at = out.position;
        for &packed in &chunk.packed {
            let (offset, size, flags) = match packed {
                Packed::Zero => (self.zero_page, PAGE_SIZE as u32, 0),
                Packed::Raw => (at, PAGE_SIZE as u32, 0),
                Packed::Compressed(length) => (at, length, self.flag),
            };
            self.zero_pages += u64::from(packed == Packed::Zero);
            at += u64::from(packed.length());
            let descriptor = Descriptor {
                offset: offset.into(),
                size: size.into(),
                flags: flags.into(),
                page_flags: 0.into(),
            };
            self.bytes.extend(descriptor.as_bytes());
        }
        out.append(&chunk.data)?;
        out.rewrite(self.next, &self.bytes)?;
        self.next += self.bytes.len() as u64;
        Ok(())
    }
}

/// A sink in which descriptors are put before data that is there already.
struct Out<'a> {
    sink: &'a mut dyn Sink,
    flattened: bool,
    position: u64,
}

impl<'a> Out<'a> {
    fn new(sink: &'a mut dyn Sink, flattened: bool) -> Result<Out<'a>> {
        let flattened = flattened || !sink.can_rewrite();
        if flattened {
            sink.write_all(&flattened::start()).map_err(Error::io(NAME))?;
        }
        Ok(Out {
            sink,
            flattened,
            position: 0,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.put(self.position, bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Leaves zeros up to a place.
    fn skip(&mut self, to: u64) -> Result<()> {
        if !self.flattened {
            self.sink.zeros(to - self.position).map_err(Error::io(NAME))?;
        }
        self.position = to;
        Ok(())
    }

    fn rewrite(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        if self.flattened {
            return self.put(at, bytes);
        }
        self.sink.rewrite(at, bytes).map_err(Error::io(NAME))
    }

    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.flattened {
            let header = flattened::record(at, bytes.len() as u64);
            self.sink.write_all(&header).map_err(Error::io(NAME))?;
        }
        self.sink.write_all(bytes).map_err(Error::io(NAME))
    }

    /// The length of the file, not of its flattened form.
    fn finish(&mut self) -> Result<u64> {
        if self.flattened {
            self.sink.write_all(&flattened::end()).map_err(Error::io(NAME))?;
        }
        self.sink.flush().map_err(Error::io(NAME))?;
        Ok(self.position)
    }
}
