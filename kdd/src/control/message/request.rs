//! What clients ask.

use super::{DumpRequest, WatchRequest};
use crate::control::hex::HexBytes;
use crate::parse::{ConsoleTarget, KdAddress, ListenAddress, Place};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What can be asked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// Who answers? → [`Reply::Version`](super::Reply::Version)
    Version,
    /// Every domain → [`Reply::Domains`](super::Reply::Domains)
    List,
    /// One domain in full → [`Reply::Domain`](super::Reply::Domain)
    Info {
        /// Which.
        domain: String,
        /// Whether to hash the whole state, which takes a while for a large domain and pauses it meanwhile.
        #[serde(default)]
        hash: bool,
    },
    /// A new domain → [`Reply::Created`](super::Reply::Created)
    Create(Box<CreateRequest>),
    /// Adds a pause that lasts until [`Request::Unpause`] → [`Reply::Done`](super::Reply::Done)
    Pause {
        /// Which.
        domain: String,
    },
    /// Takes one pause back that [`Request::Pause`], or creation with `paused`, made → [`Reply::Done`](super::Reply::Done)
    Unpause {
        /// Which.
        domain: String,
    },
    /// Pauses until this connection ends, however it ends → [`Reply::Done`](super::Reply::Done)
    Hold {
        /// Which.
        domain: String,
    },
    /// Boots the same guest again → [`Reply::Done`](super::Reply::Done)
    Reset {
        /// Which.
        domain: String,
    },
    /// Ends a domain, its endpoints and its console → [`Reply::Done`](super::Reply::Done)
    Destroy {
        /// Which.
        domain: String,
    },
    /// Adds a gdb endpoint → [`Reply::Listening`](super::Reply::Listening)
    Gdb {
        /// Which.
        domain: String,
        /// Where to listen; port 0 picks a free one.
        listen: ListenAddress,
        /// The process of a Linux guest that is debugged there, by its pid or its name; the whole guest if `None`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        process: Option<String>,
    },
    /// Adds an endpoint for WinDbg and kd → [`Reply::Listening`](super::Reply::Listening)
    Kd {
        /// Which.
        domain: String,
        /// Where; port 0 picks a free one.
        listen: KdAddress,
    },
    /// Writes the whole state to a file, which is replaced only when all is written → [`Reply::Saved`](super::Reply::Saved)
    Save {
        /// Which.
        domain: String,
        /// Where to.
        path: PathBuf,
    },
    /// Writes a crash dump → [`Reply::Dumped`](super::Reply::Dumped)
    Dump(Box<DumpRequest>),
    /// Waits for incidents, and tells of them by [`Progress::Watch`](super::Progress::Watch) for as long as the connection lasts →
    /// [`Reply::Watched`](super::Reply::Watched)
    Watch(Box<WatchRequest>),
    /// Makes copy-on-write children → [`Reply::Forked`](super::Reply::Forked)
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
    /// The registers of one vCPU → [`Reply::Registers`](super::Reply::Registers)
    Registers {
        /// Which.
        domain: String,
        /// Which vCPU.
        #[serde(default)]
        vcpu: u32,
    },
    /// Reads memory → [`Reply::Memory`](super::Reply::Memory), which may hold less than asked
    ReadMemory {
        /// Which.
        domain: String,
        /// Which addresses are meant.
        #[serde(default)]
        space: MemorySpace,
        /// From where. A symbol is read through the kernel's own page tables, whatever the vCPU has in use.
        address: Place,
        /// How many bytes; at most [`MAX_MEMORY`](super::MAX_MEMORY).
        length: u64,
    },
    /// Writes memory → [`Reply::Written`](super::Reply::Written), which may be less than asked
    WriteMemory {
        /// Which.
        domain: String,
        /// Which addresses are meant.
        #[serde(default)]
        space: MemorySpace,
        /// From where. A symbol is read through the kernel's own page tables, whatever the vCPU has in use.
        address: Place,
        /// What; at most [`MAX_MEMORY`](super::MAX_MEMORY).
        bytes: HexBytes,
    },
    /// The guest's own processes → [`Reply::Processes`](super::Reply::Processes)
    Processes {
        /// Which.
        domain: String,
    },
    /// The modules of the guest's kernel → [`Reply::Modules`](super::Reply::Modules)
    Modules {
        /// Which.
        domain: String,
    },
    /// The guest's own threads → [`Reply::Threads`](super::Reply::Threads)
    Threads {
        /// Which.
        domain: String,
        /// Of this process alone.
        #[serde(default)]
        pid: Option<u64>,
    },
    /// The log of the guest's kernel → [`Reply::Log`](super::Reply::Log), which may be a part of it
    Log {
        /// Which.
        domain: String,
        /// How many records to leave out.
        #[serde(default)]
        skip: u64,
    },
    /// Symbols of the guest's kernel → [`Reply::Symbols`](super::Reply::Symbols), which may be a part of them
    Symbols {
        /// Which.
        domain: String,
        /// All of this name, or the nearest at or before this address; every one where this is absent.
        #[serde(default)]
        find: Option<String>,
        /// How many to leave out.
        #[serde(default)]
        skip: u64,
    },
    /// Writes the symbols of the guest's kernel to a file, as debuggers read it → [`Reply::SymbolFile`](super::Reply::SymbolFile)
    SymbolFile {
        /// Which.
        domain: String,
        /// Where to. A named pipe gets it as a stream.
        path: PathBuf,
        /// Whether a file of that name may be replaced.
        #[serde(default)]
        force: bool,
    },
    /// Walks the page tables → [`Reply::Translation`](super::Reply::Translation)
    Translate {
        /// Which.
        domain: String,
        /// Whose page tables.
        #[serde(default)]
        vcpu: u32,
        /// The virtual address.
        address: Place,
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
