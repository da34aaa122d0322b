//! The writer and the reader together.

use super::*;
use crate::fake::{Buffer, FakeMemory, assert_same_memory, damage, file_of, in_long_mode};
use crate::linux::LinuxFacts;
use crate::output::Stream;
use crate::pages::{PAGE_SIZE, PageRange, Pfn};
use crate::{Error, Ignore, Image, Observer, Source};
use hv_core::regs::Registers;
use hv_core::{GuestPhysAddr, GuestVirtAddr};
use proptest::prelude::*;
use std::ops::ControlFlow;

const INFO: &[u8] = b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=ffffffff80003000\n\
    SYMBOL(_stext)=ffffffff80002000\nNUMBER(phys_base)=4096\nKERNELOFFSET=0\n";

fn facts() -> LinuxFacts {
    LinuxFacts {
        vmcoreinfo: Some(INFO.to_vec()),
        page_offset_base: Some(GuestVirtAddr(0xffff_8880_0000_0000)),
        ..LinuxFacts::default()
    }
}

fn small_memory() -> FakeMemory {
    FakeMemory {
        ram: [(0, 20), (32, 10)]
            .map(|(first, count)| PageRange {
                first: Pfn(first),
                count,
            })
            .to_vec(),
        seeds: [(1, 3), (2, 5), (19, 9), (40, 7)].into(),
    }
}

fn written(
    memory: &FakeMemory,
    cpus: &[Registers],
    facts: &LinuxFacts,
    addresses: VirtualAddresses,
) -> Vec<u8> {
    let mut sink = Buffer::default();
    let options = ElfOptions { addresses };
    let done = write(
        &Source::new(memory),
        cpus,
        facts,
        &options,
        &mut sink,
        &mut Ignore,
    )
    .unwrap();
    assert_eq!(done.length, sink.0.len() as u64);
    sink.0
}

proptest! {
    #[test]
    fn any_memory_is_read_as_it_was_written(memory in FakeMemory::any(), cpus in 1..5_u64) {
        let cpus: Vec<Registers> = (0..cpus).map(in_long_mode).collect();
        for addresses in [VirtualAddresses::DirectMap, VirtualAddresses::Physical, VirtualAddresses::ForGdb] {
            let image = open(file_of(&written(&memory, &cpus, &facts(), addresses))).unwrap();
            assert_same_memory(&image, &memory);
            prop_assert_eq!(image.processors().len(), cpus.len());
            for (read, cpu) in image.processors().iter().zip(&cpus) {
                prop_assert_eq!((&read.gpr, read.rip, read.cr3, read.efer), (&cpu.gpr, cpu.rip, cpu.cr3, cpu.efer));
            }
            let (read, pages) = (image.description().pages, memory.ram.iter().map(|range| range.count).sum::<u64>());
            prop_assert_eq!(read, pages);
        }
    }
}

#[test]
fn the_file_says_what_it_is_and_nobody_will_refuse_it() {
    let bytes = written(
        &small_memory(),
        &[in_long_mode(0)],
        &facts(),
        VirtualAddresses::DirectMap,
    );
    let image = open(file_of(&bytes)).unwrap();
    let description = image.description();
    assert_eq!(description.os.as_deref(), Some("Linux 6.1.0-test"));
    assert_eq!(description.root, Some(GuestPhysAddr(0x4000)));
    assert_eq!(description.problems, []);
}

#[test]
fn the_head_is_as_makedumpfile_and_crash_want_it() {
    let bytes = written(
        &small_memory(),
        &[in_long_mode(0)],
        &facts(),
        VirtualAddresses::DirectMap,
    );
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!(
        (word(32), bytes[56], bytes[64]),
        (64, 3, 4),
        "e_phoff, e_phnum, first p_type"
    );
    let load = 64 + 56;
    assert_eq!((bytes[load], word(load + 48)), (1, 0), "p_type, p_align");
    assert_eq!(word(load + 8) % 4096, 0, "p_offset");
    assert_eq!(
        (word(load + 16), word(load + 24)),
        (0xffff_8880_0000_0000, 0),
        "p_vaddr, p_paddr"
    );
}

#[test]
fn a_file_for_gdb_has_the_kernels_image_first_and_is_said_to_overlap() {
    let bytes = written(
        &small_memory(),
        &[in_long_mode(0)],
        &facts(),
        VirtualAddresses::ForGdb,
    );
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (image, block) = (64 + 56, 64 + 2 * 56);
    assert_eq!(
        (word(image + 16), word(image + 24)),
        (0xffff_ffff_8000_2000, 0x3000)
    );
    assert_eq!(word(image + 8), word(block + 8) + 0x3000, "the block's own bytes");
    assert_eq!(word(image + 32), 17 * 4096, "to the end of the block");
    let problems = open(file_of(&bytes)).unwrap().description().problems.clone();
    assert!(
        problems.len() == 1 && problems[0].readers.contains(&"volatility3"),
        "{problems:?}"
    );
}

