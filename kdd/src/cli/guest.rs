//! Options that name a guest and its machine.

use super::common::absolute;
use crate::control::message::{CreateRequest, Guest, LinuxGuest, Machine};
use crate::parse::{self, ConsoleTarget, KdAddress, ListenAddress};
use crate::serve::config::DEFAULT_MEMORY;
use crate::{Failure, FailureKind};
use hv_core::engine::cpuid::MODELS;
use std::path::{Path, PathBuf};

/// The most vCPUs of a domain.
const MAX_VCPUS: i64 = 8;
/// What the default guest is booted with.
const DEFAULT_APPEND: &str = "console=ttyS0 cryptomgr.notests";
/// What puts the default guest in place.
const SET_UP: &str = "bash setup/guest-linux.sh";

#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Guest")]
pub(super) struct GuestArgs {
    /// A Linux kernel: a bzImage or an ELF vmlinux
    #[arg(long, value_name = "FILE", conflicts_with = "restore")]
    kernel: Option<PathBuf>,
    /// Its initial RAM disk
    #[arg(long, value_name = "FILE", conflicts_with = "restore")]
    initrd: Option<PathBuf>,
    /// Its command line
    #[arg(
        long,
        value_name = "STRING",
        conflicts_with = "restore",
        allow_hyphen_values = true
    )]
    append: Option<String>,
    /// A saved domain, which brings its machine along
    #[arg(long, value_name = "FILE")]
    restore: Option<PathBuf>,
    /// Its name [default: one that is free]
    #[arg(long, value_name = "NAME", value_parser = parse::domain_name)]
    name: Option<String>,
    /// Its RAM: 512M, 2G, 4096K [default: 256M]
    #[arg(long, value_name = "SIZE", value_parser = parse::memory_size, conflicts_with = "restore")]
    memory: Option<u64>,
    /// Its vCPUs, 1 to 8 [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_VCPUS),
          conflicts_with = "restore")]
    cpus: Option<u32>,
    #[arg(long, value_name = "MODEL", conflicts_with = "restore", help = cpu_help())]
    cpu: Option<String>,
    /// What its randomness is made from: the same seed and input give the same run [default: 0]
    #[arg(long, value_name = "N", conflicts_with = "restore")]
    seed: Option<u64>,
    /// An isa-debug-exit device at this I/O port: a guest that writes there ends
    #[arg(long, value_name = "PORT", value_parser = parse::port, conflicts_with = "restore")]
    debug_exit: Option<u16>,
    /// Start paused: until 'kdd unpause', or until the first debugger attaches and lets it go
    #[arg(long)]
    paused: bool,
    /// Let guest time run ahead of the host's clock: an idle guest doesn't wait
    #[arg(long, conflicts_with = "restore")]
    no_throttle: bool,
}

impl GuestArgs {
    /// Whether a guest is named.
    pub fn is_named(&self) -> bool {
        self.kernel.is_some() || self.restore.is_some()
    }

    /// Fills in the default guest where none is named.
    ///
    /// # Errors
    /// It isn't there; the failure says which command puts it in place.
    pub fn or_default(mut self) -> Result<GuestArgs, Failure> {
        if self.is_named() {
            return Ok(self);
        }
        let cache = std::env::var_os("KDD_CACHE").filter(|dir| !dir.is_empty());
        let cache = cache
            .map_or_else(|| PathBuf::from(".cache"), PathBuf::from)
            .join("linux");
        self.kernel = Some(present(&cache.join("vmlinuz"))?);
        if self.initrd.is_none() {
            self.initrd = Some(present(&cache.join("initramfs.cpio"))?);
        }
        self.append.get_or_insert_with(|| DEFAULT_APPEND.into());
        self.name.get_or_insert_with(|| "linux".into());
        Ok(self)
    }

    /// The request that creates it.
    ///
    /// # Errors
    /// No guest is named.
    pub fn request(
        self,
        console: ConsoleTarget,
        gdb: Vec<ListenAddress>,
        kd: Vec<KdAddress>,
    ) -> Result<CreateRequest, Failure> {
        let guest = match (self.kernel, self.restore) {
            (_, Some(path)) => Guest::Restore {
                path: absolute(path)?,
            },
            (Some(kernel), None) => Guest::Linux(LinuxGuest {
                kernel: absolute(kernel)?,
                initrd: self.initrd.map(absolute).transpose()?,
                append: self.append.unwrap_or_default(),
                machine: Machine {
                    memory_bytes: self.memory.unwrap_or(DEFAULT_MEMORY),
                    vcpus: self.cpus.unwrap_or(1),
                    seed: self.seed.unwrap_or(0),
                    cpu: self.cpu,
                    debug_exit: self.debug_exit,
                },
            }),
            (None, None) => {
                return Err(
                    Failure::new("guest", "none is named", "name one with --kernel or --restore")
                        .of_kind(FailureKind::Usage),
                );
            }
        };
        let console = match console {
            ConsoleTarget::File(path) => ConsoleTarget::File(absolute(path)?),
            ConsoleTarget::Unix(path) => ConsoleTarget::Unix(absolute(path)?),
            other => other,
        };
        Ok(CreateRequest {
            guest,
            name: self.name,
            paused: self.paused,
            throttle: !self.no_throttle,
            console,
            gdb: gdb.into_iter().map(absolute_listen).collect::<Result<_, _>>()?,
            kd: kd.into_iter().map(absolute_kd).collect::<Result<_, _>>()?,
        })
    }
}

fn cpu_help() -> String {
    let names: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
    let default = names.first().copied().unwrap_or_default();
    format!("Its CPU model, one of {} [default: {default}]", names.join(", "))
}

/// An address as the service will find it.
pub(super) fn absolute_listen(address: ListenAddress) -> Result<ListenAddress, Failure> {
    match address {
        ListenAddress::Unix(path) => absolute(path).map(ListenAddress::Unix),
        tcp => Ok(tcp),
    }
}

/// The same, for KD.
pub(super) fn absolute_kd(address: KdAddress) -> Result<KdAddress, Failure> {
    match address {
        KdAddress::Listen(address) => absolute_listen(address).map(KdAddress::Listen),
        other => Ok(other),
    }
}

fn present(path: &Path) -> Result<PathBuf, Failure> {
    if path.is_file() {
        return Ok(path.to_owned());
    }
    Err(Failure::new(
        "default guest",
        format_args!("{} is not there", path.display()),
        format_args!("run '{SET_UP}' to fetch it, or name a guest with --kernel"),
    ))
}
