//! A symbol file of a running Linux kernel, made of nothing but what the kernel has in its own memory: stock gdb and lldb
//! read it as if it were the kernel's vmlinux.
//!
//! ```text
//!   kallsyms ── symtab ──► .symtab, .strtab, and sections without contents for the parts of the image
//!   BTF ─────── info ────► .debug_info, .debug_abbrev, .debug_str, .debug_aranges      (graph, abbrev, globals)
//!   ORC ─────── frames ──► .debug_frame                                                (orc)
//!                            │
//!                           elf ──► SymbolFile: bytes of an ELF file, and which of them are addresses
//!                                     │
//!                                   cache ──► by build-id, for the next time
//! ```
//!
//! A [`Module`] of the kernel has a file of its own, with symbols and rules for unwinding.
//!
//! Addresses are where the kernel runs: debuggers need no offset. [`SymbolFile::moved_to`] gives the same kernel's file after
//! another boot, at another address. The same input gives the same bytes. All input is the guest's and hostile: counts and
//! sizes are bounded, names are printable, and types end.

mod abbrev;
pub mod cache;
mod elf;
mod frames;
mod globals;
mod graph;
mod info;
mod module;
mod orc;
mod out;
mod symtab;
#[cfg(test)]
mod tests;

pub use module::{Module, PartKind};
pub use orc::{Base, Frame, MAX_ROWS, Orc, OrcVersion, Row};

use crate::btf::Btf;
use crate::kallsyms::Symbol;
use elf::{Form, SHT_NOTE, SHT_PROGBITS, Section};
use std::ops::Range;
use symtab::Symbols;

/// The largest file that is made, in bytes. Distributions' kernels give 15 to 25 MB.
pub const MAX_FILE: usize = 512 << 20;
/// The largest build-id that is believed. They have 20 bytes, rarely 16 or 32.
pub const MAX_BUILD_ID: usize = 64;
/// The largest image.
const MAX_IMAGE: u64 = 1 << 30;

/// Why there is no file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyntheticError {
    /// The image can't be one.
    #[error("the kernel's image can't be at {:#x}..{:#x}", .0.start, .0.end)]
    Image(Range<u64>),
    /// The types are a module's.
    #[error("a module's types aren't a kernel's")]
    Module,
    /// More than any kernel has.
    #[error("the symbol file would be larger than {MAX_FILE} bytes ({0} bytes in a part of it)")]
    TooLarge(u64),
}

/// What a file is made of.
#[derive(Debug, Clone)]
pub struct Kernel<'a> {
    /// The addresses of the image, `_text` to the end of what is mapped.
    pub image: Range<u64>,
    /// In the order of the kernel's table.
    pub symbols: Vec<Symbol<'a>>,
    /// The kernel's types, where it has them.
    pub btf: Option<&'a Btf>,
    /// How it unwinds, where it is known.
    pub orc: Option<&'a Orc>,
    /// What the linker called this build. It is only written where there are types: without, gdb would look for another
    /// file of this build, which is right for another address.
    pub build_id: Option<&'a [u8]>,
}

impl Kernel<'_> {
    /// Makes the file.
    ///
    /// # Errors
    /// [`SyntheticError`].
    pub fn symbol_file(&self) -> Result<SymbolFile, SyntheticError> {
        let size = self.image.end.checked_sub(self.image.start);
        if size.is_none_or(|size| size == 0 || size > MAX_IMAGE) {
            return Err(SyntheticError::Image(self.image.clone()));
        }
        let symbols = Symbols::new(&self.symbols, self.image.clone());
        let mut sections = Vec::new();
        if let Some(btf) = self.btf {
            if btf.is_split() {
                return Err(SyntheticError::Module);
            }
            if let Some(id) = self.build_id.filter(|id| id.len() <= MAX_BUILD_ID) {
                let note = elf::build_id_note(id);
                sections.push(Section::new(".note.gnu.build-id", SHT_NOTE, note));
            }
            sections.extend(info::sections(&symbols, btf)?);
        }
        if let Some(orc) = self.orc {
            let frames = frames::section(&symbols, orc);
            sections.push(Section::new(".debug_frame", SHT_PROGBITS, frames));
        }
        sections.extend(symbols.sections(Form::Executable));
        let file = elf::file(Form::Executable, &symbols.areas, sections)?;
        Ok(SymbolFile {
            base: self.image.start,
            bytes: file.bytes,
            moving: file.moving,
        })
    }
}

/// An ELF file with a kernel's symbols, types and rules for unwinding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SymbolFile {
    base: u64,
    bytes: Vec<u8>,
    /// Where the addresses in the image are, in rising order.
    moving: Vec<u32>,
}

impl SymbolFile {
    /// The file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The file.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The address of `_text` in it.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The file for the same kernel with `_text` at another address.
    pub fn moved_to(mut self, base: u64) -> SymbolFile {
        let by = base.wrapping_sub(self.base);
        if by != 0 {
            for &at in &self.moving {
                let place = self.bytes.get_mut(at as usize..).unwrap_or_default();
                if let Some(place) = place.first_chunk_mut::<8>() {
                    *place = u64::from_le_bytes(*place).wrapping_add(by).to_le_bytes();
                }
            }
            self.base = base;
        }
        self
    }
}
