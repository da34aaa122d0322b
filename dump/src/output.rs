//! Where a dump goes: a file that appears when it is complete, or a stream.

use crate::{Error, Result};
use rustix::fs::{FlockOperation, flock};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What a writer of a format writes to, front to back.
pub trait Sink: Write {
    /// The next `length` bytes are zeros.
    ///
    /// # Errors
    /// The operating system's.
    fn zeros(&mut self, length: u64) -> io::Result<()>;

    /// Replaces bytes that were written before, where that can be done.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] on a stream.
    fn rewrite(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Whether [`Sink::rewrite`] can be done.
    fn can_rewrite(&self) -> bool;
}

/// A file in the making. It has another name until [`NewFile::commit`]: whatever happens before, there is no file that
/// looks complete. Dropped without that, it is removed; what a process that was killed left behind is for
/// [`remove_abandoned`]. Only its owner may read it: it holds a guest's memory.
pub struct NewFile {
    file: tempfile::NamedTempFile,
    path: PathBuf,
    replace: bool,
}

/// Ends the name of a file that isn't complete.
pub const PARTIAL: &str = ".partial";
/// Random characters in such a name.
const RANDOM: usize = 6;
/// How often a file is made anew that somebody removes at once.
const TRIES: u32 = 8;

/// Removes files that processes began in a folder and didn't live to complete: those whose name was to be one that
/// `is_ours`, and that no process has open as a [`NewFile`], which holds a lock (flock(2)) on it. What was removed.
///
/// # Errors
/// The folder can't be read; a file that can't be removed is left.
pub fn remove_abandoned(folder: &Path, is_ours: impl Fn(&str) -> bool) -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let ours = name.to_str().and_then(name_to_be).is_some_and(&is_ours);
        if !ours || !entry.file_type()?.is_file() {
            continue;
        }
        let path = entry.path();
        let abandoned = File::open(&path).and_then(|file| {
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            std::fs::remove_file(&path)
        });
        match abandoned {
            Ok(()) => removed.push(path),
            Err(error) => tracing::debug!(path = %path.display(), %error, "an incomplete file stays"),
        }
    }
    Ok(removed)
}

/// The name that an incomplete file was to have: `x.dmp` of `.x.dmp.A1b2C3.partial`.
fn name_to_be(name: &str) -> Option<&str> {
    let (name, random) = name.strip_prefix('.')?.strip_suffix(PARTIAL)?.rsplit_once('.')?;
    let is_random = random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_random.then_some(name)
}

impl NewFile {
    /// Begins a file at `path`; `replace` allows that there is one already.
    ///
    /// # Errors
    /// [`Error::Exists`], or the folder can't be written.
    pub fn create(path: &Path, replace: bool) -> Result<NewFile> {
        let name = path.file_name().ok_or_else(|| Error::Io {
            what: format!("{}", path.display()),
            source: io::Error::new(io::ErrorKind::InvalidInput, "that is not a file's name"),
        })?;
        if path.is_dir() {
            return Err(Error::Io {
                what: format!("{}", path.display()),
                source: io::ErrorKind::IsADirectory.into(),
            });
        }
        match path.symlink_metadata() {
            Ok(_) if !replace => return Err(Error::Exists(path.display().to_string())),
            // A device or a socket is nothing to replace.
            Ok(_) if path.metadata().is_ok_and(|facts| !facts.is_file()) => {
                return Err(Error::Io {
                    what: format!("{}", path.display()),
                    source: io::Error::new(io::ErrorKind::InvalidInput, "that is no ordinary file"),
                });
            }
            _ => {}
        }
        let mut prefix = OsString::from(".");
        prefix.push(name);
        prefix.push(".");
        let folder = folder_of(path);
        let failed = || Error::io(format!("creating a file in {}", folder.display()));
        for _ in 0..TRIES {
            let file = tempfile::Builder::new()
                .prefix(&prefix)
                .suffix(PARTIAL)
                .tempfile_in(folder)
                .map_err(failed())?;
            // Where a file system has no locks, nobody takes one to remove it either.
            let _ = flock(file.as_file(), FlockOperation::LockExclusive);
            // Somebody who cleans up may have been faster than the lock.
            if file.as_file().metadata().map_err(failed())?.nlink() > 0 {
                return Ok(NewFile {
                    file,
                    path: path.to_owned(),
                    replace,
                });
            }
        }
        Err(failed()(io::Error::other("each one is removed at once")))
    }

