//! What a build says of itself: `manifest.json` in its folder.

use crate::NtError;
use crate::images::Role;
use serde::{Deserialize, Serialize};
use std::path::Path;

pub(crate) const MANIFEST: &str = "manifest.json";
const MANIFEST_MAX: u64 = 1 << 20;
const IMAGES_MAX: usize = 64;

/// What a build made: `manifest.json` in its folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The profile's name.
    pub profile: String,
    /// Version of the kernel that it has the shape of.
    pub version: String,
    /// Its architecture: `x64` or `x86`.
    pub arch: String,
    /// Whether kernels of that version lie at multiples of 2 MiB.
    pub large_aligned: bool,
    /// Whether the guest can run: for some architectures there is only a kernel image with its symbols.
    pub runs: bool,
    /// Whether it is to run with PAE, if it is for x86; otherwise the loader option `NOPAE` says so.
    #[serde(default = "yes")]
    pub pae: bool,
    /// Whether that version draws the place of the page tables at boot.
    pub random_pte_base: bool,
    /// The images, the kernel first.
    pub images: Vec<ImageEntry>,
    /// Hash of everything that went in.
    pub inputs: String,
}

fn yes() -> bool {
    true
}

impl Manifest {
    /// Reads the manifest of a build's folder.
    ///
    /// # Errors
    ///
    /// When there is none, or it isn't one: names of files that lie elsewhere, or too many.
    pub fn read(folder: &Path) -> Result<Manifest, NtError> {
        let path = folder.join(MANIFEST);
        let broken = |problem: String| NtError::Broken {
            file: path.display().to_string(),
            problem,
        };
        let length = std::fs::metadata(&path).map_err(NtError::io(&path))?.len();
        if length > MANIFEST_MAX {
            return Err(broken("is too large for a manifest".to_owned()));
        }
        let text = std::fs::read_to_string(&path).map_err(NtError::io(&path))?;
        let manifest: Manifest =
            serde_json::from_str(&text).map_err(|error| broken(format!("isn't a manifest: {error}")))?;
        let plain = |name: &str| !name.is_empty() && name != ".." && !name.contains(['/', '\\', '\0']);
        if manifest.images.len() > IMAGES_MAX || !manifest.images.iter().all(|image| plain(&image.file)) {
            return Err(broken("names images that a guest can't have".to_owned()));
        }
        Ok(manifest)
    }
}

/// An image in a [`Manifest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageEntry {
    /// What it is to the guest.
    pub role: Role,
    /// Whether it is loaded before the kernel runs; otherwise only its file is kept in memory.
    pub boot: bool,
    /// Its file name, in the build's folder and in the guest.
    pub file: String,
    /// Its path in the guest.
    pub path: String,
    /// The file name of its PDB, in the build's folder.
    pub pdb: String,
    /// Identity of its PDB, as a symbol store writes it.
    pub guid: String,
    /// Age of its PDB.
    pub age: u32,
}
