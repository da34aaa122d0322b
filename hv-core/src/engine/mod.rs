//! The software engine.

pub mod float;
pub mod simd;

#[cfg(test)]
mod host_tests;
