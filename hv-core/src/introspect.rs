//! The introspection calls: what a debugger's side may ask of a domain, as small capability traits.
//!
//! ```text
//! Introspect ─ identity, state, what it can do
//!  ├─ ReadMemory      physical memory
//!  ├─ WriteMemory
//!  ├─ ReadRegisters   vCPUs and their registers
//!  ├─ WriteRegisters
//!  ├─ ControlRun      pause, unpause, step, reset, destroy
//!  ├─ Breakpoints     execution breakpoints and watchpoints
//!  ├─ Events          stops, crashes, resets, console output
//!  ├─ PageAccess      rights of guest frames, apart from the guest's own page tables
//!  ├─ IoPorts         the devices behind IN and OUT
//!  ├─ Fork            a copy-on-write child
//!  └─ Save            the whole state to a file
//! ```
//!
//! A crash-dump file implements the first branches, the in-repo core all of them. Callers ask for a capability
//! ([`Introspect::write_memory`] …) and take `None` for an answer; nobody guesses from the kind of domain.
//! Nothing here knows of an engine.

mod crash;

pub use crash::{GuestCrash, ResetCause};

use crate::addr::{DomId, GuestPhysAddr, GuestVirtAddr, Ticks, VcpuId};
use crate::regs::Registers;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Why an introspection call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Guest-physical memory that isn't RAM was named.
    #[error("domain {domain}: no memory at guest-physical {address} ({done} of {wanted} bytes done)")]
    NoMemory {
        /// The domain.
        domain: DomId,
        /// The first address that isn't there.
        address: GuestPhysAddr,
        /// Bytes that were read or written before it.
        done: usize,
        /// Bytes asked for.
        wanted: usize,
    },
    /// The domain has no such vCPU.
    #[error("domain {domain}: no vCPU {vcpu}; it has {count}")]
    NoVcpu {
        /// The domain.
        domain: DomId,
        /// The vCPU asked for.
        vcpu: VcpuId,
        /// How many it has.
        count: u32,
    },
    /// A register value that the architecture doesn't allow.
    #[error("domain {domain}, vCPU {vcpu}: {register} cannot hold {value:#x}: {why}")]
    BadRegister {
        /// The domain.
        domain: DomId,
        /// The vCPU.
        vcpu: VcpuId,
        /// The register's SDM name.
        register: &'static str,
        /// The refused value.
        value: u64,
        /// The rule it breaks.
        why: &'static str,
    },
    /// The call doesn't fit the domain's state.
    #[error("domain {domain}: {why}")]
    WrongState {
        /// The domain.
        domain: DomId,
        /// What is wrong and what to do.
        why: String,
    },
    /// The domain can't do that.
    #[error("domain {domain} can't {what}")]
    Unsupported {
        /// The domain.
        domain: DomId,
        /// The thing asked for.
        what: &'static str,
    },
    /// Reading or writing a saved state failed.
    #[error("domain {domain}: {why}")]
    Storage {
        /// The domain.
        domain: DomId,
        /// The reason, with the operating system's words where there are any.
        why: String,
    },
}

/// The result of an introspection call.
pub type Result<T> = std::result::Result<T, Error>;

/// The run state of a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DomainState {
    /// It executes.
    Running,
    /// Held by this many pauses.
    Paused(u32),
    /// It died: its state is there to be looked at; it can only be reset or destroyed.
    Crashed(CrashReason),
    /// It powered itself off, or was destroyed.
    ShutDown,
}

/// How a domain died.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize, thiserror::Error)]
pub enum CrashReason {
    /// A fault while delivering a double fault.
    #[error("triple fault on vCPU {vcpu} at rip {rip:#x}")]
    TripleFault {
        /// The vCPU.
        vcpu: VcpuId,
        /// RIP of the instruction that faulted.
        rip: u64,
    },
    /// Every vCPU is halted with interrupts disabled: nothing can wake it.
    #[error("every vCPU is halted with interrupts off")]
    HaltedForever,
    /// The guest told the pvpanic device.
    #[error("the guest reported a panic (pvpanic)")]
    Panic,
}

