//! NT-shaped guests by the name of their profile: found in the cache folder, or built there.

use crate::{Failure, FailureKind};
use nt_guest::{Built, NtError, Profile};
use std::path::{Path, PathBuf};

/// What an NT-shaped guest is booted with: nothing in it is enabled for debuggers.
pub const DEFAULT_OPTIONS: &str = "NODEBUG";

/// The profile of the default guest.
pub const DEFAULT_PROFILE: &str = "win10-19041-x64";

/// The cache folder of the set-up scripts.
pub fn cache() -> PathBuf {
    let chosen = std::env::var_os("KDD_CACHE").filter(|folder| !folder.is_empty());
    chosen.map_or_else(|| PathBuf::from(".cache"), PathBuf::from)
}

/// The folder with the guest of a profile, a built-in one by name or a file by path. It is built when it isn't there, or
/// is older than its sources.
///
/// # Errors
/// There is no such profile, it can't be laid out, or what builds it isn't installed; the failure says which command
/// helps.
pub fn folder(profile: &str) -> Result<PathBuf, Failure> {
    let profile = Profile::load(profile).map_err(|error| failure(profile, &error))?;
    if let Some(note) = &profile.note {
        tracing::warn!("{note}");
    }
    let folder = cache().join("nt").join(&profile.name);
    if Built::open(&profile, &folder).is_none() {
        tracing::info!(profile = profile.name, folder = %folder.display(), "building the NT-shaped guest");
        make(&profile, &folder)?;
    }
    std::path::absolute(&folder)
        .map_err(|error| Failure::new(profile.name, error, "set KDD_CACHE to an absolute path"))
}

/// Whether the guest of a built-in profile is in the cache folder, and current.
pub fn is_built(profile: &str) -> bool {
    Profile::load(profile)
        .is_ok_and(|profile| Built::open(&profile, &cache().join("nt").join(&profile.name)).is_some())
}

fn make(profile: &Profile, folder: &Path) -> Result<(), Failure> {
    if let Some(parent) = folder.parent() {
        std::fs::create_dir_all(parent).map_err(|error| {
            Failure::new(
                parent.display(),
                error,
                "set KDD_CACHE to a folder that can be written",
            )
        })?;
    }
    nt_guest::build(profile, folder)
        .map(drop)
        .map_err(|error| failure(&profile.name, &error))
}

fn failure(profile: &str, error: &NtError) -> Failure {
    let what = format!("NT-shaped guest {profile}");
    match error {
        NtError::NoProfile { .. } => {
            Failure::new(what, error, "'kdd run --nt list' shows the profiles").of_kind(FailureKind::Usage)
        }
        NtError::Profile { .. } => Failure::new(what, error, "guests/nt/README.md says what a profile holds"),
        NtError::NoTool { .. } => Failure::new(
            what,
            error,
            format_args!("run 'bash setup/guest-nt.sh {profile}'"),
        ),
        error => Failure::new(
            what,
            error,
            format_args!("'bash setup/guest-nt.sh {profile}' builds it again"),
        ),
    }
}
