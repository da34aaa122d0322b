//! Connections to sessions: a seat each, or a refusal, and a thread.

use crate::address::ListenAddress;
use crate::connection::{Connection, Stream};
use crate::listener::Listener;
use crate::shutdown::{Endpoint, Keeper, Shutdown};
use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// How an endpoint receives debuggers.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// What they speak, in the names of threads.
    pub protocol: &'static str,
    /// What one is called.
    pub debugger: &'static str,
    /// How many there may be at a time; one more is refused: closed at once.
    pub seats: usize,
    /// How long one waits for a seat that is just being left.
    pub grace: Duration,
}

/// The sessions of an endpoint: `S` is what happens over a connection, given the bytes, who is at the other end and
/// the signal to stop.
pub struct Sessions<S> {
    keeper: Keeper,
    host: Host<S>,
}

/// What gives connections their sessions; every task of an endpoint has a copy.
#[derive(Clone)]
pub(crate) struct Host<S> {
    manners: Manners,
    seats: Arc<Semaphore>,
    shutdown: Shutdown,
    session: S,
}

impl<S, F> Sessions<S>
where
    S: Fn(Box<dyn Stream>, String, Shutdown) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = io::Result<()>>,
{
    /// Sessions of a protocol, that nobody can begin yet.
    pub fn new(manners: Manners, session: S) -> Sessions<S> {
        let (keeper, shutdown) = Keeper::new();
        let host = Host {
            manners,
            seats: Arc::new(Semaphore::new(manners.seats)),
            shutdown,
            session,
        };
        Sessions { keeper, host }
    }

    /// Begins to listen.
    ///
    /// # Errors
    /// The address can't be had.
    pub async fn listen(mut self, address: ListenAddress) -> io::Result<Endpoint> {
        let (listener, address) = Listener::bind(address).await?;
        if let ListenAddress::Unix(path) = &address {
            self.keeper.socket = Some(path.clone());
        }
        let host = self.host.clone();
        let accept = async move {
            loop {
                let connection = listener.accept().await?;
                let host = host.clone();
                tokio::spawn(async move { host.begin(connection).await });
            }
        };
        Ok(self.open(address, accept))
    }

    /// Lets connections come one after the other from elsewhere: `next` waits for one, which is served to its end
    /// before the next. An error of it ends that.
    pub fn serve_each<A, N>(self, address: A, mut next: impl FnMut() -> N + Send + 'static) -> Endpoint<A>
    where
        A: Display,
        N: Future<Output = io::Result<Connection>> + Send + 'static,
    {
        let host = self.host.clone();
        let serve = async move {
            loop {
                let connection = next().await?;
                if let Some(done) = host.begin(connection).await {
                    // Its end is that of the session.
                    let _ = done.await;
                }
            }
        };
        self.open(address, serve)
    }

    fn open<A: Display>(
        self,
        address: A,
        task: impl Future<Output = io::Result<()>> + Send + 'static,
    ) -> Endpoint<A> {
        let Manners { debugger, .. } = self.host.manners;
        tracing::info!(%address, "waiting for a {debugger}");
        let mut shutdown = self.host.shutdown;
        let at = address.to_string();
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = task => ended,
                () = shutdown.wait() => Ok(()),
            };
            if let Err(error) = ended {
                tracing::error!(address = %at, %error, "no {debugger} can connect any more");
            }
        });
        Endpoint::new(address, self.keeper)
    }
}

impl<S, F> Host<S>
where
    S: Fn(Box<dyn Stream>, String, Shutdown) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = io::Result<()>>,
{
    /// Gives a connection its thread, unless all seats are taken. What comes back ends with the session.
    async fn begin(&self, connection: Connection) -> Option<oneshot::Receiver<()>> {
        let Manners {
            protocol,
            debugger,
            seats,
            grace,
        } = self.manners;
        let peer = connection.peer().to_owned();
        let seat = self.seats.clone().acquire_owned();
        let Ok(Ok(seat)) = tokio::time::timeout(grace, seat).await else {
            match seats {
                1 => tracing::warn!(peer, "a {debugger} is attached here already: refused"),
                _ => tracing::warn!(peer, "{seats} {debugger}s are attached here already: refused"),
            }
            return None;
        };
        let (sender, done) = oneshot::channel();
        let host = self.clone();
        let spawned = std::thread::Builder::new()
            .name(format!("{protocol} {peer}"))
            .spawn(move || host.run(connection, seat, sender));
        match spawned {
            Ok(_) => Some(done),
            Err(error) => {
                tracing::warn!(%error, "no thread for a {debugger}: closed");
                None
            }
        }
    }

    /// A session from its first byte to its last, on its thread. Whoever waits for `_done` learns that it has ended.
    fn run(&self, connection: Connection, seat: OwnedSemaphorePermit, _done: oneshot::Sender<()>) {
        let Manners { debugger, .. } = self.manners;
        let peer = connection.peer().to_owned();
        tracing::info!(peer, "a {debugger} connects");
        let ended = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .and_then(|runtime| {
                runtime.block_on(async {
                    let stream = connection.open()?;
                    (self.session)(stream, peer.clone(), self.shutdown.clone()).await
                })
            });
        match ended {
            Ok(()) => tracing::info!(peer, "the {debugger} is gone"),
            Err(error) => tracing::info!(peer, %error, "the {debugger} is gone"),
        }
        drop(seat);
    }
}
