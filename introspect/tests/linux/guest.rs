//! Debian's stock kernels, booted once each and kept at their shell's prompt; and their consoles, by which the guest says
//! itself what the tests compare.

use hv_core::introspect::{ControlRun, Event, Events, Introspect, Save};
use hv_core::machine::{GuestImage, MachineConfig};
use hv_core::{Domain, DomainConfig, Hypervisor};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

const PROMPT: &str = "/root # ";
/// A boot on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
const LIMIT: Duration = Duration::from_secs(120);

/// A machine to boot.
pub struct Kind {
    /// What its kept state is called.
    pub name: &'static str,
    /// The kernel's folder in the cache.
    pub kernel: &'static str,
    pub append: &'static str,
    /// Empty for the usual one.
    pub cpu_model: &'static str,
    /// Files of the kernel's package that are put into /root.
    pub modules: &'static [&'static str],
    pub vcpus: u32,
    pub mebibytes: u64,
    pub seed: u64,
}

/// Linux 6.1 where it was linked.
pub const STABLE_FIXED: Kind = Kind {
    name: "6.1-fixed",
    kernel: "linux",
    append: "nokaslr",
    cpu_model: "",
    modules: &[],
    vcpus: 1,
    mebibytes: 256,
    seed: 1,
};
/// Linux 6.1 at random addresses.
pub const STABLE: Kind = Kind {
    name: "6.1-kaslr",
    kernel: "linux",
    append: "",
    cpu_model: "",
    modules: &[],
    vcpus: 2,
    mebibytes: 512,
    seed: 5,
};
/// Linux 6.12 at random addresses, with page tables of its own for user mode.
pub const NEWER: Kind = Kind {
    name: "6.12-pti",
    kernel: "linux-second",
    append: "pti=on",
    cpu_model: "",
    modules: &[],
    vcpus: 2,
    mebibytes: 256,
    seed: 9,
};
/// Linux 6.1 on a processor that makes it isolate its page tables by itself.
pub const OLD_CPU: Kind = Kind {
    name: "6.1-minimal",
    kernel: "linux",
    append: "",
    cpu_model: "minimal",
    modules: &[],
    vcpus: 1,
    mebibytes: 256,
    seed: 13,
};
/// Linux 6.1 with modules at hand.
pub const STABLE_MODULES: Kind = Kind {
    name: "6.1-modules",
    kernel: "linux",
    append: "",
    cpu_model: "",
    modules: &["loop", "dummy", "fuse"],
    vcpus: 2,
    mebibytes: 256,
    seed: 17,
};
/// Linux 6.12 with modules at hand.
pub const NEWER_MODULES: Kind = Kind {
    name: "6.12-modules",
    kernel: "linux-second",
    append: "",
    cpu_model: "",
    modules: &["loop", "dummy"],
    vcpus: 2,
    mebibytes: 256,
    seed: 21,
};

/// A running machine with its console.
pub struct Machine {
    _hypervisor: Hypervisor,
    pub domain: Arc<Domain>,
    console: Arc<Console>,
    at: usize,
}

#[derive(Default)]
struct Console {
    bytes: Mutex<Vec<u8>>,
    more: Condvar,
}

impl Console {
    fn follow(self: &Arc<Console>, domain: &Domain) {
        let console = self.clone();
        domain.subscribe(Box::new(move |event| {
            if let Event::Console { port: 0, bytes } = event {
                console
                    .bytes
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend_from_slice(bytes);
                console.more.notify_all();
            }
        }));
    }

