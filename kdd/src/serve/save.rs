//! A domain's state to a file: a new file beside it, which takes its name when it is whole.

use super::output::cannot_write;
use super::{Managed, Service, Shutdown};
use crate::Failure;
use dump::NewFile;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

impl Service {
    /// Saves a domain, which is held meanwhile; how many bytes that makes. When it fails, or the service stops in
    /// the middle, an older file of that name is as it was and nothing else is left.
    pub fn save(&self, managed: &Arc<Managed>, path: &Path) -> Result<u64, Failure> {
        let what = format!("save {}", path.display());
        let failed = |error: dump::Error| cannot_write(&what, &error);
        let save = managed.domain().save().ok_or_else(|| {
            Failure::new(&what, "this domain can't be saved", "only one that runs here can")
        })?;
        let mut file = NewFile::create(path, true).map_err(failed)?;
        let mut writer = BufWriter::with_capacity(
            1 << 20,
            Stoppable {
                file: &mut file,
                shutdown: self.shutdown(),
                written: 0,
            },
        );
        {
            let _held = managed.hold()?;
            save.save(&mut writer)
                .map_err(|error| managed.failure(&error, "the file was not written"))?;
        }
        let stoppable = writer
            .into_inner()
            .map_err(|error| failed(dump::Error::io(&*what)(error.into_error())))?;
        let bytes = stoppable.written;
        file.commit().map_err(failed)?;
        Ok(bytes)
    }
}

/// Stops writing when the service does.
struct Stoppable<'a, W> {
    file: &'a mut W,
    shutdown: &'a Shutdown,
    written: u64,
}

impl<W: Write> Write for Stoppable<'_, W> {
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
    fn nothing_is_written_once_the_service_stops() {
        let shutdown = Shutdown::default();
        let mut writer = Stoppable {
            file: &mut io::sink(),
            shutdown: &shutdown,
            written: 0,
        };
        assert_eq!(writer.write(b"x").unwrap(), 1);
        shutdown.trigger();
        assert!(writer.write(b"x").is_err());
    }
}
