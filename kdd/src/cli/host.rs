//! What `kdd run` and `kdd serve` share: a process that is a service, from its control socket to its orderly end.

use crate::control::server;
use crate::control::socket::{BindError, PrivateListener, default_paths};
use crate::serve::Service;
use crate::{Failure, FailureKind};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

/// How long requests that are under way may take to end.
const LAST_REQUESTS: Duration = Duration::from_secs(10);

/// A bound control socket and where it is.
pub(super) struct Socket {
    listener: PrivateListener,
    path: PathBuf,
}

impl Socket {
    /// The socket at `path`, or at the first default place that can be had.
    ///
    /// # Errors
    /// A live service is there, or the path can't be had.
    pub fn chosen(path: Option<&Path>) -> Result<Socket, Failure> {
        Self::bind(path).map_err(|error| error.failure("control socket", "--control"))
    }

    /// As [`Socket::chosen`]; but where the default place is another service's, one beside it, so that several
    /// `kdd run` get along.
    ///
    /// # Errors
    /// As there.
    pub fn chosen_or_beside(path: Option<&Path>) -> Result<Socket, Failure> {
        match Self::bind(path) {
            Err(BindError::Live(taken)) if path.is_none() => {
                let beside = taken.with_file_name(format!("run-{}.sock", std::process::id()));
                Self::chosen(Some(&beside))
            }
            bound => bound.map_err(|error| error.failure("control socket", "--control")),
        }
    }

    fn bind(path: Option<&Path>) -> Result<Socket, BindError> {
        let paths = path.map_or_else(default_paths, |path| vec![path.to_owned()]);
        let mut first_error = None;
        for path in paths {
            let path = std::path::absolute(&path).unwrap_or(path);
            match PrivateListener::bind(&path) {
                Ok(listener) => return Ok(Socket { listener, path }),
                Err(live @ BindError::Live(_)) => return Err(live),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        Err(first_error
            .unwrap_or_else(|| BindError::Io(PathBuf::new(), io::Error::from(io::ErrorKind::NotFound))))
    }
}

/// A running service.
pub(super) struct Host {
    runtime: Runtime,
    service: Arc<Service>,
    server: JoinHandle<io::Result<()>>,
    control: PathBuf,
}

impl Host {
    /// Starts a service that answers at `socket`.
    pub fn start(socket: Socket) -> Result<Host, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|e| Failure::new("service", e, "free some threads or file descriptors"))?;
        let service = Service::new(runtime.handle().clone());
        let server = runtime.spawn(server::serve(socket.listener, service.clone()));
        Ok(Host {
            runtime,
            service,
            server,
            control: socket.path,
        })
    }

    /// The service.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Where its control socket is.
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// Runs a future to its end.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Calls something that needs to be in the runtime.
    pub fn enter<T>(&self, call: impl FnOnce() -> T) -> T {
        let _inside = self.runtime.enter();
        call()
    }

    /// Fails when the time is over; never returns without a limit.
    pub async fn timeout(limit: Option<Duration>) -> Failure {
        let Some(limit) = limit else {
            return std::future::pending().await;
        };
        tokio::time::sleep(limit).await;
        Failure::new(
            "timeout",
            format_args!("{} s have passed", limit.as_secs_f64()),
            "give it longer with --timeout",
        )
        .of_kind(FailureKind::TimedOut)
    }

    /// Ends it: no new requests, those under way finish, then endpoints and domains go.
    pub fn stop(self) {
        self.service.shutdown().trigger();
        let server = self.server;
        let ended = self
            .runtime
            .block_on(async { tokio::time::timeout(LAST_REQUESTS, server).await });
        if ended.is_err() {
            tracing::warn!("requests that were under way did not end in time");
        }
        self.service.stop();
        self.runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

/// SIGXFSZ, Linux' number: a write went past the limit of a file's size.
const SIGXFSZ: i32 = 25;

/// SIGINT, SIGTERM and SIGHUP: each asks for an orderly end. And SIGXFSZ, which would end it at once.
pub(super) struct Signals {
    ends: [Signal; 3],
    /// Never waited for: the write fails, and whoever wrote says so.
    _file_too_large: Signal,
}

impl Signals {
    /// Takes them over from their default action.
    pub fn install() -> Result<Signals, Failure> {
        let install = || {
            Ok(Signals {
                ends: [
                    signal(SignalKind::interrupt())?,
                    signal(SignalKind::terminate())?,
                    signal(SignalKind::hangup())?,
                ],
                _file_too_large: signal(SignalKind::from_raw(SIGXFSZ))?,
            })
        };
        install().map_err(|e: io::Error| Failure::new("signals", e, "free some file descriptors"))
    }

    /// Waits for one of them.
    pub async fn wait(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.ends;
        tokio::select! {
            _ = interrupt.recv() => tracing::info!("SIGINT"),
            _ = terminate.recv() => tracing::info!("SIGTERM"),
            _ = hangup.recv() => tracing::info!("SIGHUP"),
        }
    }
}
