//! Crash dumps of domains: what is dumped, in which format, and where to.
//!
//! ```text
//!  DumpRequest ─► Subject: a fork of the domain, which is held ─► recognised OS ─► Plan ─► writer ─► Output
//! ```
//!
//! What is written is a fork, so that a reset, a debugger's write or the domain's end meanwhile changes nothing of it. A
//! domain that is dumped live stands still only while it is forked.

use super::kernel::Kernel;
use super::output::{Output, cannot_write};
use super::pause::Held;
use super::{Managed, Service};
use crate::Failure;
use crate::control::caller::Caller;
use crate::control::message::{Compression, DumpFormat, DumpReport, DumpRequest, Progress};
use dump::linux::{KeepAll, KernelImage, LinuxFacts, PageFilter};
use dump::{Error, NewFile, Observer, PAGE_SIZE, Pfn, Sink, Source, Written, elf, kdump, windows};
use hv_core::VcpuId;
use hv_core::introspect::{DomainState, Introspect};
use hv_core::regs::Registers;
use introspect::linux::{Linux, PageKinds};
use introspect::windows::{Arch, Bugcheck, Guest, Windows};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);

impl Service {
    /// Writes a dump. The caller may leave at any time: then there is none.
    ///
    /// # Errors
    /// What doesn't do about the domain, the format or the place; nothing is left there then.
    pub fn dump(&self, request: &DumpRequest, caller: &Caller) -> Result<DumpReport, Failure> {
        let managed = self.find(&request.domain)?;
        let what = format!("dump {}", request.path.display());
        let wanted = || !caller.is_gone() && !self.shutdown().is_triggered();
        let mut output = Output::create("dump", &request.path, request.force, &wanted)?;
        // Symbols are looked for while the guest runs.
        let known = managed.known_kernel(&self.symbols);
        let subject = Subject::take(&managed, request.live)?;
        let system = System::recognise(subject.domain(), known);
        let options = Options {
            format: request
                .format
                .unwrap_or_else(|| system.usual_format(subject.domain())),
            compression: request.compression,
            level: request.level,
            for_gdb: request.for_gdb,
            live: request.live,
            bugcheck: None,
        };
        let plan = Plan::new(options, &managed, subject.domain(), &system)?;
        let mut watcher = Watcher {
            caller: request.progress.then_some(caller),
            wanted: &wanted,
            told: Instant::now(),
        };
        let written = plan
            .write(subject.domain(), output.sink(), &mut watcher)
            .map_err(|error| cannot_write(&what, &error))?;
        let paused = subject.release();
        output
            .commit(&wanted)
            .map_err(|error| cannot_write(&what, &error))?;
        Ok(plan.report(&request.path, written, paused))
    }

    /// Writes a dump of a domain that somebody holds; `bugcheck` is the one that it is just about to note down.
    ///
    /// # Errors
    /// As [`Service::dump`].
    pub(super) fn capture(
        &self,
        managed: &Managed,
        system: &System,
        format: DumpFormat,
        bugcheck: Option<Bugcheck>,
        path: &Path,
        wanted: &dyn Fn() -> bool,
    ) -> Result<DumpReport, Failure> {
        let what = format!("dump {}", path.display());
        let options = Options {
            format,
            compression: None,
            level: 0,
            for_gdb: false,
            live: false,
            bugcheck,
        };
        let fork = Fork::of(managed)?;
        let domain = fork.as_ref().map_or_else(|| managed.domain(), Fork::domain);
        let plan = Plan::new(options, managed, domain, system)?;
        let mut file = NewFile::create(path, false).map_err(|error| cannot_write(&what, &error))?;
        let mut watcher = Watcher {
            caller: None,
            wanted,
            told: Instant::now(),
        };
        let written = plan
            .write(domain, &mut file, &mut watcher)
            .and_then(|written| file.commit_if(wanted).map(|()| written))
            .map_err(|error| cannot_write(&what, &error))?;
        Ok(plan.report(path, written, Duration::ZERO))
    }
}

/// What is dumped: a fork, which stands still whatever is done to the domain meanwhile.
struct Subject {
    managed: Arc<Managed>,
    /// `None` where a domain can't be forked: it is read itself.
    fork: Option<Fork>,
    /// The domain's pause, unless it is dumped live.
    held: Option<Held>,
    /// Since when it stands still, if it ran before.
    since: Option<Instant>,
    /// How long a domain that is dumped live did so.
    paused: Duration,
}

