//! What is told about a Windows guest. Addresses are as the guest's CPU uses them: on x86 they have 32 bits and are
//! not sign-extended (the KD protocol does that on its wire).

use hv_core::{GuestPhysAddr, GuestVirtAddr, VcpuId};
use std::fmt;
use symbols::PdbId;

/// The kernel's architecture.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Arch {
    /// 32-bit, with PAE paging or without.
    X86,
    /// 64-bit.
    X64,
}

impl Arch {
    /// Bytes in a pointer.
    pub const fn pointer_size(self) -> usize {
        match self {
            Arch::X86 => 4,
            Arch::X64 => 8,
        }
    }

    /// IMAGE_FILE_MACHINE_I386 or _AMD64 (winnt.h).
    pub const fn machine(self) -> u16 {
        match self {
            Arch::X86 => 0x14c,
            Arch::X64 => 0x8664,
        }
    }

    /// The address as KD and dump files write it: 64 bits, sign-extended on x86.
    pub const fn sign_extend(self, address: GuestVirtAddr) -> u64 {
        match self {
            Arch::X86 => address.0 as u32 as i32 as i64 as u64,
            Arch::X64 => address.0,
        }
    }

    /// The address as the CPU uses it, from 64 bits that may be sign-extended.
    pub const fn address(self, value: u64) -> GuestVirtAddr {
        match self {
            Arch::X86 => GuestVirtAddr(value & 0xffff_ffff),
            Arch::X64 => GuestVirtAddr(value),
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arch::X86 => "x86",
            Arch::X64 => "x64",
        })
    }
}

/// The kernel's image in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelImage {
    /// Where its header is.
    pub base: GuestVirtAddr,
    /// SizeOfImage.
    pub size: u32,
    /// TimeDateStamp of its header.
    pub time_date_stamp: u32,
    /// CheckSum of its header.
    pub check_sum: u32,
    /// The PDB that belongs to it; `None` if the debug directory couldn't be read.
    pub pdb: Option<PdbId>,
}

impl KernelImage {
    /// Whether an address lies in it.
    pub fn contains(&self, address: GuestVirtAddr) -> bool {
        address.0 >= self.base.0 && address.0 - self.base.0 < u64::from(self.size)
    }
}

/// A vCPU as the kernel sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Processor {
    /// The vCPU.
    pub vcpu: VcpuId,
    /// Its KPCR.
    pub kpcr: GuestVirtAddr,
    /// Its KPRCB.
    pub kprcb: GuestVirtAddr,
    /// KPRCB.Number: the number that Windows gave it. It need not be the vCPU's.
    pub number: u32,
    /// KPRCB.CurrentThread; in the middle of a context switch that is the incoming one.
    pub current_thread: Option<GuestVirtAddr>,
    /// KPRCB.NextThread, where one is chosen.
    pub next_thread: Option<GuestVirtAddr>,
    /// KPRCB.IdleThread.
    pub idle_thread: Option<GuestVirtAddr>,
}

/// An entry of the loaded-module list (KLDR_DATA_TABLE_ENTRY).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Module {
    /// The entry itself.
    pub entry: GuestVirtAddr,
    /// DllBase.
    pub base: GuestVirtAddr,
    /// SizeOfImage.
    pub size: u32,
    /// EntryPoint.
    pub entry_point: GuestVirtAddr,
    /// BaseDllName.
    pub name: String,
    /// FullDllName.
    pub path: String,
    /// Flags.
    pub flags: u32,
    /// LoadCount.
    pub load_count: u16,
    /// CheckSum of the entry.
    pub check_sum: u32,
    /// TimeDateStamp of the image's header, if that is readable.
    pub time_date_stamp: Option<u32>,
}

/// An entry of MmUnloadedDrivers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnloadedModule {
    /// Its name.
    pub name: String,
    /// Where it was.
    pub start: GuestVirtAddr,
    /// Where it ended.
    pub end: GuestVirtAddr,
    /// When it was unloaded: 100 ns since 1601.
    pub time: u64,
}

/// An EPROCESS. A field that is `None` has no known offset in this build.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    /// The EPROCESS.
    pub address: GuestVirtAddr,
    /// UniqueProcessId.
    pub pid: u64,
    /// InheritedFromUniqueProcessId.
    pub parent: Option<u64>,
    /// ImageFileName: at most 15 bytes, cut off.
    pub name: String,
    /// Pcb.DirectoryTableBase without its low bits: the root that maps all.
    pub root: GuestPhysAddr,
    /// Pcb.UserDirectoryTableBase, where KVA shadowing is on for the process.
    pub user_root: Option<GuestPhysAddr>,
    /// Peb; null for System.
    pub peb: Option<GuestVirtAddr>,
    /// Wow64Process isn't null: a 32-bit process on x64.
    pub wow64: Option<bool>,
    /// CreateTime: 100 ns since 1601.
    pub create_time: Option<u64>,
    /// ExitTime: 0 while it lives.
    pub exit_time: Option<u64>,
    /// ActiveThreads.
    pub active_threads: Option<u32>,
}

