//! Helpers shared by the end-to-end tests.

pub mod bench;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod differential;
