//! The symbol path of the Debugging Tools for Windows.

/// Where PDB files are looked for, in order. The default is empty: nothing is found and nothing fetched.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SymbolPath {}
