//! The hypervisor core: domains, vCPUs, guest memory, devices, and the introspection calls.

pub mod addr;
pub mod introspect;
pub mod regs;

pub use addr::{DomId, GuestPhysAddr, GuestVirtAddr, Ticks, VcpuId};

pub mod hypervisor;
pub use hypervisor::{Domain, DomainConfig, GuestImage, Hypervisor, HypervisorError, MachineConfig};
