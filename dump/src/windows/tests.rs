//! Files made of bytes: every type, right and wrong.

use super::bitmap::{self, BitmapHeader};
use super::header::{Header32, Header64, Run64, VALID32, VALID64, attributes, blank, dump_type};
use super::{WindowsDump, open};
use crate::image::{Absent, Format, Image};
use crate::pages::{PAGE_SIZE, PageRange, Pfn};
use crate::{Error, FileBytes, Result};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

fn header(dump_type: u32, runs: &[(u64, u64)]) -> Header64 {
    let mut header: Header64 = blank();
    header.valid_dump = VALID64;
    header.machine_image_type = 0x8664.into();
    header.minor_version = 19041.into();
    header.number_processors = 1.into();
    header.attributes = 0.into();
    header.dump_type = dump_type.into();
    header.memory.number_of_runs = (runs.len() as u32).into();
    header.memory.number_of_pages = runs.iter().map(|(_, count)| count).sum::<u64>().into();
    for (place, &(base, count)) in header.memory.runs.iter_mut().zip(runs) {
        *place = Run64 {
            base_page: base.into(),
            page_count: count.into(),
        };
    }
    header
}

/// A page whose bytes tell its place among those of the file.
fn page(index: u64) -> Vec<u8> {
    index.to_le_bytes().repeat(PAGE_SIZE / 8)
}

fn file(parts: &[&[u8]], pages: u64) -> FileBytes {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for part in parts {
        file.write_all(part).unwrap();
    }
    for index in 0..pages {
        file.write_all(&page(index)).unwrap();
    }
    FileBytes::open(file.path()).unwrap()
}

fn opened(parts: &[&[u8]], pages: u64) -> Result<WindowsDump> {
    open(file(parts, pages))
}

fn why<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("it was taken"),
        Err(error) => error.to_string(),
    }
}

/// The index of a page among those of the file.
fn index(dump: &WindowsDump, pfn: u64) -> Option<u64> {
    let mut page = [0; PAGE_SIZE];
    match dump.read_page(Pfn(pfn), &mut page) {
        Ok(()) => Some(u64::from_le_bytes(page[..8].try_into().unwrap())),
        Err(Absent::Broken(error)) => panic!("{error}"),
        Err(_) => None,
    }
}

fn range(first: u64, count: u64) -> PageRange {
    PageRange {
        first: Pfn(first),
        count,
    }
}

#[test]
fn pages_of_a_full_dump_follow_its_runs() {
    let header = header(dump_type::FULL, &[(1, 2), (0x100, 3)]);
    let dump = opened(&[header.as_bytes()], 5).unwrap();
    assert_eq!(dump.ram(), [range(1, 2), range(0x100, 3)]);
    let found: Vec<_> = [0, 1, 2, 3, 0xff, 0x100, 0x102, 0x103, u64::MAX]
        .map(|pfn| index(&dump, pfn))
        .into();
    assert_eq!(
        found,
        [None, Some(0), Some(1), None, None, Some(2), Some(4), None, None]
    );
    assert_eq!(dump.description().pages, 5);
}

#[test]
fn runs_that_overlap_or_leave_the_file_are_named_with_their_byte() {
    let header_of = |runs: &[(u64, u64)]| header(dump_type::FULL, runs);
    let overlap = header_of(&[(1, 2), (2, 1)]);
    let error = why(opened(&[overlap.as_bytes()], 3));
    assert_eq!(error, "at byte 0xa8: page 0x2 is in two ranges");
    let outside = header_of(&[(1, 2), (8, 9)]);
    let error = why(opened(&[outside.as_bytes()], 10));
    assert_eq!(
        error,
        "the file ends at byte 0xc000, but a range of pages needs bytes 0x4000 to 0xd000"
    );
    for run in [(u64::MAX, 2), (1, u64::MAX), (1 << 40, 1)] {
        let beyond = header_of(&[run]);
        let error = why(opened(&[beyond.as_bytes()], 3));
        assert!(error.starts_with("at byte 0x98: no memory has "), "{error}");
    }
    for number in [0, 44, u32::from_le_bytes(*b"PAGE")] {
        let mut header = header_of(&[(1, 1)]);
        header.memory.number_of_runs = number.into();
        let error = why(opened(&[header.as_bytes()], 3));
        assert!(
            error.starts_with("at byte 0x88: a full dump doesn't have "),
            "{error}"
        );
    }
}

/// A bitmap's header and bytes, padded to the first page.
fn bitmap_part(signature: [u8; 4], bits: &[u8], told: u64) -> Vec<u8> {
    let header = BitmapHeader {
        signature,
        valid_dump: bitmap::VALID,
        dump_options: 3.into(),
        unused: [0; 20],
        first_page: 0x3000.into(),
        total_present_pages: told.into(),
        pages: (bits.len() as u64 * 8).into(),
    };
    let mut part = [header.as_bytes(), bits].concat();
    part.resize(PAGE_SIZE, 0);
    part
}

