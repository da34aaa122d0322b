/* One CPU's structures: KPCR and KPRCB, GDT, IDT, TSS, the double fault's task, and the MSRs of system calls. */
#include "kernel.h"

PROCESSOR KiProcessors[MAX_PROCESSORS];

extern UCHAR KiTrap00[], KiTrap01[], KiTrap02[], KiTrap03[], KiTrap04[], KiTrap05[], KiTrap06[], KiTrap07[], KiTrap08[],
    KiTrap0A[], KiTrap0B[], KiTrap0C[], KiTrap0D[], KiTrap0E[], KiTrap10[], KiTrap11[], KiTrap12[], KiTrap13[],
    KiRaiseAssertion[], KiDebugService[], KiSystemService[], KiDpcInterrupt[], KiSerialInterrupt[], KiClockInterrupt[],
    KiIpiInterrupt[], KiUnexpectedInterrupt[], KiFastCallEntry[];

void KiSetIrql(ULONG level) { __writecr8(level); }

typedef struct _VECTOR {
    UCHAR Number, Dpl;
    UCHAR *Entry;
} VECTOR;

/* SDM vol. 3A, 6.11: interrupt gates, and a task gate for the double fault. */
static void SetGate(UCHAR *idt, VECTOR vector) {
    USHORT *gate = (USHORT *)(idt + vector.Number * 8);
    ULONG entry = (ULONG)vector.Entry;
    gate[0] = (USHORT)entry;
    gate[1] = KGDT_R0_CODE;
    gate[2] = (USHORT)(0x8e00 | vector.Dpl << 13);
    gate[3] = (USHORT)(entry >> 16);
}

void KiInitializeIdt(UCHAR *idt) {
    VECTOR vectors[] = {
        {0, 0, KiTrap00},
        {1, 0, KiTrap01},
        {2, 0, KiTrap02},
        {3, 3, KiTrap03},
        {4, 3, KiTrap04},
        {5, 0, KiTrap05},
        {6, 0, KiTrap06},
        {7, 0, KiTrap07},
        {10, 0, KiTrap0A},
        {11, 0, KiTrap0B},
        {12, 0, KiTrap0C},
        {13, 0, KiTrap0D},
        {14, 0, KiTrap0E},
        {16, 0, KiTrap10},
        {17, 0, KiTrap11},
        {18, 0, KiTrap12},
        {19, 0, KiTrap13},
        {0x2c, 3, KiRaiseAssertion},
        {0x2d, 3, KiDebugService},
        {0x2e, 3, KiSystemService},
        {VECTOR_DISPATCH, 0, KiDpcInterrupt},
        {VECTOR_SERIAL, 0, KiSerialInterrupt},
        {VECTOR_CLOCK, 0, KiClockInterrupt},
        {VECTOR_IPI, 0, KiIpiInterrupt},
    };
    USHORT *task = (USHORT *)(idt + 8 * 8);
    ULONG n;
    for (n = 0x20; n < 0x100; n++) SetGate(idt, (VECTOR){(UCHAR)n, 0, KiUnexpectedInterrupt});
    for (n = 0; n < sizeof vectors / sizeof *vectors; n++) SetGate(idt, vectors[n]);
    task[0] = 0;
    task[1] = KGDT_DF_TSS;
    task[2] = 0x8500;
    task[3] = 0;
}

static void SetDescriptor(UCHAR *gdt, ULONG selector, ULONG base, ULONG limit, ULONG access, ULONG flags) {
    ULONG *entry = (ULONG *)(gdt + selector);
    entry[0] = base << 16 | (limit & 0xffff);
    entry[1] = (base & 0xff000000) | flags << 20 | (limit & 0xf0000) | access << 8 | (base >> 16 & 0xff);
}

/* The TEB's descriptor, from which ring 3's FS is loaded. */
static void SetTeb(UCHAR *gdt, ULONG base) { SetDescriptor(gdt, KGDT_R3_TEB, base, 0xfff, 0xf3, 4); }
void KiSetTeb(ULONG base) { SetTeb((UCHAR *)KeGetPcr()->GDT, base); }

static void InitializeGdt(UCHAR *area, PKPCR pcr) {
    UCHAR *gdt = area + AREA_GDT;
    SetDescriptor(gdt, KGDT_R0_CODE, 0, 0xfffff, 0x9b, 0xc);
    SetDescriptor(gdt, KGDT_R0_DATA, 0, 0xfffff, 0x93, 0xc);
    SetDescriptor(gdt, KGDT_R3_CODE, 0, 0xfffff, 0xfb, 0xc);
    SetDescriptor(gdt, KGDT_R3_DATA, 0, 0xfffff, 0xf3, 0xc);
    SetDescriptor(gdt, KGDT_TSS, (ULONG)(area + AREA_TSS), TSS_LIMIT, 0x89, 0);
    SetDescriptor(gdt, KGDT_R0_PCR, (ULONG)pcr, 0x3748, 0x93, 4);
    SetTeb(gdt, 0);
    SetDescriptor(gdt, KGDT_DF_TSS, (ULONG)(area + AREA_DOUBLE_FAULT_TSS), sizeof(KTSS) - 1, 0x89, 0);
}

