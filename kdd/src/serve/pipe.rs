//! A named pipe that is written to. Its reader may be slow or leave: a write waits for it, and never for ever.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// How often a write that waits looks whether it is still wanted.
const LOOK_EVERY_NANOSECONDS: i64 = 200_000_000;
/// How often it looks before it gives up: a minute.
const PATIENCE: usize = 300;

/// The writing end.
pub(super) struct Pipe<'a> {
    file: File,
    /// Whether what is written is still wanted.
    wanted: &'a dyn Fn() -> bool,
}

impl<'a> Pipe<'a> {
    /// Opens a pipe that somebody reads. `wanted` is asked while a write waits.
    ///
    /// # Errors
    /// Nobody reads it, or the operating system's.
    pub fn open(path: &Path, wanted: &'a dyn Fn() -> bool) -> io::Result<Pipe<'a>> {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => Ok(Pipe {
                file: file.into(),
                wanted,
            }),
            Err(rustix::io::Errno::NXIO) => Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "nobody reads this pipe: start the reader first",
            )),
            Err(error) => Err(error.into()),
        }
    }

    fn wait(&self) -> io::Result<()> {
        let limit = Timespec {
            tv_sec: 0,
            tv_nsec: LOOK_EVERY_NANOSECONDS,
        };
        for _ in 0..PATIENCE {
            if !(self.wanted)() {
                return Err(io::Error::other("it is no longer wanted"));
            }
            if poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], Some(&limit))? > 0 {
                return Ok(());
            }
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the reader took nothing for a minute",
        ))
    }
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.file.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn pipe() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        (folder, path)
    }

    fn reader(path: &Path) -> File {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        rustix::fs::open(path, flags, Mode::empty()).unwrap().into()
    }

    #[test]
    fn a_pipe_without_a_reader_is_an_error_at_once() {
        let (_folder, path) = pipe();
        let error = Pipe::open(&path, &|| true).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_full_pipe_waits_only_as_long_as_it_is_wanted() {
        let (_folder, path) = pipe();
        let mut reader = reader(&path);
        let asked = std::cell::Cell::new(0);
        let wanted = || {
            asked.set(asked.get() + 1);
            asked.get() < 3
        };
        let mut pipe = Pipe::open(&path, &wanted).unwrap();
        let error = pipe.write_all(&vec![7; 1 << 20]).unwrap_err();
        assert_eq!(error.to_string(), "it is no longer wanted");
        assert_eq!(asked.get(), 3);
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [7]);
    }

    #[test]
    fn a_reader_that_leaves_is_an_error() {
        let (_folder, path) = pipe();
        let reader = reader(&path);
        let mut pipe = Pipe::open(&path, &|| true).unwrap();
        drop(reader);
        assert_eq!(pipe.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
