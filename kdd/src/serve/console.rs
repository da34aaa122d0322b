//! Where a guest's console output goes: a file, the terminal of `kdd run`, or the clients of a Unix socket.
//!
//! ```text
//!  domain's thread ── write ──► queue, bounded ──► a thread that writes     file, standard output
//!                     write ──► broadcast ───────► a task for each client   Unix socket ── typed ──► domain
//! ```
//!
//! The domain's thread never waits here: a guest that writes for ever, or a terminal that stands still, may lose
//! output, which is said in its place, but never keeps a debugger from stopping the guest.

use super::{Managed, lock};
use crate::Failure;
use crate::control::socket::PrivateListener;
use crate::parse::ConsoleTarget;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinHandle;

/// Output that waits for a slow file or terminal.
const QUEUE_BYTES: usize = 8 << 20;
/// Pieces of output that wait for a slow client.
const CLIENT_PIECES: usize = 16384;
/// Clients of one console socket.
const CLIENTS: usize = 8;
/// How long the end waits for output to be written out.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Takes the output of one guest.
pub(super) struct ConsoleSink {
    target: ConsoleTarget,
    way: Way,
}

enum Way {
    Nowhere,
    Queue {
        queue: Arc<Queue>,
        finished: Mutex<mpsc::Receiver<()>>,
    },
    Socket {
        output: broadcast::Sender<Arc<[u8]>>,
        listener: Mutex<Option<PrivateListener>>,
        task: Mutex<Option<JoinHandle<()>>>,
        runtime: Handle,
    },
}

impl ConsoleSink {
    /// Goes nowhere.
    pub fn none() -> ConsoleSink {
        ConsoleSink {
            target: ConsoleTarget::None,
            way: Way::Nowhere,
        }
    }

    /// Opens what `target` names.
    ///
    /// # Errors
    /// It can't be had.
    pub fn open(target: &ConsoleTarget, runtime: &Handle) -> Result<ConsoleSink, Failure> {
        let way = match target {
            ConsoleTarget::None => Way::Nowhere,
            ConsoleTarget::Stdio => queue(io::stdout()),
            ConsoleTarget::File(path) => {
                let file = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(0o600)
                    .open(path)
                    .map_err(|e| {
                        Failure::new(
                            format_args!("console file {}", path.display()),
                            e,
                            "choose another with --console file:PATH",
                        )
                    })?;
                queue(file)
            }
            ConsoleTarget::Unix(path) => {
                let listener = PrivateListener::bind(path)
                    .map_err(|e| e.failure("console socket", "--console unix:PATH"))?;
                Way::Socket {
                    output: broadcast::Sender::new(CLIENT_PIECES),
                    listener: Mutex::new(Some(listener)),
                    task: Mutex::default(),
                    runtime: runtime.clone(),
                }
            }
        };
        Ok(ConsoleSink {
            target: target.clone(),
            way,
        })
    }

    /// What it is.
    pub fn target(&self) -> &ConsoleTarget {
        &self.target
    }

    /// Takes output. Never waits.
    pub fn write(&self, bytes: &[u8]) {
        match &self.way {
            Way::Nowhere => {}
            Way::Queue { queue, .. } => queue.push(bytes),
            // An error says that nobody is connected.
            Way::Socket { output, .. } => drop(output.send(bytes.into())),
        }
    }

    /// Lets clients of a console socket in.
    pub fn connect(&self, managed: &Arc<Managed>) {
        let Way::Socket {
            output,
            listener,
            task,
            runtime,
        } = &self.way
        else {
            return;
        };
        if let Some(listener) = lock(listener).take() {
            let accept = accept(listener, output.clone(), Arc::downgrade(managed));
            *lock(task) = Some(runtime.spawn(async move {
                if let Err(error) = accept.await {
                    tracing::warn!(%error, "a console socket ended");
                }
            }));
        }
    }

    /// Takes no more, and writes out what it has.
    pub fn close(&self) {
        match &self.way {
            Way::Nowhere => {}
            Way::Queue { queue, finished } => {
                queue.close();
                let _ = lock(finished).recv_timeout(LAST_WORDS);
            }
            Way::Socket { task, listener, .. } => {
                drop(lock(listener).take());
                if let Some(task) = lock(task).take() {
                    task.abort();
                }
            }
        }
    }
}

