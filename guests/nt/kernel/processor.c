/* One CPU's structures: KPCR and KPRCB, GDT, IDT, TSS, IST stacks, and the MSRs of system calls. */
#include "kernel.h"

PROCESSOR KiProcessors[MAX_PROCESSORS];

extern UCHAR KiDivideErrorFault[], KiDebugTrapOrFault[], KiNmiInterrupt[], KiBreakpointTrap[], KiOverflowTrap[], KiBoundFault[],
    KiInvalidOpcodeFault[], KiDoubleFaultAbort[], KiInvalidTssFault[], KiSegmentNotPresentFault[], KiStackFault[],
    KiGeneralProtectionFault[], KiPageFault[], KiFloatingErrorFault[], KiAlignmentFault[], KiMcheckAbort[], KiXmmException[],
    KiRaiseAssertion[], KiDebugServiceTrap[], KiDpcInterrupt[], KiSerialInterrupt[], KiClockInterrupt[], KiIpiInterrupt[],
    KiUnexpectedInterrupt[], KiSystemCall64[], KiSystemCall32[];
#if KVA_SHADOW
extern UCHAR KiDivideErrorFaultShadow[], KiDebugTrapOrFaultShadow[], KiBreakpointTrapShadow[], KiOverflowTrapShadow[],
    KiBoundFaultShadow[], KiInvalidOpcodeFaultShadow[], KiNpxNotAvailableFaultShadow[], KiInvalidTssFaultShadow[],
    KiSegmentNotPresentFaultShadow[], KiStackFaultShadow[], KiGeneralProtectionFaultShadow[], KiPageFaultShadow[],
    KiFloatingErrorFaultShadow[], KiAlignmentFaultShadow[], KiXmmExceptionShadow[], KiRaiseAssertionShadow[],
    KiDebugServiceTrapShadow[], KiDpcInterruptShadow[], KiSerialInterruptShadow[], KiClockInterruptShadow[],
    KiNmiInterruptShadow[], KiDoubleFaultAbortShadow[], KiMcheckAbortShadow[], KiIpiInterruptShadow[], KiUnexpectedInterruptShadow[], KiSystemCall64Shadow[], KiSystemCall32Shadow[];
#define ENTRY(name) (KiKvaShadow ? name##Shadow : name)
#else
#define ENTRY(name) name
#endif

typedef struct _VECTOR {
    UCHAR Number, Ist, Dpl;
    UCHAR *Entry;
} VECTOR;

/* SDM vol. 3A, 6.14.1. IST slots as Windows uses them: 1 double fault, 2 machine check, 3 NMI. */
static void SetGate(UCHAR *idt, VECTOR vector) {
    USHORT *gate = (USHORT *)(idt + vector.Number * 16);
    ULONG64 entry = (ULONG64)vector.Entry;
    gate[0] = (USHORT)entry;
    gate[1] = KGDT64_R0_CODE;
    gate[2] = (USHORT)(0x8e00 | vector.Dpl << 13 | vector.Ist);
    gate[3] = (USHORT)(entry >> 16);
    *(ULONG *)(gate + 4) = (ULONG)(entry >> 32);
    *(ULONG *)(gate + 6) = 0;
}

void KiInitializeIdt(UCHAR *idt) {
    VECTOR vectors[] = {
        {0, 0, 0, ENTRY(KiDivideErrorFault)},
        {1, 0, 0, ENTRY(KiDebugTrapOrFault)},
        {2, 3, 0, ENTRY(KiNmiInterrupt)},
        {3, 0, 3, ENTRY(KiBreakpointTrap)},
        {4, 0, 3, ENTRY(KiOverflowTrap)},
        {5, 0, 0, ENTRY(KiBoundFault)},
        {6, 0, 0, ENTRY(KiInvalidOpcodeFault)},
        {7, 0, 0, ENTRY(KiNpxNotAvailableFault)},
        {8, 1, 0, ENTRY(KiDoubleFaultAbort)},
        {10, 0, 0, ENTRY(KiInvalidTssFault)},
        {11, 0, 0, ENTRY(KiSegmentNotPresentFault)},
        {12, 0, 0, ENTRY(KiStackFault)},
        {13, 0, 0, ENTRY(KiGeneralProtectionFault)},
        {14, 0, 0, ENTRY(KiPageFault)},
        {16, 0, 0, ENTRY(KiFloatingErrorFault)},
        {17, 0, 0, ENTRY(KiAlignmentFault)},
        {18, 2, 0, ENTRY(KiMcheckAbort)},
        {19, 0, 0, ENTRY(KiXmmException)},
        {0x2c, 0, 3, ENTRY(KiRaiseAssertion)},
        {0x2d, 0, 3, ENTRY(KiDebugServiceTrap)},
        {VECTOR_DISPATCH, 0, 0, ENTRY(KiDpcInterrupt)},
        {VECTOR_SERIAL, 0, 0, ENTRY(KiSerialInterrupt)},
        {VECTOR_CLOCK, 0, 0, ENTRY(KiClockInterrupt)},
        {VECTOR_IPI, 0, 0, ENTRY(KiIpiInterrupt)},
    };
    ULONG n;
    for (n = 0x20; n < 0x100; n++) SetGate(idt, (VECTOR){(UCHAR)n, 0, 0, ENTRY(KiUnexpectedInterrupt)});
    for (n = 0; n < sizeof vectors / sizeof *vectors; n++) SetGate(idt, vectors[n]);
}

