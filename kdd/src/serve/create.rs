//! New domains: from a kernel, or from a saved state.

use super::console::ConsoleSink;
use super::{Managed, Service, guest_files, lock};
use crate::Failure;
use crate::control::message::{CreateRequest, Guest, LinuxGuest};
use crate::parse;
use hv_core::{Domain, DomainConfig, GuestImage, HypervisorError, MachineConfig};
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

/// The CPU model of a domain that doesn't name one.
pub const DEFAULT_CPU: &str = "default";

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
    pub fn prepare(&self, request: CreateRequest) -> Result<Arc<Managed>, Failure> {
        if let Some(name) = &request.name {
            parse::domain_name(name).map_err(|why| Failure::new("create", why, "choose another --name"))?;
            self.check_name_is_free(name)?;
        }
        let console = ConsoleSink::open(&request.console, &self.runtime)?;
        // It starts paused, so that nothing it prints and no stop of it is missed.
        let (domain, guest) = match request.guest {
            Guest::Linux(linux) => self.create_linux(linux, request.name, request.throttle)?,
            Guest::Restore { path } => self.restore(&path, request.name)?,
        };
        let managed = self.adopt(Managed::new(domain, guest, console, 1));
        managed.connect_console();
        for address in &request.gdb {
            if let Err(failure) = self.listen(&managed, address) {
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
    pub fn start(&self, managed: &Arc<Managed>, paused: bool) -> Result<(), Failure> {
        if paused {
            self.hand_over_to_first_debugger(managed);
            return Ok(());
        }
        managed.unpause()
    }

    fn create_linux(
        &self,
        linux: LinuxGuest,
        name: Option<String>,
        throttle: bool,
    ) -> Result<(Arc<Domain>, String), Failure> {
        let machine = linux.machine;
        let kernel = guest_files::read(&linux.kernel, "kernel", machine.memory_bytes)?;
        let initrd = linux
            .initrd
            .as_deref()
            .map(|path| guest_files::read(path, "initrd", machine.memory_bytes))
            .transpose()?;
        let mut words = format!("Linux {}", linux.kernel.display());
        if let Some(initrd) = &linux.initrd {
            words += &format!(", initrd {}", initrd.display());
        }
        words += &format!(", command line \"{}\"", linux.append);
        let config = DomainConfig {
            name,
            machine: MachineConfig {
                memory_bytes: machine.memory_bytes,
                vcpus: machine.vcpus,
                seed: machine.seed,
                cpu_model: machine.cpu.unwrap_or_else(|| DEFAULT_CPU.into()),
                debug_exit: machine.debug_exit,
                guest: GuestImage::Linux {
                    kernel,
                    initrd,
                    command_line: linux.append,
                },
            },
            paused: true,
            throttle,
        };
        let domain = self
            .hypervisor
            .create(config)
            .map_err(|error| refused(&format!("kernel {}", linux.kernel.display()), &error))?;
        Ok((domain, words))
    }

    fn restore(&self, path: &Path, name: Option<String>) -> Result<(Arc<Domain>, String), Failure> {
        let what = format!("saved domain {}", path.display());
        let mut reader = BufReader::with_capacity(1 << 20, guest_files::open(path, &what)?);
        let domain = self
            .hypervisor
            .restore(&mut reader, name, true)
            .map_err(|error| refused(&what, &error))?;
        Ok((domain, format!("restored from {}", path.display())))
    }

    /// Before anything is read: the name is what most often is in the way.
    fn check_name_is_free(&self, name: &str) -> Result<(), Failure> {
        if lock(&self.domains).values().any(|m| m.domain().name() == name) {
            return Err(Failure::new(
                "create",
                format_args!("the name '{name}' is in use"),
                "choose another --name, or 'kdd destroy' the other domain",
            ));
        }
        Ok(())
    }
}

fn refused(what: &str, error: &HypervisorError) -> Failure {
    Failure::new(what, error, "see 'kdd create --help' for what a guest may be")
}
