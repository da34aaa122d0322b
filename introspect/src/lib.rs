//! The dom0 side of a domain: one [`Target`] per domain, shared by all debuggers. Stub, replaced at merge.
#![allow(missing_docs)]

use hv_core::introspect::{Error, Introspect};
use hv_core::{GuestPhysAddr, GuestVirtAddr, VcpuId};
use std::sync::Arc;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressSpace {
    Vcpu(VcpuId),
    Physical,
}

/// One table entry that a walk read.
#[derive(Clone, Debug)]
pub struct WalkStep {
    pub level: &'static str,
    pub entry_address: GuestPhysAddr,
    pub entry: u64,
}

/// Where a virtual address leads.
#[derive(Clone, Debug)]
pub struct Translation {
    pub physical: GuestPhysAddr,
    pub page_size: u64,
    pub steps: Vec<WalkStep>,
}

#[derive(Clone, Debug)]
pub struct SessionInfo {
    pub id: u64,
    pub description: String,
}

pub struct Target {
    domain: Arc<dyn Introspect>,
}

impl Target {
    pub fn new(domain: Arc<dyn Introspect>) -> Arc<Target> {
        Arc::new(Target { domain })
    }
    pub fn domain(&self) -> &Arc<dyn Introspect> {
        &self.domain
    }
    pub fn sessions(&self) -> Vec<SessionInfo> {
        Vec::new()
    }
    pub fn read_virtual(&self, _: AddressSpace, at: GuestVirtAddr, buffer: &mut [u8]) -> Result<usize, Error> {
        let wanted = buffer.len();
        match self.domain.read_physical(GuestPhysAddr(at.0), buffer) {
            Ok(()) => Ok(wanted),
            Err(Error::NoMemory { done, .. }) if done > 0 => Ok(done),
            Err(e) => Err(e),
        }
    }
    pub fn write_virtual(&self, _: AddressSpace, at: GuestVirtAddr, bytes: &[u8]) -> Result<usize, Error> {
        let memory = self.domain.write_memory().ok_or(Error::Unsupported {
            domain: self.domain.id(),
            what: "write memory",
        })?;
        match memory.write_physical(GuestPhysAddr(at.0), bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(Error::NoMemory { done, .. }) if done > 0 => Ok(done),
            Err(e) => Err(e),
        }
    }
    pub fn translate(&self, _: AddressSpace, at: GuestVirtAddr) -> Result<Translation, Error> {
        Ok(Translation {
            physical: GuestPhysAddr(at.0),
            page_size: 4096,
            steps: Vec::new(),
        })
    }
}
