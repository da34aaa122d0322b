/* What a debugger reads first: KdVersionBlock, the debugger data block, and its encoding. */
#include "kernel.h"

extern UCHAR __ImageBase[];
static LIST_ENTRY KeBugCheckCallbackListHead = {&KeBugCheckCallbackListHead, &KeBugCheckCallbackListHead};
/* What the kernel has no use for, so that the block's pointers lead to something: zero. */
static ULONG64 KdpUnused[64];
CHAR KdPrintDefaultCircularBuffer[0x1000];
PVOID KdPrintCircularBufferPtr = KdPrintDefaultCircularBuffer;

/* An address as 64 bits: in the version block sign-extended on x86, in the data block not. */
#define WIDEN(address) ((ULONG64)(INT64)(LONG_PTR)(address))
#define PLAIN(address) ((ULONG64)(ULONG_PTR)(address))
#define A(field, variable) block->field = PLAIN(&variable)
#define HAS(field) (__builtin_offsetof(KDDEBUGGER_DATA64, field) < KDBG_SIZE)

static void FillAddresses(KDDEBUGGER_DATA64 *block) {
    extern UCHAR RtlpBreakWithStatusInstruction[];
    block->KernBase = PLAIN(__ImageBase);
    block->BreakpointWithStatus = PLAIN(RtlpBreakWithStatusInstruction);
#ifdef NT_X86
    block->PaeEnabled = MiPae;
#else
    block->PaeEnabled = 1;
#endif
    A(PsLoadedModuleList, PsLoadedModuleList);
    A(PsActiveProcessHead, PsActiveProcessHead);
    A(PspCidTable, PspCidTable);
    A(ExpSystemResourcesList, KdpUnused[0]);
    A(ExpPagedPoolDescriptor, ExpPagedPoolDescriptor);
    A(ExpNumberOfPagedPools, KdpUnused[1]);
    A(KeTimeIncrement, KeTimeIncrement);
    A(KeBugCheckCallbackListHead, KeBugCheckCallbackListHead);
    A(KiBugcheckData, KiBugCheckData);
    A(IopErrorLogListHead, KdpUnused[2]);
    A(ObpRootDirectoryObject, ObpRootDirectoryObject);
    A(ObpTypeObjectType, ObpTypeObjectType);
    A(MmSystemCacheStart, KdpUnused[3]);
    A(MmSystemCacheEnd, KdpUnused[4]);
    A(MmSystemCacheWs, KdpUnused[5]);
    A(MmPfnDatabase, MmPfnDatabase);
    A(MmSystemPtesStart, KdpUnused[6]);
    A(MmSystemPtesEnd, KdpUnused[7]);
    A(MmSubsectionBase, KdpUnused[8]);
    A(MmNumberOfPagingFiles, KdpUnused[9]);
    A(MmLowestPhysicalPage, MmLowestPhysicalPage);
    A(MmHighestPhysicalPage, MmHighestPhysicalPage);
    A(MmNumberOfPhysicalPages, MmNumberOfPhysicalPages);
    A(MmMaximumNonPagedPoolInBytes, KdpUnused[10]);
    A(MmNonPagedSystemStart, KdpUnused[11]);
    A(MmNonPagedPoolStart, KdpUnused[12]);
    A(MmNonPagedPoolEnd, KdpUnused[13]);
    A(MmPagedPoolStart, KdpUnused[14]);
    A(MmPagedPoolEnd, KdpUnused[15]);
    A(MmPagedPoolInformation, KdpUnused[16]);
    block->MmPageSize = PAGE_SIZE;
    A(MmSizeOfPagedPoolInBytes, KdpUnused[17]);
    A(MmTotalCommitLimit, KdpUnused[18]);
    A(MmTotalCommittedPages, KdpUnused[19]);
    A(MmSharedCommit, KdpUnused[20]);
    A(MmDriverCommit, KdpUnused[21]);
    A(MmProcessCommit, KdpUnused[22]);
    A(MmPagedPoolCommit, KdpUnused[23]);
    A(MmZeroedPageListHead, KdpUnused[24]);
    A(MmFreePageListHead, KdpUnused[25]);
    A(MmStandbyPageListHead, KdpUnused[26]);
    A(MmModifiedPageListHead, KdpUnused[27]);
    A(MmModifiedNoWritePageListHead, KdpUnused[28]);
    A(MmAvailablePages, MmAvailablePages);
    A(MmResidentAvailablePages, MmAvailablePages);
    A(PoolTrackTable, PoolTrackTable);
    A(NonPagedPoolDescriptor, NonPagedPoolDescriptor);
    A(MmHighestUserAddress, MmHighestUserAddress);
    A(MmSystemRangeStart, MmSystemRangeStart);
    A(MmUserProbeAddress, MmUserProbeAddress);
    A(KdPrintCircularBuffer, KdPrintDefaultCircularBuffer);
    block->KdPrintCircularBufferEnd = PLAIN(KdPrintDefaultCircularBuffer) + sizeof KdPrintDefaultCircularBuffer;
    A(KdPrintWritePointer, KdPrintWritePointer);
    A(KdPrintRolloverCount, KdPrintRolloverCount);
    A(MmLoadedUserImageList, KdpUnused[29]);
    A(NtBuildLab, NtBuildLab);
    A(KiProcessorBlock, KiProcessorBlock);
    A(MmUnloadedDrivers, MmUnloadedDrivers);
    A(MmLastUnloadedDriver, MmLastUnloadedDriver);
    A(MmTriageActionTaken, KdpUnused[30]);
    A(MmSpecialPoolTag, KdpUnused[31]);
    A(KernelVerifier, KdpUnused[32]);
    A(MmVerifierData, KdpUnused[33]);
    A(MmAllocatedNonPagedPool, KdpUnused[34]);
    A(MmPeakCommitment, KdpUnused[35]);
    A(MmTotalCommitLimitMaximum, KdpUnused[36]);
    A(CmNtCSDVersion, CmNtCSDVersion);
    A(MmPhysicalMemoryBlock, MmPhysicalMemoryBlock);
    A(MmSessionBase, KdpUnused[37]);
    A(MmSessionSize, KdpUnused[38]);
    A(KdPrintCircularBufferPtr, KdPrintCircularBufferPtr);
    A(KdPrintBufferSize, KdPrintBufferSize);
    A(KeLoaderBlock, KeLoaderBlock);
}

