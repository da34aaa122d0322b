//! The hypervisor: the domains of this process, by id and by name.

use crate::addr::DomId;
use crate::domain::{Domain, DomainError, Seed};
use crate::introspect;
use crate::machine::{CreateError, Machine, MachineConfig};
use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Bytes in the longest name of a domain.
const MAX_NAME: usize = 64;

/// A domain to be created.
pub struct DomainConfig {
    /// Its name; without one it becomes `domain-N`.
    pub name: Option<String>,
    /// What it runs on.
    pub machine: MachineConfig,
    /// Whether it starts with one pause held: for those who subscribe to its events before its first instruction.
    pub paused: bool,
    /// Whether host time holds it back, as users expect of a machine; tests and benchmarks do without.
    pub throttle: bool,
}

/// Why the hypervisor refused.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// Another domain has this name.
    #[error("the name '{name}' is in use by domain {domain}; choose another or destroy that domain")]
    NameInUse {
        /// The name.
        name: String,
        /// Who has it.
        domain: DomId,
    },
    /// Another domain with this name is being created.
    #[error("the name '{0}' is in use by a domain that is being created; choose another")]
    NameReserved(String),
    /// Nobody could type this name.
    #[error(
        "'{0}' can't be a domain's name: 1 to {MAX_NAME} bytes without spaces, control characters or slashes"
    )]
    BadName(String),
    /// A saved domain is here already.
    #[error("domain {id} ('{name}') is still here: destroy it before it is restored, or fork it")]
    IdInUse {
        /// Its id.
        id: DomId,
        /// Its name.
        name: String,
    },
    /// No such domain.
    #[error("no domain {0}")]
    NoDomain(DomId),
    /// The machine can't be built.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The saved state can't be restored.
    #[error(transparent)]
    Restore(#[from] DomainError),
    /// The domain can't be started, or an introspection call failed.
    #[error(transparent)]
    Domain(#[from] introspect::Error),
}

type Result<T> = std::result::Result<T, HypervisorError>;

/// Holds domains. Those that are still here when it goes away end.
#[derive(Default)]
pub struct Hypervisor {
    registry: Arc<Registry>,
}

impl Hypervisor {
    /// One without domains.
    pub fn new() -> Hypervisor {
        Hypervisor::default()
    }

    /// Creates a domain; it runs at once unless it is to be paused.
    ///
    /// # Errors
    /// When the name is taken or the machine can't be built.
    pub fn create(&self, config: DomainConfig) -> Result<Arc<Domain>> {
        let place = self.registry.reserve(config.name.as_deref())?;
        let machine = Machine::new(&config.machine)?;
        let seed = Seed::new(new_id(), machine, (&config.machine).into(), config.throttle);
        place.fill(seed, config.paused)
    }

    /// Brings a saved domain back, with the id that it had; under another name if one is given.
    ///
    /// # Errors
    /// When the state can't be read, the name is taken, or the domain is still here.
    pub fn restore(&self, reader: &mut dyn Read, name: Option<&str>, paused: bool) -> Result<Arc<Domain>> {
        let (seed, saved_name) = Seed::read(reader)?;
        let place = self.registry.reserve(Some(name.unwrap_or(&saved_name)))?;
        lock(&ISSUED).insert(seed.id().0);
        place.fill(seed, paused)
    }

    /// A copy-on-write child of a domain: paused once, with an id of its own; without a name it gets one.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn fork(&self, parent: &Domain, name: Option<&str>) -> Result<Arc<Domain>> {
        self.registry.fork(parent, name)
    }

    /// An id and a name for a domain that this hypervisor doesn't run, such as a crash dump; the name is taken until
    /// the result is dropped.
    ///
    /// # Errors
    /// The name is in use or none.
    pub fn register(&self, name: Option<&str>) -> Result<Registration> {
        Ok(Registration {
            place: self.registry.reserve(name)?,
            id: new_id(),
        })
    }

    /// The domain with this id.
    pub fn get(&self, id: DomId) -> Option<Arc<Domain>> {
        self.list().into_iter().find(|d| d.id() == id)
    }

    /// The domain with this name, or else the one whose id this is in hexadecimal.
    pub fn find(&self, name_or_id: &str) -> Option<Arc<Domain>> {
        let domains = self.list();
        let digits = name_or_id.strip_prefix("0x").unwrap_or(name_or_id);
        let id = u64::from_str_radix(digits, 16).ok().map(DomId);
        let by_name = domains.iter().find(|d| d.name() == name_or_id);
        by_name
            .or_else(|| domains.iter().find(|d| Some(d.id()) == id))
            .cloned()
    }

    /// All domains, oldest first.
    pub fn list(&self) -> Vec<Arc<Domain>> {
        lock(&self.registry.inner).domains.clone()
    }

    /// Ends a domain and forgets it; its name is free again.
    ///
    /// # Errors
    /// [`HypervisorError::NoDomain`].
    pub fn destroy(&self, id: DomId) -> Result<()> {
        self.get(id).ok_or(HypervisorError::NoDomain(id))?.destroy();
        Ok(())
    }
}

impl Drop for Hypervisor {
    fn drop(&mut self) {
        for domain in self.list() {
            domain.destroy();
        }
    }
}

