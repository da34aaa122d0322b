//! Every message of the control socket. This module is the contract for clients in any language.
//!
//! A client sends one JSON object a line, [`RequestLine`], and gets one [`ReplyLine`] for each, in order:
//!
//! ```text
//! {"id":7,"request":"registers","domain":"web","vcpu":0}
//! {"id":7,"ok":{"reply":"registers","vcpu":0,"activity":"running", … }}
//! {"id":8,"request":"info","domain":"nobody"}
//! {"id":8,"error":{"kind":"no-such-domain","what":"domain 'nobody'","why":"there is no such domain","hint":"…"}}
//! ```
//!
//! Conventions: a domain is named by its name or its id (16 hex digits); sizes are numbers, in bytes; addresses and
//! register values are strings `"0x…"`; memory is a string of hex digits; paths are absolute, and are opened by the
//! service. Fields that are absent have the documented default. Unknown fields are ignored, so that newer clients
//! can talk to older services.

pub use super::guest_view::{
    GuestModule, GuestModules, GuestProcess, GuestProcesses, GuestThread, GuestThreads, OsInfo, OsStep,
    UnloadedGuestModule,
};
use super::hex::{Hex, HexBytes};
use crate::Failure;
use crate::parse::{ConsoleTarget, KdAddress, ListenAddress};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The version of these messages; a change that breaks clients raises it.
pub const PROTOCOL_VERSION: u32 = 1;

/// The longest line either side accepts, in bytes.
pub const MAX_LINE: usize = 4 << 20;

/// The most memory that one request reads or writes, in bytes.
pub const MAX_MEMORY: u64 = 1 << 20;

/// What a client sends.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RequestLine {
    /// Comes back in the reply.
    #[serde(default)]
    pub id: u64,
    /// What is asked.
    #[serde(flatten)]
    pub request: Request,
}

/// What the service sends.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ReplyLine {
    /// The request's id; 0 where the request could not be read.
    pub id: u64,
    /// How it went.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How a request went.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was done.
    Ok(Reply),
    /// It was not.
    Error(Failure),
}

/// What can be asked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// Who answers? → [`Reply::Version`]
    Version,
    /// Every domain → [`Reply::Domains`]
    List,
    /// One domain in full → [`Reply::Domain`]
    Info {
        /// Which.
        domain: String,
        /// Whether to hash the whole state, which takes a while for a large domain and pauses it meanwhile.
        #[serde(default)]
        hash: bool,
    },
    /// A new domain → [`Reply::Created`]
    Create(Box<CreateRequest>),
    /// Adds a pause that lasts until [`Request::Unpause`] → [`Reply::Done`]
    Pause {
        /// Which.
        domain: String,
    },
    /// Takes one pause back that [`Request::Pause`], or creation with `paused`, made → [`Reply::Done`]
    Unpause {
        /// Which.
        domain: String,
    },
    /// Pauses until this connection ends, however it ends → [`Reply::Done`]
    Hold {
        /// Which.
        domain: String,
    },
    /// Boots the same guest again → [`Reply::Done`]
    Reset {
        /// Which.
        domain: String,
    },
    /// Ends a domain, its endpoints and its console → [`Reply::Done`]
    Destroy {
        /// Which.
        domain: String,
    },
    /// Adds a gdb endpoint → [`Reply::Listening`]
    Gdb {
        /// Which.
        domain: String,
        /// Where to listen; port 0 picks a free one.
        listen: ListenAddress,
    },
    /// Adds an endpoint for WinDbg and kd → [`Reply::Listening`]
    Kd {
        /// Which.
        domain: String,
        /// Where; port 0 picks a free one.
        listen: KdAddress,
    },
    /// Writes the whole state to a file, which is replaced only when all is written → [`Reply::Saved`]
    Save {
        /// Which.
        domain: String,
        /// Where to.
        path: PathBuf,
    },
    /// Makes copy-on-write children → [`Reply::Forked`]
    Fork {
        /// Which.
        domain: String,
        /// How many; 1 to [`MAX_FORKS`].
        #[serde(default = "one")]
        count: u32,
        /// Whether they stay paused; else they run if their parent does.
        #[serde(default)]
        paused: bool,
    },
    /// The registers of one vCPU → [`Reply::Registers`]
    Registers {
        /// Which.
        domain: String,
        /// Which vCPU.
        #[serde(default)]
        vcpu: u32,
    },
    /// Reads memory → [`Reply::Memory`], which may hold less than asked
    ReadMemory {
        /// Which.
        domain: String,
        /// Which addresses are meant.
        #[serde(default)]
        space: MemorySpace,
        /// From where.
        address: Hex,
        /// How many bytes; at most [`MAX_MEMORY`].
        length: u64,
    },
    /// Writes memory → [`Reply::Written`], which may be less than asked
    WriteMemory {
        /// Which.
        domain: String,
        /// Which addresses are meant.
        #[serde(default)]
        space: MemorySpace,
        /// From where.
        address: Hex,
        /// What; at most [`MAX_MEMORY`].
        bytes: HexBytes,
    },
    /// The guest's own processes → [`Reply::Processes`]
    Processes {
        /// Which.
        domain: String,
    },
    /// The modules of the guest's kernel → [`Reply::Modules`]
    Modules {
        /// Which.
        domain: String,
    },
    /// The guest's own threads → [`Reply::Threads`]
    Threads {
        /// Which.
        domain: String,
        /// Of this process alone.
        #[serde(default)]
        pid: Option<u64>,
    },
    /// Walks the page tables → [`Reply::Translation`]
    Translate {
        /// Which.
        domain: String,
        /// Whose page tables.
        #[serde(default)]
        vcpu: u32,
        /// The virtual address.
        address: Hex,
    },
}

