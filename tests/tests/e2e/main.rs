//! End-to-end tests. One program, so that all of them share the machines that were booted once.

mod boot;
mod determinism;
mod drgn;
mod endings;
mod gdb;
mod lldb;
mod service;
