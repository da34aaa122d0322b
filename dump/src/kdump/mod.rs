//! kdump-compressed ("diskdump"): what `crash`, `drgn` and `makedumpfile` open, each page compressed on its own.
//!
//! ```text
//!  block 0  header: kernel's utsname, sizes          1 bit a page: is RAM │ 1 bit a page: is in the file
//!  block 1  sub header, notes, VMCOREINFO ─► bitmaps ─┴────────────────────┴─► a descriptor for each page in the file
//!                                                                              └► where its bytes are, how compressed
//!  write: source ─► filter ─► chunks of pages ─► compressing threads ─► in order again ─► data, descriptors
//! ```
//! Pages of zeros share one: crash takes a page that isn't in the file for one that it may not have.

mod codec;
mod layout;
mod lzo;
mod pipeline;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use codec::Compression;
pub use layout::is_kdump;
pub use read::{KdumpImage, open};
pub use write::{KdumpOptions, write};
