//! The writer.

use super::layout::{
    ALL_RIGHTS, CLASS_32, CLASS_64, EM_386, EM_X86_64, ET_CORE, Header32, Header64, LITTLE_ENDIAN, MAGIC,
    PT_LOAD, PT_NOTE, Program64, VERSION,
};
use crate::copy::Copier;
use crate::linux::{KERNEL_MAP, KernelImage, LinuxFacts, build_notes, is_64_bit};
use crate::output::Sink;
use crate::pages::{PAGE_SIZE, PageRange};
use crate::source::{Observer, Source, Written};
use crate::{Error, Result};
use hv_core::GuestVirtAddr;
use hv_core::regs::Registers;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32};

/// What the segments say of virtual addresses. Physical ones are right in each case.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum VirtualAddresses {
    /// The kernel's direct map, where it is known; else the physical ones.
    #[default]
    DirectMap,
    /// The physical ones.
    Physical,
    /// The direct map, and a further segment with the kernel's image, so that gdb reads its variables and stacks.
    /// volatility3 and LeechCore refuse such a file, because two segments overlap.
    ForGdb,
}

/// How an ELF dump is written.
#[derive(Clone, Debug, Default)]
pub struct ElfOptions {
    /// What the segments say of virtual addresses.
    pub addresses: VirtualAddresses,
}

/// The image is not taken to be longer than this where nothing tells its end.
const IMAGE_GUESS: u64 = 64 << 20;
const NAME: &str = "writing the ELF dump";

/// Writes an ELF vmcore: pages of zeros as holes where the sink can. Memory is read once, front to back.
///
/// # Errors
/// The sink's, the guest's, [`Error::Cancelled`] by the observer; [`Error::WrongGuest`] for a machine with no RAM or more
/// blocks of it than ELF counts.
pub fn write(
    source: &Source<'_>,
    processors: &[Registers],
    facts: &LinuxFacts,
    options: &ElfOptions,
    sink: &mut dyn Sink,
    observer: &mut dyn Observer,
) -> Result<Written> {
    let is_64_bit = is_64_bit(processors);
    let plan = Plan::new(source.ram(), processors, facts, options, is_64_bit)?;
    sink.write_all(&plan.head).map_err(Error::io(NAME))?;
    let mut copier = Copier::new(source, observer);
    for range in source.ram() {
        copier.copy(*range, sink, NAME)?;
    }
    sink.flush().map_err(Error::io(NAME))?;
    Ok(Written {
        length: plan.head.len() as u64 + copier.done * PAGE_SIZE as u64,
        pages: copier.done,
        zero_pages: copier.zero_pages,
        excluded: 0,
        warnings: plan.warnings,
    })
}

/// Everything before the data.
struct Plan {
    head: Vec<u8>,
    warnings: Vec<String>,
}

impl Plan {
    fn new(
        ram: &[PageRange],
        processors: &[Registers],
        facts: &LinuxFacts,
        options: &ElfOptions,
        is_64_bit: bool,
    ) -> Result<Plan> {
        let end = ram
            .last()
            .ok_or_else(|| Error::WrongGuest("the machine has no RAM".into()))?;
        let mut warnings = Vec::new();
        if facts.vmcoreinfo.is_none() {
            warnings.push("no VMCOREINFO was found: drgn and makedumpfile will refuse the file".to_string());
        }
        let image = match options.addresses {
            VirtualAddresses::ForGdb => {
                let image = image_segment(ram, facts);
                if image.is_none() {
                    warnings.push("the kernel's image was not found: gdb will not see its variables".into());
                }
                image
            }
            _ => None,
        };
        let direct_map = match options.addresses {
            VirtualAddresses::Physical => None,
            _ => facts.page_offset_base,
        };
        let notes = build_notes(processors, facts, is_64_bit);
        let count = 1 + ram.len() + usize::from(image.is_some());
        let number = u16::try_from(count)
            .ok()
            .filter(|&count| count < super::layout::PN_XNUM);
        let number = number
            .ok_or_else(|| Error::WrongGuest(format!("the machine has {} blocks of RAM", ram.len())))?;
        // Narrow only where each address and each place in the file fits.
        let narrow = !is_64_bit && direct_map.is_none() && image.is_none() && fits_32(ram, end, notes.len());
        let (header_size, entry_size) = if narrow { (52, 32) } else { (64, 56) };
        let notes_at = header_size + entry_size * count;
        let data_at = (notes_at + notes.len()).next_multiple_of(PAGE_SIZE);

        let mut segments = vec![note_segment(notes_at, notes.len())];
        let mut at = data_at as u64;
        for range in ram {
            let physical = range.first.address().0;
            let virtual_address = direct_map.map_or(physical, |map| map.0.wrapping_add(physical));
            let length = range.count * PAGE_SIZE as u64;
            segments.push(load_segment(at, virtual_address, physical, length));
            at += length;
        }
        if let Some((image, physical)) = image {
            let from = segments.iter().find(|segment| {
                segment.kind == PT_LOAD
                    && (segment.paddr.get()..segment.paddr.get() + segment.filesz.get()).contains(&physical)
            });
            if let Some(offset) = from.map(|from| from.offset.get() + physical - from.paddr.get()) {
                segments.insert(1, load_segment(offset, image.start.0, physical, image.length));
            }
        }

        let machine = if is_64_bit { EM_X86_64 } else { EM_386 };
        let mut head = file_header(narrow, machine, number);
        for segment in &segments {
            match segment.narrow().filter(|_| narrow) {
                Some(segment) => head.extend(segment.as_bytes()),
                None => head.extend(segment.as_bytes()),
            }
        }
        head.extend(notes);
        head.resize(data_at, 0);
        Ok(Plan { head, warnings })
    }
}

