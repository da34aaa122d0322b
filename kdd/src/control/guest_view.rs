//! The guest's own view of itself, in messages: its processes, threads and modules, read from outside.

use super::hex::Hex;
use serde::{Deserialize, Serialize};

/// A recognised operating system.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OsInfo {
    /// `windows`.
    pub family: String,
    /// In words: `Windows 10 x64, build 19041`.
    pub name: String,
    /// `x86` or `x64`.
    pub arch: String,
    /// The build number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<u32>,
    /// The build's full name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_lab: Option<String>,
    /// Where the kernel's image is.
    pub kernel_base: Hex,
    /// How large it is.
    pub kernel_bytes: u32,
    /// The kernel's PDB as a symbol store names it: `ntkrnlmp.pdb/GUIDAGE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pdb: Option<String>,
    /// The PDB was found on the symbol path.
    pub pdb_found: bool,
    /// Milliseconds since the guest booted, by its own clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_ms: Option<u64>,
    /// A bugcheck that has happened: code and parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bugcheck: Option<String>,
    /// How it was recognised.
    pub recognition: Vec<OsStep>,
}

/// A step of recognition.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OsStep {
    /// What was looked for.
    pub what: String,
    /// It was found.
    pub found: bool,
    /// Where and how, or why not.
    pub how: String,
}

/// Processes of the guest.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GuestProcesses {
    /// In the kernel's order.
    pub processes: Vec<GuestProcess>,
    /// Why the list isn't complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

/// A process of the guest.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GuestProcess {
    /// Its id.
    pub pid: u64,
    /// Its parent's, which may be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_pid: Option<u64>,
    /// Its name as the kernel keeps it: Windows cuts it at 15 bytes.
    pub name: String,
    /// The kernel's structure of it (EPROCESS).
    pub address: Hex,
    /// Its page-table root.
    pub root: Hex,
    /// The root it has in user mode, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_root: Option<Hex>,
    /// Its PEB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peb: Option<Hex>,
    /// It is a 32-bit process of a 64-bit system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wow64: Option<bool>,
    /// How many threads it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// When it began: 100 ns since 1601.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_time: Option<u64>,
}

/// Threads of the guest.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GuestThreads {
    /// Process by process, in the kernel's order.
    pub threads: Vec<GuestThread>,
    /// Why the list isn't complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

/// A thread of the guest.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GuestThread {
    /// Its process's id.
    pub pid: u64,
    /// Its id.
    pub tid: u64,
    /// Its process's name.
    pub process: String,
    /// The kernel's structure of it (ETHREAD).
    pub address: Hex,
    /// `running`, `waiting` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The vCPU that runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpu: Option<u32>,
    /// Its priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i8>,
    /// Where it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Hex>,
    /// Its TEB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teb: Option<Hex>,
    /// The end of its kernel stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack_base: Option<Hex>,
}

/// Modules of the guest's kernel.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GuestModules {
    /// In the kernel's order, the kernel first.
    pub modules: Vec<GuestModule>,
    /// Modules that are gone, the latest first.
    #[serde(default)]
    pub unloaded: Vec<UnloadedGuestModule>,
    /// Why the list isn't complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

/// A module of the guest's kernel.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GuestModule {
    /// Its name; empty if it can't be read.
    pub name: String,
    /// Its file.
    pub path: String,
    /// Where it is.
    pub base: Hex,
    /// How large it is.
    pub bytes: u32,
    /// Its entry point.
    pub entry_point: Hex,
    /// The time stamp in its header, if that can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_date_stamp: Option<u32>,
    /// Its check sum.
    pub check_sum: u32,
}

/// A module that was unloaded.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct UnloadedGuestModule {
    /// Its name.
    pub name: String,
    /// Where it was.
    pub start: Hex,
    /// Where it ended.
    pub end: Hex,
}
