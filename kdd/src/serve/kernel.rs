//! The kernel of a guest, whichever it is: recognised, looked at while it stands still, asked for what a command wants.
//!
//! ```text
//!  a request ── Managed::look ─► Look: the kernel, and a hold ── windows.rs ─┐
//!                                                             └─ linux.rs ───┴─► a message, the same for both
//! ```

use super::pause::{Held, Plain};
use super::{Managed, linux, lock, windows};
use crate::Failure;
use crate::control::message::{GuestLog, GuestModules, GuestProcesses, GuestSymbols, GuestThreads, OsInfo};
use crate::parse::Place;
use hv_core::GuestVirtAddr;
use hv_core::introspect::Introspect;
use introspect::AddressSpace;
use introspect::linux::Linux;
use introspect::windows::Windows;
use std::sync::Arc;
use symbols::SymbolPath;

/// What to do when the guest doesn't say what it should.
pub(super) const HINT: &str = "'kdd info -v' shows what was recognised";

/// A kernel that was recognised.
#[derive(Clone)]
pub(super) enum Kernel {
    Windows(Arc<Windows>),
    Linux(Arc<Linux>),
}

/// What was last recognised in a domain. Linux' kernel itself is kept by the domain's target.
#[derive(Default)]
pub(super) struct Known {
    pub windows: windows::Known,
    /// It was Linux: that is looked for first.
    linux: bool,
}

/// A recognised kernel that stands still.
pub(super) struct Look {
    pub kernel: Kernel,
    _held: Held,
}

impl Look {
    /// A kernel of the guest that is held.
    pub fn new(kernel: Kernel, held: Held) -> Look {
        Look { kernel, _held: held }
    }
}

impl Kernel {
    /// A line for people.
    pub fn name(&self) -> String {
        match self {
            Kernel::Windows(windows) => windows.description(),
            Kernel::Linux(linux) => linux.description(),
        }
    }

    /// The address of a symbol.
    pub fn symbol(&self, name: &str) -> Option<GuestVirtAddr> {
        match self {
            Kernel::Windows(windows) => windows.symbol(name),
            Kernel::Linux(linux) => linux.symbol(name),
        }
    }

    /// The page tables that map it, where they are known.
    fn address_space(&self) -> Option<AddressSpace> {
        match self {
            Kernel::Windows(_) => None,
            Kernel::Linux(linux) => Some(linux.address_space()),
        }
    }

    /// Whether it is still the one that runs.
    pub fn is_still_there(&self, domain: &dyn Introspect) -> bool {
        match self {
            Kernel::Windows(windows) => windows.is_still_there(domain.into()),
            Kernel::Linux(linux) => linux.is_still_there(domain),
        }
    }
}

impl Managed {
    /// Recognises the guest's kernel, and holds the guest for a look. What was recognised before is taken, if it is still
    /// there.
    pub(super) fn look(self: &Arc<Self>, symbols: &SymbolPath) -> Result<Look, Failure> {
        let was_linux = lock(&self.known).linux;
        if was_linux && let Ok(look) = self.look_at_linux() {
            return Ok(look);
        }
        let no_windows = match self.look_at_windows(symbols) {
            Ok(look) => {
                lock(&self.known).linux = false;
                return Ok(look);
            }
            Err(failure) => failure,
        };
        match self.look_at_linux() {
            Ok(look) => {
                lock(&self.known).linux = true;
                Ok(look)
            }
            Err(no_linux) => Err(Failure::new(
                format_args!("domain '{}'", self.domain().name()),
                format_args!(
                    "no operating system is recognised in it (Windows: {}; Linux: {})",
                    no_windows.why, no_linux.why
                ),
                "this is for Linux and Windows guests, once their kernel runs",
            )),
        }
    }

    fn look_at_linux(self: &Arc<Self>) -> Result<Look, Failure> {
        let held = self.hold()?;
        let linux = self
            .target()
            .linux()
            .map_err(|error| self.failure(&error, HINT))?;
        Ok(Look::new(Kernel::Linux(linux), held))
    }

    /// A process of a Linux guest, by its pid, or the first one of a name.
    pub(super) fn linux_process(self: &Arc<Self>, name: &str) -> Result<u32, Failure> {
        let look = self.look_at_linux()?;
        let Kernel::Linux(linux) = &look.kernel else {
            return Err(no_process(self, name));
        };
        match linux.process(self.domain(), name) {
            Ok(Some(task)) if task.mm.is_none() => Err(Failure::new(
                format_args!("domain '{}'", self.domain().name()),
                format_args!("'{}' is a thread of the kernel", printable(name)),
                "debug the whole guest: kdd gdb without --process",
            )),
            Ok(Some(task)) => Ok(task.pid),
            Ok(None) => Err(no_process(self, name)),
            Err(error) => Err(self.failure(&error, HINT)),
        }
    }

