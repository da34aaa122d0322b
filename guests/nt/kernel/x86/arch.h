/* What is x86's own in the kernel: selectors, the TSS, the processor's structures, IRQL, page tables. */
#pragma once

#define NT_MACHINE 0x14c
/* A trap frame has all registers here. */
typedef void *PKEXCEPTION_FRAME;
typedef struct _EXCEPTION_RECORD {
    NTSTATUS ExceptionCode;
    ULONG ExceptionFlags;
    struct _EXCEPTION_RECORD *ExceptionRecord;
    PVOID ExceptionAddress;
    ULONG NumberParameters;
    ULONG_PTR ExceptionInformation[15];
} EXCEPTION_RECORD, *PEXCEPTION_RECORD;
_Static_assert(sizeof(EXCEPTION_RECORD) == 0x50, "the exception record");
#define ROOT_MASK 0xFFFFFFE0ULL

/* Page tables, as the loader chose: PAE's three levels with entries of eight bytes, or two levels with entries of four. */
extern BOOLEAN MiPae;
typedef volatile ULONG MI_PTE;
#define PAGING_TOP (MiPae ? 30 : 22)
#define PAGING_STEP (MiPae ? 9 : 10)
#define PTE_OFFSET(address) (MiPae ? (address) >> 12 << 3 : (address) >> 12 << 2)
/* MMPFN's size, and its use here: while a page is free its first word is the next free page's number. */
#define PFN_SIZE (MiPae ? 0x1c : 0x18)
static inline MI_PTE *MiEntry(volatile void *table, ULONG index) {
    return (MI_PTE *)table + (MiPae ? (index & 0x1ff) * 2 : index & 0x3ff);
}
static inline ULONG64 MiReadPte(MI_PTE *pte) { return MiPae ? (ULONG64)pte[1] << 32 | pte[0] : pte[0]; }
/* The half with the valid bit is the last to come and the first to go. */
static inline void MiWritePte(MI_PTE *pte, ULONG64 entry) {
    if (MiPae && entry & 1) pte[1] = (ULONG)(entry >> 32);
    pte[0] = (ULONG)entry;
    if (MiPae && !(entry & 1)) pte[1] = (ULONG)(entry >> 32);
}
#define IO_SPACE 0xFFC00000UL
#define SHARED_USER_DATA ((PKUSER_SHARED_DATA)0xFFDF0000UL)

/* InitialStack is so far below a stack's end: the ready queue's entry, then the FXSAVE area. */
#define STACK_CONTROL_SIZE 0x250
#define STACK_FXSAVE 0x40
/* Above a trap frame from ring 3 there is room for the registers of virtual 8086 mode. */
#define V86_SIZE 0x10

#define USER_TOP 0x7FFF0000UL
/* Where programs and their PEBs are put; the masks are in units of 64 KiB. */
#define USER_IMAGE_SPACE 0x00400000UL
#define USER_IMAGE_MASK 0xff
#define USER_AREA_SPACE 0x70000000UL
#define USER_AREA_MASK 0xeff
void KiSetTeb(ULONG base);
#define HIGHEST_USER_ADDRESS 0x7FFEFFFFUL
#define SELF_OFFSET KPCR_SelfPcr
#define CURRENT_PRCB_OFFSET KPCR_Prcb
#define CONTAINED_PRCB_OFFSET KPCR_PrcbData
#define APC_STATE_PROCESS 0x10

/* Registers under the names that the shared sources know. */
#define Rip Eip
#define Rax Eax
#define Rcx Ecx
#define Rdx Edx
#define Rsp Esp
#define ErrorCode ErrCode
/* CR2 of a page fault. */
#define FaultAddress TempEsp
#define KiFrameStack(frame) ((frame)->SegCs & 1 ? (frame)->HardwareEsp : (ULONG)&(frame)->HardwareEsp)

#define AREA_GDT 0x1000
#define AREA_TSS 0x2000
/* Behind the TSS with its I/O maps: the double fault's TSS and the NMI's, then stacks by their ends. */
#define AREA_DOUBLE_FAULT_TSS 0x4100
#define AREA_SYSENTER_STACK 0x4400
#define AREA_DOUBLE_FAULT_STACK 0x6000
#define AREA_SIZE 0x6000
#define GDT_LIMIT 0x3ff
#define IDT_LIMIT 0x7ff
#define TSS_LIMIT 0x20ab

#define KGDT_R0_CODE 0x08
#define KGDT_R0_DATA 0x10
#define KGDT_R3_CODE 0x18
#define KGDT_R3_DATA 0x20
#define KGDT_TSS 0x28
#define KGDT_R0_PCR 0x30
#define KGDT_R3_TEB 0x38
#define KGDT_LDT 0x48
#define KGDT_DF_TSS 0x50

/* SDM vol. 3A, 7.2.1. */
typedef struct _KTSS {
    USHORT Backlink, Reserved0;
    ULONG Esp0;
    USHORT Ss0, Reserved1;
    ULONG NotUsed1[4];
    ULONG CR3, Eip, EFlags, Eax, Ecx, Edx, Ebx, Esp, Ebp, Esi, Edi;
    ULONG Es, Cs, Ss, Ds, Fs, Gs, LDT;
    USHORT Flags, IoMapBase;
} KTSS;
_Static_assert(sizeof(KTSS) == 0x68, "the TSS");

#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176

static inline PKPCR KeGetPcr(void) {
    PKPCR pcr;
    __asm__ volatile("movl %%fs:%c1, %0" : "=r"(pcr) : "i"(KPCR_SelfPcr));
    return pcr;
}
static inline PKPRCB KeGetCurrentPrcb(void) {
    PKPRCB prcb;
    __asm__ volatile("movl %%fs:%c1, %0" : "=r"(prcb) : "i"(KPCR_Prcb));
    return prcb;
}
static inline PETHREAD PsGetCurrentThread(void) {
    PETHREAD thread;
    __asm__ volatile("movl %%fs:%c1, %0" : "=r"(thread) : "i"(KPCR_PrcbData + KPRCB_CurrentThread));
    return thread;
}

/* IRQL: in the KPCR, and as the local APIC's task priority. The KPCR first: an interrupt between the two puts back
   into the APIC what the KPCR says. */
static inline ULONG __readcr8(void) {
    UCHAR level;
    __asm__ volatile("movb %%fs:%c1, %0" : "=q"(level) : "i"(KPCR_Irql));
    return level;
}
static inline void __writecr8(ULONG level) {
    __asm__ volatile("movb %0, %%fs:%c1" : : "q"((UCHAR)level), "i"(KPCR_Irql) : "memory");
    HalSetTaskPriority(level << 4);
}
