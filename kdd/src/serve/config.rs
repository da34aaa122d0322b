//! The configuration file of `kdd serve`: domains to create at the start.
//!
//! ```toml
//! [[domain]]
//! name = "build"
//! kernel = "vmlinuz"            # paths are relative to this file
//! initrd = "initramfs.cpio"
//! append = "console=ttyS0"
//! memory = "512M"
//! cpus = 2
//! console = "file:build.log"
//! gdb = ["127.0.0.1:1234"]
//!
//! [[domain.watch]]              # as 'kdd watch'; a domain may have several
//! on = ["crash", "panic"]
//! dump = "/var/crash"
//! keep = 5
//! keep-bytes = "20G"
//! exec = "./notify.sh"          # runs in this file's folder
//! then = "reset"
//!
//! [[domain]]
//! nt = "win10-19041-x64"        # or a profile's JSON file
//!
//! [[domain]]
//! restore = "yesterday.state"
//! paused = true
//!
//! [[domain]]
//! dump = "memory.dmp"
//! ```

use crate::Failure;
use crate::control::message::{
    CreateRequest, DEFAULT_EXEC_LIMIT, DumpFormat, Guest, LinuxGuest, Machine, NtGuest, Then, Trigger,
    WatchRule,
};
use crate::parse::{self, ConsoleTarget, KdAddress, ListenAddress};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// RAM of a domain that doesn't say how much.
pub const DEFAULT_MEMORY: u64 = 256 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    domain: Vec<DomainTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct DomainTable {
    name: Option<String>,
    kernel: Option<PathBuf>,
    nt: Option<String>,
    initrd: Option<PathBuf>,
    append: Option<String>,
    restore: Option<PathBuf>,
    dump: Option<PathBuf>,
    memory: Option<String>,
    cpus: Option<u32>,
    seed: Option<u64>,
    cpu: Option<String>,
    debug_exit: Option<u16>,
    #[serde(default)]
    paused: bool,
    throttle: Option<bool>,
    #[serde(default)]
    console: ConsoleTarget,
    #[serde(default)]
    gdb: Vec<ListenAddress>,
    #[serde(default)]
    kd: Vec<KdAddress>,
    #[serde(default)]
    watch: Vec<WatchTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WatchTable {
    on: Vec<Trigger>,
    dump: Option<PathBuf>,
    format: Option<DumpFormat>,
    keep: Option<u32>,
    keep_bytes: Option<String>,
    exec: Option<String>,
    exec_limit: Option<u64>,
    #[serde(default)]
    then: Then,
}

impl WatchTable {
    fn rule(self, directory: &Path) -> Result<WatchRule, String> {
        Ok(WatchRule {
            on: self.on,
            dump: self.dump.map(|path| directory.join(path)),
            format: self.format,
            keep: self.keep,
            keep_bytes: self.keep_bytes.as_deref().map(parse::length).transpose()?,
            exec: self.exec,
            exec_directory: Some(directory.to_owned()),
            exec_limit: self.exec_limit.unwrap_or(DEFAULT_EXEC_LIMIT),
            then: self.then,
        })
    }
}

/// A domain of the file.
#[derive(Clone, PartialEq, Debug)]
pub struct Configured {
    /// How it is created.
    pub request: CreateRequest,
    /// What is waited for in it.
    pub watches: Vec<WatchRule>,
}

/// Reads a configuration file.
///
/// # Errors
/// It can't be read, or says something that makes no sense; the failure names the line.
pub fn read(path: &Path) -> Result<Vec<Configured>, Failure> {
    let what = format!("config {}", path.display());
    let text = std::fs::read_to_string(path).map_err(|e| Failure::new(&what, e, "check the path"))?;
    let directory = std::path::absolute(path)
        .ok()
        .and_then(|path| path.parent().map(Path::to_owned))
        .unwrap_or_default();
    parse_text(&text, &directory)
        .map_err(|why| Failure::new(&what, why, "'kdd serve --help' shows an example"))
}

fn parse_text(text: &str, directory: &Path) -> Result<Vec<Configured>, String> {
    let file: File = toml::from_str(text).map_err(|error| {
        let line = error
            .span()
            .and_then(|span| text.get(..span.start))
            .map_or(1, |before| before.matches('\n').count() + 1);
        format!("line {line}: {}", error.message())
    })?;
    file.domain
        .into_iter()
        .enumerate()
        .map(|(index, mut table)| {
            let name = table.name.clone();
            let which = name.map_or_else(
                || format!("domain {}", index + 1),
                |name| format!("domain '{name}'"),
            );
            let watches = std::mem::take(&mut table.watch);
            let watches = watches.into_iter().map(|watch| watch.rule(directory));
            let watches = watches.collect::<Result<_, _>>();
            watches
                .and_then(|watches| {
                    let request = table.request(directory)?;
                    Ok(Configured { request, watches })
                })
                .map_err(|why| format!("{which}: {why}"))
        })
        .collect()
}

impl DomainTable {
    fn request(self, directory: &Path) -> Result<CreateRequest, String> {
        let place = |path: PathBuf| directory.join(path);
        let is_machine = self.initrd.is_some()
            || self.append.is_some()
            || self.memory.is_some()
            || self.cpus.is_some()
            || self.seed.is_some()
            || self.cpu.is_some()
            || self.debug_exit.is_some();
        let named = [
            self.kernel.is_some(),
            self.nt.is_some(),
            self.restore.is_some(),
            self.dump.is_some(),
        ];
        if named.iter().filter(|named| **named).count() > 1 {
            return Err("it has several of kernel, nt, restore and dump: name one of them".into());
        }
        if self.dump.is_some() && (is_machine || self.paused) {
            return Err("a dump can only be read: leave memory, cpus, paused, … out".into());
        }
        if self.restore.is_some() && is_machine {
            return Err("a saved state brings its machine along: leave memory, cpus, … out".into());
        }
        let machine = Machine {
            memory_bytes: match self.memory {
                Some(text) => parse::memory_size(&text)?,
                None => DEFAULT_MEMORY,
            },
            vcpus: self.cpus.unwrap_or(1),
            seed: self.seed.unwrap_or(0),
            cpu: self.cpu,
            debug_exit: self.debug_exit,
        };
        let guest = match (self.kernel, self.nt, self.restore, self.dump) {
            (Some(kernel), _, _, _) => Guest::Linux(LinuxGuest {
                kernel: place(kernel),
                initrd: self.initrd.map(place),
                append: self.append.unwrap_or_default(),
                machine,
            }),
            (_, Some(_), _, _) if self.initrd.is_some() => {
                return Err("an NT-shaped guest has no initrd".into());
            }
            (_, Some(profile), _, _) => {
                // A file is relative to ours; a built-in profile has a name alone.
                let profile = match Path::new(&profile).extension() {
                    Some(_) => place(profile.into()).to_string_lossy().into_owned(),
                    None => profile,
                };
                Guest::Nt(NtGuest {
                    folder: crate::nt::folder(&profile).map_err(|failure| failure.to_string())?,
                    options: self.append.unwrap_or_else(|| crate::nt::DEFAULT_OPTIONS.into()),
                    machine,
                })
            }
            (_, _, Some(path), _) => Guest::Restore { path: place(path) },
            (_, _, _, Some(path)) => Guest::Dump { path: place(path) },
            (None, None, None, None) => {
                return Err("it has no guest: name a kernel, or a state to restore".into());
            }
        };
        let console = match self.console {
            ConsoleTarget::Stdio => return Err("console stdio is for 'kdd run'".into()),
            ConsoleTarget::File(path) => ConsoleTarget::File(place(path)),
            ConsoleTarget::Unix(path) => ConsoleTarget::Unix(place(path)),
            ConsoleTarget::None => ConsoleTarget::None,
        };
        let listen = |address: ListenAddress| match address {
            ListenAddress::Unix(path) => ListenAddress::Unix(place(path)),
            tcp => tcp,
        };
        let gdb = self.gdb.into_iter();
        Ok(CreateRequest {
            guest,
            name: self.name.map(|name| parse::domain_name(&name)).transpose()?,
            paused: self.paused,
            throttle: self.throttle.unwrap_or(true),
            console,
            gdb: gdb.map(&listen).collect(),
            kd: self
                .kd
                .into_iter()
                .map(|address| match address {
                    KdAddress::Listen(address) => KdAddress::Listen(listen(address)),
                    other => other,
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<CreateRequest>, String> {
        let domains = parse_text(text, Path::new("/etc/kdd"))?;
        Ok(domains.into_iter().map(|domain| domain.request).collect())
    }

    #[test]
    fn watches_are_read_with_their_defaults() {
        let text = "[[domain]]\nkernel = 'k'\n[[domain.watch]]\non = ['crash', 'breakpoint=panic']\ndump = 'crash'\n\
                    keep-bytes = '1G'\nthen = 'reset'\n";
        let domains = parse_text(text, Path::new("/etc/kdd")).unwrap();
        let rule = &domains[0].watches[0];
        assert_eq!(rule.on, [Trigger::Crash, Trigger::Breakpoint("panic".into())]);
        assert_eq!(rule.dump.as_deref(), Some(Path::new("/etc/kdd/crash")));
        assert_eq!(
            (rule.keep_bytes, rule.then, rule.exec_limit),
            (Some(1 << 30), Then::Reset, 60)
        );
        let wrong = "[[domain]]\nkernel = 'k'\n[[domain.watch]]\non = ['thunder']\n";
        assert!(parse(wrong).unwrap_err().contains("thunder"));
    }

    #[test]
    fn domains_are_read_with_their_defaults() {
        let text = "[[domain]]\nname = 'a'\nkernel = 'vmlinuz'\nmemory = '1G'\ndebug-exit = 0xf4\ngdb = ['127.0.0.1:0']\n\
                    [[domain]]\nrestore = '/state'\npaused = true\nconsole = 'file:log'\n";
        let requests = parse(text).unwrap();
        let Guest::Linux(linux) = &requests[0].guest else {
            panic!("another guest");
        };
        assert_eq!(linux.kernel, Path::new("/etc/kdd/vmlinuz"));
        assert_eq!((linux.machine.memory_bytes, linux.machine.vcpus), (1 << 30, 1));
        assert_eq!(linux.machine.debug_exit, Some(0xf4));
        assert_eq!(requests[1].console, ConsoleTarget::File("/etc/kdd/log".into()));
        assert!(requests[1].paused && requests[1].throttle);
        assert_eq!(parse("").unwrap(), vec![]);
    }

    #[test]
    fn mistakes_are_named() {
        let why = |text| parse(text).unwrap_err();
        assert!(why("[[domain]]\nkernel = 'k'\nmemroy = '1G'\n").contains("line 3"));
        assert!(why("[[domain]]\n").contains("no guest"));
        assert!(why("[[domain]]\nname = 'x'\nkernel = 'k'\nrestore = 'r'").starts_with("domain 'x'"));
        assert!(why("[[domain]]\nkernel = 'k'\nnt = 'win7-x64'").contains("several"));
        assert!(why("[[domain]]\nnt = 'win3'").contains("no profile 'win3'"));
        assert!(why("[[domain]]\nkernel = 'k'\nmemory = '5'").contains("5M"));
        assert!(why("[[domain]]\nrestore = 'r'\ncpus = 2").contains("brings its machine"));
        assert!(why("[[domain]]\nkernel = 'k'\nconsole = 'stdio'").contains("kdd run"));
    }
}
