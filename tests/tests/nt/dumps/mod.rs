//! Windows dumps, opened by Microsoft's engine: at one instant it must say of the dump what it says of the live guest,
//! and what it says when the dump is served as a guest. The table of what is compared is in [`profiles`];
//! [`written`] reads what the engine writes.

mod profiles;
mod written;

use super::windows::{PROFILE, nothing_wrong, options};
use nt_guest::Arch;
use std::path::{Path, PathBuf};
use tests::{Engine, NtGuest, Service, has_engine, nt_guest};

/// How a guest stands when it is dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    /// Where a debugger broke in.
    Paused,
    /// In a bugcheck.
    Bugcheck,
    /// It doesn't: it runs on, and is dumped with `--live`.
    Live,
}

/// All kinds of dumps.
const KINDS: &[&str] = &["windows", "windows-bitmap", "windows-kernel"];

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

/// Dumps of some kinds of the guest as it is now: it stands still, or runs on.
#[track_caller]
fn dumps(service: &Service, folder: &Path, kinds: &[&str], live: bool) -> Vec<PathBuf> {
    let write = |kind: &str| {
        let path = folder.join(format!("{kind}.dmp"));
        let mut arguments = vec!["dump", "vm", "--format", kind, "--json", "-o"];
        arguments.extend(path.to_str());
        arguments.extend(live.then_some("--live"));
        let report = service.kdd(&arguments).json();
        assert_eq!(report.get("warnings"), None, "{report}");
        path
    };
    kinds.iter().copied().map(write).collect()
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
        Arch::X64 => "0xfffff78000000000",
        Arch::X86 => "0xffdf0000",
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

/// What the engine says, of the live guest or of a dump.
#[derive(PartialEq, Eq)]
struct Said {
    version: Vec<String>,
    answers: Vec<(String, String)>,
}

impl Said {
    #[track_caller]
    fn by(guest: &NtGuest, engine: &mut Engine, cpus: u32, stands: Stands) -> Said {
        let answers = answers(guest, engine, cpus, stands == Stands::Bugcheck);
        let version = version(engine);
        assert_eq!(version.len(), 4, "{version:?}");
        Said { version, answers }
    }

    #[track_caller]
    fn assert_same(&self, live: &Said, what: &str) {
        assert_eq!(self.version, live.version, "{what}");
        for ((command, live), (_, dumped)) in live.answers.iter().zip(&self.answers) {
            assert_eq!(dumped, live, "{what}: {command}");
        }
        assert_eq!(self.answers.len(), live.answers.len(), "{what}");
    }
}

/// Dumps a guest in these kinds and compares.
fn same(profile: &str, cpus: u32, stands: Stands, kinds: &[&str]) {
    if !has_engine() {
        return;
    }
    let Some(guest) = nt_guest(profile, cpus) else {
        return;
    };
    let mut service = guest.service();
    let folder = tempfile::tempdir().expect("a folder");
    let (files, of_live) = if stands == Stands::Live {
        (dumps(&service, folder.path(), kinds, true), None)
    } else {
        let mut live = Engine::attached(&service.kd_address(), &options(guest));
        if stands == Stands::Bugcheck {
            live.begin("g");
            service.console().types("bugcheck d1 11 22 33 44\r");
            live.end();
        }
        let files = dumps(&service, folder.path(), kinds, false);
        let said = Said::by(guest, &mut live, cpus, stands);
        live.detach();
        (files, Some(said))
    };
    for file in files {
        let what = |how: &str| format!("{profile}, {cpus} CPUs, {stands:?}, {how} {}", file.display());
        let mut engine = Engine::dump(&file, &options(guest));
        let log = engine.log();
        assert!(log.contains("Comment: 'domain vm, by kdd "), "{log}");
        assert!(!log.contains("WARNING: Dump file"), "{log}");
        let code = match stands {
            Stands::Bugcheck => "Bugcheck code 000000D1\n",
            Stands::Paused | Stands::Live => "Bugcheck code 00000161\n",
        };
        let bugcheck = engine.run(".bugcheck");
        assert!(bugcheck.starts_with(code), "{}: {bugcheck}", what("read"));
        let said = Said::by(guest, &mut engine, cpus, stands);
        // Each dump of a guest that runs is of another instant. What is known of it is what its console said.
        let expected = of_live.as_ref().unwrap_or(&said);
        said.assert_same(expected, &what("the engine's reading of"));
        for module in guest.modules() {
            let at = engine.run(&format!("lm a {:#x}", module.base));
            let bounds = [module.base, module.end].map(|address| shown(guest, address));
            assert!(
                at.contains(&bounds.join(" ")),
                "{}: {module:?}: {at}",
                what("read")
            );
        }
        nothing_wrong(&engine);
        // The third way: the same file as a guest. Its own service may have ended with it.
        let path = file.to_str().expect("UTF-8");
        let service = Service::serve(&[] as &[&str]);
        service
            .kdd(&["create", "--dump", path, "--name", "dump", "--kd", "127.0.0.1:0"])
            .done();
        let info = service.info("dump");
        let address = info["endpoints"][0]["address"].as_str().expect("an endpoint");
        let mut served = Engine::attached(address, &options(guest));
        Said::by(guest, &mut served, cpus, stands).assert_same(expected, &what("KD's serving of"));
        nothing_wrong(&served);
        served.detach();
    }
}

/// An address as the engine prints it.
fn shown(guest: &NtGuest, address: u64) -> String {
    match guest.profile.arch {
        Arch::X64 => super::windows::tick(address),
        Arch::X86 => format!("{address:08x}"),
    }
}
