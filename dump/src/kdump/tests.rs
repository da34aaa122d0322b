//! The writer and the reader together.

use super::*;
use crate::fake::{Buffer, FakeMemory, assert_same_memory, damage, file_of, in_long_mode};
use crate::linux::{KeepAll, LinuxFacts, PageFilter};
use crate::output::Stream;
use crate::pages::{PAGE_SIZE, PageRange, Pfn};
use crate::{Absent, Error, Ignore, Image, Result, Source, Written};
use hv_core::regs::Registers;
use proptest::prelude::*;

const INFO: &[u8] =
    b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=ffffffff80003000\nNUMBER(phys_base)=4096\n";
const ALL: [Compression; 4] = [
    Compression::None,
    Compression::Zlib,
    Compression::Snappy,
    Compression::Zstd,
];

fn facts() -> LinuxFacts {
    let mut names = [[0; 65]; 6];
    for (name, text) in names
        .iter_mut()
        .zip(["Linux", "guest", "6.1.0-test", "#1 SMP", "x86_64", "(none)"])
    {
        name[..text.len()].copy_from_slice(text.as_bytes());
    }
    LinuxFacts {
        vmcoreinfo: Some(INFO.to_vec()),
        utsname: Some(names),
        ..LinuxFacts::default()
    }
}

fn small_memory() -> FakeMemory {
    FakeMemory {
        ram: [(0, 20), (32, 10), (40_000, 3)]
            .map(|(first, count)| PageRange {
                first: Pfn(first),
                count,
            })
            .to_vec(),
        seeds: [(1, 3), (2, 5), (19, 9), (40, 7), (40_001, 1)].into(),
    }
}

fn options(compression: Compression) -> KdumpOptions {
    KdumpOptions {
        compression,
        ..KdumpOptions::default()
    }
}

fn written(memory: &FakeMemory, options: &KdumpOptions, filter: &mut dyn PageFilter) -> (Vec<u8>, Written) {
    let mut sink = Buffer::default();
    let (cpus, source) = ([in_long_mode(0), in_long_mode(1)], Source::new(memory));
    let done = write(&source, &cpus, &facts(), options, filter, &mut sink, &mut Ignore).unwrap();
    (sink.0, done)
}

/// Leaves out every page whose number it divides.
struct Multiples(u64);

impl PageFilter for Multiples {
    fn keep(&mut self, pfn: Pfn) -> bool {
        !pfn.0.is_multiple_of(self.0)
    }

    fn level(&self) -> u32 {
        16
    }
}

fn open_any(bytes: crate::FileBytes) -> Result<KdumpImage> {
    if bytes.is_flattened()? {
        open(bytes.unflatten()?)
    } else {
        open(bytes)
    }
}

proptest! {
    #[test]
    fn any_memory_is_read_as_it_was_written(memory in FakeMemory::any(), which in 0..4_usize, flattened: bool, threads in 1..4_usize) {
        let options = KdumpOptions { compression: ALL[which], flattened, threads: Some(threads) };
        let (bytes, done) = written(&memory, &options, &mut KeepAll);
        let image = open_any(file_of(&bytes)).unwrap();
        assert_same_memory(&image, &memory);
        prop_assert_eq!(image.description().pages, done.pages);
        prop_assert_eq!(image.processors()[1].gpr, in_long_mode(1).gpr);
        if !flattened {
            prop_assert_eq!(done.length, bytes.len() as u64);
        }
    }

    #[test]
    fn a_filter_leaves_out_what_it_says_and_nothing_else(memory in FakeMemory::any(), every in 1..9_u64) {
        let (bytes, done) = written(&memory, &options(Compression::Zlib), &mut Multiples(every));
        let image = open(file_of(&bytes)).unwrap();
        let expected = PageRange::normalise(memory.ram.clone());
        prop_assert_eq!(image.ram(), &expected[..]);
        let (mut page, mut left_out) = ([0; PAGE_SIZE], 0);
        for pfn in expected.iter().flat_map(|range| range.first.0..range.end().0) {
            match image.read_page(Pfn(pfn), &mut page) {
                Ok(()) => prop_assert!(pfn % every != 0 && page == memory.page(Pfn(pfn))),
                Err(Absent::LeftOut) => {
                    prop_assert_eq!(pfn % every, 0);
                    left_out += 1;
                }
                Err(other) => return Err(TestCaseError::fail(other.to_string())),
            }
        }
        prop_assert_eq!(left_out, done.excluded);
    }
}

#[test]
fn ram_may_cross_the_bitmaps_blocks_and_fill_the_last() {
    let memory = FakeMemory {
        ram: vec![PageRange {
            first: Pfn(32_760),
            count: 32_776,
        }],
        seeds: [(32_767, 3), (32_768, 5), (65_535, 7)].into(),
    };
    let (bytes, _) = written(&memory, &options(Compression::Zlib), &mut KeepAll);
    assert_same_memory(&open(file_of(&bytes)).unwrap(), &memory);
}

#[test]
fn the_file_says_what_it_is() {
    let (bytes, done) = written(&small_memory(), &KdumpOptions::default(), &mut KeepAll);
    assert_eq!((done.pages, done.zero_pages, done.excluded), (33, 28, 0));
    let image = open(file_of(&bytes)).unwrap();
    let description = image.description();
    assert_eq!(description.os.as_deref(), Some("Linux 6.1.0-test #1 SMP"));
    assert_eq!(description.root.map(|root| root.0), Some(0x4000));
    let problems: Vec<_> = description
        .problems
        .iter()
        .map(|problem| problem.what.as_str())
        .collect();
    assert_eq!(problems, ["a format that only tools for Linux crashes know"]);
}

