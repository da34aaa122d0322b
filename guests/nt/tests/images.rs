//! What the builder makes of the profiles, read back with a PDB reader that isn't ours.

use nt_guest::{Arch, Built, Profile, build, build_symbols};
use pdb::{FallibleIterator, PDB, SymbolData, TypeData, TypeFinder, TypeIndex};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A folder of this test's own, empty.
fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("nt-guest-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Every profile's image without code, which is built in a moment.
fn symbols_of_all(name: &str) -> (PathBuf, Vec<(Profile, Built)>) {
    let folder = scratch(name);
    let all = Profile::names().map(|name| {
        let profile = Profile::built_in(name).unwrap();
        let built = build_symbols(&profile, &folder.join(name)).unwrap();
        (profile, built)
    });
    let all = all.collect();
    (folder, all)
}

fn open_pdb(built: &Built) -> PDB<'static, File> {
    let kernel = &built.manifest.images[0];
    PDB::open(File::open(built.folder.join(&kernel.pdb)).unwrap()).unwrap()
}

/// Offsets of a structure's fields, and its size, by its name.
fn structures(pdb: &mut PDB<'static, File>) -> HashMap<String, (u64, BTreeMap<String, u64>)> {
    let types = pdb.type_information().unwrap();
    let mut finder = types.finder();
    let mut iter = types.iter();
    let mut found = HashMap::new();
    let mut indices: Vec<TypeIndex> = Vec::new();
    while let Some(item) = iter.next().unwrap() {
        finder.update(&iter);
        indices.push(item.index());
    }
    for index in indices {
        let Ok(TypeData::Class(class)) = finder.find(index).unwrap().parse() else {
            continue;
        };
        if class.properties.forward_reference() {
            continue;
        }
        let mut fields = BTreeMap::new();
        if let Some(list) = class.fields {
            members(&finder, list, &mut fields);
        }
        found.insert(class.name.to_string().into_owned(), (class.size, fields));
    }
    found
}

fn members(finder: &TypeFinder<'_>, list: TypeIndex, fields: &mut BTreeMap<String, u64>) {
    let Ok(TypeData::FieldList(list)) = finder.find(list).unwrap().parse() else {
        panic!("no list of fields")
    };
    for field in list.fields {
        if let TypeData::Member(member) = field {
            fields.insert(member.name.to_string().into_owned(), member.offset);
        }
    }
    if let Some(more) = list.continuation {
        members(finder, more, fields);
    }
}