static void FillOffsets(KDDEBUGGER_DATA64 *block) {
    block->OffsetKThreadNextProcessor = KTHREAD_NextProcessor;
    block->OffsetKThreadTeb = KTHREAD_Teb;
    block->OffsetKThreadKernelStack = KTHREAD_KernelStack;
    block->OffsetKThreadInitialStack = KTHREAD_InitialStack;
    block->OffsetKThreadApcProcess = KTHREAD_ApcState_Process;
    block->OffsetKThreadState = KTHREAD_State;
    block->SizeEProcess = SIZEOF_EPROCESS;
    block->OffsetEprocessPeb = EPROCESS_Peb;
    block->OffsetEprocessParentCID = EPROCESS_InheritedFromUniqueProcessId;
    block->OffsetEprocessDirectoryTableBase = EPROCESS_Pcb + KPROCESS_DirectoryTableBase;
    block->SizePrcb = SIZEOF_KPRCB;
#ifdef HAVE_KPRCB_DpcRoutineActive
    block->OffsetPrcbDpcRoutine = KPRCB_DpcRoutineActive;
#endif
    block->OffsetPrcbCurrentThread = KPRCB_CurrentThread;
    block->OffsetPrcbMhz = KPRCB_MHz;
    block->OffsetPrcbCpuType = KPRCB_CpuType;
    block->OffsetPrcbVendorString = KPRCB_VendorString;
    block->OffsetPrcbProcStateContext = KPRCB_ProcessorState_ContextFrame;
    block->OffsetPrcbNumber = KPRCB_Number;
    block->SizeEThread = SIZEOF_ETHREAD;
    block->SizePcr = SIZEOF_KPCR;
    block->OffsetPcrSelfPcr = SELF_OFFSET;
    block->OffsetPcrCurrentPrcb = CURRENT_PRCB_OFFSET;
    block->OffsetPcrContainedPrcb = CONTAINED_PRCB_OFFSET;
    block->OffsetPrcbProcStateSpecialReg = KPRCB_ProcessorState_SpecialRegisters;
#ifdef NT_X64
    block->GdtR0Code = KGDT64_R0_CODE;
    block->GdtR0Data = KGDT64_R0_DATA;
    block->GdtR3Code = KGDT64_R3_CODE | 3;
    block->GdtR3Data = KGDT64_R3_DATA | 3;
    block->GdtR3Teb = KGDT64_R3_CMTEB | 3;
    block->GdtTss = KGDT64_SYS_TSS;
    block->Gdt64R3CmCode = KGDT64_R3_CMCODE | 3;
    block->Gdt64R3CmTeb = KGDT64_R3_CMTEB | 3;
#else
    block->OffsetPcrInitialStack = KPCR_Used_StackBase;
    block->GdtR0Code = KGDT_R0_CODE;
    block->GdtR0Data = KGDT_R0_DATA;
    block->GdtR0Pcr = KGDT_R0_PCR;
    block->GdtR3Code = KGDT_R3_CODE | 3;
    block->GdtR3Data = KGDT_R3_DATA | 3;
    block->GdtR3Teb = KGDT_R3_TEB | 3;
    block->GdtLdt = KGDT_LDT;
    block->GdtTss = KGDT_TSS;
#endif
}

