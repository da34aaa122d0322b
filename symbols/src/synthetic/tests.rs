use super::cache::{Cache, Fingerprint};
use super::*;
use crate::btf::tests::{Builder, kernel as types};
use proptest::prelude::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

const BASE: u64 = 0xffff_ffff_8100_0000;
const SLIDE: u64 = 0x2ee0_0000;

/// The symbols of a small kernel at an address.
fn symbols(base: u64) -> Vec<Symbol<'static>> {
    let at = |offset: u64, kind, name: &'static str| Symbol {
        address: base + offset,
        kind,
        name: name.as_bytes(),
    };
    let per_cpu = Symbol {
        address: 0x2ff80,
        kind: 'D',
        name: b"runqueues",
    };
    vec![
        per_cpu,
        at(0, 'T', "_text"),
        at(0x10, 't', "static_one"),
        at(0x40, 'T', "vfs_read"),
        at(0x80, 'T', "asm_exc_page_fault"),
        at(0x1000, 'T', "_etext"),
        at(0x1010, 'R', "linux_banner"),
        at(0x1090, 'r', "quiet\x1b[0m"),
        at(0x2000, 'D', "_sdata"),
        at(0x2040, 'D', "init_task"),
        at(0x20c0, 'd', "prb"),
        at(0x3000, 'T', "_sinittext"),
        at(0x3800, 'T', "_einittext"),
    ]
}

fn btf() -> Btf {
    let mut b = types();
    let file = b.name("file");
    b.add("", 13, 1, 1, &[file, 3]); // 9: int (struct list_head *file)
    b.add("vfs_read", 12, 1, 9, &[]); // 10
    b.structure("printk_ringbuffer", 8, &[("seq", 2, 0)]); // 11
    b.add("char", 1, 0, 1, &[1 << 24 | 8]); // 12
    b.add("runqueues", 14, 0, 4, &[1]); // 13
    Btf::parse(b.bytes()).expect("it is BTF")
}

/// A CALL row with its frame at rsp + 8, one after a push, an exception's with all registers, the end of it all.
fn orc(base: u64) -> Orc {
    let start = base + 0x1800;
    let rows: [(u64, i16, u16); 4] = [
        (0x10, 8, 0x205),
        (0x42, 16, 0x205),
        (0x80, 0, 0x305),
        (0x1000, 0, 0),
    ];
    Orc {
        start,
        ips: (0..)
            .zip(rows)
            .flat_map(|(number, (at, ..))| {
                ((base + at).wrapping_sub(start + 4 * number) as u32).to_le_bytes()
            })
            .collect(),
        rows: rows
            .iter()
            .flat_map(|(_, offset, flags)| {
                let [a, b] = offset.to_le_bytes();
                let [c, d] = flags.to_le_bytes();
                [a, b, 0, 0, c, d]
            })
            .collect(),
        version: OrcVersion::V3,
    }
}

fn made_at(base: u64) -> SymbolFile {
    let (btf, orc) = (btf(), orc(base));
    kernel(base, &btf, &orc).symbol_file().expect("a file")
}

fn kernel<'a>(base: u64, btf: &'a Btf, orc: &'a Orc) -> Kernel<'a> {
    Kernel {
        image: base..base + 0x4000,
        symbols: symbols(base),
        btf: Some(btf),
        orc: Some(orc),
        build_id: Some(&[0xab; 20]),
    }
}

fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    let part = bytes[at..at + size].iter().rev();
    part.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A section's address, size and contents, by its name.
fn section<'a>(file: &'a [u8], name: &str) -> Option<(u64, u64, &'a [u8])> {
    let start = number(file, 0x28, 8) as usize;
    let count = number(file, 0x3c, 2) as usize;
    let header = |index: usize| &file[start + 64 * index..start + 64 * index + 64];
    let names = number(header(number(file, 0x3e, 2) as usize), 0x18, 8) as usize;
    (1..count).map(header).find_map(|header| {
        let at = names + number(header, 0, 4) as usize;
        let found = file[at..].split(|byte| *byte == 0).next()? == name.as_bytes();
        let (place, size) = (number(header, 0x18, 8) as usize, number(header, 0x20, 8));
        let contents = match number(header, 4, 4) {
            8 => &[][..],
            _ => &file[place..place + size as usize],
        };
        found.then(|| (number(header, 0x10, 8), size, contents))
    })
}