impl Subject {
    fn take(managed: &Arc<Managed>, live: bool) -> Result<Subject, Failure> {
        let runs = managed.domain().state() == DomainState::Running;
        let since = Instant::now();
        let held = managed.hold()?;
        let fork = Fork::of(managed)?;
        let live = live && runs;
        if live && fork.is_none() {
            return Err(Failure::new(
                format_args!("domain '{}'", managed.domain().name()),
                "it can't be forked",
                "leave --live out: it is paused while it is written",
            ));
        }
        Ok(Subject {
            managed: managed.clone(),
            fork,
            held: (!live).then_some(held),
            since: runs.then_some(since),
            paused: since.elapsed(),
        })
    }

    fn domain(&self) -> &dyn Introspect {
        match &self.fork {
            Some(fork) => fork.domain(),
            None => self.managed.domain(),
        }
    }

    /// Lets it go; how long the guest stood still.
    fn release(self) -> Duration {
        match (&self.held, self.since) {
            (_, None) => Duration::ZERO,
            (Some(_), Some(since)) => since.elapsed(),
            (None, Some(_)) => self.paused,
        }
    }
}

/// A child that is only read, and ends with this value.
struct Fork(Arc<dyn Introspect>);

impl Fork {
    /// The domain stands still. `None` if it can't be forked.
    fn of(managed: &Managed) -> Result<Option<Fork>, Failure> {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let domain = managed.domain();
        let Some(fork) = domain.fork() else {
            return Ok(None);
        };
        let name = format!("{}-dump-{}", domain.id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let child = fork
            .fork(&name)
            .map_err(|error| managed.failure(&error, "try again"))?;
        Ok(Some(Fork(child)))
    }

    fn domain(&self) -> &dyn Introspect {
        &*self.0
    }
}

impl Drop for Fork {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.control_run().map(|control| control.destroy()) {
            tracing::warn!(%error, "the fork that was dumped can't be ended");
        }
    }
}

/// The operating system, as far as it was recognised.
pub(super) enum System {
    Known(Kernel),
    /// None that is known; why not, in words.
    Unknown(String),
}

impl System {
    /// What runs in a domain that stands still; `known` is what was recognised before.
    pub fn recognise(domain: &dyn Introspect, known: Option<Kernel>) -> System {
        if let Some(kernel) = known.filter(|kernel| kernel.is_still_there(domain)) {
            return System::Known(kernel);
        }
        let no_windows = match Windows::recognise(domain.into(), &symbols::SymbolPath::default()) {
            Ok(windows) => return System::Known(Kernel::Windows(Arc::new(windows))),
            Err(error) => error,
        };
        match Linux::recognise(domain.into()) {
            Ok(linux) => System::Known(Kernel::Linux(Arc::new(linux))),
            Err(error) => System::Unknown(format!("{no_windows}; {error}")),
        }
    }

    /// The format that suits it best.
    pub fn usual_format(&self, domain: &dyn Introspect) -> DumpFormat {
        match self {
            System::Known(Kernel::Windows(windows))
                if Source::new(domain).ram().len() > windows_runs(windows.arch()) =>
            {
                DumpFormat::WindowsBitmap
            }
            System::Known(Kernel::Windows(_)) => DumpFormat::Windows,
            System::Known(Kernel::Linux(_)) | System::Unknown(_) => DumpFormat::Elf,
        }
    }

    fn name(&self) -> Option<String> {
        match self {
            System::Known(kernel) => Some(kernel.name()),
            System::Unknown(_) => None,
        }
    }
}

/// What is asked for.
struct Options {
    format: DumpFormat,
    compression: Option<Compression>,
    level: u8,
    for_gdb: bool,
    live: bool,
    bugcheck: Option<Bugcheck>,
}

/// How it is written.
struct Plan<'a> {
    options: Options,
    /// What debuggers show when they open it.
    comment: String,
    system: &'a System,
    crash: Option<String>,
    warnings: Vec<String>,
}

