//! The folder that a watch puts dumps into: their names, which old ones go, and what killed services left there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The name of a new dump: `web-20261124T123456Z-bugcheck.dmp`, with a number where that is taken.
///
/// `time` is RFC 3339. All parts are names without slashes.
pub(super) fn new_path(folder: &Path, domain: &str, time: &str, cause: &str, extension: &str) -> PathBuf {
    let time: String = time.chars().filter(char::is_ascii_alphanumeric).collect();
    let stem = format!("{domain}-{time}-{cause}");
    let mut path = folder.join(format!("{stem}.{extension}"));
    let mut number = 2_u32;
    while path.symlink_metadata().is_ok() {
        path = folder.join(format!("{stem}-{number}.{extension}"));
        number += 1;
    }
    path
}

/// How much stays in a folder.
#[derive(Clone, Copy, Default)]
pub(super) struct Limits {
    pub files: Option<u32>,
    pub bytes: Option<u64>,
}

/// Removes the oldest dumps of a domain until the rest is within the limits; `newest` always stays. What was removed.
///
/// # Errors
/// The folder can't be read; a file that can't be removed is left.
pub(super) fn prune(folder: &Path, domain: &str, newest: &Path, limits: Limits) -> io::Result<Vec<PathBuf>> {
    let mut dumps = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let facts = entry.metadata()?;
        let is_dump = entry.file_name().to_str().is_some_and(|name| is_of(name, domain));
        if facts.is_file() && is_dump && entry.path() != newest {
            let time = facts.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            dumps.push((time, entry.path(), space(&facts)));
        }
    }
    // The newest first: those stay that fit.
    dumps.sort_by(|a, b| b.cmp(a));
    let mut bytes = newest.metadata().map_or(0, |facts| space(&facts));
    let mut removed = Vec::new();
    for (files, (_, path, length)) in (2..).zip(dumps) {
        bytes += length;
        let fits =
            limits.files.is_none_or(|most| files <= most) && limits.bytes.is_none_or(|most| bytes <= most);
        if !fits {
            match fs::remove_file(&path) {
                Ok(()) => removed.push(path),
                Err(error) => tracing::warn!(path = %path.display(), %error, "an old dump stays"),
            }
        }
    }
    Ok(removed)
}

/// Removes incomplete dumps, of whatever domain, that services left which didn't live to complete them.
pub(super) fn clean(folder: &Path) {
    match dump::remove_abandoned(folder, is_dump) {
        Ok(removed) => removed
            .iter()
            .for_each(|path| tracing::info!(path = %path.display(), "an incomplete dump is removed")),
        Err(error) => tracing::warn!(folder = %folder.display(), %error, "incomplete dumps stay"),
    }
}

/// Whether a file's name is one that [`new_path`] makes for any domain.
fn is_dump(name: &str) -> bool {
    name.match_indices('-')
        .any(|(end, _)| end > 0 && is_of(name, &name[..end]))
}

/// What a file takes on the disk: dumps have holes.
fn space(facts: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    facts.blocks().saturating_mul(512)
}

/// Whether a file's name is one that [`new_path`] makes for this domain.
fn is_of(name: &str, domain: &str) -> bool {
    let Some(rest) = name.strip_prefix(domain).and_then(|rest| rest.strip_prefix('-')) else {
        return false;
    };
    let bytes = rest.as_bytes();
    let digits = |range: std::ops::Range<usize>| {
        bytes
            .get(range)
            .is_some_and(|part| part.iter().all(u8::is_ascii_digit))
    };
    let is_time = digits(0..8)
        && bytes.get(8) == Some(&b'T')
        && digits(9..15)
        && bytes.get(15) == Some(&b'Z')
        && bytes.get(16) == Some(&b'-');
    is_time && (rest.ends_with(".dmp") || rest.ends_with(".vmcore"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-11-24T12:34:56Z";

    fn write(folder: &Path, name: &str, length: usize, age: u64) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, vec![1; length]).unwrap();
        let time = SystemTime::now() - std::time::Duration::from_secs(age);
        fs::File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .set_modified(time)
            .unwrap();
        path
    }

    #[test]
    fn a_name_says_what_when_and_why_and_is_new() {
        let folder = tempfile::tempdir().unwrap();
        let first = new_path(folder.path(), "web", TIME, "bugcheck", "dmp");
        assert!(first.ends_with("web-20261124T123456Z-bugcheck.dmp"));
        fs::write(&first, "").unwrap();
        let second = new_path(folder.path(), "web", TIME, "bugcheck", "dmp");
        assert!(second.ends_with("web-20261124T123456Z-bugcheck-2.dmp"));
        for path in [first, second] {
            assert!(is_of(path.file_name().unwrap().to_str().unwrap(), "web"));
        }
    }

    #[test]
    fn only_dumps_of_the_domain_are_ever_removed() {
        let name = "web-20261124T123456Z-panic.vmcore";
        assert!(is_of(name, "web"));
        for other in ["we", "web-20261124T123456Z", "eb", ""] {
            assert!(!is_of(name, other), "{other}");
        }
        assert!(!is_of("web-notes.dmp", "web"));
        assert!(!is_of("web-20261124T123456Z-panic.txt", "web"));
        assert!(is_dump(name) && is_dump("my-web-20261124T123456Z-panic-2.dmp"));
        assert!(!is_dump("-20261124T123456Z-panic.dmp") && !is_dump("web-notes.dmp"));
    }

    #[test]
    fn the_oldest_go_first_and_the_newest_stays_whatever_it_takes() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let newest = write(at, "web-20261124T000004Z-panic.dmp", 40_960, 0);
        let second = write(at, "web-20261124T000003Z-panic.dmp", 4096, 10);
        let third = write(at, "web-20261124T000002Z-panic.dmp", 4096, 20);
        let other = write(at, "api-20261124T000001Z-panic.dmp", 4096, 30);
        let two = Limits {
            files: Some(2),
            bytes: None,
        };
        assert_eq!(prune(at, "web", &newest, two).unwrap(), [third]);
        let few = Limits {
            files: None,
            bytes: Some(1),
        };
        assert_eq!(prune(at, "web", &newest, few).unwrap(), [second]);
        assert!(newest.exists() && other.exists());
    }
}
