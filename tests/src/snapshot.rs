//! Machines that were booted once, and saved at their shell's prompt.

use crate::tools::{guest, kdd, kept};
use crate::{BOOT_LIMIT, Service};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Functions and data of the kernel whose addresses tests use.
const SYMBOLS: &str = "do_sys_openat2 vfs_read vfs_write __x64_sys_sethostname \
    jiffies_64 init_uts_ns _stext _etext linux_banner schedule start_kernel";

/// A machine at its shell's prompt.
pub struct Snapshot {
    state: PathBuf,
    /// What the console showed until then.
    pub boot_console: String,
    symbols: Vec<(String, u64)>,
}

/// One vCPU, no KASLR. `None` where there is no guest.
#[track_caller]
pub fn one_vcpu() -> Option<&'static Snapshot> {
    static ONCE: OnceLock<Option<Snapshot>> = OnceLock::new();
    ONCE.get_or_init(|| Snapshot::make("one", &["--cpus", "1"], "nokaslr"))
        .as_ref()
}

/// Four vCPUs, with KASLR: the kernel unpacks itself.
#[track_caller]
pub fn four_vcpus() -> Option<&'static Snapshot> {
    static ONCE: OnceLock<Option<Snapshot>> = OnceLock::new();
    ONCE.get_or_init(|| Snapshot::make("four", &["--cpus", "4", "--seed", "4"], ""))
        .as_ref()
}

impl Snapshot {
    /// A service with a guest that goes on from here.
    #[track_caller]
    pub fn service(&self) -> Service {
        self.service_with(&[])
    }

    /// As [`Snapshot::service`], with more arguments.
    #[track_caller]
    pub fn service_with(&self, arguments: &[&str]) -> Service {
        let mut all: Vec<&str> = vec!["--restore", self.state()];
        all.extend(arguments);
        Service::run(&all)
    }

    /// The saved state's file.
    pub fn state(&self) -> &str {
        self.state.to_str().unwrap_or_default()
    }

    /// The address of a symbol of the kernel.
    #[track_caller]
    pub fn symbol(&self, name: &str) -> u64 {
        match self.symbols.iter().find(|(known, _)| known == name) {
            Some((_, address)) => *address,
            None => panic!("the kernel has no symbol {name}"),
        }
    }

    #[track_caller]
    fn make(name: &str, arguments: &[&str], append: &str) -> Option<Snapshot> {
        let guest = guest(None)?;
        let path = |what: &str| kept(&format!("{name}.{what}"));
        let made_of = fingerprint(&[&kdd(), &guest.kernel, &guest.initrd])
            + &format!("{arguments:?} {append} {SYMBOLS}");
        let read = |what| std::fs::read_to_string(path(what)).unwrap_or_default();
        if read("made-of") != made_of || !path("state").is_file() {
            let _ = std::fs::remove_file(path("made-of"));
            let append = format!("console=ttyS0 cryptomgr.notests {append}");
            let (kernel, initrd) = (guest.kernel.to_string_lossy(), guest.initrd.to_string_lossy());
            let mut all = vec!["--kernel", &kernel, "--initrd", &initrd, "--append", &append];
            all.extend(arguments);
            let mut service = Service::run(&all);
            service.console().shows_prompt(BOOT_LIMIT);
            let boot_console = service.console_text();
            // Fixed strings: regular expressions take the guest ten times as long.
            let names: String = SYMBOLS
                .split_whitespace()
                .map(|name| format!(" -e {name}"))
                .collect();
            let symbols = service
                .console()
                .command(&format!("cat /proc/kallsyms | grep -F -w{names}"));
            service.console().shows_prompt(BOOT_LIMIT);
            let state = path("state");
            service
                .kdd(&["save".as_ref(), "vm".as_ref(), state.as_os_str()])
                .done();
            for (what, text) in [
                ("console", &boot_console),
                ("symbols", &symbols),
                ("made-of", &made_of),
            ] {
                std::fs::write(path(what), text).unwrap_or_else(|error| panic!("{error}"));
            }
        }
        Some(Snapshot {
            state: path("state"),
            boot_console: read("console"),
            symbols: read("symbols").lines().filter_map(symbol).collect(),
        })
    }
}

/// A line of /proc/kallsyms: `ffffffff81000000 T _stext`.
fn symbol(line: &str) -> Option<(String, u64)> {
    let mut words = line.split_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    Some((words.nth(1)?.to_owned(), address))
}

/// Changes when one of the files does.
fn fingerprint(files: &[&Path]) -> String {
    let mut text = String::new();
    for file in files {
        if let Ok(meta) = std::fs::metadata(file) {
            let _ = write!(text, "{} {:?} ", meta.len(), meta.modified());
        }
    }
    text
}
