//! Where a file goes that the service writes: to a path, or through a pipe to this command's standard output.

use super::common::absolute;
use crate::Failure;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the service is asked to write to.
pub(super) enum Destination {
    /// A file, by a path that the service understands.
    Path(PathBuf),
    /// Standard output.
    Stdout(StdoutPipe),
}

impl Destination {
    /// What a user named: `-` is standard output. `what` is written there.
    pub fn new(what: &str, named: &Path) -> Result<Destination, Failure> {
        // The service's /dev/stdout is another one.
        if ![Path::new("-"), Path::new("/dev/stdout")].contains(&named) {
            return absolute(named.to_owned()).map(Destination::Path);
        }
        if io::stdout().is_terminal() {
            return Err(Failure::new(
                what,
                "standard output is a terminal",
                "name a file, or send it to a program",
            ));
        }
        StdoutPipe::make().map(Destination::Stdout)
    }

    /// The path that the service is told.
    pub fn path(&self) -> PathBuf {
        match self {
            Destination::Path(path) => path.clone(),
            Destination::Stdout(pipe) => pipe.path(),
        }
    }

    /// Whether standard output is taken.
    pub fn is_stdout(&self) -> bool {
        matches!(self, Destination::Stdout(_))
    }

    /// Waits until all is where it should be; the service has answered.
    pub fn finish(self) -> Result<(), Failure> {
        match self {
            Destination::Path(_) => Ok(()),
            Destination::Stdout(pipe) => pipe.finish(),
        }
    }
}

/// A named pipe that the service writes to, and a thread that copies it to standard output.
pub(super) struct StdoutPipe {
    folder: tempfile::TempDir,
    over: Arc<AtomicBool>,
    copier: std::thread::JoinHandle<io::Result<()>>,
}

impl StdoutPipe {
    fn make() -> Result<StdoutPipe, Failure> {
        let failed = |error: io::Error| Failure::new("standard output", error, "name a file instead");
        let folder = tempfile::Builder::new()
            .prefix("kdd-output-")
            .tempdir()
            .map_err(failed)?;
        let path = folder.path().join("pipe");
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(CWD, &path, FileType::Fifo, mode, 0).map_err(|e| failed(e.into()))?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let reader: File = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|e| failed(e.into()))?
            .into();
        let over = Arc::new(AtomicBool::new(false));
        let is_over = over.clone();
        let copier = std::thread::Builder::new()
            .name("copier".into())
            .spawn(move || copy(reader, &is_over))
            .map_err(failed)?;
        Ok(StdoutPipe { folder, over, copier })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("pipe")
    }

    /// Waits until all is copied.
    fn finish(self) -> Result<(), Failure> {
        self.over.store(true, Ordering::Release);
        let copied = self
            .copier
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the copier broke off")));
        copied.map_err(|error| Failure::new("standard output", error, "send it somewhere else"))
    }
}

/// Copies until the writer has gone; `over` says that there will be none any more.
fn copy(mut reader: File, over: &AtomicBool) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let mut buffer = vec![0; 1 << 16];
    let mut begun = false;
    loop {
        let was_over = over.load(Ordering::Acquire);
        let limit = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        let ready = poll(&mut [PollFd::new(&reader, PollFlags::IN)], Some(&limit))?;
        if ready == 0 && !was_over {
            continue;
        }
        match reader.read(&mut buffer) {
            Ok(0) if begun || was_over => return stdout.flush(),
            Ok(0) => {}
            Ok(read) => {
                begun = true;
                stdout.write_all(&buffer[..read])?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
