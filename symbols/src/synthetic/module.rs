//! A module's file. gdb takes it for a shared library that is told where each of its sections is.
//!
//! It is relocatable: sections begin at 0, symbols count from the start of their section, and what DWARF says counts from
//! the start of the text, to which gdb adds where the text is.

use super::elf::{self, Area, Form, SHF_EXECINSTR, SHF_WRITE, SHT_PROGBITS, Section};
use super::symtab::Symbols;
use super::{Orc, SymbolFile, SyntheticError, frames};
use crate::kallsyms::Symbol;
use std::ops::Range;

/// What is in a part of a module's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PartKind {
    /// Code, and before 6.4 all the rest behind it.
    Text,
    /// Variables.
    Data,
    /// Constants.
    ReadOnly,
    /// What was only written while the module was initialised.
    ReadOnlyAfterInit,
    /// Code that is thrown away after that.
    InitText,
    /// Data that is thrown away after that.
    InitData,
}

impl PartKind {
    fn name_and_flags(self) -> (&'static str, u64) {
        match self {
            PartKind::Text => (".text", SHF_EXECINSTR),
            PartKind::Data => (".data", SHF_WRITE),
            PartKind::ReadOnly => (".rodata", 0),
            PartKind::ReadOnlyAfterInit => (".data..ro_after_init", 0),
            PartKind::InitText => (".init.text", SHF_EXECINSTR),
            PartKind::InitData => (".init.data", SHF_WRITE),
        }
    }
}

/// What a module's file is made of.
#[derive(Debug, Clone)]
pub struct Module<'a> {
    /// The parts of its memory, which become its sections in this order.
    pub parts: Vec<(PartKind, Range<u64>)>,
    /// Its symbols.
    pub symbols: Vec<Symbol<'a>>,
    /// How its frames unwind, where it is known.
    pub orc: Option<&'a Orc>,
}

impl Module<'_> {
    /// Makes the file.
    ///
    /// # Errors
    /// [`SyntheticError`].
    pub fn symbol_file(&self) -> Result<SymbolFile, SyntheticError> {
        let text = self.parts.iter().find(|(kind, _)| *kind == PartKind::Text);
        let text = text.map_or(0..0, |(_, range)| range.clone());
        if text.end <= text.start {
            return Err(SyntheticError::Image(text));
        }
        // From here on addresses count from the text, modulo 2^64.
        let moved = |address: u64| address.wrapping_sub(text.start);
        let area = |(kind, range): &(PartKind, Range<u64>)| {
            let (name, flags) = kind.name_and_flags();
            let start = moved(range.start);
            let range = start..start.saturating_add(range.end.saturating_sub(range.start));
            Area { name, range, flags }
        };
        let areas = self.parts.iter().map(area).collect();
        let all: Vec<Symbol<'_>> = self
            .symbols
            .iter()
            .map(|symbol| Symbol {
                address: moved(symbol.address),
                ..*symbol
            })
            .collect();
        let symbols = Symbols::of_areas(&all, 0..text.end - text.start, areas);
        let mut sections = Vec::new();
        if let Some(orc) = self.orc {
            let orc = Orc {
                start: moved(orc.start),
                ..orc.clone()
            };
            let frames = frames::section(&symbols, &orc);
            sections.push(Section::new(".debug_frame", SHT_PROGBITS, frames));
        }
        sections.extend(symbols.sections(Form::Relocatable));
        let file = elf::file(Form::Relocatable, &symbols.areas, sections)?;
        Ok(SymbolFile {
            base: text.start,
            bytes: file.bytes,
            moving: Vec::new(),
        })
    }
}
