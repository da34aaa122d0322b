//! Windows dumps, opened by Microsoft's engine: at one instant it must say of the dump what it says of the live guest.

use super::windows::{PROFILE, nothing_wrong, options};
use dump::windows::WindowsDump;
use dump::{Format, Image, PAGE_SIZE, Pfn};
use hv_core::introspect::{MemoryRegion, ReadMemory, Result};
use hv_core::{GuestPhysAddr, GuestVirtAddr};
use introspect::{PageTables, PagingMode};
use std::path::{Path, PathBuf};
use tests::{Engine, NtGuest, Service, has_engine, nt_guest};

/// What is asked of each processor.
const OF_A_PROCESSOR: &[&str] = &["r", "k", "r cr0,cr2,cr3,cr4,gdtr,idtr,tr", "dps @$csp L8"];
/// What is asked once.
const OF_THE_GUEST: &[&str] = &[
    "lm",
    "x nt!Ke*",
    "db nt L80",
    "db nt!KdDebuggerDataBlock L340",
    "dps nt!KiProcessorBlock L1",
    "dt nt!_LIST_ENTRY nt!PsLoadedModuleList",
    "dt nt!_LIST_ENTRY nt!PsActiveProcessHead",
    "dt nt!_KUSER_SHARED_DATA NtSystemRoot NtProductType @@(SHARED)",
    "db nt!NtBuildLab",
];

/// Dumps of all kinds of the guest as it is now: it stands still, or runs on.
fn dumps(service: &Service, folder: &Path, live: bool) -> Vec<PathBuf> {
    let kinds = ["windows", "windows-bitmap", "windows-kernel"];
    let write = |kind: &str| {
        let path = folder.join(format!("{kind}.dmp"));
        let mut arguments = vec!["dump", "vm", "--format", kind, "--json", "-o"];
        arguments.extend(path.to_str());
        arguments.extend(live.then_some("--live"));
        let report = service.kdd(&arguments).json();
        assert_eq!(report.get("warnings"), None, "{report}");
        path
    };
    kinds.into_iter().map(write).collect()
}

/// The commands with their answers.
fn answers(guest: &NtGuest, engine: &mut Engine, cpus: u32, bugcheck: bool) -> Vec<(String, String)> {
    engine.run(".reload");
    let mut answers = Vec::new();
    let mut ask = |command: &str| {
        let answer = engine.run(command);
        answers.push((command.to_owned(), answer));
    };
    let shared = match guest.profile.arch {
        nt_guest::Arch::X64 => "0xfffff78000000000",
        nt_guest::Arch::X86 => "0xffdf0000",
    };
    for command in OF_THE_GUEST {
        ask(&command.replace("@@(SHARED)", shared));
    }
    for process in guest.processes() {
        ask(&format!(
            "dt nt!_EPROCESS UniqueProcessId ImageFileName {:#x}",
            process.address
        ));
    }
    if bugcheck {
        ask(".bugcheck");
    }
    for cpu in (0..cpus).rev() {
        ask(&format!("~{cpu}s"));
        for command in OF_A_PROCESSOR {
            ask(command);
        }
    }
    answers
}

/// What `vertarget` says of the guest, and not of the connection.
fn version(engine: &mut Engine) -> Vec<String> {
    // A dump's header has no flag for kernels of several processors: there the engine counts them.
    let answer = engine.run("vertarget").replace(" MP (1 procs) ", " UP ");
    let lines = answer.lines().map(str::to_owned);
    let kept = |line: &String| {
        [
            "Kernel Version",
            "Built by: ",
            "Kernel base = ",
            "System Uptime: ",
        ]
        .iter()
        .any(|part| line.contains(part))
    };
    lines.filter(kept).collect()
}

