//! Where the control socket is, and how an owner-only socket comes to be.

use crate::Failure;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The places where a control socket is looked for, the one that a service would choose first.
///
/// `$XDG_RUNTIME_DIR/kdd`, `/run/kdd` for root, and a directory in `/tmp` for users without either.
pub fn default_paths() -> Vec<PathBuf> {
    let uid = rustix::process::getuid();
    let mut paths = Vec::new();
    if let Some(dir) = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_absolute()) {
        paths.push(PathBuf::from(dir).join("kdd/control.sock"));
    }
    if uid.is_root() {
        paths.push("/run/kdd/control.sock".into());
    } else {
        paths.push(format!("/tmp/kdd-{}/control.sock", uid.as_raw()).into());
    }
    paths
}

/// Why a socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error("a live service answers at {}", .0.display())]
    Live(PathBuf),
    /// Something is there that is no socket.
    #[error("{} exists and is no socket", .0.display())]
    NotASocket(PathBuf),
    /// The directory belongs to another user.
    #[error("the directory {} belongs to another user", .0.display())]
    NotOurs(PathBuf),
    /// The operating system says no.
    #[error("{path}: {error}", path = .0.display(), error = .1)]
    Io(PathBuf, #[source] io::Error),
}

/// A listening socket of mode 0600, whose path goes when it goes.
#[derive(Debug)]
pub struct PrivateListener {
    listener: UnixListener,
    _path: SocketPath,
}

/// Removes a socket's path when dropped, unless another socket has taken it meanwhile.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    identity: Option<Identity>,
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Device, inode, and when it was made: inode numbers are used again.
type Identity = (u64, u64, i64, i64);

fn identity(path: &Path) -> Option<Identity> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((
        metadata.dev(),
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    ))
}

impl PrivateListener {
    /// Takes the socket and its path apart; the path is removed when its half is dropped.
    pub fn into_parts(self) -> (UnixListener, SocketPath) {
        (self.listener, self._path)
    }

    /// Listens at `path`. A directory that isn't there is made, owner-only; a socket nobody answers at is replaced.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(path: &Path) -> Result<PrivateListener, BindError> {
        let io = |e: io::Error| BindError::Io(path.to_owned(), e);
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        make_directory(directory)?;
        // Held while the old socket is judged and the new one put in its place, so that of two services that
        // start at once one finds the other alive.
        let lock = rustix::fs::open(
            directory,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| BindError::Io(directory.to_owned(), e.into()))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|e| io(e.into()))?;
        remove_stale(path)?;

        let address = SocketAddrUnix::new(path).map_err(|e| io(e.into()))?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|e| io(e.into()))?;
        // The mode of an unbound socket is the mode its path gets (unix(7)): there is no moment at which others
        // could connect.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|e| io(e.into()))?;
        rustix::net::bind(&socket, &address).map_err(|e| io(e.into()))?;
        let path = SocketPath {
            path: path.to_owned(),
            identity: identity(path),
        };
        rustix::net::listen(&socket, 64).map_err(|e| io(e.into()))?;
        let listener = UnixListener::from(socket);
        listener.set_nonblocking(true).map_err(io)?;
        Ok(PrivateListener {
            listener,
            _path: path,
        })
    }
}

/// Makes the last part of a directory's path, for its owner alone. One that exists is left as it is, but must not
/// be another user's unless everybody shares it.
fn make_directory(directory: &Path) -> Result<(), BindError> {
    let io = |e| BindError::Io(directory.to_owned(), e);
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = fs::metadata(directory).map_err(io)?;
            if !metadata.is_dir() {
                return Err(io(io::Error::from(io::ErrorKind::NotADirectory)));
            }
            let (owner, us) = (metadata.uid(), rustix::process::geteuid().as_raw());
            if owner != us && owner != 0 && us != 0 {
                return Err(BindError::NotOurs(directory.to_owned()));
            }
            Ok(())
        }
        Err(e) => Err(io(e)),
    }
}

/// Removes a socket that nobody answers at.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(BindError::Io(path.to_owned(), e)),
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::Live(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "replacing a socket that nobody answers at");
            fs::remove_file(path).map_err(|e| BindError::Io(path.to_owned(), e))
        }
        // A full queue is a service that lives.
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(BindError::Live(path.to_owned())),
        Err(e) => Err(BindError::Io(path.to_owned(), e)),
    }
}

impl BindError {
    /// The failure as the user reads it; `option` is how another path is chosen.
    pub fn failure(&self, what: &str, option: &str) -> Failure {
        let hint = match self {
            BindError::Live(_) => format!("use that service, or choose another path with {option}"),
            BindError::NotASocket(_) => format!("it is left alone: choose another path with {option}"),
            BindError::NotOurs(_) => format!("choose a path in a directory of yours with {option}"),
            BindError::Io(_, e) if e.kind() == io::ErrorKind::PermissionDenied => {
                format!("choose a path that you may write with {option}")
            }
            BindError::Io(_, e) if e.kind() == io::ErrorKind::NotFound => {
                format!("make its directory, or choose another path with {option}")
            }
            BindError::Io(..) => format!("choose another path with {option}"),
        };
        Failure::new(what, self, hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct Scratch(PathBuf);
    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("kdd-test-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Scratch(path)
        }
    }
    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_socket_and_its_directory_are_for_their_owner_alone() {
        let scratch = Scratch::new("mode");
        let path = scratch.0.join("kdd/control.sock");
        let listener = PrivateListener::bind(&path).unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_live_socket_is_refused_and_a_stale_one_replaced() {
        let scratch = Scratch::new("stale");
        let path = scratch.0.join("control.sock");
        let live = PrivateListener::bind(&path).unwrap();
        assert!(matches!(PrivateListener::bind(&path), Err(BindError::Live(_))));
        let (listener, kept) = live.into_parts();
        drop(listener);
        assert!(path.exists(), "the path outlives a service that was killed");
        let next = PrivateListener::bind(&path).unwrap();
        drop(kept);
        assert!(path.exists(), "the old owner leaves the new owner's socket alone");
        drop(next);
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let scratch = Scratch::new("file");
        let path = scratch.0.join("notes.txt");
        fs::write(&path, "mine").unwrap();
        let error = PrivateListener::bind(&path).unwrap_err();
        assert!(
            error
                .failure("serve", "--control")
                .to_string()
                .contains("no socket")
        );
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
}
