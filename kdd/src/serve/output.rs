//! Where a file goes that a client asks for: to a file that appears when it is complete, or to a named pipe.

use super::pipe::Pipe;
use crate::Failure;
use dump::{Error, NewFile, Sink, Stream};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Where it goes.
pub(super) enum Output<'a> {
    File(NewFile),
    Pipe(Stream<Pipe<'a>>),
}

impl<'a> Output<'a> {
    /// Begins it; `what` is made, `force` allows that there is a file already, `wanted` is asked while a pipe's reader is slow.
    pub fn create(
        what: &str,
        path: &Path,
        force: bool,
        wanted: &'a dyn Fn() -> bool,
    ) -> Result<Output<'a>, Failure> {
        let is_pipe = path.metadata().is_ok_and(|facts| facts.file_type().is_fifo());
        let output = if is_pipe {
            Pipe::open(path, wanted)
                .map(|pipe| Output::Pipe(Stream(pipe)))
                .map_err(Error::io(path.display().to_string()))
        } else {
            NewFile::create(path, force).map(Output::File)
        };
        output.map_err(|error| cannot_write(&format!("{what} {}", path.display()), &error))
    }

    /// What is written to.
    pub fn sink(&mut self) -> &mut dyn Sink {
        match self {
            Output::File(file) => file,
            Output::Pipe(pipe) => pipe,
        }
    }

    /// Gives a file its name, if it is still wanted.
    pub fn commit(self, wanted: &dyn Fn() -> bool) -> dump::Result<()> {
        match self {
            Output::File(file) => file.commit_if(wanted),
            Output::Pipe(_) => Ok(()),
        }
    }
}

/// What a failed write means to a user.
pub(super) fn cannot_write(what: &str, error: &Error) -> Failure {
    let hint = match error {
        Error::Exists(_) => "choose another name, or add --force",
        Error::Io { source, .. } => write_hint(source),
        Error::Cancelled => "nothing was written",
        Error::WrongGuest(_) | Error::Unsupported(_) => "choose another --format",
        _ => "nothing was written; try again",
    };
    let why = match error {
        Error::Exists(_) => "the file exists".to_owned(),
        Error::Io { source, .. } => source.to_string(),
        error => error.to_string(),
    };
    Failure::new(what, why, hint)
}

/// What to do about a place that can't be written.
fn write_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "make the directory first",
        io::ErrorKind::PermissionDenied => "choose a place that the service's user may write",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room, or choose another disk",
        io::ErrorKind::IsADirectory => "name a file in it",
        io::ErrorKind::BrokenPipe => "the reader has gone: nothing is complete",
        _ => "choose another place",
    }
}
