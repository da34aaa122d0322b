//! Kernels, RAM disks and NT-shaped guests from their files, with a bound on what is read.

use crate::Failure;
use hv_core::load::{NtBoot, NtFile};
use nt_guest::Manifest;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

/// The largest kernel file: one with its debug information is much larger than what is loaded of it.
const MAX_KERNEL: u64 = 4 << 30;

/// Reads a kernel.
///
/// # Errors
/// It can't be read, is empty, or no kernel could be so large.
pub(super) fn kernel(path: &Path) -> Result<Arc<[u8]>, Failure> {
    let name = format!("kernel {}", path.display());
    read(path, &name, MAX_KERNEL)?
        .ok_or_else(|| Failure::new(&name, "it is larger than 4 GiB", "name a file that is a kernel"))
}

/// Reads a RAM disk for a domain with `memory_bytes` of RAM.
///
/// # Errors
/// It can't be read, is empty, or doesn't fit.
pub(super) fn initrd(path: &Path, memory_bytes: u64) -> Result<Arc<[u8]>, Failure> {
    let name = format!("initrd {}", path.display());
    read(path, &name, memory_bytes)?.ok_or_else(|| {
        let mib = memory_bytes >> 20;
        Failure::new(
            &name,
            format_args!("it doesn't fit into {mib} MiB of memory"),
            "give the domain more with --memory",
        )
    })
}

/// The largest image of an NT-shaped guest.
const MAX_NT_IMAGE: u64 = 64 << 20;

/// Reads an NT-shaped guest from the folder that its builder made; also says in words what it is.
///
/// # Errors
/// It can't be read, or what is there can't run.
pub(super) fn nt(folder: &Path, options: &str) -> Result<(NtBoot, String), Failure> {
    let name = format!("NT-shaped guest {}", folder.display());
    let manifest = Manifest::read(folder)
        .map_err(|error| Failure::new(&name, error, "build it again with setup/guest-nt.sh"))?;
    let words = format!("{} ({} {})", manifest.profile, manifest.version, manifest.arch);
    if !manifest.runs {
        return Err(Failure::new(
            &name,
            format_args!("of {words} there are only symbols, without the code"),
            "build it again with setup/guest-nt.sh",
        ));
    }
    let mut boot = NtBoot {
        images: Vec::new(),
        files: Vec::new(),
        // As Windows' loader writes them, each behind a space.
        options: options
            .split_whitespace()
            .chain((!manifest.pae).then_some("NOPAE"))
            .map(|option| format!(" {option}"))
            .collect(),
        large_aligned: manifest.large_aligned,
        random_pte_base: manifest.random_pte_base,
    };
    for image in manifest.images {
        let path = folder.join(&image.file);
        let name = format!("image {}", path.display());
        let bytes = read(&path, &name, MAX_NT_IMAGE)?.ok_or_else(|| {
            Failure::new(
                &name,
                "it is larger than 64 MiB",
                "build it again with setup/guest-nt.sh",
            )
        })?;
        let file = NtFile {
            path: image.path,
            bytes,
        };
        if image.boot {
            boot.images.push(file);
        } else {
            boot.files.push(file);
        }
    }
    Ok((boot, words))
}

/// A whole file, or `None` if it is larger than `limit`.
fn read(path: &Path, name: &str, limit: u64) -> Result<Option<Arc<[u8]>>, Failure> {
    let file = open(path, name)?;
    let too_large = file.metadata().is_ok_and(|metadata| metadata.len() > limit);
    if too_large {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    // A device has no length: the bound holds for what is read as well.
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|e| cannot_open(name, &e))?;
    if bytes.is_empty() {
        return Err(Failure::new(name, "the file is empty", "name another file"));
    }
    Ok((bytes.len() as u64 <= limit).then(|| bytes.into()))
}

/// Opens a file to read.
///
/// # Errors
/// It can't be opened, or is a directory.
pub(super) fn open(path: &Path, name: &str) -> Result<File, Failure> {
    let file = File::open(path).map_err(|e| cannot_open(name, &e))?;
    let metadata = file.metadata().map_err(|e| cannot_open(name, &e))?;
    if metadata.is_dir() {
        return Err(cannot_open(name, &io::ErrorKind::IsADirectory.into()));
    }
    Ok(file)
}

fn cannot_open(name: &str, error: &io::Error) -> Failure {
    let (why, hint) = match error.kind() {
        io::ErrorKind::NotFound => ("there is no such file", "check the path"),
        io::ErrorKind::PermissionDenied => ("it may not be read", "let the service's user read it"),
        io::ErrorKind::IsADirectory => ("it is a directory", "name a file in it"),
        _ => return Failure::new(name, error, "check the file"),
    };
    Failure::new(name, why, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bad_file_has_its_reason() {
        let why = |path: &str, limit| initrd(Path::new(path), limit).unwrap_err().why;
        assert_eq!(why("/nonexistent", 10), "there is no such file");
        assert_eq!(why("/", 10), "it is a directory");
        assert_eq!(why("/dev/null", 10), "the file is empty");
        assert!(why("/dev/zero", 1 << 20).contains("doesn't fit into 1 MiB"));
    }
}
