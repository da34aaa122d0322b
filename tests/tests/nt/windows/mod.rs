//! Microsoft's engine on the NT-shaped guest. What it must say follows from the profile (offsets, places within the
//! kernel), from the images' files, and from what the guest's own console says; never from what kdd says.

mod at_length;
mod crash;
mod endings;
mod memory;
mod run;
mod sessions;
mod target;

use tests::{Engine, EngineOptions, LIMIT, NtGuest, Service, has_engine, nt_guest};

/// The profile that most tests use: the newest that the engine knows.
pub(super) const PROFILE: &str = "win10-19041-x64";

/// Of what the engine complains rightly. The extensions `kdexts`, `kext`, `exts` and `ext` aren't in the package that
/// the engine comes in.
const KNOWN_COMPLAINTS: &[&str] = &[
    "Unable to add extension DLL: ",
    "The call to LoadLibrary(ext) failed, Win32 error 0n2",
    "    \"File not found.\"",
    "Please check your debugger configuration and/or network access.",
    // Frames of programs on x86, which have neither symbols nor unwind data.
    "WARNING: Frame IP not in any known module. Following frames may be wrong.",
    // System calls save what the convention lets them change: true of Windows, too.
    "NOTE: The trap frame does not contain all registers.",
    "Some register values may be zeroed or incorrect.",
];

/// Words of trouble in what the engine prints without calling it an error.
const TROUBLE: &[&str] = &["unable", "error", "failed", "invalid", "corrupt"];

/// Where these words are no trouble: heads of tables that the engine prints always, and what a kernel says in a
/// bugcheck.
const NO_TROUBLE: &[&str] = &[
    "************* Symbol Loading Error Summary",
    "Module name            Error",
    "SharedUserData         No error - symbol load deferred",
    "*** Fatal System Error: ",
];

/// A guest with two CPUs, which runs, and its service.
fn guest() -> Option<(&'static NtGuest, Service)> {
    if !has_engine() {
        return None;
    }
    let guest = nt_guest(PROFILE, 2)?;
    Some((guest, guest.service()))
}

/// The same, with an engine attached.
fn attached() -> Option<(&'static NtGuest, Service, Engine)> {
    let (guest, service) = guest()?;
    let engine = Engine::attached(&service.kd_address(), &options(guest));
    Some((guest, service, engine))
}

/// The guest's PDBs and images are at hand.
pub(super) fn options(guest: &NtGuest) -> EngineOptions {
    EngineOptions {
        symbols: vec![guest.folder.clone()],
        images: vec![guest.folder.clone()],
        ..EngineOptions::default()
    }
}

/// The engine has complained of nothing but what is known, and its log has no word of trouble.
#[track_caller]
pub(super) fn nothing_wrong(engine: &Engine) {
    let complaints = engine.complaints();
    let unknown = |line: &&String| !KNOWN_COMPLAINTS.iter().any(|known| line.starts_with(known));
    let unknown: Vec<&String> = complaints.iter().filter(unknown).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
    let known = |line: &str| {
        let mut all = KNOWN_COMPLAINTS.iter().chain(NO_TROUBLE);
        all.any(|known| line.starts_with(known))
    };
    let log = engine.log();
    let trouble = log.lines().filter(|line| {
        let line_words = line.split(|c: char| !c.is_ascii_alphanumeric());
        let mut words = line_words.map(str::to_lowercase);
        words.any(|word| TROUBLE.contains(&&*word)) && !known(line)
    });
    assert_eq!(trouble.collect::<Vec<_>>(), [""; 0]);
}

/// A number as the engine prints addresses: fffff805`92200000.
pub(super) fn tick(address: u64) -> String {
    format!("{:08x}`{:08x}", address >> 32, address & 0xffff_ffff)
}

/// The guest lives: its console answers.
#[track_caller]
pub(super) fn lives(service: &mut Service) {
    let mut console = service.console().from_now();
    console.types("stat\r");
    console.shows("clock ticks ", LIMIT);
    console.shows("nt> ", LIMIT);
}