/// The most children that one [`Request::Fork`] makes.
pub const MAX_FORKS: u32 = 1024;

fn one() -> u32 {
    1
}

/// Which addresses a memory request means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemorySpace {
    /// Virtual, through the page tables of this vCPU.
    Vcpu(u32),
    /// Guest-physical.
    Physical,
}

impl Default for MemorySpace {
    fn default() -> Self {
        MemorySpace::Vcpu(0)
    }
}

/// A domain to create.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CreateRequest {
    /// What runs in it.
    pub guest: Guest,
    /// Its name; the service makes one up where there is none.
    #[serde(default)]
    pub name: Option<String>,
    /// Whether it starts paused: until [`Request::Unpause`], or until the first debugger attaches and lets it go.
    #[serde(default)]
    pub paused: bool,
    /// Whether an idle guest waits for the host's clock.
    #[serde(default = "yes")]
    pub throttle: bool,
    /// Where its console goes; `stdio` is for `kdd run` alone.
    #[serde(default)]
    pub console: ConsoleTarget,
    /// Where gdb endpoints listen.
    #[serde(default)]
    pub gdb: Vec<ListenAddress>,
    /// Where endpoints for WinDbg and kd are.
    #[serde(default)]
    pub kd: Vec<KdAddress>,
}

fn yes() -> bool {
    true
}

/// What runs in a domain.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guest {
    /// A Linux kernel, a bzImage or an ELF file.
    Linux(LinuxGuest),
    /// An NT-shaped guest.
    Nt(NtGuest),
    /// A saved domain.
    Restore {
        /// The file.
        path: PathBuf,
    },
    /// A crash dump or memory image, which is only read.
    Dump {
        /// The file.
        path: PathBuf,
    },
}

/// A Linux kernel and its machine.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LinuxGuest {
    /// The kernel's file.
    pub kernel: PathBuf,
    /// The initial RAM disk's file.
    #[serde(default)]
    pub initrd: Option<PathBuf>,
    /// The command line.
    #[serde(default)]
    pub append: String,
    /// The machine.
    #[serde(flatten)]
    pub machine: Machine,
}

/// An NT-shaped guest and its machine.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NtGuest {
    /// The folder that its builder made.
    pub folder: PathBuf,
    /// The loader options: `NODEBUG`.
    #[serde(default)]
    pub options: String,
    /// The machine.
    #[serde(flatten)]
    pub machine: Machine,
}

/// The machine of a domain.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// RAM in bytes.
    pub memory_bytes: u64,
    /// How many vCPUs.
    pub vcpus: u32,
    /// What the guest's randomness is made from.
    #[serde(default)]
    pub seed: u64,
    /// The CPU model's name; the hypervisor's default where there is none.
    #[serde(default)]
    pub cpu: Option<String>,
    /// The I/O port of the debug-exit device, if there is to be one.
    #[serde(default)]
    pub debug_exit: Option<u16>,
}

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
        /// [`PROTOCOL_VERSION`].
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

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(line: &RequestLine) -> String {
        let text = serde_json::to_string(line).unwrap();
        assert!(!text.contains('\n'));
        assert_eq!(&serde_json::from_str::<RequestLine>(&text).unwrap(), line);
        text
    }

    #[test]
    fn requests_read_back_as_written() {
        let read = Request::ReadMemory {
            domain: "web".into(),
            space: MemorySpace::Physical,
            address: 0x1000.into(),
            length: 16,
        };
        assert_eq!(
            round_trip(&RequestLine { id: 7, request: read }),
            r#"{"id":7,"request":"read-memory","domain":"web","space":"physical","address":"0x1000","length":16}"#
        );
        let nt = serde_json::json!({
            "id": 1, "request": "create",
            "guest": {"nt": {"folder": "/nt", "options": "DEBUG", "memory_bytes": 1, "vcpus": 1}},
        });
        round_trip(&serde_json::from_value::<RequestLine>(nt).unwrap());
        round_trip(&RequestLine {
            id: u64::MAX,
            request: Request::List,
        });
        round_trip(&RequestLine {
            id: 1,
            request: Request::Create(Box::new(CreateRequest {
                guest: Guest::Linux(LinuxGuest {
                    kernel: "/vmlinuz".into(),
                    initrd: None,
                    append: "quiet".into(),
                    machine: Machine {
                        memory_bytes: 1 << 28,
                        vcpus: 2,
                        seed: u64::MAX,
                        cpu: None,
                        debug_exit: Some(0xf4),
                    },
                }),
                name: None,
                paused: true,
                throttle: true,
                console: ConsoleTarget::File("/log".into()),
                gdb: vec![ListenAddress::LOOPBACK],
                kd: vec![KdAddress::Pty(None)],
            })),
        });
    }

    #[test]
    fn defaults_are_filled_in() {
        let line: RequestLine = serde_json::from_str(
            r#"{"request":"create","guest":{"linux":{"kernel":"/k","memory_bytes":1,"vcpus":1}},"new_field":1}"#,
        )
        .unwrap();
        let Request::Create(create) = line.request else {
            panic!("another request");
        };
        assert!(create.throttle && !create.paused && create.gdb.is_empty());
        assert_eq!(create.console, ConsoleTarget::None);
    }

    #[test]
    fn replies_and_errors_read_back_as_written() {
        for outcome in [
            Outcome::Ok(Reply::Done),
            Outcome::Ok(Reply::Memory(MemoryDump {
                address: 1.into(),
                bytes: HexBytes(vec![1, 2]),
                stopped: None,
            })),
            Outcome::Error(Failure::no_such_domain("x")),
        ] {
            let line = ReplyLine { id: 3, outcome };
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<ReplyLine>(&text).unwrap(), line);
        }
    }
}
