//! Dumps of the stock Linux kernel, opened by readers that others wrote: readelf, gdb, makedumpfile, drgn, volatility3.
//! And dumps that others wrote, QEMU and makedumpfile, opened by ours.
//!
//! ```text
//!  kernel ─ hv-core ─► Dumped (guest.rs): the machine's memory, and the files of it ─► readers.rs
//!  kernel ─ QEMU ────► its own dumps, and its memory (qemu.rs) ──────────────────────► ours
//! ```

mod crash;
mod elf;
mod guest;
mod kdump;
mod qemu;
mod readers;