#[test]
fn pages_of_a_bitmap_follow_its_bits() {
    for (kind, format) in [
        (dump_type::BITMAP_FULL, Format::WindowsBitmapFull),
        (dump_type::BITMAP_KERNEL, Format::WindowsBitmapKernel),
    ] {
        for signature in [bitmap::FULL, bitmap::SUMMARY] {
            let mut bits = [0; 256];
            (bits[0], bits[100], bits[255]) = (0b1010_0001, 0xff, 0x80);
            let header = header(kind, &[(0, 0x200)]);
            let part = bitmap_part(signature, &bits, 12);
            let dump = opened(&[header.as_bytes(), &part], 12).unwrap();
            assert_eq!(dump.description().format, format);
            let found = [0, 5, 7, 800, 807, 2047].map(|pfn| index(&dump, pfn));
            assert_eq!(found, [0, 1, 2, 3, 10, 11].map(Some));
            let mut page = [0; PAGE_SIZE];
            let left_out = dump.read_page(Pfn(1), &mut page);
            assert!(matches!(left_out, Err(Absent::LeftOut)));
            let nothing = dump.read_page(Pfn(1000), &mut page);
            assert!(matches!(nothing, Err(Absent::NoMemory)));
            assert_eq!(dump.ram(), [range(0, 0x200), range(800, 8), range(2047, 1)]);
        }
    }
}

#[test]
fn a_bitmap_is_bounded_by_the_file_and_by_its_pages() {
    let header = header(dump_type::BITMAP_FULL, &[]);
    let part = bitmap_part(bitmap::FULL, &[0xff; 8], 64);
    let error = why(opened(&[header.as_bytes(), &part], 63));
    assert!(
        error.contains("but the pages needs bytes 0x3000 to 0x43000"),
        "{error}"
    );
    let with = |at: usize, value: u64| {
        let mut part = part.clone();
        part[at..at + 8].copy_from_slice(&value.to_le_bytes());
        why(opened(&[header.as_bytes(), &part], 64))
    };
    assert!(with(0x30, 1 << 40).starts_with("at byte 0x2030: a bitmap of 0x10000000000 bits"));
    assert!(with(0x30, 1 << 26).contains("but the bitmap needs bytes"));
    assert!(with(0x20, 0x2038).starts_with("at byte 0x2020: the first page can't be at byte 0x2038"));
    assert!(with(0x20, u64::MAX).contains("the pages"));
    assert_eq!(with(0, 0), "at byte 0x2000: there is no bitmap's signature");
    let told_wrong = bitmap_part(bitmap::FULL, &[0xff; 8], 5);
    let dump = opened(&[header.as_bytes(), &told_wrong], 64).unwrap();
    let problems = &dump.description().problems;
    assert!(
        problems
            .iter()
            .any(|problem| problem.what.contains("says that 5 pages")),
        "{problems:?}"
    );
}

/// SUMMARY_DUMP of a pointer's size. WinDbg 10.0.15063 opens what is made so.
fn summary_part(pointer: usize, first_page: u32, bits: &[u8], pages: u32) -> Vec<u8> {
    let count = bits.len() as u32 * 8;
    let mut part = Vec::new();
    part.extend(b"SDMPDUMP");
    for word in [1, first_page, count, pages, count] {
        part.extend(u32::to_le_bytes(word));
    }
    part.resize(part.len().next_multiple_of(pointer) + pointer, 0);
    part.extend(bits);
    part.resize(PAGE_SIZE, 0);
    part
}

#[test]
fn kernel_dumps_of_before_windows_8_have_a_bitmap_too() {
    let bits = [0b110; 64];
    let header64 = header(dump_type::SUMMARY, &[]);
    let part = summary_part(8, 0x3000, &bits, 128);
    let dump = opened(&[header64.as_bytes(), &part], 128).unwrap();
    assert_eq!(dump.description().format, Format::WindowsSummary);
    assert_eq!(
        [1, 2, 3, 9].map(|pfn| index(&dump, pfn)),
        [Some(0), Some(1), None, Some(2)]
    );

    let mut header32: Header32 = blank();
    header32.valid_dump = VALID32;
    header32.machine_image_type = 0x14c.into();
    header32.dump_type = dump_type::SUMMARY.into();
    header32.attributes = 0.into();
    let part = summary_part(4, 0x2000, &bits, 128);
    let dump = opened(&[header32.as_bytes(), &part], 128).unwrap();
    assert_eq!(dump.description().arch, Some("x86"));
    assert_eq!(
        [1, 2, 3, 9].map(|pfn| index(&dump, pfn)),
        [Some(0), Some(1), None, Some(2)]
    );
}

