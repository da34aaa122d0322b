//! The software engine.

pub mod float;
pub mod simd;
pub mod x87;

#[cfg(test)]
mod host_tests;
