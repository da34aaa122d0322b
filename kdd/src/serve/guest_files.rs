//! Kernels and RAM disks from their files, with a bound on what is read.

use crate::Failure;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

/// Reads a whole file that has to fit a domain with `memory_bytes` of RAM.
///
/// # Errors
/// It can't be read, is empty, or doesn't fit.
pub(super) fn read(path: &Path, what: &str, memory_bytes: u64) -> Result<Arc<[u8]>, Failure> {
    let name = format!("{what} {}", path.display());
    let file = open(path, &name)?;
    let mut bytes = Vec::new();
    file.take(memory_bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|e| cannot_open(&name, &e))?;
    if bytes.is_empty() {
        return Err(Failure::new(
            name,
            "the file is empty",
            format_args!("name another {what}"),
        ));
    }
    if bytes.len() as u64 > memory_bytes {
        return Err(Failure::new(
            name,
            format_args!("it doesn't fit into {} MiB of memory", memory_bytes >> 20),
            "give the domain more with --memory",
        ));
    }
    Ok(bytes.into())
}

/// Opens a file to read.
///
/// # Errors
/// It can't be opened, or is a directory.
pub(super) fn open(path: &Path, name: &str) -> Result<File, Failure> {
    let file = File::open(path).map_err(|e| cannot_open(name, &e))?;
    let metadata = file.metadata().map_err(|e| cannot_open(name, &e))?;
    if metadata.is_dir() {
        return Err(cannot_open(name, &io::Error::from(io::ErrorKind::IsADirectory)));
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
        let why = |path: &str, limit| read(Path::new(path), "kernel", limit).unwrap_err().why;
        assert_eq!(why("/nonexistent", 10), "there is no such file");
        assert_eq!(why("/", 10), "it is a directory");
        assert_eq!(why("/dev/null", 10), "the file is empty");
        assert!(why("/dev/zero", 1 << 20).contains("doesn't fit into 1 MiB"));
    }
}