    /// Makes all of it durable and gives it its name.
    ///
    /// # Errors
    /// [`Error::Exists`] if another file took the name meanwhile, or the operating system's. The file is gone then.
    pub fn commit(self) -> Result<()> {
        self.commit_if(&|| true)
    }

    /// The same, if it is still wanted when all is on the disk, which takes a while for a large file.
    ///
    /// # Errors
    /// As [`NewFile::commit`]; [`Error::Cancelled`].
    pub fn commit_if(mut self, wanted: &dyn Fn() -> bool) -> Result<()> {
        let name = self.path.display().to_string();
        let file = self.file.as_file_mut();
        // A hole at the end is only there once the length says so.
        let length = file.stream_position().map_err(Error::io(&*name))?;
        file.set_len(length).map_err(Error::io(&*name))?;
        if wanted() {
            file.sync_all().map_err(Error::io(&*name))?;
        }
        if !wanted() {
            return Err(Error::Cancelled);
        }
        let renamed = if self.replace {
            self.file.persist(&self.path)
        } else {
            self.file.persist_noclobber(&self.path)
        };
        renamed.map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists(name.clone()),
            _ => Error::io(&*name)(error.error),
        })?;
        let folder = folder_of(&self.path);
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(Error::io(folder.display().to_string()))
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Sink for NewFile {
    fn zeros(&mut self, length: u64) -> io::Result<()> {
        let length = i64::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        self.file.seek(SeekFrom::Current(length)).map(drop)
    }

    fn rewrite(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        self.file.as_file().write_all_at(bytes, at)
    }

    fn can_rewrite(&self) -> bool {
        true
    }
}

/// A pipe or another stream.
pub struct Stream<W>(pub W);

impl<W: Write> Write for Stream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write> Sink for Stream<W> {
    fn zeros(&mut self, mut length: u64) -> io::Result<()> {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        while length > 0 {
            let now = length.min(ZEROS.len() as u64) as usize;
            self.0.write_all(&ZEROS[..now])?;
            length -= now as u64;
        }
        Ok(())
    }

    fn rewrite(&mut self, _at: u64, _bytes: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn can_rewrite(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_only_when_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.dmp");
        let mut file = NewFile::create(&path, false).unwrap();
        file.write_all(b"PAGE").unwrap();
        file.zeros(100).unwrap();
        file.rewrite(0, b"page").unwrap();
        assert!(!path.exists());
        file.commit().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((&bytes[..4], bytes.len()), (&b"page"[..], 104));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_no_longer_wanted_when_it_is_complete_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = NewFile::create(&folder.path().join("x"), false).unwrap();
        file.write_all(b"PAGE").unwrap();
        assert!(matches!(file.commit_if(&|| false), Err(Error::Cancelled)));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_abandoned_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        drop(NewFile::create(&folder.path().join("x"), false).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_is_being_written_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut living = NewFile::create(&path("x.dmp"), false).unwrap();
        for name in [
            ".x.dmp.A1b2C3.partial",
            ".y.dmp.A1b2C3.partial",
            ".x.dmp.partial",
            "x.txt",
        ] {
            std::fs::write(path(name), "PAGE").unwrap();
        }
        std::fs::create_dir(path(".x.dmp.D1b2C3.partial")).unwrap();
        let removed = remove_abandoned(folder.path(), |name| name == "x.dmp").unwrap();
        assert_eq!(removed, [path(".x.dmp.A1b2C3.partial")]);
        assert!(path(".y.dmp.A1b2C3.partial").exists() && path(".x.dmp.partial").exists());
        living.write_all(b"PAGE").unwrap();
        living.commit().unwrap();
        assert!(path("x.dmp").exists());
    }

    #[test]
    fn a_file_that_is_there_stays_unless_it_may_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let late = NewFile::create(&path, false).unwrap();
        std::fs::write(&path, "old").unwrap();
        assert!(matches!(NewFile::create(&path, false), Err(Error::Exists(_))));
        assert!(matches!(late.commit(), Err(Error::Exists(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        let mut file = NewFile::create(&path, true).unwrap();
        file.write_all(b"new").unwrap();
        file.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_device_is_never_replaced() {
        let error = NewFile::create(Path::new("/dev/null"), true).err().unwrap();
        assert!(error.to_string().contains("no ordinary file"), "{error}");
    }

    #[test]
    fn zeros_on_a_stream_are_written_out() {
        let mut stream = Stream(Vec::new());
        stream.zeros(100_000).unwrap();
        assert_eq!(stream.0, vec![0; 100_000]);
    }
}
