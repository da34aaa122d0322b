//! The hypervisor core: domains, vCPUs, guest memory, devices, and the introspection calls.

pub mod addr;
pub mod devices;
pub mod domain;
pub mod engine;
pub mod hypervisor;
pub mod introspect;
pub mod load;
pub mod machine;
mod memory;
pub mod regs;

pub use addr::{DomId, GuestPhysAddr, GuestVirtAddr, Ticks, VcpuId};
pub use domain::Domain;
pub use hypervisor::{DomainConfig, Hypervisor, HypervisorError};
