//! The register blocks that hosts read and write whole: CONTEXT and KSPECIAL_REGISTERS, for both machines.

pub mod amd64;
pub mod fxsave;
pub mod x86;
pub mod xstate;
