//! A module as a file that gdb reads.

use super::{Module, ModulePart};
use crate::linux::Linux;
use crate::linux::error::Error;
use crate::linux::symbol_file::SymbolFileError;
use hv_core::introspect::ReadMemory;
use symbols::synthetic::{self, PartKind, SymbolFile};

impl ModulePart {
    fn part_kind(&self) -> PartKind {
        match self.kind {
            "data" => PartKind::Data,
            "rodata" => PartKind::ReadOnly,
            "ro_after_init" => PartKind::ReadOnlyAfterInit,
            "init" | "init text" => PartKind::InitText,
            "init data" | "init rodata" => PartKind::InitData,
            _ => PartKind::Text,
        }
    }
}

impl Linux {
    /// A module's symbols and unwinding as a relocatable ELF file, whose sections are [`Module::parts`] in their order.
    ///
    /// # Errors
    /// [`SymbolFileError`].
    pub fn module_symbol_file(
        &self,
        memory: &dyn ReadMemory,
        module: &Module,
    ) -> Result<SymbolFile, SymbolFileError> {
        let symbols = self.module_symbols(memory, module)?;
        // Names without unwinding are better than nothing.
        let orc = self.module_orc(memory, module).unwrap_or_default();
        let range = |part: &ModulePart| part.base.0..part.base.0.saturating_add(u64::from(part.size));
        let file = synthetic::Module {
            parts: module
                .parts
                .iter()
                .map(|part| (part.part_kind(), range(part)))
                .collect(),
            symbols: symbols.iter().map(|symbol| symbol.as_symbol()).collect(),
            orc: orc.as_ref(),
        };
        Ok(file.symbol_file()?)
    }
}

impl From<Error> for SymbolFileError {
    fn from(error: Error) -> SymbolFileError {
        SymbolFileError::Module(error.to_string())
    }
}
