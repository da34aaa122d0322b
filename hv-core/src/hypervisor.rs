//! Stub of the hypervisor: domains that hold memory and registers and run nothing. Replaced at merge.

use crate::addr::{DomId, GuestPhysAddr, Ticks, VcpuId};
use crate::introspect::*;
use crate::regs::Registers;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The machine of a domain.
#[allow(missing_docs)]
#[derive(Clone, Debug)]
pub struct MachineConfig {
    pub memory_bytes: u64,
    pub vcpus: u32,
    pub seed: u64,
    pub cpu_model: String,
    pub debug_exit: Option<u16>,
    pub guest: GuestImage,
}

/// What is loaded.
#[allow(missing_docs)]
#[derive(Clone, Debug)]
pub enum GuestImage {
    Linux {
        kernel: Arc<[u8]>,
        initrd: Option<Arc<[u8]>>,
        command_line: String,
    },
}

/// A domain to create.
#[allow(missing_docs)]
#[derive(Clone, Debug)]
pub struct DomainConfig {
    pub name: Option<String>,
    pub machine: MachineConfig,
    pub paused: bool,
    pub throttle: bool,
}

/// Why a domain can't be had.
#[allow(missing_docs)]
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    #[error("the name '{0}' is in use")]
    NameInUse(String),
    #[error("no domain {0}")]
    NoSuchDomain(DomId),
    #[error("{0}")]
    Other(String),
}

/// All domains of a process.
#[derive(Default)]
pub struct Hypervisor {
    domains: Mutex<BTreeMap<DomId, Arc<Domain>>>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hypervisor {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }
    /// Creates a domain.
    pub fn create(&self, config: DomainConfig) -> std::result::Result<Arc<Domain>, HypervisorError> {
        let mut domains = lock(&self.domains);
        let id = DomId(0x1000 + domains.len() as u64);
        let name = config.name.unwrap_or_else(|| format!("domain-{id}"));
        if domains.values().any(|d| d.name == name) {
            return Err(HypervisorError::NameInUse(name));
        }
        let domain = Arc::new(Domain {
            id,
            name,
            memory: Mutex::new(vec![0; config.machine.memory_bytes as usize]),
            registers: Mutex::new(
                (0..config.machine.vcpus)
                    .map(|v| Registers::at_reset(v == 0))
                    .collect(),
            ),
            pauses: Mutex::new(u32::from(config.paused)),
            ended: Mutex::new(false),
            sinks: Mutex::default(),
        });
        domains.insert(id, domain.clone());
        Ok(domain)
    }
    /// Restores a saved domain.
    pub fn restore(
        &self,
        mut reader: impl std::io::Read,
        name: Option<String>,
        paused: bool,
    ) -> std::result::Result<Arc<Domain>, HypervisorError> {
        let mut text = String::new();
        reader
            .read_to_string(&mut text)
            .map_err(|e| HypervisorError::Other(e.to_string()))?;
        let memory_bytes = text
            .trim()
            .parse()
            .map_err(|_| HypervisorError::Other("not a saved domain".into()))?;
        self.create(DomainConfig {
            name,
            machine: MachineConfig {
                memory_bytes,
                vcpus: 1,
                seed: 0,
                cpu_model: String::new(),
                debug_exit: None,
                guest: GuestImage::Linux {
                    kernel: Arc::from([]),
                    initrd: None,
                    command_line: String::new(),
                },
            },
            paused,
            throttle: true,
        })
    }
    /// A domain by its id.
    pub fn get(&self, id: DomId) -> Option<Arc<Domain>> {
        lock(&self.domains).get(&id).cloned()
    }
    /// Every domain.
    pub fn list(&self) -> Vec<Arc<Domain>> {
        lock(&self.domains).values().cloned().collect()
    }
    /// Ends and forgets a domain.
    pub fn destroy(&self, id: DomId) -> std::result::Result<(), HypervisorError> {
        let domain = lock(&self.domains)
            .remove(&id)
            .ok_or(HypervisorError::NoSuchDomain(id))?;
        let _ = ControlRun::destroy(&*domain);
        Ok(())
    }
}

/// A domain.
pub struct Domain {
    id: DomId,
    name: String,
    memory: Mutex<Vec<u8>>,
    registers: Mutex<Vec<Registers>>,
    pauses: Mutex<u32>,
    ended: Mutex<bool>,
    sinks: Mutex<Vec<Arc<EventSink>>>,
}

impl Domain {
    fn emit(&self, event: &Event) {
        let sinks = lock(&self.sinks).clone();
        for sink in sinks {
            sink(event);
        }
    }
    fn range(&self, address: GuestPhysAddr, wanted: usize) -> (usize, usize) {
        let size = lock(&self.memory).len() as u64;
        let start = address.0.min(size);
        let end = address.0.saturating_add(wanted as u64).min(size);
        (start as usize, end as usize)
    }
}

