//! Helpers shared by the end-to-end tests.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod differential;
