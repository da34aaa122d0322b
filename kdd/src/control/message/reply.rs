//! What the service answers.

use super::{
    DumpReport, GuestLog, GuestModules, GuestProcesses, GuestSymbols, GuestThreads, OsInfo, SymbolFileReport,
};
use crate::control::hex::{Hex, HexBytes};
use crate::parse::{ConsoleTarget, KdAddress};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What the service answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// It was done, and there is nothing to tell.
    Done,
    /// Who answers.
    Version {
        /// The service's version.
        version: String,
        /// [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION).
        protocol: u32,
        /// Its process id.
        pid: u32,
    },
    /// Every domain, by name.
    Domains {
        /// Them.
        domains: Vec<DomainSummary>,
    },
    /// One domain.
    Domain(Box<DomainInfo>),
    /// A new domain.
    Created(DomainSummary),
    /// A new endpoint.
    Listening(EndpointInfo),
    /// A state file.
    Saved {
        /// Where.
        path: PathBuf,
        /// How large.
        bytes: u64,
    },
    /// A crash dump.
    Dumped(DumpReport),
    /// A watch that has ended.
    Watched {
        /// How many incidents there were.
        incidents: u64,
    },
    /// New children.
    Forked {
        /// Them.
        domains: Vec<DomainSummary>,
    },
    /// Registers.
    Registers(Box<RegisterDump>),
    /// Memory that was read.
    Memory(MemoryDump),
    /// Memory that was written.
    Written {
        /// How many bytes, from the start on.
        bytes: u64,
        /// Why not all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stopped: Option<String>,
    },
    /// Processes.
    Processes(GuestProcesses),
    /// Modules.
    Modules(GuestModules),
    /// Threads.
    Threads(GuestThreads),
    /// The kernel's log.
    Log(GuestLog),
    /// Symbols of the kernel.
    Symbols(GuestSymbols),
    /// A symbol file.
    SymbolFile(SymbolFileReport),
    /// A page walk.
    Translation(TranslationDump),
}

/// A domain in a list.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DomainSummary {
    /// 16 hex digits; kept by save and restore.
    pub id: String,
    /// Unique while in use.
    pub name: String,
    /// `running`, `paused`, `crashed` or `shut-down`.
    pub state: String,
    /// How many hold it paused.
    pub pauses: u32,
    /// How it died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash: Option<String>,
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// Its RAM.
    pub memory_bytes: u64,
    /// Virtual time: retired instructions, and idle time in the same unit.
    pub uptime_instructions: u64,
    /// Where debuggers can attach.
    pub endpoints: Vec<EndpointInfo>,
}

/// A domain in full.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DomainInfo {
    /// As in a list.
    #[serde(flatten)]
    pub summary: DomainSummary,
    /// What was booted, in words.
    pub guest: String,
    /// The CPU model's name.
    pub cpu: String,
    /// What its randomness is made from.
    pub seed: u64,
    /// Where its console goes.
    pub console: ConsoleTarget,
    /// Pauses that `kdd pause` made and `kdd unpause` takes back.
    pub operator_pauses: u32,
    /// It was created paused, and waits for its first debugger or for `kdd unpause`.
    pub waits_for_debugger: bool,
    /// Guest time in nanoseconds.
    pub uptime_nanoseconds: u64,
    /// Instructions that its vCPUs retired: virtual time without idle time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired_instructions: Option<u64>,
    /// How much of its RAM was ever touched, and so takes memory of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub touched_bytes: Option<u64>,
    /// What each vCPU does.
    pub vcpu_states: Vec<VcpuInfo>,
    /// Who debugs it.
    pub sessions: Vec<String>,
    /// What its operating system was recognised as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<OsInfo>,
    /// What the guest last said of a crash of its own since it was reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_crash: Option<String>,
    /// A hash of the whole architectural state, if it was asked for and the domain has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_hash: Option<String>,
}

/// A vCPU in short.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VcpuInfo {
    /// Which.
    pub vcpu: u32,
    /// `running`, `halted` or `wait-for-sipi`.
    pub activity: String,
    /// `real`, `vm86`, `protected-16`, `protected-32`, `compatibility` or `long`.
    pub mode: String,
    /// The privilege level.
    pub cpl: u8,
    /// Where it is.
    pub rip: Hex,
}

/// A debugger endpoint.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EndpointInfo {
    /// `gdb` or `kd`.
    pub protocol: String,
    /// The address that is really bound.
    pub address: KdAddress,
    /// The process that is debugged there, by its pid; the whole guest if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<u32>,
}

/// The registers of a vCPU.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RegisterDump {
    /// Whose, what it does, and its mode.
    #[serde(flatten)]
    pub vcpu: VcpuInfo,
    /// Everything that is one number, by the SDM's name in lower case (`rax`, `cr3`, `efer`, `xmm0`, `st0`).
    pub registers: BTreeMap<String, Hex>,
    /// Segment registers with their hidden parts (`es` … `gs`, `ldtr`, `tr`).
    pub segments: BTreeMap<String, SegmentDump>,
    /// `gdtr` and `idtr`.
    pub tables: BTreeMap<String, TableDump>,
}

/// A segment register.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SegmentDump {
    /// The visible selector.
    pub selector: Hex,
    /// The base address.
    pub base: Hex,
    /// The limit in bytes.
    pub limit: Hex,
    /// Type, S, DPL, P, AVL, L, D/B, G as VMX keeps them; bit 16 says unusable.
    pub attributes: Hex,
}

/// GDTR or IDTR.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TableDump {
    /// The base address.
    pub base: Hex,
    /// The limit in bytes.
    pub limit: Hex,
}

/// Memory that was read.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MemoryDump {
    /// From where.
    pub address: Hex,
    /// The bytes up to the first that isn't there.
    pub bytes: HexBytes,
    /// Why not all that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

/// A page walk.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TranslationDump {
    /// The virtual address.
    pub address: Hex,
    /// The table entries that were read, from the root on.
    pub walk: Vec<WalkEntry>,
    /// Where it leads, unless the walk ends before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub physical: Option<Hex>,
    /// The size of the page that maps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_bytes: Option<u64>,
    /// Why it leads nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

/// A table entry that a walk read.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WalkEntry {
    /// The entry's name: `PML4E`, `PDPTE`, `PDE`, `PTE`.
    pub level: String,
    /// Where the entry is.
    pub at: Hex,
    /// What it holds.
    pub entry: Hex,
}
