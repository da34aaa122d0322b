//! Helpers of the end-to-end tests: the real binary, real debuggers, a real kernel.
//!
//! ```text
//!  a test ── Service ──► kdd run | serve, a process of its own, on free ports, in a scratch folder
//!    │         ├─ kdd(…) ──► the same binary as a client, over the control socket
//!    │         └─ Console ─► the guest's shell: types, and waits for what it prints
//!    ├── Gdb, Lldb ───────► real debuggers on the service's gdb port
//!    └── Engine, KdClient ► Microsoft's engine under Wine, and one of our own, on its KD port
//! ```
//! Nothing sleeps in order to wait: [`Transcript`] waits for text or for the end, with a limit. Processes end with
//! the value that stands for them, whether the test passes or not. Helpers panic, as assertions do.
//!
//! Booting takes seconds: [`Snapshot`] boots each machine once and saves it at its shell prompt; tests start from
//! there.

pub mod bench;
mod client;
mod console;
mod dbgeng;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod differential;
mod gdb;
pub mod kd;
mod linux_machine;
mod lldb;
mod nt;
mod process;
mod qemu_machine;
mod scratch;
mod service;
mod snapshot;
pub mod tape;
mod tools;
mod transcript;

pub use client::Outcome;
pub use console::Console;
pub use dbgeng::{Engine, EngineOptions, has_engine};
pub use gdb::Gdb;
pub use linux_machine::LinuxMachine;
pub use lldb::Lldb;
pub use nt::{NtGuest, NtModule, NtProcess, nt_guest, nt_guest_with};
pub use qemu_machine::QemuMachine;
pub use scratch::Scratch;
pub use service::Service;
pub use snapshot::{Snapshot, four_vcpus, one_vcpu};
pub use tools::{
    Guest, SECOND_KERNEL, archive_of, cache_folder, dump_readers_folder, expected_smoke_output, guest,
    has_dump_readers, has_memprocfs, has_radare2, has_tool, kdd, kept, kernel_debug, memprocfs_folder,
    modules_archive, radare2_folder,
};
pub use transcript::Transcript;

use std::time::{Duration, Instant};

/// How long anything may take that isn't a boot: long, because test machines are slow and busy, and a test that
/// waits for it has failed anyhow.
pub const LIMIT: Duration = Duration::from_secs(60);

/// How long a boot may take.
pub const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// Asks again and again, for what can't be waited for otherwise: the state of a service.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
