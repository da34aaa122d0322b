//! The files that a client finds on the guest: the symbols of its Linux kernel, made of what is in its memory; or the program and
//! the libraries of the process that is debugged, from the guest's page cache.
//!
//! ```text
//!  qXfer:exec-file ──► name_of(kernel)       /kdd/DOMAIN/BASE/vmlinux-RELEASE
//!  qXfer:libraries ──► name_of_module(…)     /kdd/DOMAIN/BASE/modules/ADDRESS/NAME.ko
//!  vFile:open ───────► find(name) ── introspect::Target ──► File ──► Files: a descriptor
//!  vFile:pread … ◄────────────────────────────────────────────────────┘
//! ```
//! Names have the address at which the kernel or the module runs: after a reset, a kexec or another insmod the old name is
//! nobody's, and gdb, which takes a file of the same name for the same file, isn't misled. A file that is open stays
//! what it was.

use crate::guest::Guest;
use hv_core::introspect::ReadMemory;
use introspect::linux::{self, Linux, Module, ModuleState};
use std::borrow::Cow;
use std::sync::Arc;
use symbols::synthetic::SymbolFile;

/// A client has two open, sometimes four.
const MOST_OPEN: usize = 64;
/// As after the standard streams; numbers below are a sign of confusion.
const FIRST: u64 = 3;

/// A file.
pub enum File {
    /// Made of a kernel's memory.
    Symbols(Arc<SymbolFile>),
    /// One of the guest's own, as far as it is in its memory.
    Guest(Arc<Linux>, linux::File),
}

impl File {
    /// Bytes.
    pub fn size(&self) -> u64 {
        match self {
            File::Symbols(file) => file.bytes().len() as u64,
            File::Guest(_, file) => file.size,
        }
    }

    /// What tells it from others of its domain.
    pub fn inode(&self) -> u32 {
        match self {
            File::Symbols(file) => (file.base() >> 12) as u32,
            File::Guest(_, file) => (file.mapping.0 >> 3) as u32,
        }
    }

    /// The bytes from `offset` on, `most` at most; none at its end. `None` if they aren't in memory.
    pub fn read(&self, memory: &dyn ReadMemory, offset: u64, most: usize) -> Option<Cow<'_, [u8]>> {
        match self {
            File::Symbols(file) => {
                let rest = usize::try_from(offset).ok().and_then(|at| file.bytes().get(at..));
                let rest = rest.unwrap_or_default();
                Some(Cow::Borrowed(&rest[..rest.len().min(most)]))
            }
            File::Guest(linux, file) => {
                let mut bytes = vec![0; most];
                let read = linux.read_file(memory, file, offset, &mut bytes).ok()?;
                bytes.truncate(read);
                (read > 0 || offset >= file.size).then_some(Cow::Owned(bytes))
            }
        }
    }
}

/// Open files. A number isn't given out again before all others were.
#[derive(Default)]
pub struct Files {
    open: Vec<(u64, File)>,
    last: u32,
}

impl Files {
    /// A descriptor for a file; `None` if there are too many.
    pub fn open(&mut self, file: File) -> Option<u64> {
        if self.open.len() >= MOST_OPEN {
            return None;
        }
        // Clients read a signed number of 32 bits.
        let number = (0..=MOST_OPEN as u32)
            .map(|next| FIRST + u64::from(self.last.wrapping_add(next) & 0x3fff_ffff))
            .find(|&number| self.get(number).is_none())?;
        self.last = (number - FIRST + 1) as u32;
        self.open.push((number, file));
        Some(number)
    }

    /// The file behind a descriptor.
    pub fn get(&self, number: u64) -> Option<&File> {
        let found = self.open.iter().find(|(open, _)| *open == number);
        found.map(|(_, file)| file)
    }

    /// Closes a descriptor; false if it isn't open.
    pub fn close(&mut self, number: u64) -> bool {
        let before = self.open.len();
        self.open.retain(|(open, _)| *open != number);
        self.open.len() != before
    }
}

/// The modules of which a client was told, by address and place.
pub struct Told {
    linux: Option<Arc<Linux>>,
    modules: Vec<(u64, u64)>,
}

impl Told {
    /// These, of this kernel.
    pub fn new(linux: Option<Arc<Linux>>, modules: &[Module]) -> Told {
        let place = |module: &Module| Some((module.address.0, module.base()?.0));
        Told {
            linux,
            modules: modules.iter().filter_map(place).collect(),
        }
    }
}

