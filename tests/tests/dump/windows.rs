//! Windows dumps in volatility3, of the NT-shaped guest: what it lists is what the guest's own console says, and its
//! memory, page by page, is the guest's.

use crate::readers::volatility_of_windows;
use dump::{PAGE_SIZE, Page, Pfn};
use serde_json::{Value, json};
use std::path::Path;
use tests::{NtGuest, Service, has_dump_readers, nt_guest_with};

const CPUS: u32 = 2;

/// The guest, paused. Its debugger data block is encoded where its Windows does that.
fn paused(profile: &str) -> Option<(&'static NtGuest, Service)> {
    if !has_dump_readers() {
        return None;
    }
    let guest = nt_guest_with(profile, CPUS, "NODEBUG")?;
    let service = guest.service();
    service.kdd(&["pause", "vm"]).done();
    Some((guest, service))
}

/// A column of a table, and what its header calls it.
fn column(table: &Value, name: &str) -> Vec<Value> {
    let rows = table.as_array().expect("a table").iter();
    rows.map(|row| row[name].clone()).collect()
}

/// An address as volatility3 has it: of 48 bits.
fn short(address: u64) -> Value {
    json!(address & 0xffff_ffff_ffff)
}

/// What the header says, by the guest's own word.
#[track_caller]
fn assert_header(guest: &NtGuest, seen: &Value, format: &str) {
    let header = &seen["Crashinfo"][0];
    assert_eq!(
        header["DirectoryTableBase"],
        guest.processes()[0].root,
        "{header}"
    );
    assert_eq!(header["NumberProcessors"], CPUS, "{header}");
    let modules = guest.modules();
    for symbol in ["PsLoadedModuleList", "PsActiveProcessHead", "KdDebuggerDataBlock"] {
        let place = header[symbol].as_u64().unwrap_or_default();
        // Profiles of 32 bits have no places of symbols.
        match guest.profile.rvas.contains_key(symbol) {
            true => assert_eq!(place, guest.symbol(symbol), "{symbol} of {header}"),
            false => assert!(
                (modules[0].base..modules[0].end).contains(&place),
                "{symbol} of {header}"
            ),
        }
    }
    let (kind, bitmap) = match format {
        "windows" => ("Full Dump (0x1)", false),
        _ => ("Bitmap Dump (0x5)", true),
    };
    assert_eq!(header["DumpType"], kind);
    assert_eq!(header["BitmapPages"].is_u64(), bitmap, "{header}");
}

/// That all memory is there: as in our own reader, and as in the guest but for what the writer put there.
#[track_caller]
fn assert_pages(service: &Service, dump: &Path, pages: &Path, ranges: &Value) {
    let (theirs, ours) = (std::fs::read(pages).expect("they are written"), dump::open(dump));
    let ours = ours.unwrap_or_else(|error| panic!("{error}"));
    let file = service.scratch().path("part");
    let (mut at, mut changed) = (0, Vec::new());
    for range in ranges.as_array().expect("ranges") {
        let [start, length] = [0, 1].map(|part| range[part].as_u64().expect("a number"));
        let text = [start, length].map(|number| format!("{number:#x}"));
        let name = file.to_string_lossy();
        service
            .kdd(&["mem", "read", "vm", &text[0], &text[1], "--phys", "-o", &*name])
            .done();
        let live = std::fs::read(&file).expect("it was written");
        std::fs::remove_file(&file).expect("it is there");
        assert_eq!(live.len() as u64, length);
        for (number, live) in live.chunks_exact(PAGE_SIZE).enumerate() {
            let pfn = Pfn(start / PAGE_SIZE as u64 + number as u64);
            let theirs = &theirs[at..at + PAGE_SIZE];
            let mut page: Page = [0; PAGE_SIZE];
            ours.read_page(pfn, &mut page).expect("our reader has it, too");
            assert!(page == *theirs, "{pfn}");
            if live != theirs {
                changed.push(pfn);
            }
            at += PAGE_SIZE;
        }
    }
    assert_eq!(at, theirs.len());
    let ram: u64 = ours.ram().iter().map(|range| range.count).sum();
    assert_eq!(at as u64, ram * PAGE_SIZE as u64, "all of the guest's RAM");
    // The data block, and each processor's context, its place in the KPRCB, and its special registers.
    assert!(changed.len() <= 2 + 4 * CPUS as usize, "{changed:?}");
}

