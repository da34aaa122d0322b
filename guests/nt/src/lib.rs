//! Builds the NT-shaped guest: a small kernel of our own in the shape of one Windows kernel.
//!
//! ```text
//!  profile (offsets, RVAs, GUID) ──► header ──► nt_layout.h ──┐
//!                                └─► place ───► nt_place.S ───┤ clang, lld-link
//!  kernel/ hal/ drivers/ user/ (C and assembly) ──────────────┴──► images and PDBs ──► finish: GUID, checksums
//! ```

pub mod header;
pub mod profile;
mod symbols;
mod types;

pub use profile::{Arch, DEFAULT_PROFILE, Profile};

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
}
