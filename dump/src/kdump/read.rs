//! The reader: versions 0 to 6 of the format, of 64-bit and of 32-bit x86 machines.

use super::codec::{Decoder, flag_name};
use super::layout::{
    BLOCK, DESCRIPTOR_SIZE, Descriptor, HEADER_32_SIZE, HEADER_SIZE, Header, Header32, INCOMPLETE, SIGNATURE,
    SUB_HEADER_32_SIZE, SUB_HEADER_SIZE, SubHeader, SubHeader32,
};
use crate::image::{Absent, Description, Format, Image, Problem};
use crate::linux::{NOTES_LIMIT, Notes, Vmcoreinfo, registers};
use crate::pages::{PAGE_SIZE, Page, PageRange, Pfn};
use crate::spans::is_in;
use crate::{Error, FileBytes, Result};
use hv_core::regs::Registers;
use hv_core::{GuestPhysAddr, GuestVirtAddr};
use std::sync::{Mutex, PoisonError};

/// Machines with more pages (16 TiB) are refused.
const PAGE_LIMIT: u64 = 1 << 32;
/// More ranges of RAM are refused: no machine has so many.
const RANGE_LIMIT: usize = 1 << 20;
const BLOCK_BITS: u64 = BLOCK * 8;
/// Decompressed pages that are kept, each in the one place that its number allows.
const CACHED: usize = 128;

/// A kdump-compressed file that was opened.
pub struct KdumpImage {
    bytes: FileBytes,
    description: Description,
    ram: Vec<PageRange>,
    processors: Vec<Registers>,
    stored: Bitmap,
    descriptors_at: u64,
    cache: Mutex<Cache>,
}

/// The bitmap of the pages that are in the file.
struct Bitmap {
    at: u64,
    /// Of the machine.
    pages: u64,
    /// Set bits before each block.
    before: Vec<u64>,
}

struct Cache {
    decoder: Decoder,
    pages: Vec<Option<(Pfn, Box<Page>)>>,
}

/// Opens a kdump-compressed file; a flattened one must be [unflattened](FileBytes::unflatten) before.
///
/// # Errors
/// [`Error::Unknown`] if it is none; [`Error::Unsupported`] for a part of a split one, and for pages of another size;
/// [`Error::Truncated`], [`Error::Damaged`], [`Error::Io`].
pub fn open(bytes: FileBytes) -> Result<KdumpImage> {
    let (header, is_64_bit) = read_header(&bytes)?;
    let version = header.version.get();
    let sub = read_sub_header(&bytes, version, is_64_bit)?;
    if sub.split.get() != 0 {
        return Err(Error::Unsupported(
            "one part of a dump that was split; 'makedumpfile --reassemble' joins the parts".into(),
        ));
    }
    let pages = if version >= 6 {
        sub.max_mapnr_64.get()
    } else {
        header.max_mapnr.get().into()
    };
    if pages > PAGE_LIMIT {
        return Err(Error::Unsupported(format!(
            "a machine of {pages:#x} pages; {PAGE_LIMIT:#x} are read at most"
        )));
    }
    let bitmaps_at = BLOCK * (1 + u64::from(header.sub_header_size.get()));
    let bitmap_length = u64::from(header.bitmap_blocks.get()) / 2 * BLOCK;
    if pages > bitmap_length * 8 {
        return Err(Error::damaged(
            bitmaps_at,
            format!("the bitmaps have {bitmap_length:#x} bytes, which is too few for {pages:#x} pages"),
        ));
    }
    bytes.check("the bitmaps", bitmaps_at, 2 * bitmap_length)?;
    let (ram, stored, count) = read_bitmaps(&bytes, bitmaps_at, bitmap_length, pages)?;
    let descriptors_at = bitmaps_at + 2 * bitmap_length;
    bytes.check(
        "the page descriptors",
        descriptors_at,
        count * DESCRIPTOR_SIZE as u64,
    )?;
    let notes = read_notes(&bytes, &sub)?;
    let processors = registers(&notes, is_64_bit);
    let mut description = describe(&header, &sub, &notes, is_64_bit);
    description.pages = count;
    let total: u64 = ram.iter().map(|range| range.count).sum();
    description
        .fields
        .push(("pages left out".into(), (total - count).to_string()));
    if count < total {
        description.problems.push(Problem {
            what: format!("{} pages are not in the file", total - count),
            readers: Vec::new(),
        });
    }
    Ok(KdumpImage {
        bytes,
        description,
        ram,
        processors,
        stored,
        descriptors_at,
        cache: Mutex::new(Cache {
            decoder: Decoder::new(),
            pages: (0..CACHED).map(|_| None).collect(),
        }),
    })
}