/// An ETHREAD. A field that is `None` has no known offset in this build.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Thread {
    /// The ETHREAD, which begins with the KTHREAD.
    pub address: GuestVirtAddr,
    /// Cid.UniqueThread.
    pub tid: u64,
    /// Cid.UniqueProcess.
    pub pid: u64,
    /// KTHREAD.Process: the process it belongs to.
    pub process: Option<GuestVirtAddr>,
    /// KTHREAD.State.
    pub state: Option<ThreadState>,
    /// KTHREAD.WaitReason, meaningful while it waits.
    pub wait_reason: Option<u8>,
    /// KTHREAD.Priority.
    pub priority: Option<i8>,
    /// KTHREAD.Teb; null for system threads.
    pub teb: Option<GuestVirtAddr>,
    /// ETHREAD.StartAddress.
    pub start: Option<GuestVirtAddr>,
    /// ETHREAD.Win32StartAddress.
    pub win32_start: Option<GuestVirtAddr>,
    /// KTHREAD.StackBase: the end of the kernel stack.
    pub stack_base: Option<GuestVirtAddr>,
    /// KTHREAD.StackLimit: its lowest address.
    pub stack_limit: Option<GuestVirtAddr>,
    /// KTHREAD.KernelStack: the stack pointer while it doesn't run.
    pub kernel_stack: Option<GuestVirtAddr>,
    /// The vCPU that runs it now.
    pub running_on: Option<VcpuId>,
}

/// KTHREAD_STATE (nt kernel public PDB).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ThreadState(pub u8);

impl ThreadState {
    /// Runs on a processor.
    pub const RUNNING: ThreadState = ThreadState(2);
    /// Waits.
    pub const WAITING: ThreadState = ThreadState(5);
}

impl fmt::Display for ThreadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 10] = [
            "initialized",
            "ready",
            "running",
            "standby",
            "terminated",
            "waiting",
            "transition",
            "deferred-ready",
            "gate-wait",
            "waiting-for-process",
        ];
        match NAMES.get(usize::from(self.0)) {
            Some(name) => f.pad(name),
            None => f.pad(&format!("state-{}", self.0)),
        }
    }
}

/// A list as far as it could be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Walk<T> {
    /// What was read, in the list's order.
    pub items: Vec<T>,
    /// Why there isn't more; `None` if the list closed properly.
    pub broken: Option<Broken>,
}

/// Where and why a list's walk ended early.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{list} breaks off at {at} after {read}: {why}")]
pub struct Broken {
    /// Which list.
    pub list: &'static str,
    /// The link that is wrong.
    pub at: GuestVirtAddr,
    /// How many entries were read before.
    pub read: usize,
    /// What is wrong.
    pub why: String,
}

/// A bugcheck that has happened or is happening (KiBugCheckData).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bugcheck {
    /// The code.
    pub code: u32,
    /// The four parameters.
    pub parameters: [u64; 4],
}

/// Facts of KUSER_SHARED_DATA (ntddk.h). Fields that the version doesn't have are `None`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SharedData {
    /// Where it was read.
    pub address: GuestVirtAddr,
    /// NtMajorVersion, NtMinorVersion.
    pub version: (u32, u32),
    /// NtBuildNumber, without its high bits.
    pub build: Option<u32>,
    /// NtProductType: 1 workstation, 2 domain controller, 3 server.
    pub product_type: u32,
    /// SuiteMask.
    pub suite_mask: u32,
    /// NtSystemRoot.
    pub system_root: String,
    /// SystemTime: 100 ns since 1601.
    pub system_time: u64,
    /// InterruptTime: 100 ns since boot.
    pub interrupt_time: u64,
    /// TickCount.
    pub tick_count: u64,
    /// TickCountMultiplier.
    pub tick_count_multiplier: u32,
    /// KdDebuggerEnabled: bit 0 enabled, bit 1 present.
    pub kd_debugger_enabled: u8,
    /// NumberOfPhysicalPages.
    pub physical_pages: u32,
    /// ActiveProcessorCount.
    pub active_processors: u32,
}

impl SharedData {
    /// Milliseconds since the guest booted.
    pub fn uptime_ms(&self) -> u64 {
        ((u128::from(self.tick_count) * u128::from(self.tick_count_multiplier)) >> 24) as u64
    }
}

/// A run of the guest's own map of physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PhysicalRun {
    /// The first byte.
    pub start: GuestPhysAddr,
    /// How many 4 KiB pages.
    pub pages: u64,
}