impl Guest {
    /// The modules that have symbols: all but those that are being set up. What can't be read is left out.
    pub fn modules(&self, linux: &Linux) -> Vec<Module> {
        match linux.modules(self.domain()) {
            Ok(walk) => walk
                .items
                .into_iter()
                .filter(|module| module.state != ModuleState::Unformed && module.base().is_some())
                .collect(),
            Err(why) => {
                tracing::debug!(%why, "no modules");
                Vec::new()
            }
        }
    }

    /// Whether modules came or went since the client was told of them.
    pub fn modules_changed(&self) -> bool {
        let Some(Told {
            linux: Some(linux),
            modules,
        }) = &self.told_modules
        else {
            return false;
        };
        // Of another kernel the client hears when it connects again.
        linux.is_still_there(self.domain()) && Told::new(None, &self.modules(linux)).modules != *modules
    }

    /// The name under which gdb opens a module's symbols.
    pub fn name_of_module(&self, linux: &Linux, module: &Module) -> String {
        let folder = self.folder(linux);
        let base = module.base().unwrap_or_default().0;
        format!("{folder}/modules/{base:x}/{}.ko", plain(&module.name))
    }

    fn folder(&self, linux: &Linux) -> String {
        format!(
            "/kdd/{}/{:x}",
            plain(&self.domain().name()),
            linux.kernel().base.0
        )
    }

    /// The guest's Linux kernel, while it stands still for this client; why there is none is in the log.
    pub fn linux(&self) -> Option<Arc<Linux>> {
        if !self.session.holds() {
            return None;
        }
        match self.target.linux() {
            Ok(linux) => Some(linux),
            Err(why) => {
                tracing::debug!(%why, "no Linux kernel, so no symbols of one");
                None
            }
        }
    }

    /// The symbols of a kernel of this guest; why there are none is in the log.
    pub fn symbol_file(&self, linux: &Arc<Linux>) -> Option<Arc<SymbolFile>> {
        match self
            .target
            .linux_symbol_file(linux, self.options.symbols.as_deref())
        {
            Ok(file) => Some(file),
            Err(why) => {
                tracing::info!(%why, "no symbol file of the guest's kernel");
                None
            }
        }
    }

    /// The name under which clients open the symbols of a kernel; `None` if it has none.
    pub fn name_of(&self, linux: &Linux) -> Option<String> {
        linux.kallsyms()?;
        Some(format!("{}/{}", self.folder(linux), file_name(linux)))
    }

    /// The name of what the client debugs: a program of the guest, or the symbols of its kernel.
    pub fn name_of_program(&self) -> Option<String> {
        let linux = self.linux()?;
        match self.inferior.process() {
            Some(process) => Some(process.program(self)?.path),
            None => self.name_of(&linux),
        }
    }

    /// The file of this name.
    pub fn find_file(&self, name: &[u8]) -> Option<File> {
        if let Some(process) = self.inferior.process() {
            return Some(File::Guest(self.linux()?, process.file(self, name)?));
        }
        if !name.starts_with(b"/kdd/") {
            return None;
        }
        let linux = self.linux()?;
        if name == self.name_of(&linux)?.as_bytes() {
            return self.symbol_file(&linux).map(File::Symbols);
        }
        let modules = self.modules(&linux);
        let mut modules = modules.iter();
        let module = modules.find(|module| name == self.name_of_module(&linux, module).as_bytes())?;
        match linux.module_symbol_file(self.domain(), module) {
            Ok(file) => Some(File::Symbols(Arc::new(file))),
            Err(why) => {
                tracing::info!(%why, module = module.name, "no symbol file of a module");
                None
            }
        }
    }
}

/// `vmlinux-RELEASE`.
pub fn file_name(linux: &Linux) -> String {
    format!("vmlinux-{}", plain(linux.release().unwrap_or("unknown")))
}

/// A name as a part of a path that every client takes as it is.
pub fn plain(name: &str) -> String {
    const LONGEST: usize = 100;
    let safe = |c: char| c.is_ascii_alphanumeric() || "-+_.".contains(c);
    let text: String = name
        .chars()
        .take(LONGEST)
        .map(|c| if safe(c) { c } else { '_' })
        .collect();
    match text.as_str() {
        "" | "." | ".." => "_".into(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_part_of_a_path() {
        assert_eq!(plain("6.1.0-56-cloud-amd64"), "6.1.0-56-cloud-amd64");
        assert_eq!(plain("../../etc/pass wd#$"), ".._.._etc_pass_wd__");
        assert_eq!(plain(".."), "_");
        assert_eq!(plain(&"x".repeat(1000)).len(), 100);
    }
}
