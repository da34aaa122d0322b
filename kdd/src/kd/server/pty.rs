//! A pseudo-terminal as a serial line: whoever opens the other end is the debugger.

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::pipe;

/// How often it is looked whether somebody opened the other end.
const LOOK: Duration = Duration::from_millis(50);

/// Our end of a pseudo-terminal.
#[derive(Clone)]
pub(super) struct Pty {
    fd: Arc<OwnedFd>,
    path: PathBuf,
}

impl Pty {
    pub fn open() -> io::Result<Pty> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let fd = openpt(flags)?;
        grantpt(&fd)?;
        unlockpt(&fd)?;
        let name = ptsname(&fd, Vec::new())?;
        // Bytes as they are.
        let mut attributes = tcgetattr(&fd)?;
        attributes.make_raw();
        tcsetattr(&fd, OptionalActions::Now, &attributes)?;
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(name.as_bytes()));
        // A terminal that was never open isn't hung up yet.
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        drop(rustix::fs::open(&path, flags, Mode::empty())?);
        Ok(Pty {
            fd: Arc::new(fd),
            path,
        })
    }

    /// The other end.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until somebody opens the other end.
    pub async fn opened(&self) -> io::Result<()> {
        // While nobody has it open, the terminal is hung up.
        loop {
            let mut fds = [rustix::event::PollFd::new(
                &*self.fd,
                rustix::event::PollFlags::IN,
            )];
            let now = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            rustix::event::poll(&mut fds, Some(&now))?;
            if !fds[0].revents().contains(rustix::event::PollFlags::HUP) {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The line, for one session. Once the other end is closed, a read of it fails.
    pub fn stream(&self) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + use<>> {
        // What tokio needs of a pipe is that it can be read, written and waited for.
        let reader = pipe::Receiver::from_owned_fd_unchecked(self.fd.try_clone()?)?;
        let writer = pipe::Sender::from_owned_fd_unchecked(self.fd.try_clone()?)?;
        Ok(tokio::io::join(reader, writer))
    }
}
