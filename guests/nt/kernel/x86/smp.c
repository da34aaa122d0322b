/* The other processors: a start block in low memory, INIT and start-up IPIs, and what each then does. */
#include "kernel.h"

/* The page that a processor begins at. */
#define START_PAGE 2UL
#define START_ADDRESS (START_PAGE << 12)
#define START_CODE 0x100

#pragma pack(push, 1)
typedef struct _START_BLOCK {
    UCHAR Jump;     /* E9: to START_CODE, relative to the next instruction */
    USHORT Offset;
    UCHAR Padding[5];
    USHORT GdtLimit;
    ULONG GdtBase;
    USHORT Unused;
    ULONG Cr0, Cr3, Cr4, Efer;
    ULONG Target;   /* far pointer to the 32-bit part */
    USHORT TargetSelector, Unused2;
    ULONG Eip, Esp; /* the kernel's entry */
    ULONG64 Gdt[3];
} START_BLOCK;
#pragma pack(pop)
_Static_assert(__builtin_offsetof(START_BLOCK, Cr0) == 0x10 && __builtin_offsetof(START_BLOCK, Eip) == 0x28, "start.S knows these");

extern UCHAR KiStartCode16[], KiStartCode32[], KiStartCodeEnd[];

static struct {
    ULONG Number;
    PKPCR Pcr;
    UCHAR *Area;
    PETHREAD Idle;
} KiStart;

/* On the new processor, on its idle thread's stack. */
void KiProcessorMain(void) {
    ULONG number = KiStart.Number;
    KiInitializeProcessor(number, KiStart.Pcr, KiStart.Area, KiStart.Idle);
    HalInitializeProcessor(number);
    KfRaiseIrql(DISPATCH_LEVEL);
    KiProcessors[number].ApicId = HalGetApicId();
    HalStartClock(KiLoader->TscFrequency / 64);
    KiProcessors[number].Started = TRUE;
    KeLowerIrql(PASSIVE_LEVEL);
    KiIdleLoop();
}

static BOOLEAN StartProcessor(ULONG number, START_BLOCK *block) {
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
    block->Esp = (ULONG)KiStart.Idle->Tcb.InitialStack - 0x20;
    HalStartProcessor(number, START_PAGE);
    for (spins = 0; spins < 20000000 && !KiProcessors[number].Started; spins++) Pause();
    return KiProcessors[number].Started;
}

void KeStartAllProcessors(void) {
    START_BLOCK *block = MiDirect(START_ADDRESS);
    ULONG count = (ULONG)KiLoader->Processors, number;
    KeActiveProcessors[0] = 0x00010001;
    KeActiveProcessors[2] = 1;
    if (count < 2) return;
    memset(block, 0, PAGE_SIZE);
    block->Jump = 0xe9;
    block->Offset = START_CODE - 3;
    block->GdtLimit = sizeof block->Gdt - 1;
    block->GdtBase = START_ADDRESS + __builtin_offsetof(START_BLOCK, Gdt);
    block->Gdt[1] = 0x00cf9b000000ffffULL;
    block->Gdt[2] = 0x00cf93000000ffffULL;
    block->Cr0 = __readcr0();
    block->Cr3 = (ULONG)KiLoader->DirectoryTable;
    block->Cr4 = __readcr4();
    block->Efer = (ULONG)__readmsr(MSR_EFER);
    block->Target = START_ADDRESS + START_CODE + (ULONG)(KiStartCode32 - KiStartCode16);
    block->TargetSelector = KGDT_R0_CODE;
    block->Eip = (ULONG)KiProcessorMain;
    memcpy((UCHAR *)block + START_CODE, KiStartCode16, (ULONG_PTR)(KiStartCodeEnd - KiStartCode16));
    /* The code turns paging on while it runs there. */
    MiMapPage(KiLoader->DirectoryTable, START_ADDRESS, START_ADDRESS | PTE_WRITE);
    for (number = 1; number < count && number < MAX_PROCESSORS; number++) {
        if (!StartProcessor(number, block)) break;
        KeNumberProcessors++;
        KeNumberProcessorsGroup0++;
        KeActiveProcessors[2] |= 1UL << number;
        *(ULONG *)((UCHAR *)SHARED_USER_DATA + KUSER_SHARED_DATA_ActiveProcessorCount) = KeNumberProcessors;
    }
    MiWritePte(MiPteAddress(START_ADDRESS), 0);
    KeFlushEntireTb();
}