#[test]
fn a_modules_sections_begin_at_zero_and_its_frames_at_the_text() {
    let (text, data) = (0xffff_ffff_c056_c000, 0xffff_ffff_c056_a000);
    let symbol = |address, kind, name: &'static str| Symbol {
        address,
        kind,
        name: name.as_bytes(),
    };
    let orc = orc(text);
    let module = Module {
        parts: vec![
            (PartKind::Text, text..text + 0x2000),
            (PartKind::Data, data..data + 0x1000),
        ],
        symbols: vec![
            symbol(text + 0x40, 't', "lo_open"),
            symbol(data + 0x80, 'd', "loop_ctl_mutex"),
            symbol(text - 0x10, 'a', "elsewhere"),
        ],
        orc: Some(&orc),
    };
    let file = module.symbol_file().expect("a file").into_bytes();
    assert_eq!(number(&file, 0x10, 2), 1, "relocatable");
    assert_eq!(section(&file, ".text").map(|it| (it.0, it.1)), Some((0, 0x2000)));
    assert_eq!(section(&file, ".data").map(|it| (it.0, it.1)), Some((0, 0x1000)));
    let (_, _, table) = section(&file, ".symtab").expect("symbols");
    let all: Vec<(u64, u64)> = table
        .chunks(24)
        .map(|it| (number(it, 6, 2), number(it, 8, 8)))
        .collect();
    assert_eq!(all, [(0, 0), (1, 0x40), (2, 0x80), (0xfff1, (-0x10_i64) as u64)]);
    let (_, _, frames) = section(&file, ".debug_frame").expect("frames");
    let mut at = 0;
    let mut starts = Vec::new();
    while at < frames.len() {
        if number(frames, at + 4, 4) != u64::from(u32::MAX) {
            starts.push(number(frames, at + 8, 8));
        }
        at += 4 + number(frames, at, 4) as usize;
    }
    assert_eq!(starts, [0x40]);
}

#[test]
fn a_module_without_text_or_with_one_that_ends_first_has_no_file() {
    let (start, end) = (0x2000, 0x1000);
    for parts in [
        vec![],
        vec![(PartKind::Data, 0x1000..0x2000)],
        vec![(PartKind::Text, start..end)],
        vec![(PartKind::Text, 0x2000..0x2000)],
    ] {
        let module = Module {
            parts,
            symbols: Vec::new(),
            orc: None,
        };
        assert!(matches!(module.symbol_file(), Err(SyntheticError::Image(_))));
    }
    // Parts at the ends of the address space.
    let module = Module {
        parts: vec![
            (PartKind::Text, 0..u64::MAX),
            (PartKind::Data, u64::MAX - 1..u64::MAX),
        ],
        symbols: Vec::new(),
        orc: None,
    };
    assert!(module.symbol_file().is_ok());
}

#[test]
fn a_file_moves_to_where_it_would_have_been_made() {
    let here = made_at(BASE);
    let there = made_at(BASE + SLIDE);
    assert_ne!(here.bytes(), there.bytes());
    assert_eq!(here.clone().moved_to(BASE + SLIDE), there);
    assert_eq!(there.moved_to(BASE), here);
}

#[test]
fn the_parts_of_the_image_leave_no_gaps() {
    let file = made_at(BASE);
    let mut at = BASE;
    for name in [".text", ".rodata", ".data", ".init.text", ".bss"] {
        let (address, size, _) = section(file.bytes(), name).expect(name);
        assert_eq!(address, at, "{name}");
        at += size;
    }
    assert_eq!(at, BASE + 0x4000);
}

#[test]
fn symbols_have_the_size_up_to_the_next_and_printable_names() {
    let file = made_at(BASE);
    let (_, _, table) = section(file.bytes(), ".symtab").expect("symbols");
    let (_, _, strings) = section(file.bytes(), ".strtab").expect("names");
    let all: Vec<_> = table
        .chunks(24)
        .map(|entry| {
            let name = &strings[number(entry, 0, 4) as usize..];
            let name = name.split(|byte| *byte == 0).next().expect("a name");
            let name = String::from_utf8_lossy(name).into_owned();
            let (section, value) = (number(entry, 6, 2), number(entry, 8, 8));
            (name, entry[4], section, value, number(entry, 16, 8))
        })
        .collect();
    assert_eq!(all.len(), 1 + symbols(BASE).len());
    let of = |name: &str| all.iter().find(|it| it.0 == name).expect(name).clone();
    assert_eq!(
        of("vfs_read"),
        ("vfs_read".to_owned(), 0x12, 1, BASE + 0x40, 0x40)
    );
    assert_eq!(
        of("static_one"),
        ("static_one".to_owned(), 0x02, 1, BASE + 0x10, 0x30)
    );
    assert_eq!(of("init_task").4, 0x80);
    assert_eq!(
        (of("runqueues").2, of("runqueues").3),
        (0xfff1, 0x2ff80),
        "per CPU: no address"
    );
    assert_eq!(of("quiet?[0m").4, 0xf70, "up to the end of .rodata");
    let first_global = all.iter().position(|it| it.1 >= 0x10).expect("there are some");
    assert!(all[first_global..].iter().all(|it| it.1 >= 0x10));
}