static void InitializeTss(UCHAR *area, PETHREAD idle) {
    KTSS *tss = (KTSS *)(area + AREA_TSS), *fault = (KTSS *)(area + AREA_DOUBLE_FAULT_TSS);
    tss->Esp0 = (ULONG)idle->Tcb.InitialStack - V86_SIZE;
    tss->Ss0 = KGDT_R0_DATA;
    tss->IoMapBase = TSS_LIMIT + 1;
    fault->CR3 = (ULONG)KiLoader->DirectoryTable;
    fault->Eip = (ULONG)KiTrap08;
    fault->Esp = fault->Esp0 = (ULONG)(area + AREA_DOUBLE_FAULT_STACK);
    fault->Ss = fault->Ss0 = KGDT_R0_DATA;
    fault->Cs = KGDT_R0_CODE;
    fault->Ds = fault->Es = KGDT_R3_DATA | 3;
    fault->Fs = KGDT_R0_PCR;
    fault->EFlags = 2;
    fault->IoMapBase = sizeof(KTSS);
}

static void LoadTables(UCHAR *area) {
#pragma pack(push, 1)
    struct {
        USHORT Limit;
        ULONG Base;
    } gdt = {GDT_LIMIT, (ULONG)(area + AREA_GDT)}, idt = {IDT_LIMIT, (ULONG)area};
#pragma pack(pop)
    __asm__ volatile("lgdt %0" : : "m"(gdt));
    __asm__ volatile("lidt %0" : : "m"(idt));
    __asm__ volatile("pushl %0; pushl $1f; lretl; 1:" : : "i"(KGDT_R0_CODE) : "memory");
    __asm__ volatile("movw %w0, %%ss" : : "r"(KGDT_R0_DATA));
    __asm__ volatile("movw %w0, %%ds; movw %w0, %%es" : : "r"(KGDT_R3_DATA | 3));
    __asm__ volatile("movw %w0, %%fs" : : "r"(KGDT_R0_PCR));
    __asm__ volatile("movw %w0, %%gs" : : "r"(0));
    __asm__ volatile("lldt %w0" : : "r"(0));
    __asm__ volatile("ltr %w0" : : "r"(KGDT_TSS));
}

static void SetControlRegisters(void) {
    ULONG out[4];
    ULONG cr4 = __readcr4() | 1 << 7 | 1 << 9 | 1 << 10; /* PAE or PSE, as the loader set them */
    CpuId(0, out);
    if (out[0] >= 7) {
        CpuId(7, out);
        if (out[1] & 1 << 7) cr4 |= 1 << 20; /* SMEP */
    }
    __writecr0(0x80010033);
    __writecr4(cr4);
}

static void Identify(PKPRCB prcb) {
    ULONG out[4];
    CpuId(0, out);
    memcpy(prcb->VendorString, &out[1], 4);
    memcpy(prcb->VendorString + 4, &out[3], 4);
    memcpy(prcb->VendorString + 8, &out[2], 4);
    prcb->CpuVendor = out[1] == 0x756e6547 ? 2 : 1;
    CpuId(1, out);
    prcb->CpuType = (INT8)((out[0] >> 8 & 0xf) + ((out[0] >> 8 & 0xf) == 0xf ? out[0] >> 20 & 0xff : 0));
    prcb->CpuID = 1;
    prcb->CpuStep = (USHORT)(((out[0] >> 4 & 0xf) | (out[0] >> 12 & 0xf0)) << 8 | (out[0] & 0xf));
    prcb->MHz = (ULONG)(KiLoader->TscFrequency / 1000000);
#ifdef HAVE_KPRCB_FeatureBits
    prcb->FeatureBits = out[3];
#endif
}

