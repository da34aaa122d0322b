//! PDB files: names, addresses, type layouts.
//!
//! The format is read by the `pdb` crate from a copy in memory, through a [`Source`](pdb::Source) that lets no
//! stream be longer than its file. Everything that is wanted is read at once, and the file is let go.

mod source;
mod types;

use crate::MAX_PDB_SIZE;
use crate::id::{Guid, PdbId};
use pdb::{FallibleIterator, MachineType, SymbolData};
use source::{Bytes, Paged};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What of a PDB file is used.
#[derive(Debug)]
pub struct Pdb {
    path: Option<PathBuf>,
    identity: Identity,
    /// Sorted by RVA.
    by_rva: Vec<(u32, Box<str>)>,
    /// Indices into `by_rva`, sorted by name.
    by_name: Vec<u32>,
    structures: HashMap<String, Structure>,
}

/// What identifies a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    pub(crate) guid: Guid,
    /// Images carry the age of the file's debug information; the file's own age may be another.
    pub(crate) ages: Vec<u32>,
}

/// A structure, class or union.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Structure {
    /// Bytes.
    pub size: u64,
    /// Its fields, in the file's order.
    pub fields: Vec<Field>,
}

/// A field of a structure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Bytes from the structure's beginning.
    pub offset: u64,
    /// Its type, as C writes it, at most 256 characters.
    pub type_name: String,
}

impl Structure {
    /// A field by name; capitals don't count, as versions differ in them.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case(name))
    }
}

/// Why a PDB file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PdbError {
    /// The file can't be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is longer than [`MAX_PDB_SIZE`].
    #[error("it is longer than {MAX_PDB_SIZE} bytes")]
    TooLarge,
    /// It is no PDB file, or a damaged one.
    #[error("no usable PDB file: {0}")]
    Damaged(String),
    /// It belongs to another build.
    #[error("it belongs to another build: {found} and not {wanted}")]
    Other {
        /// The file's GUID.
        found: Guid,
        /// The GUID that was asked for.
        wanted: Guid,
    },
}

impl PdbError {
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, PdbError::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

impl From<pdb::Error> for PdbError {
    fn from(error: pdb::Error) -> Self {
        PdbError::Damaged(error.to_string())
    }
}

type File_<'s, S = Bytes> = pdb::PDB<'s, S>;

impl Pdb {
    /// Reads a file; it must be the one that `id` names, if one is given.
    ///
    /// # Errors
    /// [`PdbError`].
    pub fn open(path: &Path, id: Option<&PdbId>) -> Result<Pdb, PdbError> {
        let mut pdb = Pdb::parse(read_file(path)?, id)?;
        pdb.path = Some(path.to_owned());
        Ok(pdb)
    }

    /// The same from the file's bytes.
    ///
    /// # Errors
    /// [`PdbError`].
    pub fn parse(bytes: Vec<u8>, id: Option<&PdbId>) -> Result<Pdb, PdbError> {
        guarded(Bytes::new(Arc::new(bytes)), |mut file| {
            let identity = identify(&mut file)?;
            if let Some(id) = id
                && (identity.guid != id.guid || !identity.ages.contains(&id.age))
            {
                return Err(PdbError::Other {
                    found: identity.guid,
                    wanted: id.guid,
                });
            }
            let mut by_rva = names(&mut file)?;
            by_rva.sort_unstable();
            by_rva.dedup();
            let count = u32::try_from(by_rva.len()).map_err(|_| PdbError::TooLarge)?;
            let mut by_name: Vec<u32> = (0..count).collect();
            by_name.sort_by(|&a, &b| by_rva[a as usize].1.cmp(&by_rva[b as usize].1));
            Ok(Pdb {
                path: None,
                identity,
                by_rva,
                by_name,
                // A stripped file has none.
                structures: types::structures(&mut file).unwrap_or_default(),
            })
        })
    }

    /// What identifies a file, without reading the rest.
    pub(crate) fn identify(path: &Path) -> Result<Identity, PdbError> {
        guarded(Paged::new(open_file(path)?)?, |mut file| identify(&mut file))
    }

    /// Whether it is the file that an image names.
    pub fn is(&self, id: &PdbId) -> bool {
        self.identity.guid == id.guid && self.identity.ages.contains(&id.age)
    }

    /// The file that it was read from.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The GUID.
    pub fn guid(&self) -> Guid {
        self.identity.guid
    }

    /// The RVA of a function or variable. x86 names are without their decoration.
    pub fn rva(&self, name: &str) -> Option<u32> {
        let name_of = |index: u32| &*self.by_rva[index as usize].1;
        let first = self.by_name.partition_point(|&index| name_of(index) < name);
        let index = *self.by_name.get(first)?;
        (name_of(index) == name).then(|| self.by_rva[index as usize].0)
    }

