//! The x87 FPU: every instruction as a method on [`X87`](crate::regs::X87), free of memory and of the CPU core.
//!
//! ```text
//!  handler: reads the operand ──► X87 method: stack check, operands, compute, flags, result, pop ──► handler: writes
//! ```
//!
//! Methods that give a value for memory return `None` when an unmasked exception keeps it from being stored. The
//! handler works on a copy of the state when the store itself may fault. Exceptions only set the status word here; a
//! later waiting instruction asks [`X87::pending`](crate::regs::X87::pending) and raises #MF.
//!
//! Where the manual leaves something open: condition codes that an instruction leaves undefined stay as they were.

pub mod arith;
pub mod bcd;
pub mod big;
pub mod compare;
pub mod environment;
pub mod load_store;
pub mod remainder;
pub mod scale;
pub mod state;
pub mod transcendental;
pub mod trigonometric;

pub use state::INDEFINITE;