/// A kind of memory access.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum AccessKind {
    /// A data read.
    Read,
    /// A data write.
    Write,
    /// Either.
    ReadWrite,
}

impl AccessKind {
    /// Whether an access of kind `self` (read or write) is one that a watchpoint of kind `watch` asks for.
    pub fn matches(self, watch: AccessKind) -> bool {
        watch == AccessKind::ReadWrite || self == watch || self == AccessKind::ReadWrite
    }
}

/// A range of guest-physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryRegion {
    /// First byte.
    pub start: GuestPhysAddr,
    /// Length in bytes.
    pub length: u64,
    /// RAM or ROM (the guest can't write).
    pub writable: bool,
}

/// A breakpoint's or watchpoint's handle, unique in its domain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BreakpointId(pub u64);

/// Where a breakpoint is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Place {
    /// A virtual address, in every address space.
    Virtual(GuestVirtAddr),
    /// A virtual address while the page-table root (CR3 without its low 12 bits) is this one.
    InAddressSpace(GuestVirtAddr, GuestPhysAddr),
    /// A guest-physical address, however it is mapped.
    Physical(GuestPhysAddr),
}

/// What to stop at.
#[derive(Clone)]
pub struct Breakpoint {
    /// Where.
    pub place: Place,
    /// On what.
    pub kind: BreakpointKind,
    /// When present, evaluated on the vCPU's own thread at each hit; the domain stops only where it says so.
    pub condition: Option<Arc<dyn Condition>>,
}

/// Execution or data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BreakpointKind {
    /// Stops before the instruction at the place runs.
    Execute,
    /// Stops after an instruction that accessed any of `length` bytes from the place.
    Watch {
        /// Bytes watched; at least 1.
        length: u64,
        /// Accesses that count.
        access: AccessKind,
    },
}

/// A breakpoint's condition.
pub trait Condition: Send + Sync {
    /// Whether the domain stops. Runs in the middle of guest execution: it must be bounded and quick.
    fn should_stop(&self, at: &mut dyn StopContext) -> bool;
}

/// What a [`Condition`] may look at: the vCPU that hit.
pub trait StopContext {
    /// The vCPU.
    fn vcpu(&self) -> VcpuId;
    /// General register 0..16 in encoding order.
    fn gpr(&self, index: usize) -> u64;
    /// RIP.
    fn rip(&self) -> u64;
    /// RFLAGS.
    fn rflags(&self) -> u64;
    /// Every register; slower than the others.
    fn registers(&self) -> Registers;
    /// Reads guest virtual memory through the vCPU's page tables; false where any byte isn't mapped.
    fn read_virtual(&mut self, address: GuestVirtAddr, buffer: &mut [u8]) -> bool;
}

/// Why a domain stopped by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StopReason {
    /// An execution breakpoint; RIP is at it.
    Breakpoint {
        /// All that are at this place, with a true condition.
        ids: Vec<BreakpointId>,
        /// RIP.
        address: GuestVirtAddr,
    },
    /// A watched access happened; the instruction is complete.
    Watchpoint {
        /// Which one.
        id: BreakpointId,
        /// The first watched byte accessed: virtual, or physical for a physical watchpoint.
        address: u64,
        /// Read or write.
        access: AccessKind,
    },
    /// The vCPU died, and with it the domain.
    Crashed(CrashReason),
    /// A page-access restriction was hit before the access was done.
    PageAccess {
        /// The frame's first byte.
        frame: GuestPhysAddr,
        /// Read or write; `None` for a fetch.
        access: Option<AccessKind>,
    },
}

/// What a domain tells its subscribers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The domain stopped at `vcpu`; it holds one pause for this stop, which the debugger's side gives back with
    /// [`ControlRun::unpause`].
    Stopped {
        /// Where.
        vcpu: VcpuId,
        /// Why.
        reason: StopReason,
    },
    /// A pause count rose from zero, or fell to zero.
    Paused(bool),
    /// The domain died.
    Crashed(CrashReason),
    /// The guest was reset.
    Reset(ResetCause),
    /// The guest says that it crashed, and runs on.
    GuestCrash(GuestCrash),
    /// The guest powered itself off, or the domain was destroyed.
    ShutDown,
    /// The guest wrote to the debug-exit device; the value.
    DebugExit(u32),
    /// A vCPU came up.
    VcpuUp(VcpuId),
    /// Console output of a serial port (0 is COM1).
    Console {
        /// The port.
        port: usize,
        /// The bytes.
        bytes: Vec<u8>,
    },
}

