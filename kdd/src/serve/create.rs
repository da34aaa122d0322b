//! New domains: from a kernel, a saved state, or a crash dump.

use super::console::ConsoleSink;
use super::{Managed, Service, guest_files, lock};
use crate::Failure;
use crate::control::message::{CreateRequest, Guest, LinuxGuest, Machine, NtGuest};
use crate::parse;
use dump::DumpDomain;
use hv_core::domain::Hardware;
use hv_core::introspect::{Introspect, ReadRegisters};
use hv_core::machine::{CreateError, GuestImage, MachineConfig};
use hv_core::{Domain, DomainConfig, HypervisorError, Registration};
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

/// A domain in the making.
struct New {
    domain: Arc<dyn Introspect>,
    hardware: Hardware,
    /// What it is, in words.
    guest: String,
    /// Keeps the name of a domain that the hypervisor doesn't list.
    registration: Option<Registration>,
}

impl New {
    fn running_here(domain: Arc<Domain>, guest: String) -> New {
        New {
            hardware: domain.hardware().clone(),
            domain,
            guest,
            registration: None,
        }
    }
}

impl Service {
    /// Creates a domain with its console and its endpoints, all of it or nothing, and lets it run.
    ///
    /// # Errors
    /// A file, a name, an address or a value that doesn't do, said so.
    pub fn create(self: &Arc<Self>, request: CreateRequest) -> Result<Arc<Managed>, Failure> {
        let paused = request.paused;
        let managed = self.prepare(request)?;
        self.start(&managed, paused)?;
        Ok(managed)
    }

    /// As [`Service::create`], but it doesn't run before [`Service::start`].
    ///
    /// # Errors
    /// As there.
    pub fn prepare(self: &Arc<Self>, request: CreateRequest) -> Result<Arc<Managed>, Failure> {
        if let Some(name) = &request.name {
            parse::domain_name(name).map_err(|why| Failure::new("create", why, "choose another --name"))?;
            self.check_name_is_free(name)?;
        }
        let console = ConsoleSink::open(&request.console, &self.runtime)?;
        // It starts paused, so that nothing it prints and no stop of it is missed.
        let new = match request.guest {
            Guest::Linux(linux) => self.create_linux(linux, request.name, request.throttle)?,
            Guest::Nt(nt) => self.create_nt(nt, request.name, request.throttle)?,
            Guest::Restore { path } => self.restore(&path, request.name)?,
            Guest::Dump { path } => self.open_dump(&path, request.name)?,
        };
        let pauses = u32::from(new.domain.control_run().is_some());
        let mut managed = Managed::new(new.domain, new.hardware, new.guest, console, pauses);
        managed.registration = new.registration;
        let managed = self.adopt(managed);
        managed.connect_console();
        for address in &request.gdb {
            if let Err(failure) = self.listen(&managed, address, None) {
                let _ = self.destroy(&managed);
                return Err(failure);
            }
        }
        for address in &request.kd {
            if let Err(failure) = self.listen_kd(&managed, address) {
                let _ = self.destroy(&managed);
                return Err(failure);
            }
        }
        Ok(managed)
    }

    /// Lets a prepared domain run; or, if it is to be `paused`, once its first debugger does so.
    ///
    /// # Errors
    /// It has ended meanwhile.
    pub fn start(&self, managed: &Managed, paused: bool) -> Result<(), Failure> {
        if managed.domain().control_run().is_none() {
            return Ok(());
        }
        if paused {
            managed.wait_for_debugger()?;
        }
        managed.unpause()
    }

    fn create_linux(&self, linux: LinuxGuest, name: Option<String>, throttle: bool) -> Result<New, Failure> {
        let machine = linux.machine;
        let kernel = guest_files::kernel(&linux.kernel)?;
        let initrd = linux
            .initrd
            .as_deref()
            .map(|path| guest_files::initrd(path, machine.memory_bytes))
            .transpose()?;
        let mut words = format!("Linux {}", linux.kernel.display());
        if let Some(initrd) = &linux.initrd {
            words += &format!(", initrd {}", initrd.display());
        }
        words += &format!(", command line \"{}\"", linux.append);
        let image = GuestImage::Linux {
            kernel,
            initrd,
            command_line: linux.append,
        };
        let domain = self
            .hypervisor
            .create(domain_config(machine, image, name, throttle))
            .map_err(|error| refused(&format!("kernel {}", linux.kernel.display()), &error))?;
        Ok(New::running_here(domain, words))
    }