/// Stops a guest, in a bugcheck or by a break-in, and compares.
fn same(profile: &str, cpus: u32, bugcheck: bool) {
    if !has_engine() {
        return;
    }
    let Some(guest) = nt_guest(profile, cpus) else {
        return;
    };
    let mut service = guest.service();
    let mut live = Engine::attached(&service.kd_address(), &options(guest));
    if bugcheck {
        live.begin("g");
        service.console().types("bugcheck d1 11 22 33 44\r");
        live.end();
    }
    let folder = tempfile::tempdir().expect("a folder");
    let files = dumps(&service, folder.path(), false);
    let of_live = answers(guest, &mut live, cpus, bugcheck);
    let version_of_live = version(&mut live);
    assert_eq!(version_of_live.len(), 4, "{version_of_live:?}");
    live.detach();
    for file in files {
        let mut engine = Engine::dump(&file, &options(guest));
        let log = engine.log();
        assert!(log.contains("Comment: 'domain vm, by kdd "), "{log}");
        let says_the_same = |engine: &mut Engine, how: &str| {
            assert_eq!(version(engine), version_of_live, "{how} {file:?}");
            if bugcheck {
                let bugcheck = engine.run(".bugcheck");
                assert!(bugcheck.contains("Bugcheck code 000000D1"), "{bugcheck}");
            }
            for ((command, live), (_, dumped)) in of_live.iter().zip(answers(guest, engine, cpus, bugcheck)) {
                assert_eq!(&dumped, live, "{profile}, {cpus} CPUs, {how} {file:?}: {command}");
            }
            nothing_wrong(engine);
        };
        says_the_same(&mut engine, "the engine's reading of");
        assert!(!engine.log().contains("WARNING: Dump file"), "{}", engine.log());
        // The third way: the same file as a guest.
        if file.ends_with("windows-bitmap.dmp") {
            let path = file.to_str().expect("UTF-8");
            // The guest's own service may have ended with it.
            let service = Service::serve(&[] as &[&str]);
            service
                .kdd(&["create", "--dump", path, "--name", "dump", "--kd", "127.0.0.1:0"])
                .done();
            let info = service.info("dump");
            let address = info["endpoints"][0]["address"]
                .as_str()
                .expect("an endpoint")
                .to_owned();
            let mut served = Engine::attached(&address, &options(guest));
            says_the_same(&mut served, "KD's serving of");
            served.detach();
        }
    }
}

#[test]
fn a_paused_guest_and_its_dumps_say_the_same() {
    same(PROFILE, 1, false);
}

#[test]
fn each_of_four_processors_says_the_same() {
    same(PROFILE, 4, false);
}

#[test]
fn a_bugcheck_and_its_dumps_say_the_same() {
    same(PROFILE, 1, true);
}

#[test]
fn windows_7_says_the_same() {
    same("win7-x64", 1, true);
}

#[test]
fn windows_7_x86_says_the_same() {
    same("win7-x86", 4, false);
}

#[test]
fn windows_10_x86_says_the_same_in_a_bugcheck() {
    same("win10-x86", 1, true);
}

#[test]
fn a_dump_of_a_guest_that_runs_is_a_live_one() {
    if !has_engine() {
        return;
    }
    let Some(guest) = nt_guest(PROFILE, 1) else { return };
    let service = guest.service();
    let folder = tempfile::tempdir().expect("a folder");
    for file in dumps(&service, folder.path(), true) {
        let mut engine = Engine::dump(&file, &options(guest));
        let bugcheck = engine.run(".bugcheck");
        assert!(bugcheck.starts_with("Bugcheck code 00000161\n"), "{bugcheck}");
        assert!(engine.run("lm").contains("   nt "));
        nothing_wrong(&engine);
    }
}

/// What the engine itself writes, of a dump of ours.
fn written_by_the_engine(profile: &str) {
    if !has_engine() {
        return;
    }
    let Some(guest) = nt_guest(profile, 2) else { return };
    let service = guest.service();
    let folder = tempfile::tempdir().expect("a folder");
    let ours = dumps(&service, folder.path(), false);
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
