//! Symbols of guests: names, addresses and type layouts, and where the files with them come from.
//!
//! ```text
//!   an image in guest memory ── pe ──► PdbId (name, GUID, age)
//!                                        │
//!   _NT_SYMBOL_PATH ── SymbolPath ───────┤   folders, local stores, caches, servers
//!                                        ▼
//!                                    Pdb: names ↔ RVAs, structures → sizes and offsets
//!
//!   a Linux kernel's own memory ── kallsyms ──► names ↔ addresses
//!                               ├─ btf ───────► structures → sizes and offsets
//!                               └─ synthetic ─► an ELF file with both, for debuggers
//! ```
//!
//! This crate knows no guest and no hypervisor: images are read through a closure. PDB files, servers' answers and
//! images are hostile: sizes are bounded, and nothing is fetched from a server that the user didn't name.
//!
//! ```no_run
//! use symbols::{Guid, Pdb, PdbId, SymbolPath};
//!
//! fn offset_of_links() -> Result<Option<u64>, Box<dyn std::error::Error>> {
//!     let path: SymbolPath = "/srv/symbols;srv*/var/cache/symbols*http://symbols.example/store".parse()?;
//!     let id = PdbId {
//!         name: "ntkrnlmp.pdb".to_owned(),
//!         guid: Guid::from_hex("BBED7C2955FBE4522AAA23F4B8677AD9").ok_or("no GUID")?,
//!         age: 1,
//!     };
//!     let pdb = Pdb::open(&path.locate(&id)?.path, Some(&id))?;
//!     let links = pdb.structure("_EPROCESS").and_then(|it| it.field("ActiveProcessLinks"));
//!     Ok(links.map(|field| field.offset))
//! }
//! ```

pub mod btf;
mod http;
mod id;
pub mod kallsyms;
mod locate;
mod names;
mod path;
mod pdb;
pub mod pe;
pub mod synthetic;

pub use id::{Guid, PdbId};
pub use locate::{Found, LocateError, Tried};
pub use path::{SymbolPath, SymbolPathError};
pub use pdb::{Field, Pdb, PdbError, Structure};

/// The largest PDB file that is read or fetched, in bytes. Kernels' have 10 to 40 MB.
pub const MAX_PDB_SIZE: u64 = 512 << 20;