#[test]
fn each_function_has_its_own_rules_for_unwinding() {
    let file = made_at(BASE);
    let (_, _, frames) = section(file.bytes(), ".debug_frame").expect("frames");
    let mut entries = Vec::new();
    let mut at = 0;
    while at < frames.len() {
        let length = number(frames, at, 4) as usize;
        entries.push((at, &frames[at + 4..at + 4 + length]));
        at += 4 + length;
    }
    let (common, functions): (Vec<_>, Vec<_>) = entries
        .iter()
        .partition(|(_, it)| number(it, 0, 4) == u64::from(u32::MAX));
    let [plain, interrupt] = common[..] else {
        panic!("{} common entries", common.len())
    };
    let rules = |start: u64| {
        let (_, it) = functions
            .iter()
            .find(|(_, it)| number(it, 4, 8) == start)
            .expect("an entry");
        (number(it, 0, 4) as usize, number(it, 12, 8), &it[20..])
    };
    let (cie, length, read) = rules(BASE + 0x40);
    assert_eq!((cie, length), (plain.0, 0x40));
    // def_cfa rsp + 8; advance_loc 2; def_cfa_offset 16.
    assert_eq!(read[..6], [0x0c, 7, 8, 0x42, 0x0e, 16]);
    let (cie, _, fault) = rules(BASE + 0x80);
    assert_eq!(cie, interrupt.0);
    // No augmentation; def_cfa rsp + 0; offset_extended_sf r15 at 0 …, rip at 0x80: -16 times -8.
    assert_eq!(fault[..5], [0, 0x0c, 7, 0, 0x8f]);
    assert!(fault.windows(3).any(|it| it == [0x11, 16, 0x70]));
}

#[test]
fn types_in_circles_are_cut() {
    let mut b = Builder::new();
    b.add("loop", 8, 0, 1, &[]); // 1: a typedef of itself
    b.add("", 2, 0, 3, &[]); // 2: a pointer to …
    b.add("", 10, 0, 2, &[]); // 3: … a constant of it
    b.structure("inside", 8, &[("itself", 4, 0)]); // 4
    b.structure("node", 8, &[("next", 6, 0)]); // 5
    b.add("", 2, 0, 5, &[]); // 6: as C can say it
    let btf = Btf::parse(b.bytes()).expect("it is BTF");
    let broken = graph::broken(&btf);
    assert!(broken[1] && broken[4]);
    assert!(broken[2] || broken[3]);
    assert!(!broken[5] && !broken[6], "pointers in structures are fine");
}

#[test]
fn types_in_types_have_a_limit() {
    let mut b = Builder::new();
    b.add("int", 1, 0, 4, &[1 << 24 | 32]);
    for below in 1..1000 {
        b.add("", 2, 0, below, &[]);
    }
    let btf = Btf::parse(b.bytes()).expect("it is BTF");
    let broken = graph::broken(&btf);
    let cuts = broken.iter().filter(|it| **it).count();
    assert!((3..10).contains(&cuts), "{cuts}");
}

#[test]
fn an_image_that_can_not_be_is_refused() {
    let mut kernel = Kernel {
        image: BASE..BASE,
        symbols: symbols(BASE),
        btf: None,
        orc: None,
        build_id: None,
    };
    assert_eq!(
        kernel.symbol_file().err(),
        Some(SyntheticError::Image(BASE..BASE))
    );
    kernel.image = 0..u64::MAX;
    assert!(kernel.symbol_file().is_err());
}

#[test]
fn without_types_there_is_no_build_id() {
    let kernel = Kernel {
        image: BASE..BASE + 0x4000,
        symbols: symbols(BASE),
        btf: None,
        orc: None,
        build_id: Some(&[1; 20]),
    };
    let file = kernel.symbol_file().expect("a file");
    assert_eq!(section(file.bytes(), ".note.gnu.build-id"), None);
    let with = made_at(BASE);
    let note = section(with.bytes(), ".note.gnu.build-id").expect("a note").2;
    assert_eq!(note[16..], [0xab; 20]);
}