/// What types 8 to 10 have behind the header.
fn live_part(ranges: &[(u64, u64)], total: u64) -> Vec<u8> {
    let first_page = 0x4000u64;
    let mut part = Vec::new();
    part.extend(0x40u32.to_le_bytes());
    part.extend(b"RDMPDUMP");
    part.extend(0u32.to_le_bytes());
    part.extend((first_page - 0x2040 + 0x20).to_le_bytes());
    part.extend(first_page.to_le_bytes());
    part.extend((ranges.len() as u64).to_le_bytes());
    part.extend(total.to_le_bytes());
    for (first, count) in ranges {
        part.extend(first.to_le_bytes());
        part.extend(count.to_le_bytes());
    }
    part.resize(0x2000, 0);
    part
}

#[test]
fn dumps_of_newer_debuggers_have_ranges() {
    for kind in [8, 9, 10] {
        let header = header(kind, &[]);
        let part = live_part(&[(0x10, 2), (5, 1), (0x100, 4)], 7);
        let dump = opened(&[header.as_bytes(), &part], 7).unwrap();
        assert_eq!(dump.description().format, Format::WindowsLive);
        let found = [0x10, 0x11, 5, 0x100, 0x103, 0x104].map(|pfn| index(&dump, pfn));
        assert_eq!(found, [Some(0), Some(1), Some(2), Some(3), Some(6), None]);
        let twice = live_part(&[(0x10, 2), (0x11, 1)], 3);
        assert_eq!(
            why(opened(&[header.as_bytes(), &twice], 3)),
            "at byte 0x2040: page 0x11 is in two ranges"
        );
    }
    // The count of type 10 ends its ranges.
    let header = header(10, &[]);
    let part = live_part(&[(0x10, 2), (0x20, 1)], 2);
    let dump = opened(&[header.as_bytes(), &part], 3).unwrap();
    assert_eq!(dump.description().pages, 2);
}

#[test]
fn what_is_no_dump_or_is_encrypted_is_refused_with_the_reason() {
    assert!(matches!(opened(&[b"ELF..........."], 0), Err(Error::Unknown(_))));
    assert!(matches!(
        opened(&[b"PAGEDUxx"], 0),
        Err(Error::Damaged { at: 4, .. })
    ));
    assert!(matches!(opened(&[b"PAGEDU64"], 1), Err(Error::Truncated { .. })));
    let error = why(opened(&[header(0x77, &[]).as_bytes()], 0));
    assert_eq!(error, "at byte 0xf98: there is no type 0x77 of dumps");
    let mut encrypted = header(dump_type::BITMAP_KERNEL, &[]);
    encrypted.attributes = attributes::ENCRYPTED_DUMP_DATA.into();
    let result = opened(&[encrypted.as_bytes()], 0);
    assert!(matches!(result, Err(Error::Unsupported(_))));
}

#[test]
fn a_header_that_says_nothing_is_told_as_such() {
    let header = header(dump_type::FULL, &[(0, 1)]);
    let dump = opened(&[header.as_bytes()], 1).unwrap();
    let description = dump.description();
    assert_eq!((description.time, description.uptime), (None, None));
    assert_eq!((&description.crash, dump.processors().len()), (&None, 0));
    let problems: Vec<&str> = description
        .problems
        .iter()
        .map(|problem| &*problem.what)
        .collect();
    for part in [
        "no exception record",
        "KDDEBUGGER_DATA64",
        "no CONTEXT",
        "0 of 1 processors",
    ] {
        assert!(
            problems.iter().any(|problem| problem.contains(part)),
            "{part}: {problems:?}"
        );
    }
}

#[test]
fn sixteen_gib_are_open_at_once() {
    const PAGES: u64 = 16 << 18;
    let full = header(dump_type::FULL, &[(1, PAGES)]);
    let kernel = header(dump_type::BITMAP_FULL, &[]);
    let bytes = vec![0xff; PAGES as usize / 8];
    let mut part = bitmap_part(bitmap::FULL, &bytes[..8], PAGES);
    part.truncate(0x38);
    part[0x30..0x38].copy_from_slice(&PAGES.to_le_bytes());
    part[0x20..0x28].copy_from_slice(&0x10_0000u64.to_le_bytes());
    for (parts, first_page, last) in [
        (vec![full.as_bytes()], 0x2000, PAGES),
        (vec![kernel.as_bytes(), &part, &bytes], 0x10_0000, PAGES - 1),
    ] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&parts.concat()).unwrap();
        let length = first_page + PAGES * PAGE_SIZE as u64;
        file.as_file().set_len(length).unwrap();
        file.as_file()
            .write_all_at(&page(7), length - PAGE_SIZE as u64)
            .unwrap();
        let start = Instant::now();
        let dump = open(FileBytes::open(file.path()).unwrap()).unwrap();
        assert_eq!(index(&dump, last), Some(7));
        let took = start.elapsed();
        assert!(took < Duration::from_millis(500), "{took:?}");
        println!("16 GiB: {took:?}");
    }
}