fn fits_32(ram: &[PageRange], last: &PageRange, notes: usize) -> bool {
    let pages: u64 = ram.iter().map(|range| range.count).sum();
    let file = (pages * PAGE_SIZE as u64).saturating_add(notes as u64 + (1 << 22));
    last.end().address().0 <= 1 << 32 && file < 1 << 32
}

fn file_header(narrow: bool, machine: u16, number: u16) -> Vec<u8> {
    let mut ident = [0; 16];
    ident[..4].copy_from_slice(&MAGIC);
    ident[4..7].copy_from_slice(&[if narrow { CLASS_32 } else { CLASS_64 }, LITTLE_ENDIAN, VERSION]);
    if narrow {
        Header32 {
            ident,
            kind: ET_CORE.into(),
            machine: machine.into(),
            version: 1.into(),
            entry: 0.into(),
            phoff: 52.into(),
            shoff: 0.into(),
            flags: 0.into(),
            ehsize: 52.into(),
            phentsize: 32.into(),
            phnum: number.into(),
            shentsize: U16::ZERO,
            shnum: U16::ZERO,
            shstrndx: U16::ZERO,
        }
        .as_bytes()
        .to_vec()
    } else {
        Header64 {
            ident,
            kind: ET_CORE.into(),
            machine: machine.into(),
            version: 1.into(),
            entry: 0.into(),
            phoff: 64.into(),
            shoff: 0.into(),
            flags: 0.into(),
            ehsize: 64.into(),
            phentsize: 56.into(),
            phnum: number.into(),
            shentsize: U16::ZERO,
            shnum: U16::ZERO,
            shstrndx: U16::ZERO,
        }
        .as_bytes()
        .to_vec()
    }
}

fn note_segment(at: usize, length: usize) -> Program64 {
    Program64 {
        kind: PT_NOTE.into(),
        flags: U32::ZERO,
        offset: (at as u64).into(),
        vaddr: 0.into(),
        paddr: 0.into(),
        filesz: (length as u64).into(),
        memsz: (length as u64).into(),
        align: 0.into(),
    }
}

fn load_segment(at: u64, virtual_address: u64, physical: u64, length: u64) -> Program64 {
    Program64 {
        kind: PT_LOAD.into(),
        flags: ALL_RIGHTS.into(),
        offset: at.into(),
        vaddr: virtual_address.into(),
        paddr: physical.into(),
        filesz: length.into(),
        memsz: length.into(),
        align: 0.into(),
    }
}

/// The kernel's image and its physical address, as much of it as lies in one block of RAM.
fn image_segment(ram: &[PageRange], facts: &LinuxFacts) -> Option<(KernelImage, u64)> {
    let known = facts.image.or_else(|| {
        let start = facts.parsed_vmcoreinfo().symbol("_stext")?;
        Some(KernelImage {
            start: GuestVirtAddr(start),
            length: IMAGE_GUESS,
        })
    })?;
    let mask = PAGE_SIZE as u64 - 1;
    let start = known.start.0 & !mask;
    let end = known.start.0.checked_add(known.length)?.checked_add(mask)? & !mask;
    let physical = start
        .checked_sub(KERNEL_MAP)?
        .checked_add_signed(facts.known_phys_base()?)?;
    let page = crate::Pfn(physical / PAGE_SIZE as u64);
    let block = ram.iter().find(|block| block.contains(page))?;
    let length = (end - start).min(block.end().address().0 - physical);
    let image = KernelImage {
        start: GuestVirtAddr(start),
        length,
    };
    (physical & mask == 0 && length > 0).then_some((image, physical))
}