/// The header, and whether it is a 64-bit machine's.
fn read_header(bytes: &FileBytes) -> Result<(Header, bool)> {
    let signature: [u8; 8] = bytes.array("the kdump header", 0)?;
    if signature != SIGNATURE {
        return Err(Error::Unknown("no kdump file".into()));
    }
    let wide: Header = zerocopy::transmute!(bytes.array::<HEADER_SIZE>("the kdump header", 0)?);
    let narrow: Header32 = zerocopy::transmute!(bytes.array::<HEADER_32_SIZE>("the kdump header", 0)?);
    let narrow = Header::from(narrow);
    let machine = text(&wide.utsname[4]);
    // In the names of x86: i386 to i686. Whatever they say, blocks have 4096 bytes.
    let says_32 = machine.starts_with('i') && machine.ends_with("86");
    let fits = |header: &Header| u64::from(header.block_size.get()) == BLOCK;
    match (fits(&wide), fits(&narrow)) {
        (true, false) => Ok((wide, true)),
        (true, true) if !says_32 => Ok((wide, true)),
        (_, true) => Ok((narrow, false)),
        (false, false) => Err(Error::Unsupported(format!(
            "blocks of {} bytes, on a machine '{machine}'; only x86 with blocks of {BLOCK} is read",
            wide.block_size
        ))),
    }
}

/// The sub header, with zeros for what the version doesn't have yet.
fn read_sub_header(bytes: &FileBytes, version: u32, is_64_bit: bool) -> Result<SubHeader> {
    let mut sub: SubHeader = if is_64_bit {
        zerocopy::transmute!(bytes.array::<SUB_HEADER_SIZE>("the kdump sub header", BLOCK)?)
    } else {
        let narrow: SubHeader32 =
            zerocopy::transmute!(bytes.array::<SUB_HEADER_32_SIZE>("the kdump sub header", BLOCK)?);
        narrow.into()
    };
    if version < 1 {
        sub.dump_level = 0.into();
    }
    if version < 2 {
        sub.split = 0.into();
    }
    if version < 3 {
        sub.vmcoreinfo_size = 0.into();
    }
    if version < 4 {
        sub.notes_size = 0.into();
    }
    Ok(sub)
}

fn read_notes(bytes: &FileBytes, sub: &SubHeader) -> Result<Notes> {
    let limited = |what: &'static str, at: u64, size: u64| {
        if size > NOTES_LIMIT {
            return Err(Error::damaged(
                at,
                format!("{what} has {size:#x} bytes; {NOTES_LIMIT:#x} are read at most"),
            ));
        }
        bytes.vec(what, at, size)
    };
    let notes = limited(
        "the part with the notes",
        sub.notes_at.get(),
        sub.notes_size.get(),
    )?;
    let mut notes = Notes::parse(&notes);
    if sub.vmcoreinfo_size.get() > 0 {
        notes.vmcoreinfo = limited("VMCOREINFO", sub.vmcoreinfo_at.get(), sub.vmcoreinfo_size.get())?;
    }
    Ok(notes)
}

/// RAM, the index of the second bitmap, and the number of its bits.
fn read_bitmaps(
    bytes: &FileBytes,
    at: u64,
    length: u64,
    pages: u64,
) -> Result<(Vec<PageRange>, Bitmap, u64)> {
    let blocks = pages.div_ceil(BLOCK_BITS);
    let mut ram = Ranges::default();
    let (mut before, mut count) = (Vec::with_capacity(blocks as usize), 0);
    for block in 0..blocks {
        let read = |bitmap: u64| -> Result<[u8; BLOCK as usize]> {
            let mut bits = bytes.array("a bitmap", at + bitmap * length + block * BLOCK)?;
            clear_from(&mut bits, pages - block * BLOCK_BITS);
            Ok(bits)
        };
        let (exists, stored) = (read(0)?, read(1)?);
        before.push(count);
        count += ones(&stored);
        let (exists, _) = exists.as_chunks::<8>();
        let (stored, _) = stored.as_chunks::<8>();
        for (word, (exists, stored)) in (0..).zip(exists.iter().zip(stored)) {
            // What is in the file was there.
            let bits = u64::from_le_bytes(*exists) | u64::from_le_bytes(*stored);
            ram.add(block * BLOCK_BITS + word * 64, bits);
        }
        if ram.done.len() > RANGE_LIMIT {
            return Err(Error::damaged(
                at,
                "the RAM has too many pieces to be a machine's",
            ));
        }
    }
    let bitmap = Bitmap {
        at: at + length,
        pages,
        before,
    };
    Ok((ram.finish(pages), bitmap, count))
}

