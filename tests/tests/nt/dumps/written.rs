//! Dumps that the engine itself writes, `.dump /f` and `.dump /m`, read by ours.

use super::{Engine, KINDS, PROFILE, dumps, has_engine, nothing_wrong, nt_guest, options};
use dump::windows::WindowsDump;
use dump::{Format, Image, PAGE_SIZE, Pfn};
use hv_core::introspect::{MemoryRegion, ReadMemory, Result};
use hv_core::{GuestPhysAddr, GuestVirtAddr};
use introspect::{PageTables, PagingMode};
use std::path::Path;

/// What the engine itself writes, of a dump of ours.
fn written_by_the_engine(profile: &str) {
    if !has_engine() {
        return;
    }
    let Some(guest) = nt_guest(profile, 2) else { return };
    let service = guest.service();
    let folder = tempfile::tempdir().expect("a folder");
    let ours = dumps(&service, folder.path(), &KINDS[..1], false);
    let path = |name: &str| folder.path().join(name);
    let mut engine = Engine::dump(&ours[0], &options(guest));
    for (option, name) in [("/m", "small.dmp"), ("/f", "full.dmp")] {
        let windows_path = path(name).to_string_lossy().replace('/', "\\");
        let answer = engine.run(&format!(".dump {option} Z:{windows_path}"));
        assert!(answer.contains("Dump successfully written"), "{answer}");
    }
    let open = |path: &Path| {
        let file = dump::FileBytes::open(path).expect("a file");
        dump::windows::open(file).expect("a dump")
    };
    let original = open(&ours[0]);
    let full = open(&path("full.dmp"));
    assert_eq!(full.description().format, Format::WindowsFull);
    let (mut one, mut other) = ([0; PAGE_SIZE], [0; PAGE_SIZE]);
    let mut pages = 0;
    for range in full.ram() {
        for pfn in (range.first.0..range.end().0).map(Pfn) {
            full.read_page(pfn, &mut one).expect("a page");
            original.read_page(pfn, &mut other).expect("a page");
            assert_eq!(one, other, "{pfn}");
            pages += 1;
        }
    }
    assert!(pages > 1000);
    let small = open(&path("small.dmp"));
    assert_eq!(small.description().format, Format::WindowsTriage);
    assert_eq!(small.description().kernel, original.description().kernel);
    for dump in [&full, &small] {
        assert_eq!(dump.description().os, original.description().os);
        assert_eq!(dump.processors().len(), 2, "{:?}", dump.description());
        for (read, expected) in dump.processors().iter().zip(original.processors()) {
            assert_eq!((read.rip, read.gpr), (expected.rip, expected.gpr));
            assert_eq!((read.cr0, read.cr4), (expected.cr0, expected.cr4));
            assert_eq!(read.gdtr, expected.gdtr);
        }
    }
    // The stack of the first processor is a piece of it.
    struct Pages<'a>(&'a WindowsDump);
    impl ReadMemory for Pages<'_> {
        fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<()> {
            let mut page = [0; PAGE_SIZE];
            let at = address.page_offset();
            match self.0.read_page(Pfn::of(address), &mut page) {
                Ok(()) => buffer.copy_from_slice(&page[at..at + buffer.len()]),
                Err(error) => panic!("{address}: {error}"),
            }
            Ok(())
        }
        fn memory_regions(&self) -> Vec<MemoryRegion> {
            Vec::new()
        }
    }
    let stack = |dump: &WindowsDump| {
        let registers = &dump.processors()[0];
        let root = dump.description().root.expect("a root");
        let memory = Pages(dump);
        let mut tables = PageTables::new(&memory, PagingMode::of(registers), root);
        let mut words = [0; 0x20];
        let at = GuestVirtAddr(registers.gpr[4]);
        tables.read(at, &mut words).expect("the stack");
        words
    };
    assert_eq!(stack(&small), stack(&original));
    nothing_wrong(&engine);
}

#[test]
fn what_the_engine_writes_is_read() {
    written_by_the_engine(PROFILE);
}

#[test]
fn what_the_engine_writes_of_a_32_bit_guest_is_read() {
    written_by_the_engine("win7-x86");
}