    /// The last name at or before an RVA, and its own RVA.
    pub fn nearest(&self, rva: u32) -> Option<(&str, u32)> {
        let after = self.by_rva.partition_point(|(start, _)| *start <= rva);
        let (start, _) = *self.by_rva.get(after.checked_sub(1)?)?;
        let first = self.by_rva.partition_point(|(other, _)| *other < start);
        Some((&self.by_rva[first].1, start))
    }

    /// All names with their RVAs, in the order of addresses.
    pub fn names(&self) -> impl Iterator<Item = (&str, u32)> {
        self.by_rva.iter().map(|(rva, name)| (&**name, *rva))
    }

    /// A structure, class or union by name, such as `_EPROCESS`.
    pub fn structure(&self, name: &str) -> Option<&Structure> {
        self.structures.get(name)
    }
}

fn open_file(path: &Path) -> Result<File, PdbError> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "not a file").into());
    }
    if metadata.len() > MAX_PDB_SIZE {
        return Err(PdbError::TooLarge);
    }
    Ok(file)
}

fn read_file(path: &Path) -> Result<Vec<u8>, PdbError> {
    let mut bytes = Vec::new();
    open_file(path)?.take(MAX_PDB_SIZE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens and reads a file. The `pdb` crate asserts things of its input here and there: for a damaged file that is an
/// error, and no end of the program.
fn guarded<'s, S: pdb::Source<'s> + 's, T>(
    source: S,
    read: impl FnOnce(File_<'s, S>) -> Result<T, PdbError>,
) -> Result<T, PdbError> {
    panic::catch_unwind(AssertUnwindSafe(|| read(pdb::PDB::open(source)?)))
        .unwrap_or_else(|_| Err(PdbError::Damaged("its tables contradict each other".to_owned())))
}

fn identify<'s, S: pdb::Source<'s> + 's>(file: &mut File_<'s, S>) -> Result<Identity, PdbError> {
    let information = file.pdb_information()?;
    let mut ages = vec![information.age];
    if let Ok(debug) = file.debug_information()
        && let Some(age) = debug.age()
        && !ages.contains(&age)
    {
        ages.push(age);
    }
    Ok(Identity {
        guid: Guid(information.guid.as_u128()),
        ages,
    })
}

/// Public names, global and module-local variables and functions. Some may be there twice.
fn names(file: &mut File_<'_>) -> Result<Vec<(u32, Box<str>)>, PdbError> {
    let debug = file.debug_information()?;
    let decorated = debug
        .machine_type()
        .is_ok_and(|machine| machine == MachineType::X86);
    let map = file.address_map()?;
    let mut names = Vec::new();
    let mut add = |symbol: pdb::Result<SymbolData<'_>>| {
        let (name, offset, public) = match symbol {
            Ok(SymbolData::Public(it)) => (it.name, it.offset, true),
            Ok(SymbolData::Data(it)) => (it.name, it.offset, false),
            Ok(SymbolData::Procedure(it)) => (it.name, it.offset, false),
            _ => return,
        };
        if let Some(rva) = offset.to_rva(&map) {
            let name = name.to_string();
            let name = if decorated && public {
                undecorated(&name)
            } else {
                &name
            };
            names.push((rva.0, name.into()));
        }
    };
    let globals = file.global_symbols()?;
    let mut symbols = globals.iter();
    while let Some(symbol) = symbols.next()? {
        add(symbol.parse());
    }
    let mut modules = debug.modules()?;
    while let Some(module) = modules.next()? {
        // Files without private symbols have modules without streams.
        let Ok(Some(information)) = file.module_info(&module) else {
            continue;
        };
        let Ok(mut symbols) = information.symbols() else {
            continue;
        };
        while let Ok(Some(symbol)) = symbols.next() {
            add(symbol.parse());
        }
    }
    Ok(names)
}

/// An x86 C name without `_` or `@` before it and `@bytes` behind it.
fn undecorated(name: &str) -> &str {
    let Some(bare) = name.strip_prefix(['_', '@']) else {
        return name;
    };
    match bare.rsplit_once('@') {
        Some((start, bytes)) if !bytes.is_empty() && bytes.bytes().all(|b| b.is_ascii_digit()) => start,
        _ => bare,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x86_names_lose_their_decoration() {
        assert_eq!(undecorated("_KdVersionBlock"), "KdVersionBlock");
        assert_eq!(undecorated("_KeBugCheckEx@20"), "KeBugCheckEx");
        assert_eq!(undecorated("@KiSwapThread@4"), "KiSwapThread");
        assert_eq!(undecorated("?name@@YAXXZ"), "?name@@YAXXZ");
    }

    #[test]
    fn what_is_no_pdb_file_is_an_error() {
        for bytes in [
            vec![],
            b"MZ".to_vec(),
            vec![0; 0x2000],
            b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0".to_vec(),
        ] {
            assert!(matches!(Pdb::parse(bytes, None), Err(PdbError::Damaged(_))));
        }
    }
}
