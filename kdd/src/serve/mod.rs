//! The service: owns the domains, their consoles and their debug endpoints.
//!
//! ```text
//!  control::server ── request ──► ControlSession ──► Service ── domain's name ──► Managed
//!                                     │ holds              create, list, stop       │ Target, endpoints, console
//!                                     └── answers: one file for each kind of request
//! ```
//!
//! Everything here is called on threads that may block. A [`ControlSession`] is one client's connection: what it
//! holds paused runs again when it goes. No lock is held while a domain is called.

mod answer;
mod capture;
pub mod config;
mod console;
mod create;
mod describe;
mod endpoint;
mod fork;
mod guest_crash;
mod guest_files;
mod kernel;
mod linux;
mod list;
mod managed;
mod memory;
mod output;
mod pause;
mod pipe;
mod registers;
mod save;
mod shutdown;
mod symbol_file;
mod watch;
mod windows;

pub use answer::ControlSession;
pub use managed::{Lifecycle, Managed};
pub use shutdown::Shutdown;

use crate::Failure;
use hv_core::introspect::Introspect;
use hv_core::{DomId, Hypervisor, HypervisorError};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use symbols::SymbolPath;
use symbols::synthetic::cache::Cache;
use tokio::runtime::Handle;

/// How long a service that ends waits for its watches.
const LAST_WATCHES: Duration = Duration::from_secs(10);

/// Owns everything that a service has.
pub struct Service {
    hypervisor: Hypervisor,
    domains: Mutex<BTreeMap<DomId, Arc<Managed>>>,
    shutdown: Shutdown,
    runtime: Handle,
    /// Where symbols of guests are looked for.
    symbols: SymbolPath,
    /// The threads of the configuration's watches.
    watches: Mutex<Vec<JoinHandle<()>>>,
    /// Where symbol files of Linux guests are kept.
    symbol_files: Option<Arc<Cache>>,
}

/// The user's folder; without it the files are made anew each time.
fn symbol_files() -> Option<Arc<Cache>> {
    let folder = Cache::user_folder()?;
    match Cache::open(&folder) {
        Ok(cache) => Some(Arc::new(cache)),
        Err(error) => {
            tracing::warn!(%error, folder = %folder.display(), "symbol files of Linux guests aren't kept");
            None
        }
    }
}

/// The user's symbol path, `_NT_SYMBOL_PATH`.
fn symbol_path() -> SymbolPath {
    SymbolPath::from_environment().unwrap_or_else(|error| {
        tracing::warn!(%error, "_NT_SYMBOL_PATH isn't used");
        SymbolPath::default()
    })
}

/// Locks, whatever a thread that died left behind: the tables here are never half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Service {
    /// A service without domains, whose endpoints live on `runtime`.
    pub fn new(runtime: Handle) -> Arc<Service> {
        Arc::new(Service {
            hypervisor: Hypervisor::new(),
            domains: Mutex::default(),
            shutdown: Shutdown::default(),
            runtime,
            symbols: symbol_path(),
            watches: Mutex::default(),
            symbol_files: symbol_files(),
        })
    }

    /// What says that the service stops.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Every domain, by name.
    pub fn domains(&self) -> Vec<Arc<Managed>> {
        let mut domains: Vec<_> = lock(&self.domains).values().cloned().collect();
        domains.sort_by_key(|managed| managed.domain().name());
        domains
    }

    /// The domain that a user names: by name, or by id.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, name: &str) -> Result<Arc<Managed>, Failure> {
        let domains = lock(&self.domains);
        let by_id = || {
            let id = u64::from_str_radix(name.strip_prefix("0x").unwrap_or(name), 16).ok()?;
            domains.get(&DomId(id))
        };
        domains
            .values()
            .find(|managed| managed.domain().name() == name)
            .or_else(by_id)
            .cloned()
            .ok_or_else(|| Failure::no_such_domain(name))
    }

    /// Ends a domain with its endpoints and its console.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn destroy(&self, managed: &Managed) -> Result<(), Failure> {
        let id = managed.domain().id();
        lock(&self.domains).remove(&id);
        managed.close();
        match self.hypervisor.destroy(id) {
            // A debugger's `kill` took it off the hypervisor's list already.
            Ok(()) | Err(HypervisorError::NoDomain(_)) => Ok(()),
            Err(error) => Err(managed.failure(&error, "'kdd list' shows what is left")),
        }
    }

    /// Ends all: no new requests, no endpoints, no domains. Watches remove what they were writing.
    pub fn stop(&self) {
        self.shutdown.trigger();
        for managed in self.domains() {
            if let Err(failure) = self.destroy(&managed) {
                tracing::warn!("{failure}");
            }
        }
        let end = Instant::now() + LAST_WATCHES;
        for watch in std::mem::take(&mut *lock(&self.watches)) {
            while !watch.is_finished() && Instant::now() < end {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Takes a new domain into the table.
    fn adopt(&self, managed: Managed) -> Arc<Managed> {
        let managed = Arc::new(managed);
        let name = managed.domain().name();
        tracing::info!(domain = name, id = %managed.domain().id(), "created");
        lock(&self.domains).insert(managed.domain().id(), managed.clone());
        managed
    }
}

/// What a failed introspection call means to a user.
pub(crate) fn domain_failure(domain: &dyn Introspect, error: &dyn std::error::Error, hint: &str) -> Failure {
    // The call's own sentence names the domain by its id, which says nothing new beside its name.
    let why = error.to_string();
    let prefix = format!("domain {}", domain.id());
    let why = why
        .strip_prefix(&prefix)
        .map_or(why.as_str(), |rest| rest.trim_start_matches([':', ' ']));
    Failure::new(format_args!("domain '{}'", domain.name()), why, hint)
}