#[test]
fn a_32_bit_machine_gets_a_32_bit_file() {
    let mut cpu = Registers::at_reset(true);
    (cpu.cr0, cpu.cr3, cpu.rip) = (0x8000_0011, 0x5000, 0xc010_0000);
    let bytes = written(
        &small_memory(),
        &[cpu.clone()],
        &LinuxFacts::default(),
        VirtualAddresses::Physical,
    );
    assert_eq!((bytes[4], bytes[18]), (1, 3), "ELFCLASS32, EM_386");
    let image = open(file_of(&bytes)).unwrap();
    assert_same_memory(&image, &small_memory());
    let read = &image.processors()[0];
    assert_eq!(
        (read.rip, read.cr0, read.cr3, read.efer),
        (cpu.rip, cpu.cr0, cpu.cr3, 0)
    );
    assert_eq!(image.description().arch, Some("x86"));
}

#[test]
fn a_stream_gets_the_same_bytes() {
    let memory = small_memory();
    let mut stream = Stream(Vec::new());
    let options = ElfOptions::default();
    let (cpus, facts) = ([in_long_mode(0)], facts());
    write(
        &Source::new(&memory),
        &cpus,
        &facts,
        &options,
        &mut stream,
        &mut Ignore,
    )
    .unwrap();
    assert!(stream.0 == written(&memory, &cpus, &facts, VirtualAddresses::DirectMap));
}

#[test]
fn zero_pages_are_holes_and_an_observer_can_end_it() {
    struct Stop;
    impl Observer for Stop {
        fn progress(&mut self, _done: u64, _total: u64) -> ControlFlow<()> {
            ControlFlow::Break(())
        }
    }
    let memory = small_memory();
    let (source, options) = (Source::new(&memory), ElfOptions::default());
    let mut sink = Buffer::default();
    let done = write(&source, &[], &facts(), &options, &mut sink, &mut Ignore).unwrap();
    assert_eq!((done.pages, done.zero_pages), (30, 26));
    let ended = write(&source, &[], &facts(), &options, &mut sink, &mut Stop);
    assert!(matches!(ended, Err(Error::Cancelled)));
}

#[test]
fn what_makedumpfile_left_out_reads_as_zeros_and_is_said_to() {
    let mut bytes = written(
        &small_memory(),
        &[in_long_mode(0)],
        &facts(),
        VirtualAddresses::Physical,
    );
    // p_memsz of the last block, which ends the file.
    let at = 64 + 2 * 56 + 40;
    bytes[at..at + 8].copy_from_slice(&(12 * PAGE_SIZE as u64).to_le_bytes());
    let image = open(file_of(&bytes)).unwrap();
    assert_eq!(image.ram()[1].count, 12);
    let mut page = [1; PAGE_SIZE];
    image.read_page(Pfn(43), &mut page).unwrap();
    assert_eq!(page, [0; PAGE_SIZE]);
    assert!(image.description().problems[0].what.starts_with("2 pages"));
}

#[test]
fn program_headers_may_be_anywhere_and_too_many_to_count() {
    let bytes = written(
        &small_memory(),
        &[in_long_mode(0)],
        &facts(),
        VirtualAddresses::Physical,
    );
    let mut moved = bytes.clone();
    let at = moved.len() as u64;
    // A section header with the number, then the program headers.
    moved.extend([0; 44]);
    moved.extend(3_u32.to_le_bytes());
    moved.resize(at as usize + 64, 0);
    moved.extend(&bytes[64..64 + 3 * 56]);
    moved[32..40].copy_from_slice(&(at + 64).to_le_bytes());
    moved[40..48].copy_from_slice(&at.to_le_bytes());
    moved[56..58].fill(0xff);
    let image = open(file_of(&moved)).unwrap();
    assert_same_memory(&image, &small_memory());
    let readers: Vec<_> = image
        .description()
        .problems
        .iter()
        .flat_map(|problem| problem.readers.clone())
        .collect();
    assert!(
        readers.contains(&"makedumpfile") && readers.contains(&"volatility3"),
        "{readers:?}"
    );
}

#[test]
fn a_core_of_a_process_is_refused() {
    let mut bytes = written(
        &small_memory(),
        &[in_long_mode(0)],
        &facts(),
        VirtualAddresses::Physical,
    );
    let at = 64 + 2 * 56 + 24;
    bytes[at..at + 8].fill(0);
    let error = open(file_of(&bytes)).err().unwrap().to_string();
    assert!(error.contains("process"), "{error}");
}

#[test]
fn damaged_files_are_read_or_refused() {
    let bytes = written(
        &small_memory(),
        &[in_long_mode(0)],
        &facts(),
        VirtualAddresses::ForGdb,
    );
    damage(&bytes, 2048, open);
    let cpu = Registers::at_reset(true);
    let narrow = written(
        &small_memory(),
        &[cpu],
        &LinuxFacts::default(),
        VirtualAddresses::Physical,
    );
    damage(&narrow, 1024, open);
}
