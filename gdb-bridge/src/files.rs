//! The files that a client finds on the guest: the symbols of its Linux kernel, made of what is in its memory.
//!
//! ```text
//!  qXfer:exec-file ──► name_of(kernel)       /kdd/DOMAIN/BASE/vmlinux-RELEASE
//!  vFile:open ───────► find(name) ── introspect::Target ──► SymbolFile ──► Files: a descriptor
//!  vFile:pread … ◄──────────────────────────────────────────────────────────┘
//! ```
//! The name has the address at which the kernel runs: after a reset or kexec the old name is nobody's, and gdb, which
//! takes a file of the same name for the same file, isn't misled. A file that is open stays what it was.

use crate::guest::Guest;
use introspect::linux::Linux;
use std::sync::Arc;
use symbols::synthetic::SymbolFile;

/// A client has two open, sometimes four.
const MOST_OPEN: usize = 64;
/// As after the standard streams; numbers below are a sign of confusion.
const FIRST: u64 = 3;

/// Open files. A number isn't given out again before all others were.
#[derive(Default)]
pub struct Files {
    open: Vec<(u64, Arc<SymbolFile>)>,
    last: u32,
}

impl Files {
    /// A descriptor for a file; `None` if there are too many.
    pub fn open(&mut self, file: Arc<SymbolFile>) -> Option<u64> {
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
    pub fn get(&self, number: u64) -> Option<&Arc<SymbolFile>> {
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

impl Guest {
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
        let domain = plain(&self.domain().name());
        let base = linux.kernel().base.0;
        Some(format!("/kdd/{domain}/{base:x}/{}", file_name(linux)))
    }

    /// The file of this name.
    pub fn find_file(&self, name: &[u8]) -> Option<Arc<SymbolFile>> {
        if !name.starts_with(b"/kdd/") {
            return None;
        }
        let linux = self.linux()?;
        let ours = self.name_of(&linux)?;
        (name == ours.as_bytes())
            .then(|| self.symbol_file(&linux))
            .flatten()
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
