//! Microsoft's engine on the NT-shaped guest. What it must say follows from the profile (offsets, places within the
//! kernel), from the images' files, and from what the guest's own console says; never from what kdd says.

mod memory;
mod profiles;
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

/// The engine has complained of nothing but what is known.
#[track_caller]
pub(super) fn nothing_wrong(engine: &Engine) {
    let complaints = engine.complaints();
    let unknown = |line: &&String| !KNOWN_COMPLAINTS.iter().any(|known| line.starts_with(known));
    let unknown: Vec<&String> = complaints.iter().filter(unknown).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
}

/// A number as the engine prints addresses: fffff805`92200000.
fn tick(address: u64) -> String {
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