/// Opens both kinds of dumps that it takes; what it saw of each.
#[track_caller]
fn opened(guest: &NtGuest, service: &Service, layer: &str, pdb: Option<&Path>) -> Vec<Value> {
    let open = |format: &str| {
        let [dump, pages, folder] =
            ["", ".pages", ".symbols"].map(|suffix| service.scratch().path(&format!("{format}{suffix}")));
        std::fs::create_dir(&folder).expect("a new folder");
        let name = dump.to_string_lossy();
        service
            .kdd(&["dump", "vm", "--format", format, "-o", &*name])
            .done();
        let seen = volatility_of_windows(&dump, &folder, &pages, pdb);
        assert_eq!(seen["layer"], layer);
        assert_header(guest, &seen, format);
        assert_pages(service, &dump, &pages, &seen["ranges"]);
        seen
    };
    ["windows", "windows-bitmap"].map(open).into()
}

#[test]
fn volatility_lists_what_the_guest_lists() {
    let Some((guest, service)) = paused("win10-19041-x64") else {
        return;
    };
    let pdb = guest.folder.join("ntkrnlmp.pdb");
    for seen in opened(guest, &service, "WindowsCrashDump64Layer", Some(&pdb)) {
        let info = |name: &str| {
            let mut rows = seen["Info"].as_array().expect("a table").iter();
            let row = rows.find(|row| row["Variable"] == name);
            row.map_or(Value::Null, |row| row["Value"].clone())
        };
        let hex = |address: u64| format!("{:#x}", address & 0xffff_ffff_ffff);
        for (name, expected) in [
            ("Kernel Base", hex(guest.base())),
            ("DTB", hex(guest.processes()[0].root)),
            // It says so of a block that it can read only.
            ("KdDebuggerDataBlock", hex(guest.symbol("KdDebuggerDataBlock"))),
            ("KdVersionBlock", hex(guest.symbol("KdVersionBlock"))),
            ("Major/Minor", "15.19041".into()),
            ("KeNumberProcessors", CPUS.to_string()),
            ("NtSystemRoot", "C:\\Windows".into()),
            ("NtMajorVersion", "10".into()),
            ("PE Machine", "34404".into()),
            ("memory_layer", "1 WindowsCrashDump64Layer".into()),
        ] {
            assert_eq!(info(name), expected, "{name} of {}", seen["Info"]);
        }

        let (listed, processes) = (&seen["PsList"], guest.processes());
        assert!(processes.len() > 10, "{processes:?}");
        let ids: Vec<Value> = processes.iter().map(|process| json!(process.id)).collect();
        let names: Vec<Value> = processes.iter().map(|process| json!(process.name)).collect();
        let places: Vec<Value> = processes.iter().map(|process| short(process.address)).collect();
        assert_eq!(column(listed, "PID"), ids);
        assert_eq!(column(listed, "ImageFileName"), names);
        assert_eq!(column(listed, "Offset(V)"), places);

        let (listed, modules) = (&seen["Modules"], guest.modules());
        assert!(modules.len() >= 3, "{modules:?}");
        let bases: Vec<Value> = modules.iter().map(|module| short(module.base)).collect();
        let sizes: Vec<Value> = modules
            .iter()
            .map(|module| json!(module.end - module.base))
            .collect();
        let paths: Vec<Value> = modules.iter().map(|module| json!(module.path)).collect();
        assert_eq!(column(listed, "Base"), bases);
        assert_eq!(column(listed, "Size"), sizes);
        assert_eq!(column(listed, "Path"), paths);

        let kpcrs = column(&seen["KPCRs"], "PRCB Offset");
        assert_eq!(kpcrs.len(), CPUS as usize, "{kpcrs:?}");
    }
}

#[test]
fn volatility_has_all_memory_of_a_32_bit_guest() {
    let Some((guest, service)) = paused("win7-x86") else {
        return;
    };
    opened(guest, &service, "WindowsCrashDump32Layer", None);
}
