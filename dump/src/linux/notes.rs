//! ELF notes: a name, a number for the type, a descriptor.

use super::{LinuxFacts, prstatus, qemu_note, vbox_note};
use hv_core::regs::Registers;
use std::ops::Range;

/// More is not read: room for 4096 processors and the longest VMCOREINFO.
pub(crate) const NOTES_LIMIT: u64 = 16 << 20;
/// More processors are not believed.
const CPU_LIMIT: usize = 4096;
/// Name and descriptor are padded to this in 64-bit files too.
const ALIGNMENT: usize = 4;

const NT_PRSTATUS: u32 = 1;
/// Type of the notes named `QEMU` and `VMCOREINFO`.
const OWN: u32 = 0;

fn push(notes: &mut Vec<u8>, name: &str, kind: u32, descriptor: &[u8]) {
    for number in [name.len() as u32 + 1, descriptor.len() as u32, kind] {
        notes.extend(number.to_le_bytes());
    }
    for bytes in [&[name.as_bytes(), &[0]].concat()[..], descriptor] {
        notes.extend(bytes);
        notes.resize(notes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

/// The notes of a dump: all of `CORE`, then all of `QEMU`, then `VMCOREINFO`: the order of QEMU, which every reader knows.
pub(crate) fn build(processors: &[Registers], facts: &LinuxFacts, is_64_bit: bool) -> Vec<u8> {
    let mut notes = Vec::new();
    for (number, registers) in (0..).zip(processors) {
        push(
            &mut notes,
            "CORE",
            NT_PRSTATUS,
            &prstatus::write(registers, number, is_64_bit),
        );
    }
    for registers in processors {
        push(&mut notes, "QEMU", OWN, &qemu_note::write(registers));
    }
    if let Some(text) = &facts.vmcoreinfo {
        push(&mut notes, "VMCOREINFO", OWN, text);
    }
    notes
}

/// One note in a buffer.
struct Note<'a> {
    name: &'a [u8],
    kind: u32,
    descriptor: Range<usize>,
}

/// Walks notes; ends at the first that doesn't fit.
fn walk(bytes: &[u8]) -> impl Iterator<Item = Note<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let header = bytes.get(at..)?.first_chunk::<12>()?;
        let [name_length, length, kind] =
            [0, 4, 8].map(|n| u32::from_le_bytes([header[n], header[n + 1], header[n + 2], header[n + 3]]));
        let name_start = at + 12;
        let name = bytes.get(name_start..name_start.checked_add(name_length as usize)?)?;
        let start = (name_start + name.len()).next_multiple_of(ALIGNMENT);
        let descriptor = start..start.checked_add(length as usize)?;
        bytes.get(descriptor.clone())?;
        at = descriptor.end.next_multiple_of(ALIGNMENT);
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        Some(Note {
            name,
            kind,
            descriptor,
        })
    })
}

/// Where VMCOREINFO's text is in a buffer of notes.
pub(crate) fn vmcoreinfo_range(bytes: &[u8]) -> Option<Range<usize>> {
    walk(bytes)
        .find(|note| note.name == b"VMCOREINFO")
        .map(|note| note.descriptor)
}

/// Where a descriptor belongs.
type Place = fn(&mut Cpu) -> &mut Option<Vec<u8>>;

/// What the notes say of one processor.
#[derive(Default)]
pub(super) struct Cpu {
    pub(super) prstatus: Option<Vec<u8>>,
    pub(super) qemu: Option<Vec<u8>>,
    pub(super) vbox: Option<Vec<u8>>,
}

/// What the notes say.
#[derive(Default)]
pub(crate) struct Notes {
    pub(super) cpus: Vec<Cpu>,
    /// VMCOREINFO's text; empty where there is none.
    pub(crate) vmcoreinfo: Vec<u8>,
    /// How many of each kind there are.
    pub(crate) prstatus_count: usize,
    pub(crate) qemu_count: usize,
    /// It is a core of VirtualBox.
    pub(crate) virtualbox: bool,
}

impl Notes {
    pub(crate) fn parse(bytes: &[u8]) -> Notes {
        let mut notes = Notes::default();
        let mut vbox_count = 0;
        for note in walk(bytes) {
            let descriptor = &bytes[note.descriptor];
            let (count, put): (_, Place) = match (note.name, note.kind) {
                (b"CORE", NT_PRSTATUS) => (&mut notes.prstatus_count, |cpu| &mut cpu.prstatus),
                (b"QEMU", OWN) => (&mut notes.qemu_count, |cpu| &mut cpu.qemu),
                (b"VBCPU", vbox_note::CPU) if notes.virtualbox => (&mut vbox_count, |cpu| &mut cpu.vbox),
                (b"VBCORE", vbox_note::CORE) => {
                    notes.virtualbox = vbox_note::is_core(descriptor);
                    continue;
                }
                (b"VMCOREINFO", _) => {
                    notes.vmcoreinfo = descriptor.to_vec();
                    continue;
                }
                _ => continue,
            };
            // makedumpfile's room for a processor that was off is a note of zeros in some versions.
            if *count >= CPU_LIMIT {
                continue;
            }
            if notes.cpus.len() <= *count {
                notes.cpus.push(Cpu::default());
            }
            *put(&mut notes.cpus[*count]) = Some(descriptor.to_vec());
            *count += 1;
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_as_they_were_written() {
        let facts = LinuxFacts {
            vmcoreinfo: Some(b"OSRELEASE=6.1\n".to_vec()),
            ..LinuxFacts::default()
        };
        let processors = [Registers::at_reset(true), Registers::at_reset(false)];
        let bytes = build(&processors, &facts, true);
        let notes = Notes::parse(&bytes);
        assert_eq!(
            (notes.prstatus_count, notes.qemu_count, notes.cpus.len()),
            (2, 2, 2)
        );
        assert_eq!(notes.vmcoreinfo, b"OSRELEASE=6.1\n");
        assert_eq!(&bytes[vmcoreinfo_range(&bytes).unwrap()], b"OSRELEASE=6.1\n");
    }

    #[test]
    fn lengths_that_lie_end_the_walk() {
        let mut bytes = build(&[Registers::at_reset(true)], &LinuxFacts::default(), true);
        bytes[4..8].fill(0xff);
        assert!(Notes::parse(&bytes).cpus.is_empty());
        bytes[0..4].fill(0xff);
        assert!(Notes::parse(&bytes).cpus.is_empty());
        assert!(Notes::parse(&bytes[..7]).cpus.is_empty());
    }
}