#[test]
fn every_structure_in_the_pdb_has_the_profiles_size_and_offsets() {
    let (folder, all) = symbols_of_all("structures");
    for (profile, built) in &all {
        let found = structures(&mut open_pdb(built));
        assert!(profile.structs.len() > 10);
        for (name, wanted) in &profile.structs {
            let (size, fields) = found
                .get(name)
                .unwrap_or_else(|| panic!("{}: no {name}", profile.name));
            for (field, &offset) in wanted.iter().filter(|(field, _)| !field.contains('.')) {
                let is = if field == "_size" {
                    Some(*size)
                } else {
                    fields.get(field).copied()
                };
                assert_eq!(is, Some(u64::from(offset)), "{}: {name}.{field}", profile.name);
            }
        }
        for name in [
            "_LIST_ENTRY",
            "_DISPATCHER_HEADER",
            "_KDDEBUGGER_DATA64",
            "_KUSER_SHARED_DATA",
        ] {
            assert!(found.contains_key(name), "{}: no {name}", profile.name);
        }
        assert_eq!(found["_KDDEBUGGER_DATA64"].0, u64::from(profile.kdbg_size()));
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn every_symbol_is_at_the_profiles_rva() {
    let (folder, all) = symbols_of_all("rvas");
    for (profile, built) in &all {
        let mut pdb = open_pdb(built);
        let table = pdb.global_symbols().unwrap();
        let map = pdb.address_map().unwrap();
        let mut found = HashMap::new();
        let mut symbols = table.iter();
        while let Some(symbol) = symbols.next().unwrap() {
            if let Ok(SymbolData::Public(public)) = symbol.parse() {
                let rva = public.offset.to_rva(&map).map(|rva| rva.0);
                found.insert(public.name.to_string().into_owned(), (rva, public.function));
            }
        }
        for (name, &rva) in &profile.rvas {
            assert_eq!(
                found.get(name).and_then(|(rva, _)| *rva),
                Some(rva),
                "{}: {name}",
                profile.name
            );
        }
        let decorated = |name: &str| match profile.arch {
            Arch::X64 => name.to_owned(),
            Arch::X86 => format!("_{name}"),
        };
        for (name, function) in [
            ("KeBugCheckEx", true),
            ("PsLoadedModuleList", false),
            ("KdDebuggerDataBlock", false),
        ] {
            assert_eq!(found[&decorated(name)].1, function, "{}: {name}", profile.name);
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()))
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// Name, RVA, virtual size, raw size and raw offset of an image's sections; and where its headers are.
fn sections(image: &[u8]) -> (Vec<(String, [usize; 4])>, usize, usize) {
    let nt = u32_at(image, 0x3c);
    let table = nt + 24 + u16_at(image, nt + 20);
    let sections = (0..u16_at(image, nt + 6)).map(|number| {
        let at = table + number * 40;
        let name = String::from_utf8(image[at..at + 8].to_vec()).unwrap();
        let numbers = [12, 8, 16, 20].map(|field| u32_at(image, at + field));
        (name.trim_end_matches('\0').to_owned(), numbers)
    });
    (sections.collect(), nt, table)
}

fn checksum(image: &[u8], at: usize) -> u32 {
    let mut sum: u64 = 0;
    for (word, pair) in image.chunks(2).enumerate() {
        if word * 2 != at && word * 2 != at + 2 {
            sum += u64::from(pair[0]) | u64::from(pair.get(1).copied().unwrap_or(0)) << 8;
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    sum as u32 + image.len() as u32
}

#[test]
fn images_have_what_readers_of_a_windows_kernel_look_for() {
    let (folder, all) = symbols_of_all("images");
    for (profile, built) in &all {
        let name = &profile.name;
        let image = std::fs::read(built.folder.join("ntoskrnl.exe")).unwrap();
        let (sections, nt, table) = sections(&image);
        let wide = u16_at(&image, nt + 24) == 0x20b;
        assert!(
            nt <= 0x800 && table + sections.len() * 40 <= 0x1000,
            "{name}: headers in one page"
        );
        let pool = sections
            .iter()
            .position(|(section, _)| section == "POOLCODE")
            .expect(name);
        assert_eq!((table + pool * 40) % 8, 0, "{name}: POOLCODE isn't aligned");
        let versions: Vec<usize> = [40, 42, 44, 46, 48, 50]
            .iter()
            .map(|at| u16_at(&image, nt + 24 + at))
            .collect();
        let (major, minor) = (profile.major() as usize, profile.minor() as usize);
        assert_eq!(versions, [major, minor, major, minor, major, minor], "{name}");
        let sum = u32_at(&image, nt + 24 + 64) as u32;
        assert_eq!(sum, checksum(&image, nt + 24 + 64), "{name}: checksum");
        let raw = |rva: usize| {
            let (_, [start, .., offset]) = sections
                .iter()
                .find(|(_, [start, _, size, _])| (*start..start + size).contains(&rva))
                .expect(name);
            offset + rva - start
        };
        let directories = nt + 24 + if wide { 112 } else { 96 };
        let export = raw(u32_at(&image, directories));
        let export_name = raw(u32_at(&image, export + 12));
        assert!(image[export_name..].starts_with(b"ntoskrnl.exe\0"), "{name}");
        // The first debug entry is CodeView's, as elf2dmp wants it.
        let debug = raw(u32_at(&image, directories + 6 * 8));
        assert_eq!(u32_at(&image, debug + 12), 2, "{name}");
        let record = u32_at(&image, debug + 24);
        assert!(image[record..].starts_with(b"RSDS"), "{name}");
        let path = [profile.pdb().as_bytes(), b"\0"].concat();
        assert!(image[record + 24..].starts_with(&path), "{name}");
        assert_eq!(u32_at(&image, record + 20), profile.age as usize, "{name}");
        let information = open_pdb(built).pdb_information().unwrap();
        let guid = information.guid.simple().to_string().to_uppercase();
        assert_eq!(guid, profile.guid(), "{name}");
        let fields = information.guid.as_fields();
        assert_eq!(u32_at(&image, record + 4), fields.0 as usize, "{name}");
        assert_eq!(&image[record + 12..record + 20], fields.3, "{name}");
        let (_, [data, size, ..]) = sections
            .iter()
            .find(|(section, _)| section == ".data")
            .expect(name);
        for variable in [
            "KdVersionBlock",
            "KdpDebuggerDataListHead",
            "KdDebuggerDataBlock",
            "PsLoadedModuleList",
        ] {
            if let Some(&rva) = profile.rvas.get(variable) {
                assert!(
                    (*data..data + size).contains(&(rva as usize)),
                    "{name}: {variable} isn't in .data"
                );
            }
        }
        let stored = format!(
            "symbols/{}/{}{:X}/{}",
            profile.pdb(),
            profile.guid(),
            profile.age,
            profile.pdb()
        );
        assert!(built.folder.join(stored).is_file(), "{name}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// Name and content of the images and PDBs of a build.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.is_file())
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                std::fs::read(path).unwrap(),
            )
        })
        .collect()
}

#[test]
fn the_whole_guest_is_built_the_same_twice_and_once_if_nothing_changed() {
    let folder = scratch("twice");
    let profile = Profile::built_in("win10-19041-x64").unwrap();
    let first = build(&profile, &folder.join("a")).unwrap();
    assert_eq!(first.messages, "", "compiler and linker have nothing to say");
    let second = build(&profile, &folder.join("elsewhere/b")).unwrap();
    let (one, other) = (contents(&first.folder), contents(&second.folder));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (name, content) in &one {
        assert!(*content == other[name], "{name} differs");
    }
    let written = |folder: &Path| {
        folder
            .join("ntoskrnl.exe")
            .metadata()
            .unwrap()
            .modified()
            .unwrap()
    };
    let before = written(&first.folder);
    build(&profile, &first.folder).unwrap();
    assert_eq!(written(&first.folder), before);
    let roles: Vec<&str> = first
        .manifest
        .images
        .iter()
        .map(|image| image.file.as_str())
        .collect();
    assert_eq!(&roles[..2], ["ntoskrnl.exe", "hal.dll"]);
    assert!(
        first
            .manifest
            .images
            .iter()
            .any(|image| image.file == "smss.exe" && !image.boot)
    );
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_profile_of_a_few_lines_is_completed_and_builds() {
    let folder = scratch("small");
    let json = r#"{"version": "10.0.19045.1", "arch": "x64", "rvas": {"KdVersionBlock": 2097168, "KiSystemCall64": 1052736},
        "structs": {"_EPROCESS": {"_size": 4096, "Pcb": 0, "ImageFileName": 3000, "UniqueProcessId": 2000}}}"#;
    let profile = Profile::parse("small", json).unwrap();
    let built = build(&profile, &folder.join("out")).unwrap();
    let found = structures(&mut open_pdb(&built));
    let fields = &found["_EPROCESS"].1;
    assert_eq!(
        (
            found["_EPROCESS"].0,
            fields["ImageFileName"],
            fields["UniqueProcessId"]
        ),
        (4096, 3000, 2000)
    );
    assert!(fields.contains_key("ActiveProcessLinks") && found.contains_key("_KTHREAD"));
    let known = Profile::names().map(|name| Profile::built_in(name).unwrap().guid());
    assert!(known.into_iter().all(|guid| guid != profile.guid()));
    std::fs::remove_dir_all(folder).unwrap();
}