fn ones(bits: &[u8]) -> u64 {
    let (words, rest) = bits.as_chunks::<8>();
    let ones = words
        .iter()
        .map(|word| u64::from(u64::from_le_bytes(*word).count_ones()));
    ones.sum::<u64>() + rest.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>()
}

/// Clears the bits from `end` on.
fn clear_from(bits: &mut [u8], end: u64) {
    let whole = (end / 8) as usize;
    if let Some(byte) = bits.get_mut(whole) {
        *byte &= (1 << (end % 8)) - 1;
        bits[whole + 1..].fill(0);
    }
}

/// Makes ranges of bits.
#[derive(Default)]
struct Ranges {
    done: Vec<PageRange>,
    open: Option<u64>,
}

impl Ranges {
    /// The next 64 bits, of the pages from `first` on.
    fn add(&mut self, first: u64, bits: u64) {
        match (bits, self.open) {
            (0, None) | (u64::MAX, Some(_)) => return,
            _ => {}
        }
        for n in 0..64 {
            match (bits >> n & 1 != 0, self.open) {
                (true, None) => self.open = Some(first + n),
                (false, Some(_)) => self.close(first + n),
                _ => {}
            }
        }
    }

    fn close(&mut self, end: u64) {
        if let Some(first) = self.open.take() {
            self.done.push(PageRange {
                first: Pfn(first),
                count: end - first,
            });
        }
    }

    /// What is still open ends at `end`.
    fn finish(mut self, end: u64) -> Vec<PageRange> {
        self.close(end);
        self.done
    }
}

impl Bitmap {
    /// The number of the page's descriptor, if it has one.
    fn rank(&self, bytes: &FileBytes, pfn: Pfn) -> Result<Option<u64>> {
        if pfn.0 >= self.pages {
            return Ok(None);
        }
        let (block, bit) = (pfn.0 / BLOCK_BITS, pfn.0 % BLOCK_BITS);
        let whole = (bit / 8) as usize;
        let mut bits = [0; BLOCK as usize];
        let bits = &mut bits[..=whole];
        bytes.read("a bitmap", self.at + block * BLOCK, bits)?;
        if bits[whole] >> (bit % 8) & 1 == 0 {
            return Ok(None);
        }
        clear_from(bits, bit);
        Ok(Some(self.before[block as usize] + ones(bits)))
    }
}