impl ReadMemory for Domain {
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<()> {
        let (start, end) = self.range(address, buffer.len());
        let done = end - start;
        buffer[..done].copy_from_slice(&lock(&self.memory)[start..end]);
        if done < buffer.len() {
            return Err(Error::NoMemory {
                domain: self.id,
                address: address.wrapping_add(done as u64),
                done,
                wanted: buffer.len(),
            });
        }
        Ok(())
    }
    fn memory_regions(&self) -> Vec<MemoryRegion> {
        vec![MemoryRegion {
            start: GuestPhysAddr(0),
            length: lock(&self.memory).len() as u64,
            writable: true,
        }]
    }
}

impl WriteMemory for Domain {
    fn write_physical(&self, address: GuestPhysAddr, bytes: &[u8]) -> Result<()> {
        let (start, end) = self.range(address, bytes.len());
        let done = end - start;
        lock(&self.memory)[start..end].copy_from_slice(&bytes[..done]);
        if done < bytes.len() {
            return Err(Error::NoMemory {
                domain: self.id,
                address: address.wrapping_add(done as u64),
                done,
                wanted: bytes.len(),
            });
        }
        Ok(())
    }
}

impl ReadRegisters for Domain {
    fn vcpu_count(&self) -> u32 {
        lock(&self.registers).len() as u32
    }
    fn registers(&self, vcpu: VcpuId) -> Result<Registers> {
        lock(&self.registers)
            .get(vcpu.index())
            .cloned()
            .ok_or(Error::NoVcpu {
                domain: self.id,
                vcpu,
                count: self.vcpu_count(),
            })
    }
    fn read_msr(&self, _: VcpuId, _: u32) -> Result<Option<u64>> {
        Ok(None)
    }
}

impl ControlRun for Domain {
    fn pause(&self) -> Result<()> {
        *lock(&self.pauses) += 1;
        Ok(())
    }
    fn unpause(&self) -> Result<()> {
        let mut pauses = lock(&self.pauses);
        if *pauses == 0 {
            return Err(Error::WrongState {
                domain: self.id,
                why: "it isn't paused".into(),
            });
        }
        *pauses -= 1;
        Ok(())
    }
    fn step(&self, _: VcpuId, _: StepMode) -> Result<StepOutcome> {
        Ok(StepOutcome::Stepped)
    }
    fn reset(&self) -> Result<()> {
        self.emit(&Event::Reset);
        Ok(())
    }
    fn destroy(&self) -> Result<()> {
        *lock(&self.ended) = true;
        self.emit(&Event::ShutDown);
        Ok(())
    }
}

impl Events for Domain {
    fn subscribe(&self, sink: EventSink) -> SubscriptionId {
        let mut sinks = lock(&self.sinks);
        sinks.push(Arc::new(sink));
        SubscriptionId(sinks.len() as u64)
    }
    fn unsubscribe(&self, _: SubscriptionId) {}
    fn console_input(&self, port: usize, bytes: &[u8]) {
        // Echoes; 'p' panics, 'o' powers off, 'x' exits with 7.
        self.emit(&Event::Console {
            port,
            bytes: bytes.to_vec(),
        });
        for byte in bytes {
            match byte {
                b'o' => self.emit(&Event::ShutDown),
                b'p' => self.emit(&Event::Crashed(CrashReason::Panic)),
                b'x' => self.emit(&Event::DebugExit(7)),
                _ => {}
            }
        }
    }
}

impl Fork for Domain {
    fn fork(&self, _: &str) -> Result<Arc<dyn Introspect>> {
        Err(Error::Unsupported {
            domain: self.id,
            what: "be forked",
        })
    }
}

impl Save for Domain {
    fn save(&self, writer: &mut dyn std::io::Write) -> Result<()> {
        writeln!(writer, "{}", lock(&self.memory).len()).map_err(|e| Error::Storage {
            domain: self.id,
            why: e.to_string(),
        })
    }
}

impl Introspect for Domain {
    fn id(&self) -> DomId {
        self.id
    }
    fn name(&self) -> String {
        self.name.clone()
    }
    fn state(&self) -> DomainState {
        if *lock(&self.ended) {
            return DomainState::ShutDown;
        }
        match *lock(&self.pauses) {
            0 => DomainState::Running,
            n => DomainState::Paused(n),
        }
    }
    fn uptime(&self) -> Ticks {
        Ticks(0)
    }
    fn write_memory(&self) -> Option<&dyn WriteMemory> {
        Some(self)
    }
    fn control_run(&self) -> Option<&dyn ControlRun> {
        Some(self)
    }
    fn events(&self) -> Option<&dyn Events> {
        Some(self)
    }
    fn fork(&self) -> Option<&dyn Fork> {
        Some(self)
    }
    fn save(&self) -> Option<&dyn Save> {
        Some(self)
    }
}
