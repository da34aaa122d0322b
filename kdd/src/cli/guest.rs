//! Options that name a guest and its machine.

use super::common::absolute;
use super::output;
use crate::control::message::{CreateRequest, Guest, LinuxGuest, Machine, NtGuest};
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

#[derive(clap::Args, Debug, Clone, Default, PartialEq)]
#[command(next_help_heading = "Guest")]
pub(super) struct GuestArgs {
    /// A Linux kernel: a bzImage or an ELF vmlinux
    #[arg(long, value_name = "FILE", conflicts_with = "restore")]
    kernel: Option<PathBuf>,
    /// An NT-shaped guest: the name of a profile, a profile's JSON file, or 'list' to see the profiles
    #[arg(long, value_name = "PROFILE", conflicts_with_all = ["kernel", "initrd", "restore"])]
    nt: Option<String>,
    /// Its initial RAM disk
    #[arg(long, value_name = "FILE", conflicts_with = "restore")]
    initrd: Option<PathBuf>,
    /// Its command line; with --nt the loader options [default there: NODEBUG]
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
    /// A crash dump or memory image: Windows .dmp, ELF vmcore, kdump, LiME or raw. It can be read, not run
    #[arg(long, value_name = "FILE",
          conflicts_with_all = ["kernel", "nt", "initrd", "append", "restore", "paused", "no_throttle"])]
    dump: Option<PathBuf>,
    /// Its name [default: one that is free]
    #[arg(long, value_name = "NAME", value_parser = parse::domain_name)]
    name: Option<String>,
    /// Its RAM: 512M, 2G, 4096K [default: 256M]
    #[arg(long, value_name = "SIZE", value_parser = parse::memory_size, conflicts_with_all = ["restore", "dump"])]
    memory: Option<u64>,
    /// Its vCPUs, 1 to 8 [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_VCPUS),
          conflicts_with_all = ["restore", "dump"])]
    cpus: Option<u32>,
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["restore", "dump"], help = cpu_help())]
    cpu: Option<String>,
    /// What its randomness is made from: the same seed and input give the same run [default: 0]
    #[arg(long, value_name = "N", conflicts_with_all = ["restore", "dump"])]
    seed: Option<u64>,
    /// An isa-debug-exit device at this I/O port: a guest that writes there ends
    #[arg(long, value_name = "PORT", value_parser = parse::port, conflicts_with_all = ["restore", "dump"])]
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
        self.kernel.is_some() || self.nt.is_some() || self.restore.is_some() || self.dump.is_some()
    }

    /// Prints the profiles of NT-shaped guests if that is what was asked for.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn lists_profiles(&self, json: bool) -> Result<bool, Failure> {
        if self.nt.as_deref() != Some("list") {
            return Ok(false);
        }
        let cannot = |error| Failure::new("profiles", error, "this is a fault of kdd");
        let mut rows = Vec::new();
        for name in nt_guest::Profile::names() {
            let profile = nt_guest::Profile::built_in(name).map_err(cannot)?;
            rows.push(serde_json::json!({
                "profile": name,
                "version": profile.version,
                "arch": profile.arch.name(),
                "os": profile.os,
                "pdb": profile.pdb(),
                "guid": profile.guid(),
                "age": profile.age,
            }));
        }
        if json {
            output::print_json(&rows)?;
            return Ok(true);
        }
        let mut text = String::new();
        for row in &rows {
            let word = |key: &str| row.get(key).and_then(|value| value.as_str()).unwrap_or_default();
            text += &format!(
                "{:<16} {:<17} {}\n",
                word("profile"),
                word("version"),
                word("arch")
            );
        }
        output::print(&text)?;
        Ok(true)
    }

    /// Whether WinDbg may want to attach to it: an NT-shaped guest, or a dump of Windows.
    pub fn may_be_windows(&self) -> bool {
        self.nt.is_some() || self.dump.is_some()
    }

    /// The default NT-shaped guest, if set-up built one and the user named no guest and said nothing about one: it runs
    /// beside the other default.
    ///
    /// # Errors
    /// Its folder has no absolute path.
    pub fn default_nt(&self) -> Result<Option<CreateRequest>, Failure> {
        if *self != GuestArgs::default() || !crate::nt::is_built(crate::nt::DEFAULT_PROFILE) {
            return Ok(None);
        }
        let nt = GuestArgs {
            nt: Some(crate::nt::DEFAULT_PROFILE.into()),
            name: Some("nt".into()),
            ..GuestArgs::default()
        };
        let (gdb, kd) = (vec![ListenAddress::LOOPBACK], vec![KdAddress::LOOPBACK]);
        nt.request(ConsoleTarget::None, gdb, kd).map(Some)
    }

    /// Fills in the default guest where none is named.
    ///
    /// # Errors
    /// It isn't there; the failure says which command puts it in place.
    pub fn or_default(mut self) -> Result<GuestArgs, Failure> {
        if self.is_named() {
            return Ok(self);
        }
        let cache = crate::nt::cache().join("linux");
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
        let machine = Machine {
            memory_bytes: self.memory.unwrap_or(DEFAULT_MEMORY),
            vcpus: self.cpus.unwrap_or(1),
            seed: self.seed.unwrap_or(0),
            cpu: self.cpu,
            debug_exit: self.debug_exit,
        };
        let guest = match (self.kernel, self.nt, self.restore, self.dump) {
            (_, _, _, Some(path)) => Guest::Dump {
                path: absolute(path)?,
            },
            (_, _, Some(path), None) => Guest::Restore {
                path: absolute(path)?,
            },
            (_, Some(profile), None, None) => Guest::Nt(NtGuest {
                folder: crate::nt::folder(&profile)?,
                options: self.append.unwrap_or_else(|| crate::nt::DEFAULT_OPTIONS.into()),
                machine,
            }),
            (Some(kernel), None, None, None) => Guest::Linux(LinuxGuest {
                kernel: absolute(kernel)?,
                initrd: self.initrd.map(absolute).transpose()?,
                append: self.append.unwrap_or_default(),
                machine,
            }),
            (None, None, None, None) => {
                return Err(Failure::new(
                    "guest",
                    "none is named",
                    "name one with --kernel, --nt, --dump or --restore",
                )
                .of_kind(FailureKind::Usage));
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
