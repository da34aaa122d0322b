//! A domain's state to a file: a new file beside it, which takes its name when it is whole.

use super::{Managed, Service, Shutdown};
use crate::Failure;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

impl Service {
    /// Saves a domain, which is held meanwhile; how many bytes that makes. When it fails, or the service stops in
    /// the middle, an older file of that name is as it was and nothing else is left.
    pub fn save(&self, managed: &Arc<Managed>, path: &Path) -> Result<u64, Failure> {
        let what = format!("save {}", path.display());
        let failed = |error: &io::Error| {
            let hint = match error.kind() {
                io::ErrorKind::NotFound => "make the directory first",
                io::ErrorKind::PermissionDenied => "choose a place that the service's user may write",
                io::ErrorKind::StorageFull => "make room, or choose another disk",
                io::ErrorKind::IsADirectory => "name a file in it",
                _ => "choose another place",
            };
            Failure::new(&what, error, hint)
        };
        if path.is_dir() {
            return Err(failed(&io::ErrorKind::IsADirectory.into()));
        }
        let save = managed.domain().save().ok_or_else(|| {
            Failure::new(&what, "this domain can't be saved", "only one that runs here can")
        })?;
        let unfinished = Unfinished::create(path).map_err(|e| failed(&e))?;
        let mut writer = BufWriter::with_capacity(
            1 << 20,
            Stoppable {
                file: &unfinished.file,
                shutdown: self.shutdown(),
                written: 0,
            },
        );
        {
            let _held = managed.hold()?;
            save.save(&mut writer)
                .map_err(|error| managed.failure(&error, "the file was not written"))?;
        }
        let stoppable = writer.into_inner().map_err(|e| failed(e.error()))?;
        let bytes = stoppable.written;
        unfinished.finish(path).map_err(|e| failed(&e))?;
        Ok(bytes)
    }
}

/// A file that is removed unless it is finished. Its owner alone may read it: it holds a guest's memory.
struct Unfinished {
    file: File,
    path: PathBuf,
    finished: bool,
}

impl Unfinished {
    fn create(path: &Path) -> io::Result<Unfinished> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file"))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(
            ".{}-{}.part",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        ));
        let path = path.with_file_name(hidden);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Unfinished {
            file,
            path,
            finished: false,
        })
    }

    fn finish(mut self, path: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, path)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Stops writing when the service does.
struct Stoppable<'a> {
    file: &'a File,
    shutdown: &'a Shutdown,
    written: u64,
}

impl Write for Stoppable<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.shutdown.is_triggered() {
            return Err(io::Error::other("the service is stopping"));
        }
        let some = self.file.write(bytes)?;
        self.written += some as u64;
        Ok(some)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_file_leaves_nothing_and_a_finished_one_takes_its_name() {
        let directory = std::env::temp_dir().join(format!("kdd-test-save-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("state");
        fs::write(&path, "old").unwrap();

        drop(Unfinished::create(&path).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);

        let unfinished = Unfinished::create(&path).unwrap();
        (&unfinished.file).write_all(b"new").unwrap();
        unfinished.finish(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn nothing_is_written_once_the_service_stops() {
        let shutdown = Shutdown::default();
        let file = File::options().write(true).open("/dev/null").unwrap();
        let mut writer = Stoppable {
            file: &file,
            shutdown: &shutdown,
            written: 0,
        };
        assert_eq!(writer.write(b"x").unwrap(), 1);
        shutdown.trigger();
        assert!(writer.write(b"x").is_err());
    }
}
