//! KDDEBUGGER_DATA64 (wdbgexts.h): one layout for x86 and x64, fields only ever appended.

use crate::windows::field::{Field, Global};

/// 'KDBG', as OwnerTag holds it.
pub(crate) const TAG: u32 = u32::from_le_bytes(*b"KDBG");
/// Offsets of the header.
pub(crate) const OWNER_TAG: usize = 0x10;
pub(crate) const SIZE: usize = 0x14;
pub(crate) const KERN_BASE: usize = 0x18;
/// The header's own length, and that of the first field.
pub(crate) const HEADER: usize = 0x20;
/// Sizes that are believed; real ones are 0x208 (2000) to 0x3a8.
pub(crate) const SIZES: std::ops::RangeInclusive<usize> = 0x208..=0x1000;
/// PaeEnabled, a bit.
pub(crate) const PAE_ENABLED: usize = 0x36;
/// MmPageSize, a value.
pub(crate) const PAGE_SIZE: usize = 0x138;
/// PteBase, a value from 14393 on.
pub(crate) const PTE_BASE: usize = 0x360;

/// Whether a size can be a block's.
pub(crate) fn is_size(size: usize) -> bool {
    SIZES.contains(&size) && size.is_multiple_of(8)
}

/// The block's size in a build (wdbgexts.h's version markers; PDBs of 7 to 22000; later ones are inferred).
pub(crate) const fn size_of_build(build: u32) -> usize {
    match build {
        0..6001 => 0x328,
        6001..7600 => 0x330,
        7600..9200 => 0x340,
        9200..14393 => 0x360,
        14393..17763 => 0x368,
        17763..22621 => 0x380,
        22621..26100 => 0x3a0,
        _ => 0x3a8,
    }
}

/// Fields that hold the address of a variable or function.
pub(crate) const ADDRESSES: &[(usize, Global)] = &[
    (0x20, Global::RtlpBreakWithStatusInstruction),
    (0x38, Global::KiCallUserMode),
    (0x48, Global::PsLoadedModuleList),
    (0x50, Global::PsActiveProcessHead),
    (0x58, Global::PspCidTable),
    (0x68, Global::ExpPagedPoolDescriptor),
    (0x78, Global::KeTimeIncrement),
    (0x88, Global::KiBugCheckData),
    (0x98, Global::ObpRootDirectoryObject),
    (0xc0, Global::MmPfnDatabase),
    (0x1b8, Global::PoolTrackTable),
    (0x1c0, Global::NonPagedPoolDescriptor),
    (0x1c8, Global::MmHighestUserAddress),
    (0x1d0, Global::MmSystemRangeStart),
    (0x1d8, Global::MmUserProbeAddress),
    (0x1e0, Global::KdPrintCircularBuffer),
    (0x1f0, Global::KdPrintWritePointer),
    (0x1f8, Global::KdPrintRolloverCount),
    (0x208, Global::NtBuildLab),
    (0x218, Global::KiProcessorBlock),
    (0x220, Global::MmUnloadedDrivers),
    (0x228, Global::MmLastUnloadedDriver),
    (0x268, Global::CmNtCSDVersion),
    (0x270, Global::MmPhysicalMemoryBlock),
    (0x2d0, Global::KdPrintBufferSize),
    (0x2d8, Global::KeLoaderBlock),
    (0x308, Global::IopNumTriageDumpDataBlocks),
    (0x310, Global::IopTriageDumpDataBlocks),
];

/// 16-bit fields that hold a structure's offset or size.
pub(crate) const OFFSETS_16: &[(usize, Field)] = &[
    (0x298, Field::KthreadNextProcessor),
    (0x29a, Field::KthreadTeb),
    (0x29c, Field::KthreadKernelStack),
    (0x29e, Field::KthreadInitialStack),
    (0x2a2, Field::KthreadState),
    (0x2a8, Field::EprocessSize),
    (0x2aa, Field::EprocessPeb),
    (0x2ac, Field::EprocessParentId),
    (0x2ae, Field::KprocessDirectoryTableBase),
    (0x2b0, Field::KprcbSize),
    (0x2b4, Field::KprcbCurrentThread),
    (0x2b6, Field::KprcbMhz),
    (0x2b8, Field::KprcbCpuType),
    (0x2ba, Field::KprcbVendorString),
    (0x2be, Field::KprcbNumber),
    (0x2c0, Field::EthreadSize),
    (0x2e0, Field::KpcrSize),
    (0x2e2, Field::KpcrSelf),
    (0x2e4, Field::KpcrCurrentPrcb),
    (0x2e6, Field::KpcrPrcb),
    (0x338, Field::KprcbContext),
    (0x350, Field::KprcbIdleThread),
    (0x35c, Field::KthreadWaitReason),
];

/// 32-bit fields that hold an offset.
pub(crate) const OFFSETS_32: &[(usize, Field)] = &[
    (0x340, Field::KthreadStackLimit),
    (0x344, Field::KthreadStackBase),
];

/// OffsetKThreadApcProcess: KTHREAD.ApcState and the offset of Process in it.
pub(crate) const OFFSET_KTHREAD_APC_PROCESS: usize = 0x2a0;
/// OffsetPrcbProcStateContext and ProcStateSpecialReg: KPRCB.ProcessorState and the offset of the part in it.
pub(crate) const OFFSET_PRCB_PROC_STATE_CONTEXT: usize = 0x2bc;
pub(crate) const OFFSET_PRCB_PROC_STATE_SPECIAL_REG: usize = 0x2f2;
/// OffsetPrcbDpcRoutine.
pub(crate) const OFFSET_PRCB_DPC_ROUTINE: usize = 0x2b2;

/// GDT selectors from 0x2f4 on: R0 code and data, R0 PCR, R3 code and data, R3 TEB, LDT, TSS, 64-bit R3 code, and its TEB.
pub(crate) const SELECTORS: usize = 0x2f4;
/// x64's.
pub(crate) const SELECTORS_X64: [u16; 10] = [0x10, 0x18, 0, 0x20, 0x28, 0, 0, 0x40, 0x30, 0x50];
/// x86's.
pub(crate) const SELECTORS_X86: [u16; 10] = [8, 0x10, 0x30, 0x18, 0x20, 0x38, 0x48, 0x28, 0, 0];

/// A 16-bit field of a decoded block, if the block has it.
pub(crate) fn u16_at(block: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(
        block.get(offset..offset + 2)?.try_into().ok()?,
    ))
}

/// A 32-bit field.
pub(crate) fn u32_at(block: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        block.get(offset..offset + 4)?.try_into().ok()?,
    ))
}

/// A 64-bit field.
pub(crate) fn u64_at(block: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(
        block.get(offset..offset + 8)?.try_into().ok()?,
    ))
}
