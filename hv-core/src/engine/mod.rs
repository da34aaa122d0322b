//! The software engine: an interpreter over decoded basic blocks.
//!
//! ```text
//! Machine::run ─► run::run(vcpu) ─► jump cache / code cache ─► Block { Op … } ─► handler(vcpu, bus, op)
//!                    │  miss: decode (iced-x86) ─► fast::lower, or the reference in exec/      │
//!                    │                                                                         ▼
//!                    │                                      Tlb ─miss─► mmu ─► walk, tables, watch, code, MMIO
//!                    └─ Pending::Precise: one instruction alone, with devices and debuggers looked at
//! ```
//! A block runs to its end, to a branch, or to an abort; nothing outside changes while it runs. Whatever needs the
//! exact time or touches code, devices or watched memory aborts the instruction before any effect and is done
//! again in precise mode. So the clock, the number of retired instructions, is exact wherever it can be seen.

pub(crate) mod block;
pub(crate) mod bus;
pub mod cpuid;
mod decode;
pub(crate) mod exec;
mod fast;
pub(crate) mod flags;
pub(crate) mod float;
pub(crate) mod hyperv;
mod interrupt;
pub(crate) mod mmu;
pub mod msr;
pub(crate) mod run;
pub(crate) mod simd;
mod tables;
mod task;
mod tlb;
pub(crate) mod vcpu;
mod walk;
pub(crate) mod watch;
pub(crate) mod x87;

#[cfg(test)]
mod host_tests;
