//! Which structure fields and kernel variables are asked for, and where each was learned.

use std::fmt;

/// Declares an enum of names that a PDB has, so that one list serves PDBs, the table of known kernels and errors.
macro_rules! names {
    ($(#[$enum_doc:meta])* $enum:ident { $($(#[$doc:meta])* $variant:ident = $name:literal;)* }) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        pub enum $enum { $($(#[$doc])* $variant,)* }

        impl $enum {
            /// All, in the order of their numbers.
            pub const ALL: &'static [$enum] = &[$($enum::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();
            /// Its name in PDBs.
            pub const fn name(self) -> &'static str {
                const NAMES: &[&str] = &[$($name,)*];
                NAMES[self as usize]
            }
        }

        impl fmt::Display for $enum {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

names! {
    /// An offset in a structure of the nt kernel's public PDB, or (`_size`) a structure's size.
    #[allow(missing_docs)]
    Field {
        KpcrSize = "_KPCR._size";
        KpcrSelf = "_KPCR.Self";
        KpcrCurrentPrcb = "_KPCR.CurrentPrcb";
        KpcrPrcb = "_KPCR.Prcb";
        KpcrIrql = "_KPCR.Irql";
        KprcbSize = "_KPRCB._size";
        KprcbCurrentThread = "_KPRCB.CurrentThread";
        KprcbNextThread = "_KPRCB.NextThread";
        KprcbIdleThread = "_KPRCB.IdleThread";
        KprcbNumber = "_KPRCB.Number";
        KprcbProcessorState = "_KPRCB.ProcessorState";
        KprcbCpuType = "_KPRCB.CpuType";
        KprcbMhz = "_KPRCB.MHz";
        KprcbVendorString = "_KPRCB.VendorString";
        KprcbContext = "_KPRCB.Context";
        KprcbDpcRoutineActive = "_KPRCB.DpcRoutineActive";
        KprcbIpiFrozen = "_KPRCB.IpiFrozen";
        KprcbKernelDirectoryTableBase = "_KPRCB.KernelDirectoryTableBase";
        StateSpecialRegisters = "_KPROCESSOR_STATE.SpecialRegisters";
        StateContextFrame = "_KPROCESSOR_STATE.ContextFrame";
        EprocessSize = "_EPROCESS._size";
        EprocessUniqueProcessId = "_EPROCESS.UniqueProcessId";
        EprocessActiveProcessLinks = "_EPROCESS.ActiveProcessLinks";
        EprocessImageFileName = "_EPROCESS.ImageFileName";
        EprocessParentId = "_EPROCESS.InheritedFromUniqueProcessId";
        EprocessPeb = "_EPROCESS.Peb";
        EprocessSession = "_EPROCESS.Session";
        EprocessWow64Process = "_EPROCESS.Wow64Process";
        EprocessCreateTime = "_EPROCESS.CreateTime";
        EprocessExitTime = "_EPROCESS.ExitTime";
        EprocessThreadListHead = "_EPROCESS.ThreadListHead";
        EprocessActiveThreads = "_EPROCESS.ActiveThreads";
        EprocessSectionBaseAddress = "_EPROCESS.SectionBaseAddress";
        KprocessDirectoryTableBase = "_KPROCESS.DirectoryTableBase";
        KprocessUserDirectoryTableBase = "_KPROCESS.UserDirectoryTableBase";
        KprocessThreadListHead = "_KPROCESS.ThreadListHead";
        EthreadSize = "_ETHREAD._size";
        EthreadCid = "_ETHREAD.Cid";
        EthreadStartAddress = "_ETHREAD.StartAddress";
        EthreadWin32StartAddress = "_ETHREAD.Win32StartAddress";
        EthreadThreadListEntry = "_ETHREAD.ThreadListEntry";
        KthreadInitialStack = "_KTHREAD.InitialStack";
        KthreadStackLimit = "_KTHREAD.StackLimit";
        KthreadStackBase = "_KTHREAD.StackBase";
        KthreadKernelStack = "_KTHREAD.KernelStack";
        KthreadTrapFrame = "_KTHREAD.TrapFrame";
        KthreadApcState = "_KTHREAD.ApcState";
        KthreadTeb = "_KTHREAD.Teb";
        KthreadProcess = "_KTHREAD.Process";
        KthreadState = "_KTHREAD.State";
        KthreadWaitReason = "_KTHREAD.WaitReason";
        KthreadPriority = "_KTHREAD.Priority";
        KthreadBasePriority = "_KTHREAD.BasePriority";
        KthreadNextProcessor = "_KTHREAD.NextProcessor";
        KthreadThreadListEntry = "_KTHREAD.ThreadListEntry";
    }
}

names! {
    /// A variable or function of the kernel image.
    #[allow(missing_docs)]
    Global {
        KdDebuggerDataBlock = "KdDebuggerDataBlock";
        KdpDataBlockEncoded = "KdpDataBlockEncoded";
        KdVersionBlock = "KdVersionBlock";
        KdpDebuggerDataListHead = "KdpDebuggerDataListHead";
        KiWaitNever = "KiWaitNever";
        KiWaitAlways = "KiWaitAlways";
        PsLoadedModuleList = "PsLoadedModuleList";
        PsActiveProcessHead = "PsActiveProcessHead";
        PsInitialSystemProcess = "PsInitialSystemProcess";
        KiProcessorBlock = "KiProcessorBlock";
        KiBugCheckData = "KiBugCheckData";
        NtBuildNumber = "NtBuildNumber";
        NtBuildLab = "NtBuildLab";
        MmPfnDatabase = "MmPfnDatabase";
        MmPhysicalMemoryBlock = "MmPhysicalMemoryBlock";
        MmUnloadedDrivers = "MmUnloadedDrivers";
        MmLastUnloadedDriver = "MmLastUnloadedDriver";
        MmSystemRangeStart = "MmSystemRangeStart";
        MmHighestUserAddress = "MmHighestUserAddress";
        MmUserProbeAddress = "MmUserProbeAddress";
        MmPteBase = "MmPteBase";
        KiDivideErrorFault = "KiDivideErrorFault";
        KiDivideErrorFaultShadow = "KiDivideErrorFaultShadow";
        KiSystemCall64 = "KiSystemCall64";
        KiSystemCall64Shadow = "KiSystemCall64Shadow";
        KeBugCheckEx = "KeBugCheckEx";
        RtlpBreakWithStatusInstruction = "RtlpBreakWithStatusInstruction";
        KiCallUserMode = "KiCallUserMode";
        PspCidTable = "PspCidTable";
        ObpRootDirectoryObject = "ObpRootDirectoryObject";
        KeTimeIncrement = "KeTimeIncrement";
        CmNtCSDVersion = "CmNtCSDVersion";
        KeLoaderBlock = "KeLoaderBlock";
        KiKvaShadow = "KiKvaShadow";
        KeNumberProcessors = "KeNumberProcessors";
        KdPrintCircularBuffer = "KdPrintCircularBuffer";
        KdPrintWritePointer = "KdPrintWritePointer";
        KdPrintRolloverCount = "KdPrintRolloverCount";
        KdPrintBufferSize = "KdPrintBufferSize";
        PoolTrackTable = "PoolTrackTable";
        NonPagedPoolDescriptor = "NonPagedPoolDescriptor";
        ExpPagedPoolDescriptor = "ExpPagedPoolDescriptor";
        IopNumTriageDumpDataBlocks = "IopNumTriageDumpDataBlocks";
        IopTriageDumpDataBlocks = "IopTriageDumpDataBlocks";
    }
}

/// Where a fact about this kernel was learned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// The kernel's own PDB file, found on the symbol path.
    Pdb,
    /// The built-in table of known kernels, by the PDB's GUID and age.
    KnownKernel,
    /// A kernel of another GUID; it was tested against this guest's memory.
    Similar,
    /// The kernel image's export directory.
    Export,
    /// The code of an exported function.
    Code,
    /// The shape of the data in memory: links that close, pointers that agree.
    Structure,
    /// The same in every version of this architecture.
    Architecture,
    /// The guest's KDDEBUGGER_DATA64.
    DebuggerData,
    /// The guest's KdVersionBlock.
    VersionBlock,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Pdb => "PDB",
            Source::KnownKernel => "known kernel",
            Source::Similar => "similar kernel, verified",
            Source::Export => "export",
            Source::Code => "code of an exported function",
            Source::Structure => "structure in memory",
            Source::Architecture => "the same in every version",
            Source::DebuggerData => "KDDEBUGGER_DATA64",
            Source::VersionBlock => "KdVersionBlock",
        })
    }
}