    /// Waits for text from an offset on; where it ends.
    #[track_caller]
    fn wait(&self, from: usize, text: &str, limit: Duration) -> usize {
        let end = Instant::now() + limit;
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut looked = from;
        loop {
            if let Some(at) = bytes[looked..]
                .windows(text.len())
                .position(|window| window == text.as_bytes())
            {
                return looked + at + text.len();
            }
            looked = bytes.len().saturating_sub(text.len()).max(from);
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "the console never showed {text:?}: {}",
                String::from_utf8_lossy(&bytes[from..])
            );
            (bytes, _) = self
                .more
                .wait_timeout(bytes, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Machine {
    /// One at its prompt, running. `None`, and it is said, where set-up hasn't fetched the kernel.
    pub fn new(kind: &Kind) -> Option<Machine> {
        let hypervisor = Hypervisor::new();
        let cache = cache_folder();
        let (kernel, initrd) = (
            cache.join(kind.kernel).join("vmlinuz"),
            cache.join("linux/initramfs.cpio"),
        );
        let module = |name: &&str| cache.join(kind.kernel).join(format!("modules/{name}.ko"));
        let modules: Vec<PathBuf> = kind.modules.iter().map(module).collect();
        let files: Vec<&PathBuf> = [&kernel, &initrd].into_iter().chain(&modules).collect();
        if let Some(missing) = files.iter().find(|path| !path.is_file()) {
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"));
            eprintln!("SKIPPED: {} is not there", missing.display());
            return None;
        }
        let state = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
            "{}-{}.state",
            kind.name,
            fingerprint(kind, &files)
        ));
        let console = Arc::new(Console::default());
        if let Ok(mut file) = std::fs::File::open(&state)
            && let Ok(domain) = hypervisor.restore(&mut file, None, true)
        {
            console.follow(&domain);
            domain.unpause().expect("it was paused");
            return Some(Machine {
                _hypervisor: hypervisor,
                domain,
                console,
                at: 0,
            });
        }
        let read = |path: &Path| std::fs::read(path).expect("it is there");
        // Archives behind one another are one.
        let mut initrd = read(&initrd);
        for (name, path) in kind.modules.iter().zip(&modules) {
            archived(&mut initrd, &format!("root/{name}.ko"), &read(path));
        }
        let domain = hypervisor
            .create(DomainConfig {
                name: None,
                machine: MachineConfig {
                    memory_bytes: kind.mebibytes << 20,
                    vcpus: kind.vcpus,
                    seed: kind.seed,
                    cpu_model: kind.cpu_model.to_owned(),
                    debug_exit: None,
                    guest: GuestImage::Linux {
                        kernel: read(&kernel).into(),
                        initrd: Some(initrd.into()),
                        command_line: format!("console=ttyS0 cryptomgr.notests {}", kind.append),
                    },
                },
                paused: true,
                throttle: false,
            })
            .expect("a machine");
        console.follow(&domain);
        domain.unpause().expect("it was paused");
        let at = console.wait(0, PROMPT, BOOT_LIMIT);
        domain.pause().expect("it runs");
        // Complete or not there: other tests look for it at the same time.
        let draft = tempfile(&state);
        let mut file = std::fs::File::create(&draft).expect("a file");
        Save::save(&*domain, &mut file).expect("saved");
        std::fs::rename(&draft, &state).expect("the target folder is ours");
        domain.unpause().expect("it was paused");
        Some(Machine {
            _hypervisor: hypervisor,
            domain,
            console,
            at,
        })
    }

    /// Types a line into the guest's shell.
    pub fn types(&mut self, line: &str) {
        self.at = self
            .console
            .bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len();
        self.domain.console_input(0, format!("{line}\r").as_bytes());
    }

    /// Waits for text on the console after what was waited for last.
    #[track_caller]
    pub fn shows(&mut self, text: &str) -> String {
        let start = self.at;
        self.at = self.console.wait(start, text, LIMIT);
        let bytes = self.console.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes[start..self.at - text.len()]).replace('\r', "")
    }

    /// What a command of the guest's shell prints.
    #[track_caller]
    pub fn command(&mut self, command: &str) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(1000);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        // The shell computes the numbers, so that the echo of the line isn't taken for its output.
        self.types(&format!("echo begin-$(({n}));{command};echo end-$(({n}))-"));
        self.shows(&format!("begin-{n}\r\n"));
        let text = self.shows(&format!("end-{n}-"));
        self.shows(PROMPT);
        text
    }

    /// Lets the guest run for a moment of its own time.
    pub fn runs_a_little(&self) {
        let start = self.domain.uptime();
        while self.domain.uptime().0.wrapping_sub(start.0) < 300_000 {
            std::thread::yield_now();
        }
    }

    /// Lets nothing run while `look` does.
    pub fn paused<T>(&self, look: impl FnOnce(&Domain) -> T) -> T {
        self.domain.pause().expect("it can be paused");
        let seen = look(&self.domain);
        self.domain.unpause().expect("it was paused");
        seen
    }
}

/// Where set-up puts what it fetches.
pub fn cache_folder() -> PathBuf {
    let cache = std::env::var_os("KDD_CACHE").filter(|folder| !folder.is_empty());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.join(cache.map_or_else(|| PathBuf::from(".cache"), PathBuf::from))
}

/// Adds an archive of one file (Documentation/driver-api/early-userspace/buffer-format.rst).
fn archived(archive: &mut Vec<u8>, name: &str, contents: &[u8]) {
    archive.resize(archive.len().next_multiple_of(4), 0);
    for (name, contents, mode) in [(name, contents, 0o100_644), ("TRAILER!!!", &[], 0)] {
        archive.extend(b"070701");
        let fields = [0, mode, 0, 0, 1, 0, contents.len(), 0, 0, 0, 0, name.len() + 1, 0];
        for field in fields {
            archive.extend(format!("{field:08x}").as_bytes());
        }
        archive.extend(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(contents);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
}

/// Changes when a file or the machine does.
fn fingerprint(kind: &Kind, files: &[&PathBuf]) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (kind.append, kind.vcpus, kind.mebibytes, kind.seed).hash(&mut hasher);
    kind.cpu_model.hash(&mut hasher);
    for file in files {
        let meta = std::fs::metadata(file).expect("it is there");
        (meta.len(), meta.modified().ok()).hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

fn tempfile(state: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    state.with_extension(format!("draft-{}-{n}", std::process::id()))
}