impl<'a> Plan<'a> {
    fn new(
        options: Options,
        managed: &Managed,
        domain: &dyn Introspect,
        system: &'a System,
    ) -> Result<Plan<'a>, Failure> {
        let what = format!("domain '{}'", managed.domain().name());
        let format = options.format;
        let refused = |why: &str, hint: &str| Err(Failure::new(&what, why, hint));
        let mut warnings = Vec::new();
        match (format, system) {
            (DumpFormat::Elf, System::Unknown(why)) => {
                warnings.push(format!("its operating system was not recognised: {why}"));
            }
            (DumpFormat::Elf, _)
            | (DumpFormat::Kdump, System::Known(Kernel::Linux(_)))
            | (
                DumpFormat::Windows | DumpFormat::WindowsBitmap | DumpFormat::WindowsKernel,
                System::Known(Kernel::Windows(_)),
            ) => {}
            (DumpFormat::Kdump, _) => {
                return refused("no Linux kernel was recognised in it", "use --format elf");
            }
            (_, System::Known(Kernel::Linux(_))) => {
                return refused("Linux runs in it, not Windows", "use --format elf or kdump");
            }
            (_, _) => return refused("no Windows kernel was recognised in it", "use --format elf"),
        }
        if options.level != 0 && format != DumpFormat::Kdump {
            return refused(
                "pages can be left out of kdump files only",
                "add --format kdump, or leave --level out",
            );
        }
        if options.compression.is_some() && format != DumpFormat::Kdump {
            return refused(
                "only kdump files are compressed",
                "add --format kdump, or leave --compress out",
            );
        }
        if options.for_gdb && format != DumpFormat::Elf {
            return refused("only ELF dumps can be made for gdb", "add --format elf");
        }
        Ok(Plan {
            crash: options
                .bugcheck
                .map(|bugcheck| bugcheck_words(&bugcheck))
                .or_else(|| crash(domain, system)),
            comment: format!(
                "domain {}, by kdd {}",
                managed.domain().name(),
                env!("CARGO_PKG_VERSION")
            ),
            options,
            system,
            warnings,
        })
    }

    fn write(
        &self,
        domain: &dyn Introspect,
        sink: &mut dyn Sink,
        observer: &mut dyn Observer,
    ) -> dump::Result<Written> {
        let source = Source::new(domain);
        match (self.options.format, self.system) {
            (DumpFormat::Elf, system) => {
                let options = elf::ElfOptions {
                    addresses: if self.options.for_gdb {
                        elf::VirtualAddresses::ForGdb
                    } else {
                        elf::VirtualAddresses::DirectMap
                    },
                };
                let facts = facts(domain, system);
                elf::write(&source, &registers(domain)?, &facts, &options, sink, observer)
            }
            (DumpFormat::Kdump, _) => self.write_kdump(domain, &source, sink, observer),
            (format, System::Known(Kernel::Windows(windows))) => {
                let options = windows::Options {
                    kind: match format {
                        DumpFormat::WindowsKernel => windows::Kind::BitmapKernel,
                        DumpFormat::WindowsBitmap => windows::Kind::BitmapFull,
                        _ => windows::Kind::Full,
                    },
                    live: self.options.live,
                    bugcheck: self.options.bugcheck,
                    comment: self.comment.clone(),
                    ..windows::Options::default()
                };
                windows::write(domain.into(), windows, &options, sink, observer)
            }
            (_, _) => Err(Error::WrongGuest("no Windows kernel was recognised in it".into())),
        }
    }
}

impl Plan<'_> {
    fn report(self, path: &Path, written: Written, paused: Duration) -> DumpReport {
        DumpReport {
            path: path.to_owned(),
            format: self.options.format,
            bytes: written.length,
            pages: written.pages,
            zero_pages: written.zero_pages,
            excluded_pages: written.excluded,
            os: self.system.name(),
            crash: self.crash,
            paused_microseconds: u64::try_from(paused.as_micros()).unwrap_or(u64::MAX),
            warnings: written.warnings.into_iter().chain(self.warnings).collect(),
        }
    }
}

/// A bugcheck in words: `0x000000e2 MANUALLY_INITIATED_CRASH (0x0, 0x0, 0x0, 0x0)`.
pub(super) fn bugcheck_words(bugcheck: &Bugcheck) -> String {
    let name = windows::bugcheck_name(bugcheck.code).map_or_else(String::new, |name| format!(" {name}"));
    let [p1, p2, p3, p4] = bugcheck.parameters;
    format!(
        "{:#010x}{name} ({p1:#x}, {p2:#x}, {p3:#x}, {p4:#x})",
        bugcheck.code
    )
}

