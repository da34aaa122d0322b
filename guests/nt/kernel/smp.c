/* The other processors: a start block in low memory, INIT and start-up IPIs, and what each then does. */
#include "kernel.h"

/* The page that a processor begins at. PROCESSOR_START_BLOCK: a jump, a completion flag, and the state to load. */
#define START_PAGE 2ULL
#define START_ADDRESS (START_PAGE << 12)
#define START_CODE 0x650

#pragma pack(push, 1)
typedef struct _PROCESSOR_START_BLOCK {
    UCHAR Jump;         /* E9: to START_CODE, relative to the next instruction */
    USHORT Offset;
    UCHAR Padding;
    ULONG CompletionFlag;
    USHORT GdtLimit;    /* the 32-bit pseudo-descriptor of the table below */
    ULONG GdtBase;
    USHORT Unused;
    ULONG LongTarget;   /* far pointer to the 64-bit part */
    USHORT LongSelector;
    USHORT Unused2;
    ULONG64 Gdt[4];
    UCHAR Unused3[0x38];
    ULONG64 LmTarget;   /* the kernel's entry */
    ULONG64 SelfMap;    /* this block */
    ULONG64 MsrPat, MsrEfer;
    UCHAR ProcessorState[START_CODE - 0x90];
} PROCESSOR_START_BLOCK;
#pragma pack(pop)
_Static_assert(__builtin_offsetof(PROCESSOR_START_BLOCK, LmTarget) == 0x70, "the low stub's layout");

extern UCHAR KiStartCode16[], KiStartCode64[], KiStartCodeEnd[];
extern UCHAR KiStartProcessor[];

/* In a processor's first 64-bit instructions: these are read from the block. */
typedef struct _START {
    ULONG Number;
    PKPCR Pcr;
    UCHAR *Area;
    PETHREAD Idle;
} START;
static START KiStart;

/* IST stacks: double fault, machine check, NMI. */
void KiAllocateIstStacks(ULONG number) {
    KTSS64 *tss = (KTSS64 *)(KiProcessors[number].Area + AREA_TSS);
    ULONG n;
    for (n = 1; n <= 3; n++) {
        UCHAR *stack = MiAllocateSystemPages(IST_STACK_PAGES, PTE_WRITE | PTE_NX);
        /* The first word is the kernel's root, for shadowed entries. */
        ULONG64 *top = (ULONG64 *)(stack + IST_STACK_PAGES * PAGE_SIZE) - 2;
        *top = KiLoader->DirectoryTable;
        tss->Ist[n - 1] = (ULONG64)top;
    }
}

/* On the new processor, on its idle thread's stack. */
void KiProcessorMain(void) {
    ULONG number = KiStart.Number;
    KiInitializeProcessor(number, KiStart.Pcr, KiStart.Area, KiStart.Idle);
    KfRaiseIrql(DISPATCH_LEVEL);
    HalInitializeProcessor(number);
    KiProcessors[number].ApicId = HalGetApicId();
    HalStartClock(KiLoader->TscFrequency / 64);
    KiProcessors[number].Started = TRUE;
    KeLowerIrql(PASSIVE_LEVEL);
    KiIdleLoop();
}