#[test]
fn what_is_kept_serves_the_next_boot() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = Cache::open(&folder.path().join("kdd/symbols")).expect("a cache");
    let (btf, first, second) = (btf(), orc(BASE), orc(BASE + SLIDE));
    let first = kernel(BASE, &btf, &first);
    let made = cache.symbol_file(&first).expect("a file");
    let second = kernel(BASE + SLIDE, &btf, &second);
    let fingerprint = Fingerprint::of(&second);
    assert_eq!(Fingerprint::of(&first), fingerprint, "the same kernel, elsewhere");
    assert_eq!(cache.get(second.build_id, fingerprint), Some(made.clone()));
    let again = cache.symbol_file(&second).expect("a file");
    assert_eq!(again, made.moved_to(BASE + SLIDE));
    let file = folder
        .path()
        .join("kdd/symbols")
        .join("ab".repeat(20) + ".symbols");
    assert_eq!(
        std::fs::metadata(file).expect("it is there").mode() & 0o777,
        0o600
    );
}

#[test]
fn a_build_id_alone_is_not_believed() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = Cache::open(folder.path()).expect("a cache");
    let (btf, orc) = (btf(), orc(BASE));
    let mut kernel = kernel(BASE, &btf, &orc);
    cache.symbol_file(&kernel).expect("a file");
    kernel.symbols[3].name = b"another";
    assert_eq!(cache.get(kernel.build_id, Fingerprint::of(&kernel)), None);
}

#[test]
fn a_spoilt_file_is_not_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = Cache::open(folder.path()).expect("a cache");
    let (btf, orc) = (btf(), orc(BASE));
    let kernel = kernel(BASE, &btf, &orc);
    let fingerprint = Fingerprint::of(&kernel);
    let made = cache.symbol_file(&kernel).expect("a file");
    let path = folder.path().join("ab".repeat(20) + ".symbols");
    let good = std::fs::read(&path).expect("it is there");
    for at in [0, 8, 12, 16, 24, 40, 80, 200, good.len() - 1] {
        let mut spoilt = good.clone();
        spoilt[at] ^= 0x10;
        std::fs::write(&path, &spoilt).expect("it is ours");
        assert_eq!(cache.get(kernel.build_id, fingerprint), None, "byte {at}");
    }
    std::fs::write(&path, &good[..good.len() - 1]).expect("it is ours");
    assert_eq!(cache.get(kernel.build_id, fingerprint), None);
    assert_eq!(cache.symbol_file(&kernel).expect("a file"), made);
    assert_eq!(cache.get(kernel.build_id, fingerprint), Some(made), "it is back");
}

#[test]
fn the_folder_is_bounded_and_its_users_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = Cache::open(folder.path()).expect("a cache");
    let (btf, orc) = (btf(), orc(BASE));
    let kernel = kernel(BASE, &btf, &orc);
    let (fingerprint, file) = (Fingerprint::of(&kernel), made_at(BASE));
    for id in 0..40 {
        cache.put(Some(&[id; 20]), fingerprint, &file).expect("kept");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 16);
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(folder.path(), open).expect("it is ours");
    assert!(Cache::open(folder.path()).is_err());
}

proptest! {
    #[test]
    fn spoilt_input_gives_a_file_that_moves(
        spoils in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        rows in proptest::collection::vec((0_i32..0x4000, any::<[u8; 6]>()), 0..40),
        version in prop::sample::select(vec![OrcVersion::V1, OrcVersion::V2, OrcVersion::V3, OrcVersion::V4]),
    ) {
        let mut bytes = btf().bytes().to_vec();
        for (place, value) in spoils {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        let Ok(btf) = Btf::parse(bytes) else { return Ok(()) };
        let make = |base: u64| {
            let orc = Orc {
                start: base,
                ips: (0..).zip(&rows).flat_map(|(n, (at, _))| (at - 4 * n).to_le_bytes()).collect(),
                rows: rows.iter().flat_map(|(_, row)| *row).collect(),
                version,
            };
            kernel(base, &btf, &orc).symbol_file()
        };
        let (here, there) = (make(BASE), make(BASE + SLIDE));
        prop_assert_eq!(here.map(|file| file.moved_to(BASE + SLIDE)), there);
    }
}