/// The most ranges of RAM that a full dump has room for.
fn windows_runs(arch: Arch) -> usize {
    match arch {
        Arch::X86 => windows::MAX_RUNS32,
        Arch::X64 => windows::MAX_RUNS64,
    }
}

/// Why the guest crashed, if it did, in words.
fn crash(domain: &dyn Introspect, system: &System) -> Option<String> {
    let by_system = match system {
        System::Known(Kernel::Windows(windows)) => windows
            .bugcheck(Guest::from(domain))
            .ok()
            .flatten()
            .map(|bugcheck| bugcheck_words(&bugcheck)),
        System::Known(Kernel::Linux(linux)) => linux
            .crash(domain)
            .ok()
            .and_then(|crash| crash.message().map(str::to_owned)),
        System::Unknown(_) => None,
    };
    match domain.state() {
        DomainState::Crashed(reason) => Some(by_system.unwrap_or_else(|| reason.to_string())),
        _ => by_system,
    }
}

impl Plan<'_> {
    fn write_kdump(
        &self,
        domain: &dyn Introspect,
        source: &Source<'_>,
        sink: &mut dyn Sink,
        observer: &mut dyn Observer,
    ) -> dump::Result<Written> {
        let options = kdump::KdumpOptions {
            compression: match self.options.compression {
                None | Some(Compression::Zlib) => kdump::Compression::Zlib,
                Some(Compression::Zstd) => kdump::Compression::Zstd,
                Some(Compression::None) => kdump::Compression::None,
            },
            ..kdump::KdumpOptions::default()
        };
        let facts = facts(domain, self.system);
        let registers = registers(domain)?;
        // Pages of zeros take no space as it is, and crash wants to read them.
        let level = u32::from(self.options.level & !1);
        match self.system {
            System::Known(Kernel::Linux(linux)) if level != 0 => {
                let kinds = linux
                    .page_kinds(domain)
                    .map_err(|error| Error::WrongGuest(format!("its pages' kinds aren't known: {error}")))?;
                let mut filter = ByKind { kinds, level };
                kdump::write(source, &registers, &facts, &options, &mut filter, sink, observer)
            }
            _ => kdump::write(source, &registers, &facts, &options, &mut KeepAll, sink, observer),
        }
    }
}

/// Leaves pages out by what the guest uses them for.
struct ByKind<'a> {
    kinds: PageKinds<'a>,
    level: u32,
}

impl PageFilter for ByKind<'_> {
    fn keep(&mut self, pfn: Pfn) -> bool {
        !self.kinds.kind(pfn.address()).is_left_out_at(self.level)
    }

    fn level(&self) -> u32 {
        self.level
    }
}

/// What a Linux dump needs to know of the kernel.
fn facts(domain: &dyn Introspect, system: &System) -> LinuxFacts {
    let System::Known(Kernel::Linux(linux)) = system else {
        return LinuxFacts::default();
    };
    let image = linux.kernel();
    LinuxFacts {
        vmcoreinfo: linux.vmcoreinfo().map(|info| info.text().to_vec()),
        page_offset_base: Some(linux.regions().direct_map),
        phys_base: Some(image.phys_base() as i64),
        image: Some(KernelImage {
            start: image.base,
            length: image.size,
        }),
        utsname: linux.utsname(domain).ok(),
        crash_time: None,
        crashed_processor: None,
    }
}

fn registers(domain: &dyn Introspect) -> dump::Result<Vec<Registers>> {
    (0..domain.vcpu_count())
        .map(|vcpu| {
            domain
                .registers(VcpuId(vcpu))
                .map_err(|error| Error::WrongGuest(error.to_string()))
        })
        .collect()
}

/// Tells the client, and ends the work when it leaves or the service stops.
struct Watcher<'a> {
    /// Who wants to hear.
    caller: Option<&'a Caller>,
    wanted: &'a dyn Fn() -> bool,
    told: Instant,
}

impl Observer for Watcher<'_> {
    fn progress(&mut self, done: u64, total: u64) -> ControlFlow<()> {
        if !(self.wanted)() {
            return ControlFlow::Break(());
        }
        if let Some(caller) = self.caller
            && self.told.elapsed() >= TELL_EVERY
        {
            self.told = Instant::now();
            let bytes = |pages: u64| pages.saturating_mul(PAGE_SIZE as u64);
            caller.tell(Progress::Dump {
                done: bytes(done),
                total: bytes(total),
            });
        }
        ControlFlow::Continue(())
    }
}