/// How other vCPUs behave while one is stepped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StepMode {
    /// The normal schedule goes on until the vCPU has retired one instruction: the guest can't tell.
    Schedule,
    /// Only this vCPU runs.
    Alone,
}

/// How a step ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StepOutcome {
    /// One instruction (or one iteration of a REP instruction) retired, or an event was delivered.
    Stepped,
    /// Something else stopped the domain first, at `vcpu`.
    Stopped {
        /// Where.
        vcpu: VcpuId,
        /// Why.
        reason: StopReason,
    },
    /// The vCPU is still halted after a bounded time: call again, or give up.
    Waiting,
    /// The domain was reset or shut down by what was stepped.
    Ended,
}

/// Receives a domain's events. Called on the thread that caused them, without any lock of the domain held.
pub type EventSink = Box<dyn Fn(&Event) + Send + Sync>;

/// A handle to undo [`Events::subscribe`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SubscriptionId(pub u64);

/// Reads guest-physical memory. Never disturbs the guest: MMIO reads as absent.
pub trait ReadMemory {
    /// Fills `buffer` from `address` on.
    ///
    /// # Errors
    /// [`Error::NoMemory`] with the bytes done before the first absent one; those are valid in `buffer`.
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<()>;
    /// Shows `length` bytes from `address` on, in order and in pieces of any size, until `visit` breaks off: whoever
    /// only looks at them needs no copy where memory lies in this process. The guest may be kept from running
    /// meanwhile, so a call had better be about a few megabytes, and `visit` must not call the domain.
    ///
    /// # Errors
    /// [`Error::NoMemory`] behind the bytes before the first absent one, which are shown.
    fn visit_physical(
        &self,
        address: GuestPhysAddr,
        length: usize,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        copy_to_visitor(self, address, length, visit)
    }
    /// The RAM and ROM of the domain, in rising order.
    fn memory_regions(&self) -> Vec<MemoryRegion>;
}

/// Bytes that are read at once for a visitor of memory that isn't there to be looked at.
const VISIT_BUFFER: usize = 1 << 16;

/// [`ReadMemory::visit_physical`] by reading.
fn copy_to_visitor<M: ReadMemory + ?Sized>(
    memory: &M,
    address: GuestPhysAddr,
    length: usize,
    visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<()> {
    let mut buffer = vec![0; length.min(VISIT_BUFFER)];
    let mut before = 0;
    while before < length {
        let part = &mut buffer[..VISIT_BUFFER.min(length - before)];
        let read = memory.read_physical(address.wrapping_add(before as u64), part);
        let got = match &read {
            Ok(()) => part.len(),
            Err(Error::NoMemory { done, .. }) => (*done).min(part.len()),
            Err(_) => 0,
        };
        if got > 0 && visit(&part[..got]).is_break() {
            return Ok(());
        }
        read.map_err(|error| match error {
            Error::NoMemory { domain, address, .. } => Error::NoMemory {
                domain,
                address,
                done: before + got,
                wanted: length,
            },
            error => error,
        })?;
        before += got;
    }
    Ok(())
}

/// Writes guest-physical memory; code that changes is seen by the vCPUs at once.
pub trait WriteMemory {
    /// Writes `bytes` from `address` on.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: nothing from the first absent or read-only byte on is written.
    fn write_physical(&self, address: GuestPhysAddr, bytes: &[u8]) -> Result<()>;
}

/// Reads vCPU state.
pub trait ReadRegisters {
    /// How many vCPUs there are; ids run from 0.
    fn vcpu_count(&self) -> u32;
    /// The whole state of one.
    ///
    /// # Errors
    /// [`Error::NoVcpu`].
    fn registers(&self, vcpu: VcpuId) -> Result<Registers>;
    /// An MSR by its number, as RDMSR would read it; `None` where that would fault.
    ///
    /// # Errors
    /// [`Error::NoVcpu`].
    fn read_msr(&self, vcpu: VcpuId, msr: u32) -> Result<Option<u64>>;
    /// Where the kernel is, if that is known from elsewhere than the registers: a crash dump's header may tell.
    fn kernel_hint(&self) -> Option<KernelHint> {
        None
    }
}

/// Where a guest's kernel is said to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelHint {
    /// The root of page tables that map it.
    pub root: GuestPhysAddr,
    /// An address inside its image.
    pub address: GuestVirtAddr,
}