/* Fields that came later; the block of an older kernel ends before them. */
static void FillNewer(KDDEBUGGER_DATA64 *block) {
    UCHAR *at = (UCHAR *)block;
#define PUT(offset, type, value)                                                                                       \
    if (offset + sizeof(type) <= KDBG_SIZE) *(type *)(at + offset) = (type)(value)
    PUT(0x308, ULONG64, PLAIN(&IopNumTriageDumpDataBlocks));
    PUT(0x310, ULONG64, PLAIN(&IopTriageDumpDataBlocks));
    PUT(0x318, ULONG64, PLAIN(&KdpUnused[39]));
    PUT(0x320, ULONG64, PLAIN(&KdpUnused[40]));
    PUT(0x328, ULONG64, PLAIN(&KdpUnused[41]));
    PUT(0x330, ULONG64, PLAIN(&KdpUnused[42]));
    PUT(0x338, USHORT, KPRCB_Context);
    if (KDBG_SIZE <= 0x340) return;
    PUT(0x33a, USHORT, 0x20);
    PUT(0x33c, USHORT, 4);
    PUT(0x340, ULONG, KTHREAD_StackLimit);
    PUT(0x344, ULONG, KTHREAD_StackBase);
    PUT(0x350, USHORT, KPRCB_IdleThread);
    if (NT_BUILD >= 9600) PUT(0x35c, USHORT, KTHREAD_WaitReason);
    PUT(0x360, ULONG64, KiLoader->PteBase);
}

void KdInitSystem(void) {
    KDDEBUGGER_DATA64 *block = (KDDEBUGGER_DATA64 *)&KdDebuggerDataBlock;
    DBGKD_GET_VERSION64 *version = (DBGKD_GET_VERSION64 *)&KdVersionBlock;
    UCHAR *bytes = (UCHAR *)block;

    CmNtCSDVersion = NT_CSD_VERSION;
    PsNtosImageBase = __ImageBase;
    KdDebuggerNotPresent = TRUE;
    KdDebuggerEnabled = FALSE;
    KdpBootedNodebug = KiLoaderOption("NODEBUG");
    KdPitchDebugger = KdpBootedNodebug;
    KdpInitializePrint();

    InitializeListHead(&KdpDebuggerDataListHead);
    InsertTailList(&KdpDebuggerDataListHead, (PLIST_ENTRY)block);
    *(ULONG *)(bytes + 0x10) = 0x4742444B;
    *(ULONG *)(bytes + 0x14) = KDBG_SIZE;
    FillAddresses(block);
    FillOffsets(block);
    FillNewer(block);

    version->MajorVersion = 0xF;
    version->MinorVersion = NT_BUILD;
    version->ProtocolVersion = 6;
    version->KdSecondaryVersion = NT_MACHINE == 0x8664 ? 2 : 0;
    version->Flags = NT_MACHINE == 0x8664 ? 7 : 3;
    version->MachineType = NT_MACHINE;
    version->MaxPacketType = 0xC;
    version->MaxStateChange = 3;
    version->MaxManipulate = 0x33;
    version->KernBase = WIDEN(__ImageBase);
    version->PsLoadedModuleList = WIDEN(&PsLoadedModuleList);
    version->DebuggerDataList = WIDEN(&KdpDebuggerDataListHead);
}

static ULONG64 RotateLeft(ULONG64 value, ULONG count) {
    count &= 63;
    return count ? value << count | value >> (64 - count) : value;
}

/* Each word: rotated, swapped, and mixed with two keys and the address of the flag that says so. */
void KdEncodeDataBlock(void) {
    ULONG64 *word = (ULONG64 *)&KdDebuggerDataBlock, flag = WIDEN(&KdpDataBlockEncoded);
    ULONG n;
    KiWaitNever = KiRandom();
    KiWaitAlways = KiRandom();
    for (n = 0; n < KDBG_SIZE / 8; n++)
        word[n] = RotateLeft(__builtin_bswap64(word[n] ^ KiWaitAlways) ^ flag, (ULONG)(64 - (KiWaitNever & 63))) ^ KiWaitNever;
    KdpDataBlockEncoded = TRUE;
}

void KdDecodeDataBlock(void) {
    ULONG64 *word = (ULONG64 *)&KdDebuggerDataBlock, flag = WIDEN(&KdpDataBlockEncoded);
    ULONG n;
    if (!KdpDataBlockEncoded) return;
    for (n = 0; n < KDBG_SIZE / 8; n++)
        word[n] = __builtin_bswap64(RotateLeft(word[n] ^ KiWaitNever, (ULONG)(KiWaitNever & 63)) ^ flag) ^ KiWaitAlways;
    KdpDataBlockEncoded = FALSE;
}
