//! The kernel as one ELF file: what it says of itself, in the form that debuggers read.

use super::Linux;
use hv_core::GuestVirtAddr;
use hv_core::introspect::ReadMemory;
use symbols::synthetic::cache::Cache;
use symbols::synthetic::{Kernel, MAX_BUILD_ID, Orc, SymbolFile, SyntheticError};

/// Why there is no symbol file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SymbolFileError {
    /// It would be empty.
    #[error("the kernel's symbols were not found in its image")]
    NoSymbols,
    /// What a module tells of itself can't be read.
    #[error("the module's symbols can't be read: {0}")]
    Module(String),
    /// It can't be made of them.
    #[error(transparent)]
    Synthetic(#[from] SyntheticError),
}

impl Linux {
    /// What the linker called this build: VMCOREINFO has it from 5.9 on.
    pub fn build_id(&self) -> Option<Vec<u8>> {
        let text = self.vmcoreinfo.as_ref()?.get("BUILD-ID")?.as_bytes();
        if text.len() % 2 != 0 || text.len() > 2 * MAX_BUILD_ID {
            return None;
        }
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        text.chunks(2).map(byte).collect()
    }

    /// The tables by which the kernel unwinds its stacks, where it has them.
    pub fn orc(&self, memory: &dyn ReadMemory) -> Option<Orc> {
        let read = |at: u64, buffer: &mut [u8]| {
            let place = self.image.physical_of(GuestVirtAddr(at));
            place.is_some_and(|place| memory.read_physical(place, buffer).is_ok())
        };
        Orc::find(self.kallsyms.as_deref()?, self.btf.as_deref(), read)
    }

    /// The kernel's symbols, types and unwinding as an ELF file whose addresses are the guest's. With `cache`, one that was made
    /// of the same kernel before is taken.
    ///
    /// # Errors
    /// [`SymbolFileError`].
    pub fn symbol_file(
        &self,
        memory: &dyn ReadMemory,
        cache: Option<&Cache>,
    ) -> Result<SymbolFile, SymbolFileError> {
        let symbols = self.kallsyms.as_ref().ok_or(SymbolFileError::NoSymbols)?;
        let orc = self.orc(memory);
        let build_id = self.build_id();
        let kernel = Kernel {
            image: self.image.base.0..self.image.base.0.saturating_add(self.image.size),
            symbols: symbols.iter().collect(),
            btf: self.btf.as_deref(),
            orc: orc.as_ref(),
            build_id: build_id.as_deref(),
        };
        Ok(match cache {
            Some(cache) => cache.symbol_file(&kernel)?,
            None => kernel.symbol_file()?,
        })
    }
}