/// Writes vCPU state of a paused domain.
pub trait WriteRegisters {
    /// Replaces the whole state of one vCPU.
    ///
    /// # Errors
    /// [`Error::BadRegister`] where the architecture doesn't allow a value (nothing is changed then),
    /// [`Error::NoVcpu`], [`Error::WrongState`] if the domain runs.
    fn set_registers(&self, vcpu: VcpuId, registers: &Registers) -> Result<()>;
    /// Writes an MSR as WRMSR would; false where that would fault.
    ///
    /// # Errors
    /// As [`WriteRegisters::set_registers`].
    fn write_msr(&self, vcpu: VcpuId, msr: u32, value: u64) -> Result<bool>;
}

/// Starts and stops a domain.
pub trait ControlRun {
    /// Adds a pause; returns once no instruction runs any more.
    fn pause(&self) -> Result<()>;
    /// Takes one pause back; the domain runs when none is left.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it isn't paused.
    fn unpause(&self) -> Result<()>;
    /// Steps one vCPU of a paused domain. Breakpoints at the current RIP don't stop it; watchpoints do.
    ///
    /// # Errors
    /// [`Error::WrongState`] if the domain isn't paused.
    fn step(&self, vcpu: VcpuId, mode: StepMode) -> Result<StepOutcome>;
    /// Resets the domain to its state at creation: the same kernel boots again.
    fn reset(&self) -> Result<()>;
    /// Ends the domain: state becomes [`DomainState::ShutDown`].
    fn destroy(&self) -> Result<()>;
}

/// Execution breakpoints and watchpoints, invisible to the guest, without limit.
pub trait Breakpoints {
    /// Inserts one; the place need not be mapped.
    ///
    /// # Errors
    /// [`Error::WrongState`] for a watch of length 0 or past the end of the address space.
    fn insert_breakpoint(&self, breakpoint: Breakpoint) -> Result<BreakpointId>;
    /// Removes one; false if there was none with this id.
    fn remove_breakpoint(&self, id: BreakpointId) -> bool;
}

/// Stops, crashes, resets, console output.
pub trait Events {
    /// Calls `sink` for every event from now on.
    fn subscribe(&self, sink: EventSink) -> SubscriptionId;
    /// Ends a subscription.
    fn unsubscribe(&self, id: SubscriptionId);
    /// Feeds bytes to a serial port of the guest (0 is COM1).
    fn console_input(&self, port: usize, bytes: &[u8]);
}

/// Rights of guest frames beyond the guest's own page tables.
pub trait PageAccess {
    /// Restricts the frame that holds `address`: a guest access without its right stops the domain with
    /// [`StopReason::PageAccess`] before it happens.
    ///
    /// # Errors
    /// [`Error::NoMemory`] where there is none.
    fn set_page_access(&self, address: GuestPhysAddr, rights: PageRights) -> Result<()>;
}

/// Rights for [`PageAccess`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct PageRights {
    /// Data reads.
    pub read: bool,
    /// Data writes.
    pub write: bool,
    /// Instruction fetches.
    pub execute: bool,
}

impl PageRights {
    /// No restriction.
    pub const ALL: PageRights = PageRights {
        read: true,
        write: true,
        execute: true,
    };
}

/// The widths that IN and OUT have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortWidth {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Word,
    /// 32 bits.
    Dword,
}

