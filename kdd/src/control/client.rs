//! Asks a running service. Blocking: a command asks, prints and ends.

use super::line::LineBuffer;
use super::message::{MAX_LINE, Outcome, Progress, Reply, ReplyLine, Request, RequestLine};
use super::socket::default_paths;
use crate::{Failure, FailureKind};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A connection to a service.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
    lines: LineBuffer,
    next_id: u64,
    deadline: Option<(Instant, Duration)>,
}

impl Client {
    /// Connects to the service at `path`, or at the first of the default places where one answers. Everything
    /// asked over this connection must be answered within `timeout`, if there is one.
    ///
    /// # Errors
    /// [`FailureKind::Unreachable`].
    pub fn connect(path: Option<&Path>, timeout: Option<Duration>) -> Result<Client, Failure> {
        let deadline = timeout.and_then(|limit| Some((Instant::now().checked_add(limit)?, limit)));
        let paths = path.map_or_else(default_paths, |path| vec![path.to_owned()]);
        let mut first_error = None;
        for path in paths {
            match UnixStream::connect(&path) {
                Ok(stream) => {
                    return Ok(Client {
                        stream,
                        path,
                        lines: LineBuffer::new(MAX_LINE),
                        next_id: 1,
                        deadline,
                    });
                }
                Err(error) => {
                    first_error.get_or_insert((path, error));
                }
            }
        }
        Err(match first_error {
            Some((path, error)) => unreachable(&path, &error),
            None => Failure::new(
                "control socket",
                "no place to look for it",
                "name it with --control",
            )
            .of_kind(FailureKind::Unreachable),
        })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What the service says, [`FailureKind::Unreachable`] if it goes away, [`FailureKind::TimedOut`].
    pub fn ask(&mut self, request: Request) -> Result<Reply, Failure> {
        self.ask_and_watch(request, |_| {})
    }

    /// As [`Client::ask`], and hands on what is told before the answer. The timeout is for all of it.
    ///
    /// # Errors
    /// As there.
    pub fn ask_and_watch(
        &mut self,
        request: Request,
        mut watch: impl FnMut(Progress),
    ) -> Result<Reply, Failure> {
        let id = self.next_id;
        self.next_id += 1;
        let mut line = serde_json::to_vec(&RequestLine { id, request })
            .map_err(|e| Failure::new("control socket", e, "use names that are UTF-8"))?;
        line.push(b'\n');
        self.arm_timeout()?;
        self.stream.write_all(&line).map_err(|e| self.lost(&e))?;
        loop {
            let line = self.read_line()?;
            let reply: ReplyLine = serde_json::from_slice(&line).map_err(|e| {
                Failure::new(
                    "control socket",
                    format_args!("{} gave an answer that can't be read ({e})", self.path.display()),
                    "use the same version of kdd for the service and the command",
                )
            })?;
            match reply.outcome {
                Outcome::Progress(progress) if reply.id == id => watch(progress),
                Outcome::Ok(answer) if reply.id == id => return Ok(answer),
                // Id 0: the service could not read the request, or has no room for one more client.
                Outcome::Error(failure) if reply.id == id || reply.id == 0 => return Err(failure),
                _ => {}
            }
        }
    }

    fn read_line(&mut self) -> Result<Vec<u8>, Failure> {
        let mut buffer = [0; 16384];
        loop {
            let next = self.lines.next_line().map_err(|e| {
                Failure::new("control socket", e, "use the same version of kdd on both sides")
            })?;
            if let Some(line) = next {
                return Ok(line);
            }
            self.arm_timeout()?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(self.lost(&io::Error::from(io::ErrorKind::UnexpectedEof))),
                Ok(read) => self.lines.push(&buffer[..read]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.lost(&e)),
            }
        }
    }

    /// Lets the next call on the stream take no longer than what is left.
    fn arm_timeout(&self) -> Result<(), Failure> {
        let Some((deadline, limit)) = self.deadline else {
            return Ok(());
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(timed_out(limit));
        }
        self.stream
            .set_read_timeout(Some(left))
            .and_then(|()| self.stream.set_write_timeout(Some(left)))
            .map_err(|e| self.lost(&e))
    }

    fn lost(&self, error: &io::Error) -> Failure {
        match (error.kind(), self.deadline) {
            (io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut, Some((_, limit))) => timed_out(limit),
            (
                io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset,
                _,
            ) => Failure::new(
                "control socket",
                format_args!("the service at {} went away", self.path.display()),
                "look at its log, and start it again with 'kdd serve'",
            )
            .of_kind(FailureKind::Unreachable),
            _ => unreachable(&self.path, error),
        }
    }
}

fn unreachable(path: &Path, error: &io::Error) -> Failure {
    let (why, hint) = match error.kind() {
        io::ErrorKind::NotFound => (
            format!("no service listens at {}", path.display()),
            "start one with 'kdd serve' or 'kdd run', or name its socket with --control",
        ),
        io::ErrorKind::ConnectionRefused => (
            format!("nobody answers at {} any more", path.display()),
            "start the service again with 'kdd serve'; it replaces the old socket",
        ),
        io::ErrorKind::PermissionDenied => (
            format!("{} belongs to another user", path.display()),
            "run the command as the user who runs the service",
        ),
        _ => (
            format!("{}: {error}", path.display()),
            "name the service's socket with --control",
        ),
    };
    Failure::new("control socket", why, hint).of_kind(FailureKind::Unreachable)
}

fn timed_out(limit: Duration) -> Failure {
    Failure::new(
        "control socket",
        format_args!("no answer within {} s", limit.as_secs_f64()),
        "give it longer with --timeout",
    )
    .of_kind(FailureKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_is_not_there_is_unreachable() {
        let failure = Client::connect(Some(Path::new("/nonexistent/x.sock")), None).unwrap_err();
        assert_eq!(failure.exit_status(), 4);
        assert!(failure.to_string().contains("kdd serve"));
    }

    #[test]
    fn a_service_that_does_not_answer_times_out() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let limit = Duration::from_millis(20);
        let mut client = Client {
            stream: ours,
            path: "x".into(),
            lines: LineBuffer::new(MAX_LINE),
            next_id: 1,
            deadline: Some((Instant::now() + limit, limit)),
        };
        assert_eq!(client.ask(Request::List).unwrap_err().exit_status(), 124);
    }
}