static void InitializeGdt(UCHAR *gdt, UCHAR *tss) {
    ULONG64 base = (ULONG64)tss;
    ULONG64 *entry = (ULONG64 *)gdt;
    entry[KGDT64_R0_CODE / 8] = 0x00209b0000000000ULL;
    entry[KGDT64_R0_DATA / 8] = 0x00cf93000000ffffULL;
    entry[KGDT64_R3_CMCODE / 8] = 0x00cffb000000ffffULL;
    entry[KGDT64_R3_DATA / 8] = 0x00cff3000000ffffULL;
    entry[KGDT64_R3_CODE / 8] = 0x0020fb0000000000ULL;
    entry[KGDT64_SYS_TSS / 8] =
        0x0000890000000067ULL | (base & 0xffffff) << 16 | (base >> 24 & 0xff) << 56;
    entry[KGDT64_SYS_TSS / 8 + 1] = base >> 32;
    entry[KGDT64_R3_CMTEB / 8] = 0x0040f30000003c00ULL;
}

static void LoadTables(UCHAR *area) {
#pragma pack(push, 1)
    struct {
        USHORT Limit;
        ULONG64 Base;
    } gdt = {GDT_LIMIT, (ULONG64)(area + AREA_GDT)}, idt = {0xfff, (ULONG64)area};
#pragma pack(pop)
    __asm__ volatile("lgdt %0" : : "m"(gdt));
    __asm__ volatile("lidt %0" : : "m"(idt));
    __asm__ volatile("pushq %0; leaq 1f(%%rip), %%rax; pushq %%rax; lretq; 1:" : : "i"(KGDT64_R0_CODE) : "rax", "memory");
    __asm__ volatile("movw %w0, %%ss" : : "r"(KGDT64_R0_DATA));
    __asm__ volatile("movw %w0, %%ds; movw %w0, %%es" : : "r"(KGDT64_R3_DATA | 3));
    __asm__ volatile("movw %w0, %%fs" : : "r"(KGDT64_R3_CMTEB | 3));
    __asm__ volatile("movw %w0, %%gs" : : "r"(KGDT64_R3_DATA | 3));
    __asm__ volatile("lldt %w0" : : "r"(0));
    __asm__ volatile("ltr %w0" : : "r"(KGDT64_SYS_TSS));
}

static void SetControlRegisters(void) {
    ULONG out[4];
    ULONG64 cr4 = __readcr4() | 1 << 5 | 1 << 7 | 1 << 9 | 1 << 10;
    CpuId(0, out);
    if (out[0] >= 7) {
        CpuId(7, out);
        if (out[1] & 1) cr4 |= 1 << 16;       /* FSGSBASE */
        if (out[1] & 1 << 7) cr4 |= 1 << 20;  /* SMEP */
    }
    __writecr0(0x80050033);
    __writecr4(cr4);
}

/* SYSCALL: CS 10 and SS 18 in the kernel; SYSRET: CS 33 and SS 2B. */
static void SetSystemCallRegisters(void) {
    __writemsr(MSR_EFER, __readmsr(MSR_EFER) | 1);
    __writemsr(MSR_STAR, (ULONG64)(KGDT64_R3_CMCODE | 3) << 48 | (ULONG64)KGDT64_R0_CODE << 32);
    __writemsr(MSR_LSTAR, (ULONG64)KiSystemCall64);
    __writemsr(MSR_CSTAR, (ULONG64)KiSystemCall32);
#if KVA_SHADOW
    if (KiKvaShadow) {
        __writemsr(MSR_LSTAR, (ULONG64)KiSystemCall64Shadow);
        __writemsr(MSR_CSTAR, (ULONG64)KiSystemCall32Shadow);
    }
#endif
    __writemsr(MSR_SFMASK, 0x4700);
}

static void Identify(PKPRCB prcb) {
    ULONG out[4];
    CpuId(0, out);
    memcpy(prcb->VendorString, &out[1], 4);
    memcpy(prcb->VendorString + 4, &out[3], 4);
    memcpy(prcb->VendorString + 8, &out[2], 4);
#ifdef HAVE_KPRCB_CpuVendor
    prcb->CpuVendor = out[1] == 0x756e6547 ? 2 : 1;
#endif
    CpuId(1, out);
    prcb->CpuType = (INT8)((out[0] >> 8 & 0xf) + ((out[0] >> 8 & 0xf) == 0xf ? out[0] >> 20 & 0xff : 0));
    prcb->CpuID = 1;
    prcb->CpuStep = (USHORT)(((out[0] >> 4 & 0xf) | (out[0] >> 12 & 0xf0)) << 8 | (out[0] & 0xf));
#ifdef HAVE_KPRCB_InitialApicId
    prcb->InitialApicId = out[1] >> 24;
#endif
#ifdef HAVE_KPRCB_CoresPerPhysicalProcessor
    prcb->CoresPerPhysicalProcessor = 1;
    prcb->LogicalProcessorsPerCore = 1;
#endif
    prcb->MHz = (ULONG)(KiLoader->TscFrequency / 1000000);
#ifdef HAVE_KPRCB_ProcessorSignature
    prcb->ProcessorSignature = out[0];
#endif
}