impl PortWidth {
    /// The width of so many bytes: 1, 2 or 4.
    pub const fn of_bytes(bytes: u32) -> Option<PortWidth> {
        match bytes {
            1 => Some(PortWidth::Byte),
            2 => Some(PortWidth::Word),
            4 => Some(PortWidth::Dword),
            _ => None,
        }
    }

    /// 1, 2 or 4.
    pub const fn bytes(self) -> u8 {
        match self {
            PortWidth::Byte => 1,
            PortWidth::Word => 2,
            PortWidth::Dword => 4,
        }
    }
}

/// The I/O ports of a paused domain, as IN and OUT of a vCPU reach them, but for permissions.
///
/// Unlike all other reads this one isn't free of effects: a device answers as it would answer the guest, and that may
/// take a byte from it, acknowledge an interrupt or select a register. No time passes. What a write asks of the
/// machine (an interrupt, a reset, its end) happens when the domain runs on.
pub trait IoPorts {
    /// Reads a port; all ones where no device is.
    ///
    /// # Errors
    /// [`Error::WrongState`] if the domain runs, or has ended.
    fn read_port(&self, port: u16, width: PortWidth) -> Result<u32>;
    /// Writes a port; bits of `value` beyond the width don't count.
    ///
    /// # Errors
    /// As [`IoPorts::read_port`].
    fn write_port(&self, port: u16, width: PortWidth, value: u32) -> Result<()>;
}

/// Copy-on-write children.
pub trait Fork {
    /// A child that shares all memory until either writes; it starts paused once, with an id of its own.
    fn fork(&self, name: &str) -> Result<Arc<dyn Introspect>>;
}

/// Saving a paused domain.
pub trait Save {
    /// Writes the whole state; the domain is only read.
    ///
    /// # Errors
    /// [`Error::Storage`] if the writer fails, [`Error::WrongState`] if the domain runs.
    fn save(&self, writer: &mut dyn std::io::Write) -> Result<()>;
}

/// A domain as the debugger's side sees it.
pub trait Introspect: ReadMemory + ReadRegisters + Send + Sync {
    /// Its id.
    fn id(&self) -> DomId;
    /// Its name.
    fn name(&self) -> String;
    /// Its state.
    fn state(&self) -> DomainState;
    /// Virtual time so far.
    fn uptime(&self) -> Ticks;
    /// Instructions retired so far by all vCPUs: [`Introspect::uptime`] without idle time.
    fn retired_instructions(&self) -> Option<u64> {
        None
    }
    /// Bytes of guest memory that were ever touched, and so take memory of the host.
    fn touched_memory(&self) -> Option<u64> {
        None
    }
    /// A hash of the whole architectural state: equal inputs give equal hashes at equal times.
    fn state_hash(&self) -> Option<[u8; 32]> {
        None
    }
    /// What the guest last said of a crash of its own since it was reset, while it ran on.
    fn guest_crash(&self) -> Option<GuestCrash> {
        None
    }
    /// Lines for a person about devices.
    fn describe_devices(&self) -> String {
        String::new()
    }
    /// Lines for a person about interrupts: their controllers, and what waits at them.
    fn describe_interrupts(&self) -> String {
        String::new()
    }
    /// Writing memory.
    fn write_memory(&self) -> Option<&dyn WriteMemory> {
        None
    }
    /// Writing registers.
    fn write_registers(&self) -> Option<&dyn WriteRegisters> {
        None
    }
    /// Run control.
    fn control_run(&self) -> Option<&dyn ControlRun> {
        None
    }
    /// Breakpoints and watchpoints.
    fn breakpoints(&self) -> Option<&dyn Breakpoints> {
        None
    }
    /// Events.
    fn events(&self) -> Option<&dyn Events> {
        None
    }
    /// Page access.
    fn page_access(&self) -> Option<&dyn PageAccess> {
        None
    }
    /// I/O ports.
    fn io_ports(&self) -> Option<&dyn IoPorts> {
        None
    }
    /// Forks.
    fn fork(&self) -> Option<&dyn Fork> {
        None
    }
    /// Saving.
    fn save(&self) -> Option<&dyn Save> {
        None
    }
}