static BOOLEAN StartProcessor(ULONG number, PROCESSOR_START_BLOCK *block) {
    PKSPECIAL_REGISTERS special = (PKSPECIAL_REGISTERS)(block->ProcessorState + KPROCESSOR_STATE_SpecialRegisters);
    PCONTEXT context = (PCONTEXT)(block->ProcessorState + KPROCESSOR_STATE_ContextFrame);
    UCHAR *stack = MmCreateKernelStack();
    ULONG spins;
    KiStart.Number = number;
    KiStart.Pcr = MiAllocateSystemPages((SIZEOF_KPCR + 0xfff) / 0x1000, PTE_WRITE | PTE_NX);
    KiStart.Area = MiAllocateSystemPages(AREA_SIZE / PAGE_SIZE, PTE_WRITE | PTE_NX);
    KiStart.Idle = ExAllocatePoolWithTag(0, SIZEOF_ETHREAD, 'erhT');
    if (!stack || !KiStart.Pcr || !KiStart.Area || !KiStart.Idle) return FALSE;
    PspInitializeThread(KiStart.Idle, &KiInitialProcess, stack, KERNEL_STACK_SIZE);
    PspLinkThread(KiStart.Idle, &KiInitialProcess);
    KiStart.Idle->Tcb.State = Running;
    KiProcessors[number].Area = KiStart.Area;
    KiAllocateIstStacks(number);

    block->CompletionFlag = 1;
    special->Cr0 = __readcr0();
    special->Cr3 = KiLoader->DirectoryTable;
    special->Cr4 = __readcr4();
    special->MsrGsBase = (ULONG64)KiStart.Pcr;
    context->Rip = block->LmTarget;
    context->Rsp = (ULONG64)KiStart.Idle->Tcb.InitialStack - 0x28;
    HalStartProcessor(number, START_PAGE);
    for (spins = 0; spins < 20000000 && !KiProcessors[number].Started; spins++) Pause();
    return KiProcessors[number].Started;
}

void KeStartAllProcessors(void) {
    PROCESSOR_START_BLOCK *block = MiDirect(START_ADDRESS);
    ULONG count = (ULONG)KiLoader->Processors, number;
    KiAllocateIstStacks(0);
#if KVA_SHADOW
    if (KiKvaShadow) {
        KvasInitialize();
        KvasShareProcessor(0);
    }
#endif
#ifdef HAVE_SYMBOL_KeActiveProcessors
    KeActiveProcessors[0] = 0x00140001;
    KeActiveProcessors[1] = 1;
#endif
    if (count < 2) return;
    memset(block, 0, PAGE_SIZE);
    block->Jump = 0xe9;
    block->Offset = START_CODE - 3;
    block->GdtLimit = sizeof block->Gdt - 1;
    block->GdtBase = START_ADDRESS + __builtin_offsetof(PROCESSOR_START_BLOCK, Gdt);
    block->Gdt[KGDT64_R0_CODE / 8] = 0x00209b0000000000ULL;
    block->Gdt[KGDT64_R0_DATA / 8] = 0x00cf93000000ffffULL;
    block->LongTarget = (ULONG)(START_ADDRESS + START_CODE + (KiStartCode64 - KiStartCode16));
    block->LongSelector = KGDT64_R0_CODE;
    block->LmTarget = (ULONG64)KiStartProcessor;
    block->SelfMap = (ULONG64)block;
    block->MsrPat = __readmsr(0x277);
    block->MsrEfer = __readmsr(MSR_EFER);
    memcpy((UCHAR *)block + START_CODE, KiStartCode16, (ULONG_PTR)(KiStartCodeEnd - KiStartCode16));
    /* The code turns paging on while it runs there. */
    MiMapPage(KiLoader->DirectoryTable, START_ADDRESS, START_ADDRESS | PTE_WRITE);
    for (number = 1; number < count && number < MAX_PROCESSORS; number++) {
        if (!StartProcessor(number, block)) break;
        KeNumberProcessors++;
#ifdef HAVE_SYMBOL_KeNumberProcessorsGroup0
        KeNumberProcessorsGroup0++;
#endif
#ifdef HAVE_SYMBOL_KeActiveProcessors
        /* KAFFINITY_EX: one group, its mask. */
        KeActiveProcessors[1] |= 1ULL << number;
#endif
        *(ULONG *)((UCHAR *)SHARED_USER_DATA + KUSER_SHARED_DATA_ActiveProcessorCount) = KeNumberProcessors;
#if KVA_SHADOW
        if (KiKvaShadow) KvasShareProcessor(number);
#endif
    }
    *MiPteAddress(START_ADDRESS) = 0;
    KeFlushEntireTb();
}