    fn create_nt(&self, nt: NtGuest, name: Option<String>, throttle: bool) -> Result<New, Failure> {
        let (boot, described) = guest_files::nt(&nt.folder, &nt.options)?;
        let words = format!("NT-shaped guest {described}, loader options \"{}\"", nt.options);
        let domain = self
            .hypervisor
            .create(domain_config(nt.machine, GuestImage::Nt(boot), name, throttle))
            .map_err(|error| refused(&format!("NT-shaped guest {}", nt.folder.display()), &error))?;
        Ok(New::running_here(domain, words))
    }

    fn restore(&self, path: &Path, name: Option<String>) -> Result<New, Failure> {
        let what = format!("saved domain {}", path.display());
        let mut reader = BufReader::with_capacity(1 << 20, guest_files::open(path, &what)?);
        let domain = self
            .hypervisor
            .restore(&mut reader, name.as_deref(), true)
            .map_err(|error| refused(&what, &error))?;
        let words = format!("restored from {}", path.display());
        Ok(New::running_here(domain, words))
    }

    fn open_dump(&self, path: &Path, name: Option<String>) -> Result<New, Failure> {
        let image = dump::open(path)
            .map_err(|error| Failure::new(format_args!("dump {}", path.display()), error, OPEN_HINT))?;
        let words = format!("{} {}", image.description().format, path.display());
        let registration = self
            .hypervisor
            .register(name.as_deref())
            .map_err(|error| refused(&words, &error))?;
        let memory_bytes = image.ram().iter().map(|range| range.count).sum::<u64>() * dump::PAGE_SIZE as u64;
        let domain = DumpDomain::new(registration.id(), registration.name().to_owned(), image);
        Ok(New {
            hardware: Hardware {
                memory_bytes,
                vcpus: domain.vcpu_count(),
                seed: 0,
                cpu_model: "as in the dump".into(),
                debug_exit: None,
            },
            domain: Arc::new(domain),
            guest: words,
            registration: Some(registration),
        })
    }

    /// Before anything is read: the name is what most often is in the way.
    fn check_name_is_free(&self, name: &str) -> Result<(), Failure> {
        if lock(&self.domains).values().any(|m| m.domain().name() == name) {
            return Err(name_in_use(name));
        }
        Ok(())
    }
}

/// What to do with a dump that can't be opened.
pub(crate) const OPEN_HINT: &str = "'kdd dump-info FILE' says what it is";

/// A domain that begins paused.
fn domain_config(machine: Machine, guest: GuestImage, name: Option<String>, throttle: bool) -> DomainConfig {
    DomainConfig {
        name,
        machine: MachineConfig {
            memory_bytes: machine.memory_bytes,
            vcpus: machine.vcpus,
            seed: machine.seed,
            // The hypervisor's default where none is named.
            cpu_model: machine.cpu.unwrap_or_default(),
            debug_exit: machine.debug_exit,
            guest,
        },
        paused: true,
        throttle,
    }
}

fn refused(what: &str, error: &HypervisorError) -> Failure {
    match error {
        HypervisorError::NameInUse { name, .. } | HypervisorError::NameReserved(name) => name_in_use(name),
        HypervisorError::IdInUse { name, .. } => Failure::new(
            what,
            format_args!("the domain that it was saved from, '{name}', is still here"),
            format_args!("'kdd destroy {name}' first, or 'kdd fork {name}' for a second one"),
        ),
        HypervisorError::Restore(error) => Failure::new(what, error, "save the domain again with 'kdd save'"),
        HypervisorError::Create(CreateError::Load(error)) => {
            Failure::new(what, error, "see 'kdd create --help' for what a guest may be")
        }
        HypervisorError::Create(error) => Failure::new("create", error, "see 'kdd create --help'"),
        error => Failure::new(what, error, "'kdd list' shows the domains there are"),
    }
}

fn name_in_use(name: &str) -> Failure {
    Failure::new(
        "create",
        format_args!("the name '{name}' is in use"),
        "choose another --name, or 'kdd destroy' the other domain",
    )
}