#[test]
fn fields_are_where_crash_and_makedumpfile_look_for_them() {
    let (bytes, _) = written(&small_memory(), &KdumpOptions::default(), &mut KeepAll);
    let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!(
        (half(8), half(424), half(428), half(432), half(436)),
        (6, 1, 4096, 1, 4)
    );
    assert_eq!(
        (half(440), half(460), word(4096), word(4096 + 96)),
        (40_003, 2, 4096, 40_003)
    );
    let info = word(4096 + 32) as usize;
    assert_eq!(&bytes[info..info + word(4096 + 40) as usize], INFO);
    // Zero pages share one.
    let descriptors = 4096 * (2 + 4);
    assert_eq!(word(descriptors), word(descriptors + 3 * 24));
    assert_eq!(half(descriptors + 8), 4096);
}

#[test]
fn a_stream_gets_the_flattened_form() {
    let memory = small_memory();
    let mut stream = Stream(Vec::new());
    let (source, cpus) = (Source::new(&memory), [in_long_mode(0)]);
    let done = write(
        &source,
        &cpus,
        &facts(),
        &KdumpOptions::default(),
        &mut KeepAll,
        &mut stream,
        &mut Ignore,
    )
    .unwrap();
    assert!(stream.0.starts_with(b"makedumpfile\0"));
    let file = file_of(&stream.0).unflatten().unwrap();
    assert_eq!(file.len(), done.length);
    assert_same_memory(&open(file).unwrap(), &memory);
}

#[test]
fn without_facts_the_names_are_made_up_and_it_is_said() {
    let memory = small_memory();
    let (source, mut sink) = (Source::new(&memory), Buffer::default());
    let (facts, options) = (LinuxFacts::default(), KdumpOptions::default());
    let done = write(
        &source,
        &[],
        &facts,
        &options,
        &mut KeepAll,
        &mut sink,
        &mut Ignore,
    )
    .unwrap();
    assert_eq!(done.warnings.len(), 2);
    let image = open(file_of(&sink.0)).unwrap();
    assert_eq!(image.description().os.as_deref(), Some("Linux unknown unknown"));
    assert!(image.description().problems[0].readers.contains(&"drgn"));
}

#[test]
fn a_32_bit_guest_is_refused() {
    let memory = small_memory();
    let (source, mut sink) = (Source::new(&memory), Buffer::default());
    let cpus = [Registers::at_reset(true)];
    let (facts, options) = (LinuxFacts::default(), KdumpOptions::default());
    let done = write(
        &source,
        &cpus,
        &facts,
        &options,
        &mut KeepAll,
        &mut sink,
        &mut Ignore,
    );
    assert!(matches!(done, Err(Error::WrongGuest(_))));
}

#[test]
fn a_32_bit_machines_header_is_understood() {
    let (wide, _) = written(&small_memory(), &KdumpOptions::default(), &mut KeepAll);
    let mut narrow = wide.clone();
    // The headers of a 32-bit makedumpfile, in place of the others.
    narrow[402..464].fill(0);
    narrow[12 + 4 * 65..12 + 4 * 65 + 7].copy_from_slice(b"i686\0\0\0");
    narrow[412..452].copy_from_slice(&wide[424..464]);
    narrow[4096..4200].fill(0);
    let at = |offset: usize| 4096 + offset;
    narrow[at(20)..at(28)].copy_from_slice(&wide[at(32)..at(40)]);
    narrow[at(28)..at(32)].copy_from_slice(&wide[at(40)..at(44)]);
    narrow[at(32)..at(40)].copy_from_slice(&wide[at(48)..at(56)]);
    narrow[at(40)..at(44)].copy_from_slice(&wide[at(56)..at(60)]);
    narrow[at(72)..at(80)].copy_from_slice(&wide[at(96)..at(104)]);
    let image = open(file_of(&narrow)).unwrap();
    assert_same_memory(&image, &small_memory());
    assert_eq!(image.description().arch, Some("x86"));
}

#[test]
fn versions_before_6_count_pages_in_the_main_header() {
    let (mut bytes, _) = written(&small_memory(), &KdumpOptions::default(), &mut KeepAll);
    bytes[8] = 5;
    bytes[4096 + 96..4096 + 104].fill(0xff);
    assert_same_memory(&open(file_of(&bytes)).unwrap(), &small_memory());
    // No notes before version 4, but VMCOREINFO.
    bytes[8] = 3;
    let image = open(file_of(&bytes)).unwrap();
    assert_eq!(
        (image.processors().len(), image.description().root.is_some()),
        (0, true)
    );
}

#[test]
fn parts_of_a_split_dump_are_refused_with_what_to_do() {
    let (mut bytes, _) = written(&small_memory(), &KdumpOptions::default(), &mut KeepAll);
    bytes[4096 + 12] = 1;
    let error = open(file_of(&bytes)).err().unwrap().to_string();
    assert!(error.contains("--reassemble"), "{error}");
}

#[test]
fn damaged_files_are_read_or_refused() {
    for compression in ALL {
        let (bytes, _) = written(&small_memory(), &options(compression), &mut KeepAll);
        damage(&bytes, 6 * 4096 + 33 * 24, open_any);
    }
    let flattened = KdumpOptions {
        flattened: true,
        ..KdumpOptions::default()
    };
    let (bytes, _) = written(&small_memory(), &flattened, &mut KeepAll);
    damage(&bytes, 4096 + 4096, open_any);
}
