//! The guest's own view of itself, in messages: its processes, threads, modules, symbols and log, read from outside.
//!
//! One shape for every operating system: what one of them doesn't have is absent.

use super::hex::Hex;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A recognised operating system.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OsInfo {
    /// `windows` or `linux`.
    pub family: String,
    /// In words: `Windows 10 x64, build 19041`, `Linux 6.1.0-56-cloud-amd64`.
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
    pub kernel_bytes: u64,
    /// Linux: what `uname -r` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Linux: the whole first line of its log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub banner: Option<String>,
    /// Linux: how far KASLR moved the kernel from where it was linked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_slide: Option<Hex>,
    /// Linux: what it was started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_line: Option<String>,
    /// The kernel's PDB as a symbol store names it: `ntkrnlmp.pdb/GUIDAGE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pdb: Option<String>,
    /// The PDB was found on the symbol path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pdb_found: Option<bool>,
    /// Milliseconds since the guest booted, by its own clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_ms: Option<u64>,
    /// A bugcheck that has happened: code and parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bugcheck: Option<String>,
    /// Linux: the message of a panic that has happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub panic: Option<String>,
    /// Linux: the line that says most of the last oops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oops: Option<String>,
    /// Linux: oopses so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oopses: Option<u32>,
    /// Linux: the letters of what it is tainted with; absent where it isn't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taint: Option<String>,
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
    /// Its id; of a Linux process the pid of its first thread.
    pub pid: u64,
    /// Its parent's, which may be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_pid: Option<u64>,
    /// Its name as the kernel keeps it: cut at 15 bytes.
    pub name: String,
    /// Linux: what its first thread does: `running`, `sleeping`, `zombie` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Linux: the same as `ps` shows it: `R`, `S`, `Z` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_letter: Option<String>,
    /// Linux: whether it is the kernel's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<bool>,
    /// The kernel's structure of it (EPROCESS, task_struct).
    pub address: Hex,
    /// Its page-table root; Linux' kernel threads have none of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Hex>,
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
    /// Its process's id; Linux' tgid.
    pub pid: u64,
    /// Its id; what Linux calls its pid.
    pub tid: u64,
    /// Its process's name.
    pub process: String,
    /// Linux: its own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The kernel's structure of it (ETHREAD, task_struct).
    pub address: Hex,
    /// `running`, `waiting`, `sleeping` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Linux: the state as `ps` shows it: `R`, `S` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_letter: Option<String>,
    /// Linux: whether it is the kernel's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<bool>,
    /// Linux: the CPU that it is on, or was on last, as the kernel numbers them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// Linux: where in the kernel it waits, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_at: Option<Hex>,
    /// The same by name: `do_wait+0x164`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_in: Option<String>,
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
    /// The end of its kernel stack: the high one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack_base: Option<Hex>,
}

/// Modules of the guest's kernel.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GuestModules {
    /// In the kernel's order; Windows' has the kernel first, Linux' the newest.
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Where it is; Linux: where its text is.
    pub base: Hex,
    /// How large it is; Linux: all its parts.
    pub bytes: u64,
    /// Linux: `live`, `coming`, `going`, `unformed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Linux: the parts of its memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<GuestModulePart>,
    /// Linux: how many use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub references: Option<u32>,
    /// Linux: which modules use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<Vec<String>>,
    /// Its entry point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry_point: Option<Hex>,
    /// The time stamp in its header, if that can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_date_stamp: Option<u32>,
    /// Its check sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_sum: Option<u32>,
}

/// A part of a Linux module's memory.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GuestModulePart {
    /// `text`, `data`, `rodata` …; `core` and `init` before 6.4.
    pub kind: String,
    /// Where it is.
    pub base: Hex,
    /// How large it is.
    pub bytes: u64,
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

/// Symbols of the guest's kernel.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GuestSymbols {
    /// In the kernel's order; by name where a PDB has them.
    pub symbols: Vec<GuestSymbol>,
    /// Where to go on, if there are more than fit into a message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// A symbol of the guest's kernel.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GuestSymbol {
    /// Its address; of Linux' per-CPU variables before 6.15 the offset.
    pub address: Hex,
    /// Linux: the letter that `nm` shows.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its name, without what would move a cursor.
    pub name: String,
    /// The module that it is in, if it isn't in the kernel's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// How far behind it the address is that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

/// A symbol file that was written.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SymbolFileReport {
    /// Where.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// The operating system as it was recognised.
    pub os: String,
    /// Where the kernel is, and the symbols are for.
    pub kernel_base: Hex,
    /// Its build-id, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
}

/// The log of the guest's kernel.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GuestLog {
    /// Records, oldest first.
    pub records: Vec<GuestLogRecord>,
    /// How many to skip next time, if there are more than fit into a message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// Why there aren't more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

/// A record of the kernel's log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GuestLogRecord {
    /// Its number since boot.
    pub seq: u64,
    /// How urgent, from 0 (emergency) to 7 (debug).
    pub level: u8,
    /// The syslog facility; 0 is the kernel.
    pub facility: u8,
    /// Nanoseconds since boot.
    pub time_ns: u64,
    /// Who wrote it, where the kernel keeps that: `T12` for a thread, `C0` for a CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// What it says, in one line or several.
    pub text: String,
}