/// Text up to its NUL.
fn text(field: &[u8]) -> String {
    let text = field.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn describe(header: &Header, sub: &SubHeader, notes: &Notes, is_64_bit: bool) -> Description {
    let info = Vmcoreinfo::new(&notes.vmcoreinfo);
    let [sysname, nodename, release, version, machine, _] = header.utsname.map(|field| text(&field));
    let mut description = Description::new(Format::Kdump);
    description.arch = Some(if is_64_bit { "x64" } else { "x86" });
    let words = [&sysname, &release, &version].map(String::as_str);
    let os = words
        .into_iter()
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    description.os = match (release.is_empty(), info.release()) {
        (true, Some(release)) => Some(format!("Linux {release}")),
        (true, None) => None,
        (false, _) => Some(os),
    };
    description.time = Some(header.seconds.get())
        .filter(|&time| time > 0)
        .or(info.crash_time());
    description.crash = info.crash_time().map(|_| "kernel panic".to_string());
    description.root = info.root().map(GuestPhysAddr);
    description.kernel = info.symbol("_stext").map(GuestVirtAddr);
    let mut field = |name: &str, value: String| description.fields.push((name.to_string(), value));
    field("header version", header.version.to_string());
    field("compression", flag_name(header.status.get()).into());
    field("dump level", sub.dump_level.to_string());
    field("machine", machine.clone());
    field("host name", nodename);
    field("NT_PRSTATUS notes", notes.prstatus_count.to_string());
    field("QEMU notes", notes.qemu_count.to_string());
    field("VMCOREINFO", format!("{} bytes", notes.vmcoreinfo.len()));
    field("phys_base", format!("{:#x}", sub.phys_base));
    for key in ["BUILD-ID", "KERNELOFFSET"] {
        if let Some(value) = info.get(key) {
            field(key, value.to_string());
        }
    }
    let mut problem = |there: bool, what: String, readers: &[&'static str]| {
        if there {
            description.problems.push(Problem {
                what,
                readers: readers.to_vec(),
            });
        }
    };
    let no_info = notes.vmcoreinfo.is_empty();
    problem(
        no_info,
        "no VMCOREINFO: nothing tells which kernel it is".into(),
        if notes.qemu_count > 0 {
            &["drgn", "makedumpfile"]
        } else {
            &["crash", "drgn", "makedumpfile"]
        },
    );
    problem(
        sysname != "Linux" || release.is_empty() || version.is_empty() || machine.is_empty(),
        "the kernel's name, release, version or machine is not there".into(),
        &["drgn", "libkdumpfile"],
    );
    let phys_base = info.number("phys_base");
    problem(
        phys_base.is_some_and(|known| known != sub.phys_base.get().cast_signed()),
        format!(
            "phys_base is {:#x} in the header and {:#x} in VMCOREINFO",
            sub.phys_base.get(),
            phys_base.unwrap_or(0)
        ),
        &["makedumpfile"],
    );
    problem(
        header.status.get() & (super::codec::SNAPPY | super::codec::ZSTD) != 0,
        format!("pages are compressed by {}", flag_name(header.status.get())),
        &["makedumpfile of Debian"],
    );
    problem(
        header.status.get() & INCOMPLETE != 0,
        "the disk was full before the dump was complete".into(),
        &[],
    );
    problem(
        notes.prstatus_count == 0,
        "no processor's registers".into(),
        &["drgn", "crash's bt -a"],
    );
    problem(
        true,
        "a format that only tools for Linux crashes know".into(),
        &["gdb", "volatility3", "LeechCore"],
    );
    description
}

impl KdumpImage {
    fn load(&self, number: u64, decoder: &mut Decoder, page: &mut Page) -> Result<()> {
        let at = self.descriptors_at + number * DESCRIPTOR_SIZE as u64;
        let descriptor: Descriptor =
            zerocopy::transmute!(self.bytes.array::<DESCRIPTOR_SIZE>("a descriptor", at)?);
        let (offset, size) = (descriptor.offset.get(), descriptor.size.get() as usize);
        if offset == 0 {
            return Err(Error::damaged(at, "the page was lost when the disk was full"));
        }
        if size > PAGE_SIZE {
            return Err(Error::damaged(at, format!("{size:#x} bytes for one page")));
        }
        let mut stored = [0; PAGE_SIZE];
        let stored = &mut stored[..size];
        self.bytes.read("a page", offset, stored)?;
        let done = decoder.decode(descriptor.flags.get(), stored, page);
        done.map_err(|why| Error::damaged(offset, why))
    }
}

impl Image for KdumpImage {
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
        // What a panic of another thread left is a cache still.
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let Cache { decoder, pages } = &mut *cache;
        let slot = &mut pages[(pfn.0 % CACHED as u64) as usize];
        if let Some((_, cached)) = slot.as_ref().filter(|(cached, _)| *cached == pfn) {
            page.copy_from_slice(cached.as_slice());
            return Ok(());
        }
        let number = self.stored.rank(&self.bytes, pfn)?.ok_or(Absent::LeftOut)?;
        self.load(number, decoder, page)?;
        match slot {
            Some((cached, bytes)) => {
                *cached = pfn;
                bytes.copy_from_slice(page);
            }
            None => *slot = Some((pfn, Box::new(*page))),
        }
        Ok(())
    }

    fn processors(&self) -> &[Registers] {
        &self.processors
    }
}
