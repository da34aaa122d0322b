/* A watch over the kernel's own code and tables, as PatchGuard keeps one: any change between rounds is counted. */
#include "kernel.h"

ULONG64 KiGuardRounds, KiGuardChanges;
extern UCHAR __ImageBase[];

static ULONG64 Mix(ULONG64 sum, const void *from, ULONG_PTR length) {
    const ULONG64 *word = from;
    for (length /= 8; length; length--) sum = (sum << 7 | sum >> 57) ^ *word++ * 0x9e3779b97f4a7c15ULL;
    return sum;
}

/* Every section of the kernel that is code. */
static ULONG64 SumCode(void) {
    UCHAR *pe = __ImageBase + *(ULONG *)(__ImageBase + 0x3c);
    ULONG64 sum = 0;
    ULONG n;
    for (n = 0; n < *(USHORT *)(pe + 6); n++) {
        ULONG *section = (ULONG *)(pe + 0x18 + *(USHORT *)(pe + 0x14) + 40 * n);
        ULONG raw = section[4] < section[2] ? section[4] : section[2];
        if (section[9] & 0x20000000) sum = Mix(sum, __ImageBase + section[3], raw & ~7u);
    }
    return sum;
}

/* What an intruder, or a debugger that isn't careful, would change on this processor. */
static ULONG64 SumProcessor(void) {
    UCHAR *area = KiCurrentProcessor()->Area;
#ifdef NT_X64
#define CALL_REGISTERS __readmsr(MSR_LSTAR), __readmsr(MSR_STAR), __readmsr(MSR_CSTAR), __readmsr(MSR_SFMASK)
#else
#define CALL_REGISTERS __readmsr(MSR_SYSENTER_CS), __readmsr(MSR_SYSENTER_ESP), __readmsr(MSR_SYSENTER_EIP), 0
#endif
    ULONG64 registers[] = {CALL_REGISTERS,
                           __readdr0(),          __readdr1(),         __readdr2(),          __readdr3(),
                           __readdr7(),          __readcr0(),         __readcr4(),          __readmsr(MSR_EFER)};
    ULONG64 sum = Mix(0, registers, sizeof registers);
    sum = Mix(sum, area, PAGE_SIZE);
    /* The TSS descriptor's busy bit never changes once it is loaded. */
    return Mix(sum, area + AREA_GDT, GDT_LIMIT + 1);
}

void KiGuardThread(PVOID context) {
    static ULONG64 processors[MAX_PROCESSORS];
    ULONG64 code = SumCode();
    (void)context;
    for (;;) {
        ULONG64 sum;
        ULONG number;
        KIRQL old;
        KeDelayExecutionThread(10000000);
        if (SumCode() != code) {
            KiGuardChanges++;
            code = SumCode();
        }
        old = KfRaiseIrql(DISPATCH_LEVEL);
        number = KeGetCurrentProcessorNumber();
        sum = SumProcessor();
        KeLowerIrql(old);
        if (processors[number] && processors[number] != sum) KiGuardChanges++;
        processors[number] = sum;
        KiGuardRounds++;
    }
}
