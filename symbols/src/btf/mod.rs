//! BTF: the types that a Linux kernel carries in its own memory (include/uapi/linux/btf.h).
//!
//! ```text
//!   bytes ── parse ──► Btf: type ids ─► Type      the kernel's (ids from 1), or a module's, which goes on where it ends
//!                       │
//!                       └─ structure ─► Member    by path, through unnamed members and arrays: `signal`, `se.exec_start`
//! ```
//!
//! The bytes are hostile: each id, name and length is checked where it is used, and chains of types have a limit.

mod parse;
#[cfg(test)]
pub(crate) mod tests;
mod types;

pub use types::{Function, Item, Kind, Member, Parameter, Structure, Type};

use crate::names::NameIndex;
use std::sync::{Arc, OnceLock};

/// The most bytes of BTF that are read. Distributions' kernels have 4 to 8 MB.
pub const MAX_SIZE: usize = 64 << 20;

/// Why bytes aren't BTF.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// The header isn't one.
    #[error("no BTF header: {0}")]
    Header(&'static str),
    /// A type that can't be read.
    #[error("BTF type {id}: {why}")]
    Type {
        /// Its id.
        id: u32,
        /// What is wrong.
        why: &'static str,
    },
}

/// The number of a type; 0 is `void`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TypeId(pub u32);

/// A set of types.
#[derive(Debug)]
pub struct Btf {
    /// The kernel's types, that a module's build on.
    base: Option<Arc<Btf>>,
    bytes: Vec<u8>,
    /// Where each type is.
    types: Vec<u32>,
    strings: std::ops::Range<usize>,
    by_name: OnceLock<NameIndex>,
}

impl Btf {
    /// Reads a kernel's BTF.
    ///
    /// # Errors
    /// [`BtfError`].
    pub fn parse(bytes: Vec<u8>) -> Result<Btf, BtfError> {
        parse::parse(bytes, None)
    }

    /// Reads a module's BTF, which goes on where the kernel's ends.
    ///
    /// # Errors
    /// [`BtfError`].
    pub fn parse_split(bytes: Vec<u8>, base: Arc<Btf>) -> Result<Btf, BtfError> {
        parse::parse(bytes, Some(base))
    }

    /// The bytes in all of a BTF that begins with these, by its header.
    ///
    /// # Errors
    /// [`BtfError::Header`].
    pub fn size(header: &[u8]) -> Result<usize, BtfError> {
        Ok(parse::Header::read(header)?.end())
    }

    /// How many types there are here, without `void` and the base's.
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// The bytes that were read.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether it goes on where another ends.
    pub(crate) fn is_split(&self) -> bool {
        self.base.is_some()
    }

    /// The strings, each with a NUL behind it; a module's without its base's.
    pub(crate) fn strings(&self) -> &[u8] {
        self.bytes.get(self.strings.clone()).unwrap_or_default()
    }

    /// Every type that is here, without the base's.
    pub fn iter(&self) -> impl Iterator<Item = Type<'_>> {
        let first = self.first_id();
        (0..self.types.len() as u32).filter_map(move |number| self.get(TypeId(first + number)))
    }

    /// A type by its id; `None` for `void` and for what isn't there.
    pub fn get(&self, id: TypeId) -> Option<Type<'_>> {
        match id.0.checked_sub(self.first_id()) {
            None => self.base.as_ref()?.get(id),
            Some(number) => {
                let at = *self.types.get(number as usize)?;
                types::Type::read(self, id, at as usize)
            }
        }
    }

    /// The types of a name.
    pub fn of_name<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = Type<'a>> + use<'a, 'n> {
        let index = self.by_name.get_or_init(|| {
            let first = self.first_id();
            let name = |number| {
                let found = self.get(TypeId(first + number));
                found.map_or(&b""[..], |it| it.name_bytes())
            };
            NameIndex::new(self.types.len() as u32, name)
        });
        let here = index
            .candidates(name.as_bytes())
            .filter_map(|number| self.get(TypeId(self.first_id() + number)))
            .filter(move |it| it.name_bytes() == name.as_bytes());
        let base = self
            .base
            .as_deref()
            .map(|base| base.of_name(name).collect::<Vec<_>>());
        here.chain(base.into_iter().flatten())
    }

    /// A structure or union by its name.
    pub fn structure(&self, name: &str) -> Option<Structure<'_>> {
        self.of_name(name).find_map(|it| it.structure())
    }

    /// The id of the first type here.
    fn first_id(&self) -> u32 {
        self.base.as_ref().map_or(1, |base| base.end_id())
    }

    fn end_id(&self) -> u32 {
        self.first_id().saturating_add(self.types.len() as u32)
    }

    /// The length of all strings up to the end of these.
    fn strings_end(&self) -> usize {
        self.base.as_ref().map_or(0, |base| base.strings_end()) + self.strings.len()
    }

    /// A name; empty where there is none.
    fn string(&self, offset: u32) -> &[u8] {
        let before = self.base.as_ref().map_or(0, |base| base.strings_end());
        let Some(offset) = (offset as usize).checked_sub(before) else {
            return self.base.as_ref().map_or(b"", |base| base.string(offset));
        };
        let text = self.bytes.get(self.strings.clone()).unwrap_or_default();
        let rest = text.get(offset..).unwrap_or_default();
        &rest[..memchr::memchr(0, rest).unwrap_or(rest.len())]
    }
}
