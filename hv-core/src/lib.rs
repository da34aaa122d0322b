//! The hypervisor core: domains, vCPUs, guest memory, devices, and the introspection calls.

pub mod addr;
pub mod domain;
pub mod hypervisor;
pub mod introspect;
pub mod machine;
pub mod regs;

pub use addr::{DomId, GuestPhysAddr, GuestVirtAddr, Ticks, VcpuId};
pub use domain::Domain;
pub use hypervisor::{DomainConfig, Hypervisor, HypervisorError};
