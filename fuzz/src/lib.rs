//! Fuzz targets: functions of bytes that must neither panic nor hang nor take memory without bound.
//!
//! ```text
//!  a seed + a case number ─► mutate(corpus) ─► bytes ─┐
//!  libFuzzer, guided by coverage ───────────► bytes ─┴─► targets::…::run ─► the crates of the workspace
//! ```
//! A target is a plain function in [`targets`]. Two things drive it: `src/bin/drive.rs`, which needs nothing but the
//! stable compiler, and libFuzzer's entry points in `fuzz_targets/` (README.md says how). Targets assert
//! more than the absence of panics where something cheap can be asserted: that a machine run in pieces is the
//! machine run at once, that a session that goes leaves no pause behind.

pub mod dumps;
pub mod input;
pub mod lab;
pub mod linux;
pub mod mutate;
pub mod patch;
pub mod random;
pub mod sample;
pub mod tapes;
pub mod targets;
pub mod worker;