/// Output on its way to a writer that may be slow.
#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    bytes: Vec<u8>,
    lost: usize,
    closed: bool,
}

fn queue(writer: impl Write + Send + 'static) -> Way {
    let queue = Arc::new(Queue::default());
    let (done, finished) = mpsc::channel();
    let theirs = queue.clone();
    let spawned = thread::Builder::new().name("console".into()).spawn(move || {
        if let Err(error) = theirs.drain(writer) {
            tracing::warn!(%error, "console output can't be written any more");
            theirs.close();
        }
        let _ = done.send(());
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "no thread for console output");
    }
    Way::Queue {
        queue,
        finished: Mutex::new(finished),
    }
}

impl Queue {
    fn push(&self, bytes: &[u8]) {
        let mut state = lock(&self.state);
        if state.closed {
            return;
        }
        if state.bytes.len() + bytes.len() > QUEUE_BYTES {
            state.lost += bytes.len();
        } else {
            state.bytes.extend_from_slice(bytes);
        }
        drop(state);
        self.changed.notify_one();
    }

    fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_one();
    }

    /// Writes what comes until it is closed and empty.
    fn drain(&self, mut writer: impl Write) -> io::Result<()> {
        loop {
            let state = lock(&self.state);
            let mut state = self
                .changed
                .wait_while(state, |s| s.bytes.is_empty() && s.lost == 0 && !s.closed)
                .unwrap_or_else(PoisonError::into_inner);
            let (bytes, lost) = (std::mem::take(&mut state.bytes), std::mem::take(&mut state.lost));
            let closed = state.closed;
            drop(state);
            writer.write_all(&bytes)?;
            if lost > 0 {
                write!(writer, "\r\n[kdd: {lost} bytes of output were lost here]\r\n")?;
            }
            writer.flush()?;
            if closed && bytes.is_empty() && lost == 0 {
                return Ok(());
            }
        }
    }
}

async fn accept(
    listener: PrivateListener,
    output: broadcast::Sender<Arc<[u8]>>,
    managed: Weak<Managed>,
) -> io::Result<()> {
    let (listener, _path) = listener.into_parts();
    let listener = UnixListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CLIENTS));
    let mut clients = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        while clients.try_join_next().is_some() {}
        let Ok(place) = places.clone().try_acquire_owned() else {
            continue;
        };
        let (output, managed) = (output.subscribe(), managed.clone());
        clients.spawn(async move {
            let _ = client(stream, output, managed).await;
            drop(place);
        });
    }
}

async fn client(
    mut stream: UnixStream,
    mut output: broadcast::Receiver<Arc<[u8]>>,
    managed: Weak<Managed>,
) -> io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let mut typed = [0; 4096];
    loop {
        tokio::select! {
            piece = output.recv() => match piece {
                Ok(bytes) => writer.write_all(&bytes).await?,
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    writer.write_all(b"\r\n[kdd: output was lost here]\r\n").await?;
                }
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            },
            read = reader.read(&mut typed) => {
                let length = read?;
                let Some(managed) = managed.upgrade().filter(|_| length > 0) else {
                    return Ok(());
                };
                managed.console_input(&typed[..length]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            lock(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn closing_writes_out_what_there_is() {
        let written = Shared::default();
        let sink = ConsoleSink {
            target: ConsoleTarget::None,
            way: queue(written.clone()),
        };
        for _ in 0..1000 {
            sink.write(b"0123456789");
        }
        sink.close();
        assert_eq!(lock(&written.0).len(), 10_000);
        sink.write(b"late");
        sink.close();
        assert_eq!(lock(&written.0).len(), 10_000);
    }

    #[test]
    fn output_that_nobody_takes_is_bounded_and_the_loss_is_said() {
        let queue = Queue::default();
        for _ in 0..10 {
            queue.push(&[b'x'; 1 << 20]);
        }
        queue.close();
        let mut written = Vec::new();
        queue.drain(&mut written).unwrap();
        assert!(written.len() < QUEUE_BYTES + 100);
        assert!(String::from_utf8_lossy(&written).contains("[kdd: 2097152 bytes"));
    }
}
