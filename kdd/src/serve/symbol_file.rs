//! Symbol files: what a guest's Linux kernel says of itself, as an ELF file for debuggers.

use super::kernel::{HINT, Kernel};
use super::output::{Output, cannot_write};
use super::pause::Plain;
use super::{Managed, Service};
use crate::Failure;
use crate::control::caller::Caller;
use crate::control::message::SymbolFileReport;
use dump::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

impl Service {
    /// Writes the symbol file of a domain's kernel, by the rules of [`Service::dump`].
    ///
    /// # Errors
    /// What doesn't do about the guest or the place; nothing is left there then.
    pub(super) fn write_symbol_file(
        &self,
        managed: &Arc<Managed>,
        path: &Path,
        force: bool,
        caller: &Caller,
    ) -> Result<SymbolFileReport, Failure> {
        let wanted = || !caller.is_gone() && !self.shutdown().is_triggered();
        let mut output = Output::create("symbols", path, force, &wanted)?;
        let look = managed.look(&self.symbols)?;
        let Kernel::Linux(linux) = &look.kernel else {
            return Err(managed.failure(
                &Plain("symbol files are made for Linux kernels"),
                "debuggers take Windows' PDB; 'kdd info' names it",
            ));
        };
        let linux = linux.clone();
        let file = managed
            .target()
            .linux_symbol_file(&linux, self.symbol_files.as_deref())
            .map_err(|error| managed.failure(&error, HINT))?;
        // The guest runs while it is written.
        drop(look);
        let what = format!("symbols {}", path.display());
        output
            .sink()
            .write_all(file.bytes())
            .and_then(|()| output.sink().flush())
            .map_err(Error::io(path.display().to_string()))
            .and_then(|()| output.commit(&wanted))
            .map_err(|error| cannot_write(&what, &error))?;
        Ok(SymbolFileReport {
            path: path.to_owned(),
            bytes: file.bytes().len() as u64,
            os: linux.description(),
            kernel_base: file.base().into(),
            build_id: linux.build_id().map(|id| {
                id.iter().fold(String::new(), |mut text, byte| {
                    let _ = write!(text, "{byte:02x}");
                    text
                })
            }),
        })
    }
}
