//! Dumps of the stock Linux kernel, opened by readers that others wrote: readelf, gdb, makedumpfile, drgn, volatility3.
//! Dumps of the NT-shaped guest, opened by volatility3. And dumps that others wrote, QEMU and makedumpfile, opened by ours.
//!
//! ```text
//!  kernel ─ hv-core ─► Dumped (guest.rs): the machine's memory, and the files of it ─► readers.rs
//!  kernel ─ QEMU ────► its own dumps, and its memory (qemu.rs) ──────────────────────► ours
//!  NT guest ─ kdd ───► dumps of it (windows.rs) ──────────────────────────────────────► readers.rs
//! ```

mod crash;
mod elf;
mod guest;
mod kdump;
mod qemu;
mod readers;
mod windows;
