//! The hypervisor core: domains, vCPUs, guest memory, devices, and the introspection calls.

pub mod addr;
pub mod devices;
pub mod engine;
pub mod introspect;
pub mod machine;
mod memory;
pub mod load;
pub mod regs;

pub use addr::{DomId, GuestPhysAddr, GuestVirtAddr, Ticks, VcpuId};