/* Makes the calling CPU number `number`, with its first thread; what follows may use KeGetPcr. */
void KiInitializeProcessor(ULONG number, PKPCR pcr, UCHAR *area, PETHREAD idle) {
    PKPRCB prcb = (PKPRCB)((UCHAR *)pcr + KPCR_PrcbData);

    SetControlRegisters();
    InitializeGdt(area, pcr);
    KiInitializeIdt(area);
    InitializeTss(area, idle);
    LoadTables(area);

    *(PVOID *)pcr = (PVOID)~0u; /* the exception list's end */
    *(PVOID *)((UCHAR *)pcr + KPCR_Used_StackBase) = idle->Tcb.InitialStack;
    pcr->SelfPcr = pcr;
    pcr->Prcb = prcb;
    pcr->IDT = (PVOID)area;
    pcr->GDT = (PVOID)(area + AREA_GDT);
    pcr->TSS = (PVOID)(area + AREA_TSS);
    pcr->TssCopy = (PVOID)(area + AREA_TSS);
    pcr->Irql = HIGH_LEVEL;
    pcr->MajorVersion = 1;
    pcr->MinorVersion = 1;
    pcr->SetMember = pcr->SetMemberCopy = 1u << number;
    pcr->Number = (UCHAR)number;
    pcr->StallScaleFactor = (ULONG)(KiLoader->TscFrequency / 1000000);
    /* Up to Windows 7, and for processor 0 alone. */
    if (NT_BUILD < 9200 && number == 0) pcr->KdVersionBlock = (PVOID)&KdVersionBlock;

    prcb->Number = number;
    prcb->LegacyNumber = (UCHAR)number;
    prcb->MajorVersion = 1;
    prcb->MinorVersion = 1;
    prcb->Group = 0;
    prcb->GroupIndex = (UCHAR)number;
    prcb->CurrentThread = (PVOID)idle;
    prcb->IdleThread = (PVOID)idle;
    prcb->Context = (PVOID)((UCHAR *)prcb + KPRCB_ProcessorState_ContextFrame);
    ((PCONTEXT)prcb->Context)->ContextFlags = 0x10007;
    Identify(prcb);
    __writemsr(MSR_SYSENTER_CS, KGDT_R0_CODE);
    __writemsr(MSR_SYSENTER_ESP, (ULONG)(area + AREA_SYSENTER_STACK));
    __writemsr(MSR_SYSENTER_EIP, (ULONG)KiFastCallEntry);

    KiProcessors[number].Prcb = prcb;
    KiProcessors[number].Area = area;
    KiProcessorBlock[number] = (PVOID)prcb;
    KiSaveProcessorControlState((PKPROCESSOR_STATE)((UCHAR *)prcb + KPRCB_ProcessorState));
}

void KiSaveProcessorControlState(PKPROCESSOR_STATE state) {
    PKSPECIAL_REGISTERS special = (PKSPECIAL_REGISTERS)((UCHAR *)state + KPROCESSOR_STATE_SpecialRegisters);
    UCHAR table[6];
    USHORT selector;
    special->Cr0 = __readcr0();
    special->Cr2 = __readcr2();
    special->Cr3 = __readcr3();
    special->Cr4 = __readcr4();
    special->KernelDr0 = __readdr0();
    special->KernelDr1 = __readdr1();
    special->KernelDr2 = __readdr2();
    special->KernelDr3 = __readdr3();
    special->KernelDr6 = __readdr6();
    special->KernelDr7 = __readdr7();
    __asm__ volatile("sgdt %0" : "=m"(table));
    special->Gdtr.Limit = *(USHORT *)table;
    memcpy(&special->Gdtr.Base, table + 2, 4);
    __asm__ volatile("sidt %0" : "=m"(table));
    special->Idtr.Limit = *(USHORT *)table;
    memcpy(&special->Idtr.Base, table + 2, 4);
    __asm__ volatile("str %0" : "=r"(selector));
    special->Tr = selector;
    __asm__ volatile("sldt %0" : "=r"(selector));
    special->Ldtr = selector;
#ifdef HAVE_KSPECIAL_REGISTERS_Xcr0
    special->Xcr0 = 1;
#endif
}

/* A new thread's floating point: all exceptions masked, double precision. */
void KiInitializeFloatingPoint(PVOID initial_stack) {
    UCHAR *area = (UCHAR *)initial_stack + STACK_FXSAVE;
    memset(area, 0, 512);
    *(USHORT *)area = 0x27f;
    *(ULONG *)(area + 24) = 0x1f80;
}

/* Called by SwapContext on the new thread's stack: its address space, its stack for ring 3, its TEB. */
void KiSwapProcessState(PETHREAD old, PETHREAD next) {
    PKPCR pcr = KeGetPcr();
    PKPROCESS process = (PKPROCESS)next->Tcb.Process;
    KTSS *tss = (KTSS *)pcr->TSS;
    ULONG root = (ULONG)process->DirectoryTableBase;
    (void)old;
    if ((__readcr3() & ROOT_MASK) != (root & ROOT_MASK)) __writecr3(root);
    tss->Esp0 = (ULONG)next->Tcb.InitialStack - V86_SIZE;
    SetTeb((UCHAR *)pcr->GDT, (ULONG)next->Tcb.Teb);
    *(PVOID *)((UCHAR *)pcr + KPCR_Used_StackBase) = next->Tcb.InitialStack;
    pcr->Used_Self = next->Tcb.Teb;
    pcr->ContextSwitches++;
}
