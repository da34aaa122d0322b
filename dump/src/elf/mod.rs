//! ELF vmcore: what `crash`, `drgn`, `gdb`, `makedumpfile` and volatility3 open.
//!
//! ```text
//!  ELF header · program headers (PT_NOTE, then a PT_LOAD for each block of RAM) · notes · the blocks, page-aligned
//! ```
//! Readers have their quirks, and the writer minds them all: program headers at byte 64, because makedumpfile looks there
//! only; PT_NOTE first, because crash takes the first for it; alignment 0, because crash takes another for a netdump.

mod layout;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{ElfImage, open};
pub use write::{ElfOptions, VirtualAddresses, write};

pub use layout::is_elf;
