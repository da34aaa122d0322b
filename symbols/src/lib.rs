//! Symbols of guests: names, addresses and type layouts, and where the files with them come from.

mod id;
mod path;

pub use id::{Guid, PdbId};
pub use path::SymbolPath;
