//! A domain: one guest, who runs it, and the introspection calls on it.
//!
//! ```text
//!  debug sessions, the service                      subscribers
//!        │ introspection calls (calls.rs)                ▲ events.rs: in order, no lock held
//!        ▼                                               │
//!  Domain ──► RunControl (run_control.rs) ──► Guest ◄── runner (runner.rs): one thread, slices
//!                 pauses, steps, hand-over    Machine     clock.rs: host time holds it back
//! ```
//!
//! Nobody calls the machine but through `RunControl`, and nothing here looks into it.

mod calls;
mod clock;
mod events;
mod guest;
mod input;
mod run_control;
mod runner;
mod saved;
#[cfg(test)]
mod tests;

use crate::addr::DomId;
use crate::hypervisor::Registry;
use crate::introspect::{BreakpointId, Error, Result};
use crate::machine::{Machine, MachineConfig, RestoreError};
use run_control::{Condition, RunControl};
use saved::Header;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Locks; a thread that panicked with the lock held doesn't take the domain with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The machine that a domain was created with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hardware {
    /// Bytes of guest memory.
    pub memory_bytes: u64,
    /// vCPUs.
    pub vcpus: u32,
    /// Where the guest's randomness comes from.
    pub seed: u64,
    /// The CPU model's name.
    pub cpu_model: String,
    /// The port of the debug-exit device, if there is one.
    pub debug_exit: Option<u16>,
}

impl From<&MachineConfig> for Hardware {
    fn from(config: &MachineConfig) -> Hardware {
        Hardware {
            memory_bytes: config.memory_bytes,
            vcpus: config.vcpus,
            seed: config.seed,
            cpu_model: config.cpu_model.clone(),
            debug_exit: config.debug_exit,
        }
    }
}

/// Why a domain can't be brought to life from a saved state.
#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    /// The file is something else.
    #[error("this is not a saved domain")]
    NotSaved,
    /// Another version of this program wrote it.
    #[error("the saved state has format version {found}, this program reads version {expected}")]
    SavedVersion {
        /// The file's version.
        found: u32,
        /// The version that can be read.
        expected: u32,
    },
    /// The file ends too early.
    #[error("the saved state is truncated")]
    Truncated,
    /// A checksum doesn't fit.
    #[error("the saved state is damaged: its header's checksum is wrong")]
    Damaged,
    /// The reader failed.
    #[error("the saved state cannot be read: {0}")]
    Read(#[source] io::Error),
    /// The machine's part of the state is bad.
    #[error(transparent)]
    Machine(#[from] RestoreError),
}

/// A guest, its runner and its subscribers. See the [`introspect`](crate::introspect) traits for what it can do.
///
/// A sink given to it must not block, and had better hold the domain weakly: it is let go when the domain is destroyed.
pub struct Domain {
    id: DomId,
    name: String,
    hardware: Hardware,
    /// The hypervisor that lists this domain.
    home: Weak<Registry>,
    control: Arc<RunControl<Machine>>,
    next_breakpoint: AtomicU64,
    /// Those that are inserted: a fork doesn't inherit them.
    breakpoints: Mutex<BTreeSet<BreakpointId>>,
}

/// A domain in the making: all but its name and its run control.
pub(crate) struct Seed {
    id: DomId,
    hardware: Hardware,
    throttle: bool,
    machine: Machine,
    condition: Condition,
}

impl Seed {
    pub(crate) fn new(id: DomId, machine: Machine, hardware: Hardware, throttle: bool) -> Seed {
        Seed {
            id,
            hardware,
            throttle,
            machine,
            condition: Condition::default(),
        }
    }

    /// Reads what [`Save::save`](crate::introspect::Save::save) wrote; the seed and the domain's name.
    pub(crate) fn read(reader: &mut dyn Read) -> std::result::Result<(Seed, String), DomainError> {
        let header = Header::read(reader)?;
        let machine = Machine::restore(reader)?;
        let seed = Seed {
            id: header.id,
            hardware: Hardware {
                vcpus: machine.vcpu_count(),
                ..header.hardware
            },
            throttle: header.throttle,
            machine,
            condition: header.condition,
        };
        Ok((seed, header.name))
    }

    pub(crate) fn id(&self) -> DomId {
        self.id
    }

    /// The domain, paused once.
    pub(crate) fn grow(self, name: String, home: Weak<Registry>) -> Arc<Domain> {
        Arc::new(Domain {
            id: self.id,
            name,
            hardware: self.hardware,
            home,
            control: RunControl::new(self.id, self.machine, self.condition, self.throttle),
            next_breakpoint: AtomicU64::new(1),
            breakpoints: Mutex::default(),
        })
    }
}

impl Domain {
    /// Its id.
    pub fn id(&self) -> DomId {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The machine that it was created with.
    pub fn hardware(&self) -> &Hardware {
        &self.hardware
    }

    /// Whether host time holds it back.
    pub fn throttle(&self) -> bool {
        self.control.throttle
    }

    /// Instructions retired so far, by all vCPUs.
    pub fn retired(&self) -> u64 {
        self.control.lock_guest().retired()
    }

    /// A copy-on-write seed of a child. Debuggers' breakpoints stay with the parent.
    pub(crate) fn fork_seed(&self, id: DomId) -> Seed {
        let mut guest = self.control.lock_guest();
        let mut machine = guest.fork();
        let condition = self.control.condition();
        let breakpoints = lock(&self.breakpoints).clone();
        drop(guest);
        for id in breakpoints {
            machine.remove_breakpoint(id);
        }
        Seed {
            id,
            hardware: self.hardware.clone(),
            throttle: self.control.throttle,
            machine,
            condition,
        }
    }

    /// Ends it, and takes it off its hypervisor's list: its name is free again. Its state can still be read by those
    /// who hold it.
    pub fn destroy(&self) {
        self.control.destroy();
        if let Some(home) = self.home.upgrade() {
            home.remove(self.id);
        }
    }

    fn write_saved(&self, writer: &mut dyn Write) -> Result<()> {
        let guest = self.control.lock_guest();
        self.control.check_not_running("saving")?;
        let header = Header {
            id: self.id,
            name: self.name.clone(),
            hardware: self.hardware.clone(),
            throttle: self.control.throttle,
            condition: self.control.condition(),
        };
        header
            .write(writer)
            .and_then(|()| guest.save(writer))
            .and_then(|()| writer.flush())
            .map_err(|e| Error::Storage {
                domain: self.id,
                why: format!("its state cannot be written: {e}"),
            })
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        self.control.retire();
    }
}