/* Makes the calling CPU number `number`, with its first thread; what follows may use KeGetPcr. */
void KiInitializeProcessor(ULONG number, PKPCR pcr, UCHAR *area, PETHREAD idle) {
    PKPRCB prcb = (PKPRCB)((UCHAR *)pcr + KPCR_Prcb);
    KTSS64 *tss = (KTSS64 *)(area + AREA_TSS);

    SetControlRegisters();
    InitializeGdt(area + AREA_GDT, (UCHAR *)tss);
    KiInitializeIdt(area);
    tss->IoMapBase = 0x68;
    LoadTables(area);
    __writemsr(MSR_FS_BASE, 0);
    __writemsr(MSR_GS_BASE, (ULONG64)pcr);
    __writemsr(MSR_GS_SWAP, 0);

    *(PVOID *)((UCHAR *)pcr + KPCR_GdtBase) = area + AREA_GDT;
    *(PVOID *)((UCHAR *)pcr + KPCR_TssBase) = tss;
    *(PVOID *)((UCHAR *)pcr + KPCR_IdtBase) = area;
    *(PVOID *)((UCHAR *)pcr + KPCR_Self) = pcr;
    *(PVOID *)((UCHAR *)pcr + KPCR_CurrentPrcb) = prcb;
#ifdef HAVE_KPCR_Used_Self
    pcr->Used_Self = 0;
#endif
    pcr->MajorVersion = 1;
    pcr->MinorVersion = 1;

    *(ULONG *)prcb = 0x1f80; /* MxCsr, the first field everywhere */
    prcb->Number = number;
    prcb->LegacyNumber = (UCHAR)number;
    prcb->MajorVersion = 1;
    prcb->MinorVersion = 1;
#ifdef HAVE_KPRCB_Group
    prcb->Group = 0;
    prcb->GroupIndex = (UCHAR)number;
#endif
    prcb->CurrentThread = (PVOID)idle;
    prcb->IdleThread = (PVOID)idle;
    prcb->Context = (PVOID)((UCHAR *)prcb + KPRCB_ProcessorState_ContextFrame);
    ((PCONTEXT)prcb->Context)->ContextFlags = 0x10000b;
#ifdef HAVE_KPRCB_ContextFlagsInit
    prcb->ContextFlagsInit = 0x10000b;
#endif
    Identify(prcb);
    tss->Rsp0 = (ULONG64)idle->Tcb.InitialStack;
    prcb->RspBase = tss->Rsp0;
    SetSystemCallRegisters();

    KiProcessors[number].Prcb = prcb;
    KiProcessors[number].Area = area;
    KiProcessorBlock[number] = (PVOID)prcb;
    KiSaveProcessorControlState((PKPROCESSOR_STATE)((UCHAR *)prcb + KPRCB_ProcessorState));
}

void KiSaveProcessorControlState(PKPROCESSOR_STATE state) {
    PKSPECIAL_REGISTERS special = (PKSPECIAL_REGISTERS)((UCHAR *)state + KPROCESSOR_STATE_SpecialRegisters);
    UCHAR table[10];
    USHORT selector;
    special->Cr0 = __readcr0();
    special->Cr2 = __readcr2();
    special->Cr3 = __readcr3();
    special->Cr4 = __readcr4();
    special->Cr8 = __readcr8();
    special->KernelDr0 = __readdr0();
    special->KernelDr1 = __readdr1();
    special->KernelDr2 = __readdr2();
    special->KernelDr3 = __readdr3();
    special->KernelDr6 = __readdr6();
    special->KernelDr7 = __readdr7();
    __asm__ volatile("sgdt %0" : "=m"(table));
    special->Gdtr.Limit = *(USHORT *)table;
    memcpy(&special->Gdtr.Base, table + 2, 8);
    __asm__ volatile("sidt %0" : "=m"(table));
    special->Idtr.Limit = *(USHORT *)table;
    memcpy(&special->Idtr.Base, table + 2, 8);
    __asm__ volatile("str %0" : "=r"(selector));
    special->Tr = selector;
    __asm__ volatile("sldt %0" : "=r"(selector));
    special->Ldtr = selector;
    __asm__ volatile("stmxcsr %0" : "=m"(special->MxCsr));
    special->MsrGsBase = __readmsr(MSR_GS_BASE);
    special->MsrGsSwap = __readmsr(MSR_GS_SWAP);
    special->MsrStar = __readmsr(MSR_STAR);
    special->MsrLStar = __readmsr(MSR_LSTAR);
    special->MsrCStar = __readmsr(MSR_CSTAR);
    special->MsrSyscallMask = __readmsr(MSR_SFMASK);
#ifdef HAVE_KSPECIAL_REGISTERS_Xcr0
    special->Xcr0 = 1;
#endif
}
