//! `kdd dump`: of running, paused, dead guests, in every format, to files and pipes.

use super::{Guest, bare, begin, names, text};
use dump::{Image, PAGE_SIZE, Page, Pfn};
use rustix::fs::{Mode, OFlags};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::Gdb;

/// Every format of a Linux guest, with what `kdd dump-info` calls it.
const LINUX: &[(&str, &[&str])] = &[
    ("elf", &["--format", "elf"]),
    ("gdb", &["--format", "elf", "--for-gdb"]),
    ("zlib", &["--format", "kdump"]),
    ("zstd", &["--format", "kdump", "--compress", "zstd"]),
    ("plain", &["--format", "kdump", "--compress", "none"]),
    ("filtered", &["--format", "kdump", "-d", "31"]),
];

#[track_caller]
fn open(path: &Path) -> Box<dyn Image> {
    dump::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[track_caller]
fn page(image: &dyn Image, pfn: u64) -> Box<Page> {
    let mut page = Box::new([0; PAGE_SIZE]);
    if let Err(error) = image.read_page(Pfn(pfn), &mut page) {
        panic!("page {pfn:#x}: {error}");
    }
    page
}

/// That the file has the bytes of the guest, which is paused, at these physical addresses.
#[track_caller]
fn assert_bytes_of(guest: &Guest, path: &Path, addresses: &[u64]) {
    let image = open(path);
    for address in addresses {
        let read = [
            "mem",
            "read",
            "vm",
            &format!("{address:x}"),
            "4096",
            "--phys",
            "-o",
            "-",
        ];
        let bytes = guest.service.kdd(&read).done().stdout;
        assert!(
            page(&*image, address / 4096)[..] == bytes,
            "{} at {address:#x}",
            path.display()
        );
    }
}

/// The number in a dump at a physical address.
fn number(image: &dyn Image, address: u64) -> u32 {
    let page = page(image, address / 4096);
    u32::from_le_bytes(page[..4].try_into().expect("four bytes"))
}

#[test]
fn a_live_dump_is_of_one_instant_and_the_guest_runs_on() {
    let guest = bare::counting_guest("64M");
    let (_, before) = guest.service.state("vm");
    let path = guest.service.scratch().path("live");
    for round in 0..3 {
        let dump = ["dump", "vm", "-o", &text(&path), "--live", "--json", "--force"];
        let report = guest.service.kdd(&dump).done().json();
        assert_eq!(report["format"], "elf");
        assert!(
            report["warnings"].to_string().contains("not recognised"),
            "{report}"
        );
        let image = open(&path);
        let (first, second) = (number(&*image, bare::FIRST), number(&*image, bare::SECOND));
        assert!(
            first > 0 && first - second <= 1,
            "round {round}: {first} and {second}"
        );
        let paused = report["paused_microseconds"].as_u64().expect("a time");
        assert!(paused > 0 && paused < 1_000_000, "{report}");
    }
    let (state, after) = guest.service.state("vm");
    assert!(state == "running" && after > before, "{state}");
    // Nothing of the fork is left.
    assert_eq!(
        guest.service.kdd(&["list", "--json"]).done().json_lines().len(),
        1
    );
}

#[test]
fn a_running_guest_stands_still_while_it_is_dumped_and_goes_on() {
    let guest = bare::counting_guest("64M");
    let path = guest.service.scratch().path("still");
    let outcome = guest.service.kdd(&["dump", "vm", "-o", &text(&path)]).done();
    assert!(outcome.text().contains("it stood still for "), "{outcome:?}");
    let image = open(&path);
    let (first, second) = (number(&*image, bare::FIRST), number(&*image, bare::SECOND));
    assert!(first > 0 && first - second <= 1, "{first} and {second}");
    assert_eq!(guest.state(), "running");
}

#[test]
fn what_is_done_to_a_guest_while_it_is_dumped_is_not_in_the_dump() {
    let guest = bare::full(256 << 20);
    let pipe = named_pipe(&guest);
    let reader = begin_reading(&pipe);
    let mut client = begin(&guest.service, &["dump", "vm", "-o", &text(&pipe)]);
    let mut stream = reader.join().expect("the pipe is open");
    // The writer waits for us by now; the first page is long out, the last isn't.
    let mut bytes = vec![0; 4096];
    stream.read_exact(&mut bytes).expect("the beginning");
    guest.service.kdd(&["reset", "vm"]).done();
    stream.read_to_end(&mut bytes).expect("the rest");
    assert!(client.wait().expect("it ends").success());
    let path = guest.service.scratch().file("file", &bytes);
    let image = open(&path);
    for pfn in [0x400, 0x5000, 0x1_03ff] {
        assert_eq!(
            page(&*image, pfn)[..4],
            0x1234_5678_u32.to_le_bytes(),
            "page {pfn:#x}"
        );
    }
}

/// A new named pipe.
#[track_caller]
fn named_pipe(guest: &Guest) -> PathBuf {
    let pipe = guest.service.scratch().path("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    pipe
}

fn begin_reading(pipe: &Path) -> std::thread::JoinHandle<fs::File> {
    // Not to wait for the writer, who in turn refuses a pipe that nobody reads.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let reader = rustix::fs::open(pipe, flags, Mode::empty()).expect("the pipe");
    let reader = fs::File::from(reader);
    std::thread::spawn(move || {
        let mut polled = [rustix::event::PollFd::new(&reader, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut polled, None).expect("it can be waited for");
        rustix::fs::fcntl_setfl(&reader, OFlags::empty()).expect("blocking");
        reader
    })
}

#[test]
fn a_paused_linux_in_every_format_has_its_bytes() {
    let Some(guest) = Guest::linux() else { return };
    guest.service.kdd(&["pause", "vm"]).done();
    let folder = guest.folder("dumps");
    for (name, options) in LINUX {
        let path = folder.join(name);
        let mut all = vec!["dump", "vm", "--json", "-o"];
        let output = text(&path);
        all.push(&output);
        all.extend(*options);
        let report = guest.service.kdd(&all).done().json();
        assert_eq!(report["paused_microseconds"], 0, "it was paused before: {report}");
        assert!(
            report["os"].as_str().is_some_and(|os| os.contains("Linux")),
            "{report}"
        );
        assert!(
            report.get("crash").is_none() && report.get("warnings").is_none(),
            "{report}"
        );
        let facts = fs::metadata(&path).expect("the file");
        assert_eq!(Some(facts.len()), report["bytes"].as_u64());
        assert_eq!(
            facts.permissions().mode() & 0o777,
            0o600,
            "it is a guest's memory"
        );
        assert_bytes_of(&guest, &path, &[0x100_0000, 0x120_0000, 0x9_0000]);
        let left_out = report["excluded_pages"].as_u64().expect("a number");
        assert_eq!(left_out > 1000, *name == "filtered", "{report}");
        let info = guest.service.kdd(&["dump-info", "--json", &output]).done().json();
        assert_eq!(info["processors"].as_array().map(Vec::len), Some(1));
        assert!(
            info["os"].as_str().is_some_and(|os| os.contains("Linux")),
            "{info}"
        );
    }
    assert_eq!(names(&folder).len(), LINUX.len(), "nothing else is left");
    let elf = fs::metadata(folder.join("elf")).expect("the file");
    assert!(elf.blocks() * 512 < elf.len(), "zeros are holes");
}

#[test]
fn windows_in_every_format_has_its_bytes() {
    let Some((nt, guest)) = Guest::nt() else { return };
    guest.service.kdd(&["pause", "vm"]).done();
    let folder = guest.folder("dumps");
    let translated = guest
        .service
        .kdd(&["translate", "vm", &format!("{:x}", nt.base()), "--json"]);
    let kernel = translated.done().json()["physical"]
        .as_str()
        .expect("it is mapped")
        .to_owned();
    let kernel = u64::from_str_radix(kernel.trim_start_matches("0x"), 16).expect("a number");
    for format in ["windows", "windows-bitmap", "windows-kernel", "elf"] {
        let path = folder.join(format);
        let dump = ["dump", "vm", "--format", format, "--json", "-o", &text(&path)];
        let report = guest.service.kdd(&dump).done().json();
        assert_eq!(report["format"], format);
        assert!(
            report["os"].as_str().is_some_and(|os| os.contains("Windows 10")),
            "{report}"
        );
        assert_bytes_of(&guest, &path, &[kernel, kernel + 0x1000]);
        let info = guest
            .service
            .kdd(&["dump-info", &text(&path), "--json"])
            .done()
            .json();
        assert_eq!(info["processors"].as_array().map(Vec::len), Some(2), "{info}");
    }
    assert_eq!(names(&folder).len(), 4);
    // Kdump files are Linux'.
    let path = folder.join("x");
    let why = guest
        .service
        .kdd(&["dump", "vm", "--format", "kdump", "-o", &text(&path)])
        .fails(1);
    assert!(why.contains("no Linux kernel") && !path.exists(), "{why}");
}

#[test]
fn dead_guests_are_dumped_with_the_reason() {
    for (code, words) in [
        (bare::TRIPLE_FAULT, "triple fault"),
        (bare::HALT, "halted"),
        (bare::PVPANIC, "panic"),
    ] {
        let guest = bare::running(code, "16M");
        tests::until("its death", || guest.state() == "crashed");
        let path = guest.service.scratch().path("dead");
        let report = guest
            .service
            .kdd(&["dump", "vm", "--live", "--json", "-o", &text(&path)])
            .done()
            .json();
        assert!(
            report["crash"]
                .as_str()
                .is_some_and(|crash| crash.contains(words)),
            "{report}"
        );
        assert_eq!(report["paused_microseconds"], 0);
        assert_eq!(guest.state(), "crashed");
    }
}

#[test]
fn a_windows_that_stopped_itself_is_dumped_with_its_bugcheck() {
    let Some((_, mut guest)) = Guest::nt() else { return };
    guest.types("bugcheck D1 11 22 33 44");
    guest.shows("*** STOP: 0x000000D1");
    tests::until("its death", || guest.state() == "crashed");
    let path = guest.service.scratch().path("memory.dmp");
    let outcome = guest
        .service
        .kdd(&["dump", "vm", "-o", &text(&path)])
        .done()
        .text();
    let words = "0x000000d1 DRIVER_IRQL_NOT_LESS_OR_EQUAL (0x11, 0x22, 0x33, 0x44)";
    assert!(outcome.contains(words), "{outcome}");
    let info = guest.service.kdd(&["dump-info", &text(&path)]).done().text();
    assert!(info.contains("DRIVER_IRQL_NOT_LESS_OR_EQUAL"), "{info}");
    assert!(info.contains("processor 1"), "{info}");
}

#[test]
fn a_dump_goes_to_standard_output_and_to_pipes() {
    let Some((_, guest)) = Guest::nt() else { return };
    guest.service.kdd(&["pause", "vm"]).done();
    let scratch = guest.service.scratch();
    for format in ["windows", "windows-bitmap", "elf"] {
        let file = scratch.path("file");
        let dump = ["dump", "vm", "--format", format, "--force", "-o", &text(&file)];
        guest.service.kdd(&dump).done();
        let piped = guest
            .service
            .kdd(&["dump", "vm", "--format", format, "-o", "-", "--json"])
            .done();
        let report = piped.stderr.lines().last().unwrap_or_default();
        assert!(
            report.contains(&format!("\"bytes\":{}", piped.stdout.len())),
            "{report}"
        );
        let by_file = open(&file);
        let by_pipe = scratch.file("piped", &piped.stdout);
        let by_pipe = open(&by_pipe);
        assert_eq!(by_file.ram(), by_pipe.ram());
        for pfn in [1, 0x100, 0x1000, 0x7000] {
            assert!(
                page(&*by_file, pfn) == page(&*by_pipe, pfn),
                "{format}: page {pfn:#x}"
            );
        }
    }
    let pipe = named_pipe(&guest);
    // Without a reader it doesn't wait for ever.
    let why = guest.service.kdd(&["dump", "vm", "-o", &text(&pipe)]).fails(1);
    assert!(why.contains("nobody reads this pipe"), "{why}");
    let reader = begin_reading(&pipe);
    let mut client = begin(&guest.service, &["dump", "vm", "-o", &text(&pipe)]);
    let mut bytes = Vec::new();
    reader
        .join()
        .expect("it is open")
        .read_to_end(&mut bytes)
        .expect("all");
    assert!(client.wait().expect("it ends").success());
    assert!(bytes.starts_with(b"PAGEDU64"));
    // One that leaves is an error, and the guest is none the worse.
    let reader = begin_reading(&pipe);
    let client = begin(&guest.service, &["dump", "vm", "-o", &text(&pipe)]);
    drop(reader.join().expect("it is open"));
    let output = client.wait_with_output().expect("it ends");
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(1) && why.contains("the reader has gone"),
        "{why}"
    );
    assert!(fs::symlink_metadata(&pipe).expect("the pipe").rdev() == 0 && pipe.exists());
}

#[test]
fn kdump_to_a_pipe_is_flattened_and_opens() {
    let Some(guest) = Guest::linux() else { return };
    let piped = guest
        .service
        .kdd(&["dump", "vm", "--format", "kdump", "-o", "-"])
        .done();
    assert!(piped.stdout.starts_with(b"makedumpfile"));
    let path = guest.service.scratch().file("flat", &piped.stdout);
    let info = guest.service.kdd(&["dump-info", &text(&path)]).done().text();
    assert!(info.contains("Linux"), "{info}");
    assert_eq!(guest.state(), "running");
}

#[test]
fn a_debugger_that_holds_the_guest_is_not_disturbed_by_a_dump() {
    let Some(guest) = Guest::linux() else { return };
    let mut gdb = Gdb::attached(&guest.service.add_gdb("vm"));
    let rip = gdb.value("$rip");
    for live in [&["--live"][..], &[]] {
        let path = guest.service.scratch().path("x");
        let output = text(&path);
        let mut all = vec!["dump", "vm", "--force", "-o", &output];
        all.extend(live);
        guest.service.kdd(&all).done();
        assert_eq!(open(&path).processors()[0].rip, rip);
    }
    assert_eq!(gdb.value("$rip"), rip);
    assert_eq!(guest.state(), "paused");
    gdb.detach();
    tests::until("it runs again", || guest.state() == "running");
}

#[test]
fn a_timeout_ends_a_dump_that_waits_and_the_guest_goes_on() {
    let guest = bare::full(64 << 20);
    let pipe = named_pipe(&guest);
    let _reader = begin_reading(&pipe);
    let dump = ["dump", "vm", "-o", &text(&pipe), "--timeout", "0.5"];
    guest.service.kdd(&dump).fails(124);
    tests::until("it runs again", || guest.state() == "running");
}