    /// The kernel in it, if one is recognised, with its symbols where they are found.
    pub(super) fn known_kernel(self: &Arc<Self>, symbols: &SymbolPath) -> Option<Kernel> {
        Some(self.look(symbols).ok()?.kernel)
    }

    /// Its processes.
    pub(super) fn guest_processes(self: &Arc<Self>, symbols: &SymbolPath) -> Result<GuestProcesses, Failure> {
        let look = self.look(symbols)?;
        match &look.kernel {
            Kernel::Windows(kernel) => windows::processes(self, kernel),
            Kernel::Linux(kernel) => linux::processes(self, kernel),
        }
    }

    /// Threads of one process, or of all.
    pub(super) fn guest_threads(
        self: &Arc<Self>,
        symbols: &SymbolPath,
        pid: Option<u64>,
    ) -> Result<GuestThreads, Failure> {
        let look = self.look(symbols)?;
        match &look.kernel {
            Kernel::Windows(kernel) => windows::threads(self, kernel, pid),
            Kernel::Linux(kernel) => linux::threads(self, kernel, pid),
        }
    }

    /// Modules of its kernel.
    pub(super) fn guest_modules(self: &Arc<Self>, symbols: &SymbolPath) -> Result<GuestModules, Failure> {
        let look = self.look(symbols)?;
        match &look.kernel {
            Kernel::Windows(kernel) => windows::modules(self, kernel),
            Kernel::Linux(kernel) => linux::modules(self, kernel),
        }
    }

    /// What its kernel logged.
    pub(super) fn guest_log(self: &Arc<Self>, symbols: &SymbolPath, skip: u64) -> Result<GuestLog, Failure> {
        let look = self.look(symbols)?;
        match &look.kernel {
            Kernel::Windows(_) => Err(self.failure(
                &Plain("its kernel is Windows, which keeps no log that can be read from outside"),
                "'kdd kd' lets WinDbg attach, which shows what drivers print",
            )),
            Kernel::Linux(kernel) => linux::log(self, kernel, skip),
        }
    }

    /// Its kernel's symbols: all, those of a name, or the nearest to an address.
    pub(super) fn guest_symbols(
        self: &Arc<Self>,
        symbols: &SymbolPath,
        find: Option<&str>,
        skip: u64,
    ) -> Result<GuestSymbols, Failure> {
        let look = self.look(symbols)?;
        match &look.kernel {
            Kernel::Windows(kernel) => windows::symbols(self, kernel, find, skip),
            Kernel::Linux(kernel) => linux::symbols(self, kernel, find, skip),
        }
    }

    /// What its system is; `None` if it isn't recognised.
    pub(super) fn os_info(self: &Arc<Self>, symbols: &SymbolPath) -> Option<OsInfo> {
        let look = self.look(symbols).ok()?;
        Some(match &look.kernel {
            Kernel::Windows(kernel) => windows::os_info(self, kernel),
            Kernel::Linux(kernel) => linux::os_info(self, kernel),
        })
    }

    /// The address of a place, and the address space that it is of if that is the kernel's own.
    pub(super) fn resolve(
        self: &Arc<Self>,
        symbols: &SymbolPath,
        place: &Place,
    ) -> Result<(GuestVirtAddr, Option<AddressSpace>), Failure> {
        let (name, offset) = match place {
            Place::Address(address) => return Ok((GuestVirtAddr(*address), None)),
            Place::Symbol { name, offset } => (name, *offset),
        };
        let look = self.look(symbols)?;
        let address = look.kernel.symbol(name).ok_or_else(|| no_symbol(self, name))?;
        let address = address.checked_add(offset).ok_or_else(|| {
            self.failure(
                &Plain("that is past the end of the address space"),
                "choose a smaller offset",
            )
        })?;
        Ok((address, look.kernel.address_space()))
    }
}

/// Nothing has this id.
pub(super) fn no_process(managed: &Managed, process: impl ToString) -> Failure {
    Failure::new(
        format_args!("domain '{}'", managed.domain().name()),
        format_args!("it has no process {}", printable(&process.to_string())),
        "'kdd ps' shows its processes",
    )
}

/// Nothing has this name.
pub(super) fn no_symbol(managed: &Managed, name: &str) -> Failure {
    Failure::new(
        format_args!("domain '{}'", managed.domain().name()),
        format_args!("its kernel has no symbol '{}'", printable(name)),
        "'kdd symbols' lists them; an address is written in hex",
    )
}

/// A user's or guest's text that must not move a cursor, on one line.
pub(super) fn printable(text: &str) -> String {
    let plain = |c: char| {
        if c.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    text.chars().map(plain).collect()
}
