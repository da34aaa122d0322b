//! kallsyms: the symbol table that a Linux kernel carries in its own memory (Linux, scripts/kallsyms.c and
//! kernel/kallsyms_internal.h).
//!
//! ```text
//!   the kernel image's bytes ── find ──► Tables: where names, markers, tokens and addresses are, in which order
//!                                          │
//!                                        decode ──► Kallsyms: names ↔ addresses
//! ```
//!
//! The tables have no header and no fixed order, and both changed over the years (4.6, 4.20, 6.1, 6.4, 6.15, 7.0). They
//! are found by what they must look like, checked against each other; the kernel's version isn't asked. The bytes are
//! hostile: every count is bounded.

mod decode;
mod find;
#[cfg(test)]
mod tests;

use crate::names::NameIndex;
use std::sync::OnceLock;

/// The most symbols that are read. Distributions' kernels have up to 250,000.
const MAX_SYMBOLS: u32 = 1 << 21;
/// The longest name, type letter included (KSYM_NAME_LEN is 512 since 6.1).
const MAX_NAME: usize = 1024;
/// Bytes of all decoded names.
const MAX_NAMES: usize = 64 << 20;

/// How the table's elements become addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Addressing {
    /// Full addresses (before 4.6, or without CONFIG_KALLSYMS_BASE_RELATIVE).
    Absolute,
    /// Negative offsets from a base, and absolute values for per-CPU symbols (4.6 to 6.14).
    PercpuAbsolute,
    /// Unsigned offsets from a base (6.15 to 6.19).
    BaseRelative,
    /// Signed offsets from the element itself (from 7.0).
    PlaceRelative,
}

/// Where the tables are, as offsets in the bytes that were searched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tables {
    /// `kallsyms_num_syms`: the number of symbols.
    pub count: u32,
    /// `kallsyms_names`.
    pub names: usize,
    /// `kallsyms_token_table`.
    pub token_table: usize,
    /// `kallsyms_token_index`.
    pub token_index: usize,
    /// `kallsyms_offsets` or `kallsyms_addresses`.
    pub addresses: usize,
    /// What is in there.
    pub addressing: Addressing,
}

/// Why there are no symbols.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KallsymsError {
    /// Nothing looks like the table of tokens.
    #[error("no kallsyms token table found in {0} bytes")]
    NoTokens(usize),
    /// There is a token table, but the names that belong to it aren't found.
    #[error("kallsyms token table found, but no table of names that fits it")]
    NoNames,
    /// The names are there, but nothing gives them plausible addresses.
    #[error("{0} kallsyms names found, but no table of addresses that fits them")]
    NoAddresses(u32),
    /// The names can't be decoded.
    #[error("kallsyms names can't be decoded: {0}")]
    Broken(&'static str),
}

/// The symbols of a kernel.
#[derive(Debug)]
pub struct Kallsyms {
    /// All names behind one another.
    text: Vec<u8>,
    /// In the order of the kernel's table.
    entries: Vec<Entry>,
    /// Numbers of entries by rising address.
    by_address: Vec<u32>,
    by_name: OnceLock<NameIndex>,
    tables: Tables,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    address: u64,
    name: u32,
    length: u16,
    kind: u8,
}

/// A symbol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Symbol<'a> {
    /// Its address; for per-CPU variables of kernels before 6.15, the offset in the per-CPU area.
    pub address: u64,
    /// The letter that `nm` would show.
    pub kind: char,
    /// Its name, as bytes: a guest may put anything there.
    pub name: &'a [u8],
}

impl Symbol<'_> {
    /// The name as text.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.name)
    }

    /// Whether it is a function.
    pub fn is_function(&self) -> bool {
        matches!(self.kind, 't' | 'T' | 'w' | 'W')
    }
}

impl Kallsyms {
    /// Finds and decodes the tables in a kernel image of which `image` is the bytes. `base` is the address of the first
    /// one; without it (the image in physical memory) place-relative tables can't be read. `accept` is the last check: it
    /// sees the decoded symbols.
    ///
    /// # Errors
    /// [`KallsymsError`], for what came closest.
    pub fn find(
        image: &[u8],
        base: Option<u64>,
        accept: impl Fn(&Kallsyms) -> bool,
    ) -> Result<Kallsyms, KallsymsError> {
        find::find(image, base, &accept)
    }

    /// Where the tables were found.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// How many symbols there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All symbols, in the order of the kernel's table and of /proc/kallsyms.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Symbol<'_>> {
        self.entries.iter().map(|entry| self.symbol(entry))
    }

    /// The first symbol of this name.
    pub fn find_name(&self, name: &str) -> Option<Symbol<'_>> {
        self.all_of_name(name).next()
    }

    /// The address of the first symbol of this name.
    pub fn address(&self, name: &str) -> Option<u64> {
        self.find_name(name).map(|symbol| symbol.address)
    }

    /// Every symbol of this name: static functions share theirs.
    pub fn all_of_name(&self, name: &str) -> impl Iterator<Item = Symbol<'_>> {
        let index = self.by_name.get_or_init(|| {
            let name = |entry: u32| self.symbol(&self.entries[entry as usize]).name;
            NameIndex::new(self.entries.len() as u32, name)
        });
        index
            .candidates(name.as_bytes())
            .map(|entry| self.symbol(&self.entries[entry as usize]))
            .filter(move |symbol| symbol.name == name.as_bytes())
    }

    /// The symbol that names an address, and the distance from it: the last one at or before, without the paddings
    /// before functions (`__pfx_…`), and of those at one address the first that is global.
    pub fn nearest(&self, address: u64) -> Option<(Symbol<'_>, u64)> {
        let entry = |index: usize| &self.entries[self.by_address[index] as usize];
        let end = self
            .by_address
            .partition_point(|&number| self.entries[number as usize].address <= address);
        let mut last = end.checked_sub(1)?;
        // A padding's name never hides a function's.
        for _ in 0..MAX_ALIASES {
            if last > 0 && self.symbol(entry(last)).name.starts_with(b"__pfx_") {
                last -= 1;
            }
        }
        let at = entry(last).address;
        let same = (0..=last)
            .rev()
            .take(MAX_ALIASES)
            .take_while(|&index| entry(index).address == at);
        // Those at one address are in the order of the kernel's table; `min_by_key` keeps the first of equals.
        let best = same
            .map(|index| self.symbol(entry(index)))
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .min_by_key(|symbol| {
                (
                    symbol.name.starts_with(b"__pfx_"),
                    !symbol.kind.is_ascii_uppercase(),
                )
            })?;
        Some((best, address - at))
    }

    /// The next address above this one that has a symbol: where what is here ends at the latest.
    pub fn end_of(&self, address: u64) -> Option<u64> {
        let next = self
            .by_address
            .partition_point(|&number| self.entries[number as usize].address <= address);
        let number = *self.by_address.get(next)?;
        Some(self.entries[number as usize].address)
    }

    fn symbol(&self, entry: &Entry) -> Symbol<'_> {
        let start = entry.name as usize;
        Symbol {
            address: entry.address,
            kind: char::from(entry.kind),
            name: &self.text[start..start + usize::from(entry.length)],
        }
    }
}

/// Symbols at one address that are looked at.
const MAX_ALIASES: usize = 64;
