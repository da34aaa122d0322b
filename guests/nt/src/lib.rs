//! Builds the NT-shaped guest: a small kernel of our own in the shape of one Windows kernel.
//!
//! ```text
//!  profile (offsets, RVAs, GUID) ──► header ──► nt_layout.h ──┐
//!                                └─► place ───► nt_place.S ───┤ clang, lld-link
//!  kernel/ hal/ drivers/ user/ (C and assembly) ──────────────┴──► images and PDBs ──► finish: GUID, checksums
//! ```

mod builder;
mod bytes;
mod code;
mod coff;
mod finish;
pub mod header;
mod images;
mod link;
mod manifest;
mod msf;
mod pe;
mod place;
pub mod profile;
mod symbols;
mod toolchain;
mod types;

pub use builder::{Built, build, build_symbols};
pub use images::Role;
pub use manifest::{ImageEntry, Manifest};
pub use profile::{Arch, DEFAULT_PROFILE, Profile};
pub use toolchain::versions;

use std::path::{Path, PathBuf};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum NtError {
    /// No built-in profile of that name.
    #[error("there is no profile '{name}'; the profiles are {known}, or the path of a JSON file")]
    NoProfile {
        /// What was asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A profile that can't be built.
    #[error("profile {name}: {problem}")]
    Profile {
        /// The profile.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tool that isn't installed.
    #[error("{tool} isn't installed: {hint}")]
    NoTool {
        /// Its name.
        tool: String,
        /// What installs it.
        hint: &'static str,
    },
    /// A tool that failed.
    #[error("{tool} failed:\n{output}")]
    Tool {
        /// Its name.
        tool: String,
        /// What it printed.
        output: String,
    },
    /// A file that the tools left isn't as expected.
    #[error("{file} {problem}")]
    Broken {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file that can't be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

impl NtError {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> NtError {
        let path = path.to_owned();
        move |error| NtError::Io { path, error }
    }
}
