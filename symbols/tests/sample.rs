//! PDB and PE files as a real linker writes them: `data/sample.c` says how.

use std::path::PathBuf;
use symbols::pe::{self, Exports, Headers};
use symbols::{Pdb, PdbError, PdbId};

fn data(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "data", name]
        .iter()
        .collect()
}

/// The image as it is laid out in memory: sections at their RVAs.
fn image() -> (Headers, Vec<u8>) {
    let file = std::fs::read(data("sample.exe")).unwrap();
    let headers = Headers::parse(&file).unwrap();
    let mut memory = vec![0; headers.size_of_image as usize];
    memory[..headers.size_of_headers as usize].copy_from_slice(&file[..headers.size_of_headers as usize]);
    let section_table = file.len().min(0x1000);
    for section in &headers.sections {
        let at = (0..section_table)
            .find(|&at| {
                file[at..].starts_with(&section.name) && file[at + 12..at + 16] == section.rva.to_le_bytes()
            })
            .unwrap();
        let field =
            |offset: usize| u32::from_le_bytes(file[at + offset..at + offset + 4].try_into().unwrap());
        let (size, raw) = (field(16).min(section.virtual_size) as usize, field(20) as usize);
        memory[section.rva as usize..][..size].copy_from_slice(&file[raw..raw + size]);
    }
    (headers, memory)
}

fn reader(memory: &[u8]) -> impl Fn(u32, &mut [u8]) -> bool + '_ {
    |rva, buffer| match memory.get(rva as usize..rva as usize + buffer.len()) {
        Some(bytes) => {
            buffer.copy_from_slice(bytes);
            true
        }
        None => false,
    }
}

fn id() -> PdbId {
    let (headers, memory) = image();
    pe::code_view(&headers, &reader(&memory)).unwrap()
}

fn pdb() -> Pdb {
    Pdb::open(&data("sample.pdb"), Some(&id())).unwrap()
}

#[test]
fn the_image_names_its_pdb() {
    let id = id();
    assert_eq!((id.name.as_str(), id.age), ("sample.pdb", 1));
    assert_eq!(pdb().guid(), id.guid);
}

#[test]
fn names_have_the_addresses_that_the_image_exports() {
    let (headers, memory) = image();
    let reader = reader(&memory);
    let exports = Exports::open(&headers, &reader).unwrap();
    let pdb = pdb();
    assert_eq!(exports.image_name().as_deref(), Some("sample.exe"));
    assert_eq!(exports.iter().count(), 3);
    for export in exports.iter() {
        assert_eq!(exports.find(&export.name), Some(export.rva));
        assert_eq!(pdb.rva(&export.name), Some(export.rva), "{}", export.name);
    }
    assert_eq!(exports.find("Nobody"), None);
    assert_eq!(pdb.rva("Nobody"), None);
    let number = exports.find("NtBuildNumber").unwrap() as usize;
    assert_eq!(memory[number..number + 4], 0xf000_4a61u32.to_le_bytes());
}

#[test]
fn private_names_and_the_nearest_name_are_found() {
    let pdb = pdb();
    let start = pdb.rva("KiPrivate").unwrap();
    assert_eq!(pdb.nearest(start + 1), Some(("KiPrivate", start)));
    assert_eq!(pdb.nearest(0), None);
    assert!(pdb.rva("KiHidden").is_some());
    assert!(pdb.names().is_sorted_by_key(|(_, rva)| rva));
}

#[test]
fn structures_have_sizes_and_fields() {
    let pdb = pdb();
    let process = pdb.structure("_EPROCESS").unwrap();
    assert_eq!(process.size, 0x58);
    let field = |name: &str| {
        let field = process.field(name).unwrap();
        (field.offset, field.type_name.as_str())
    };
    assert_eq!(field("DirectoryTableBase"), (0x18, "uint64"));
    assert_eq!(field("activeprocesslinks"), (0x28, "_LIST_ENTRY"));
    assert_eq!(field("UniqueProcessId"), (0x20, "void*"));
    assert_eq!(field("MoreFlags"), (0x38, "uint32 : 5"));
    assert_eq!(field("CreateTime"), (0x40, "_TICKS"));
    assert_eq!(field("ImageFileName"), (0x48, "unsigned char[15 bytes]"));
    assert_eq!(pdb.structure("_TICKS").unwrap().size, 8);
    assert_eq!(pdb.structure("_NOBODY"), None);
}

#[test]
fn a_file_of_another_build_is_refused() {
    let other = PdbId {
        guid: symbols::Guid(1),
        ..id()
    };
    let error = Pdb::open(&data("sample.pdb"), Some(&other)).unwrap_err();
    assert!(matches!(error, PdbError::Other { .. }), "{error}");
    let older = PdbId { age: 7, ..id() };
    assert!(Pdb::open(&data("sample.pdb"), Some(&older)).is_err());
}

/// A xorshift generator.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

#[test]
fn a_damaged_pdb_is_an_error_or_is_read_and_never_more() {
    let whole = std::fs::read(data("sample.pdb")).unwrap();
    // What the `pdb` crate asserts is caught, and is no noise of the test's.
    std::panic::set_hook(Box::new(|_| {}));
    let mut random = Random(7);
    let mut read = 0;
    for _ in 0..400 {
        let mut bytes = whole.clone();
        for _ in 0..=random.next(8) {
            // Half of the damage to the tables, which are sparse.
            let mut at = random.next(bytes.len());
            if random.next(2) == 0 {
                while bytes[at] == 0 {
                    at = (at + 1) % bytes.len();
                }
            }
            bytes[at] = [0, 0xff, 0x80, random.next(256) as u8][random.next(4)];
        }
        if random.next(8) == 0 {
            bytes.truncate(random.next(whole.len()));
        }
        if let Ok(pdb) = Pdb::parse(bytes, None) {
            read += 1;
            assert!(pdb.names().count() < 10_000);
        }
    }
    let _ = std::panic::take_hook();
    assert!(read > 0);
}

#[test]
fn a_damaged_image_is_an_error_or_is_read_and_never_more() {
    let (_, whole) = image();
    let mut random = Random(11);
    let mut headers_read = 0;
    for _ in 0..2000 {
        let mut memory = whole.clone();
        for _ in 0..=random.next(20) {
            let mut at = random.next(memory.len());
            while memory[at] == 0 {
                at = (at + 1) % memory.len();
            }
            memory[at] = random.next(256) as u8;
        }
        if let Ok(headers) = Headers::parse(&memory[..0x1000]) {
            headers_read += 1;
            let reader = reader(&memory);
            let _ = pe::code_view(&headers, &reader);
            if let Ok(exports) = Exports::open(&headers, &reader) {
                let _ = exports.image_name();
                assert!(exports.iter().count() <= 0x1_0000);
                let _ = exports.find("KeTick");
            }
        }
    }
    assert!(headers_read > 0);
}