/// What a [`Hypervisor`] and its domains share: the list of domains.
#[derive(Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    domains: Vec<Arc<Domain>>,
    /// Names of domains that are being created.
    reserved: HashSet<String>,
    named: u64,
}

impl Inner {
    fn check_free(&self, name: &str) -> Result<()> {
        if let Some(domain) = self.domains.iter().find(|d| d.name() == name) {
            return Err(HypervisorError::NameInUse {
                name: name.to_owned(),
                domain: domain.id(),
            });
        }
        if self.reserved.contains(name) {
            return Err(HypervisorError::NameReserved(name.to_owned()));
        }
        Ok(())
    }
}

impl Registry {
    pub(crate) fn fork(self: &Arc<Self>, parent: &Domain, name: Option<&str>) -> Result<Arc<Domain>> {
        let place = self.reserve(name)?;
        let seed = parent.fork_seed(new_id());
        place.fill(seed, true)
    }

    pub(crate) fn remove(&self, id: DomId) {
        let mut inner = lock(&self.inner);
        let gone: Vec<_> = inner.domains.extract_if(.., |d| d.id() == id).collect();
        drop(inner); // the last handle of a domain waits for its runner
        drop(gone);
    }

    /// Keeps a name for a domain that is being created.
    fn reserve(self: &Arc<Self>, name: Option<&str>) -> Result<Place> {
        let mut inner = lock(&self.inner);
        let name = match name {
            Some(name) => {
                check_name(name)?;
                inner.check_free(name)?;
                name.to_owned()
            }
            None => loop {
                inner.named += 1;
                let name = format!("domain-{}", inner.named);
                if inner.check_free(&name).is_ok() {
                    break name;
                }
            },
        };
        inner.reserved.insert(name.clone());
        Ok(Place {
            registry: Arc::clone(self),
            name,
        })
    }
}

/// The id and the name of a domain that is somebody else's.
pub struct Registration {
    place: Place,
    id: DomId,
}

impl Registration {
    /// The id.
    pub fn id(&self) -> DomId {
        self.id
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.place.name
    }
}

/// A reserved name; given back if no domain comes of it.
struct Place {
    registry: Arc<Registry>,
    name: String,
}

impl Place {
    fn fill(self, seed: Seed, paused: bool) -> Result<Arc<Domain>> {
        let id = seed.id();
        let in_use = |inner: &Inner| match inner.domains.iter().find(|d| d.id() == id) {
            Some(d) => Err(HypervisorError::IdInUse {
                id,
                name: d.name().to_owned(),
            }),
            None => Ok(()),
        };
        in_use(&lock(&self.registry.inner))?;
        // Listed before it runs, so that whoever hears of it finds it.
        let domain = seed.grow(self.name.clone(), Arc::downgrade(&self.registry));
        {
            let mut inner = lock(&self.registry.inner);
            in_use(&inner)?;
            inner.domains.push(Arc::clone(&domain));
        }
        if !paused && let Err(e) = introspect::ControlRun::unpause(&*domain) {
            domain.destroy();
            return Err(e.into());
        }
        Ok(domain)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.registry.inner).reserved.remove(&self.name);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_name(name: &str) -> Result<()> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '/';
    if name.is_empty() || name.len() > MAX_NAME || name.contains(bad) {
        return Err(HypervisorError::BadName(name.to_owned()));
    }
    Ok(())
}

/// Every id that this process has seen.
static ISSUED: Mutex<std::collections::BTreeSet<u64>> = Mutex::new(std::collections::BTreeSet::new());

/// An id that nobody can guess and that this process has never used.
fn new_id() -> DomId {
    let mut issued = lock(&ISSUED);
    loop {
        // The keys of a `RandomState` come from the operating system's randomness.
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_usize(issued.len());
        if let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            hasher.write_u128(now.as_nanos());
        }
        let id = hasher.finish();
        if id != 0 && issued.insert(id) {
            return DomId(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_never_zero_and_never_repeat() {
        let ids: HashSet<u64> = (0..1000).map(|_| new_id().0).collect();
        assert_eq!(ids.len(), 1000);
        assert!(!ids.contains(&0));
    }

    #[test]
    fn a_name_is_free_again_when_no_domain_came_of_it() {
        let registry = Arc::new(Registry::default());
        let place = registry.reserve(Some("a"));
        assert!(matches!(
            registry.reserve(Some("a")),
            Err(HypervisorError::NameReserved(_))
        ));
        drop(place);
        assert!(registry.reserve(Some("a")).is_ok());
    }

    #[test]
    fn names_that_nobody_gave_are_numbered_around_those_in_use() {
        let registry = Arc::new(Registry::default());
        let taken = registry.reserve(Some("domain-1"));
        let place = registry.reserve(None);
        assert_eq!(place.map(|p| p.name.clone()).ok().as_deref(), Some("domain-2"));
        drop(taken);
    }

    #[test]
    fn names_that_cannot_be_typed_are_refused() {
        let long = "x".repeat(MAX_NAME + 1);
        for name in ["", "a b", "a\n", "a/b", &long] {
            assert!(
                matches!(check_name(name), Err(HypervisorError::BadName(_))),
                "{name:?}"
            );
        }
        assert!(check_name("win10-19041.x64").is_ok());
    }
}
