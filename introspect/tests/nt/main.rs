//! Recognition on the NT-shaped guest, which really runs: at thousands of positions of its run, with its PDB, with
//! the table of known kernels alone, and with nothing but structure.
//!
//! The images are built once per profile by `nt-guest`; without clang the tests say `SKIPPED`. `KDD_NT_IMAGES` may
//! name a folder with built ones, a folder each.

mod guest;
mod recognise;
