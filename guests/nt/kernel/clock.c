/* Time: the local APIC's clock interrupt, 64 a second, and the page that programs read it from. */
#include "kernel.h"

ULONG64 KiInterruptTime, KiTickCount;

static void SetTime(ULONG offset, ULONG64 value) {
    volatile ULONG *time = (volatile ULONG *)((UCHAR *)SHARED_USER_DATA + offset);
    /* High2 before Low, High1 last: a reader between the writes sees different highs. */
    time[2] = (ULONG)(value >> 32);
    time[0] = (ULONG)value;
    time[1] = (ULONG)(value >> 32);
}

#define FIELD(type, name) (*(type *)((UCHAR *)SHARED_USER_DATA + KUSER_SHARED_DATA_##name))

void KiInitializeUserSharedData(void) {
    static const WCHAR root[] = u"C:\\Windows";
    *(ULONG *)((UCHAR *)SHARED_USER_DATA + 4) = 0x0fa00000; /* TickCountMultiplier: 15.625 ms */
    FIELD(USHORT, ImageNumberLow) = NT_MACHINE;
    FIELD(USHORT, ImageNumberLow + 2) = NT_MACHINE;
    memcpy((UCHAR *)SHARED_USER_DATA + KUSER_SHARED_DATA_NtSystemRoot, root, sizeof root);
#ifdef HAVE_KUSER_SHARED_DATA_NtBuildNumber
    FIELD(ULONG, NtBuildNumber) = NT_BUILD;
#endif
    FIELD(ULONG, NtProductType) = 1;
    FIELD(UCHAR, NtProductType + 4) = 1; /* ProductTypeIsValid */
#ifdef HAVE_KUSER_SHARED_DATA_NativeProcessorArchitecture
    FIELD(USHORT, NativeProcessorArchitecture) = NT_MACHINE == 0x8664 ? 9 : 0;
#endif
    FIELD(ULONG, NtMajorVersion) = NT_MAJOR;
    FIELD(ULONG, NtMinorVersion) = NT_MINOR;
#ifdef HAVE_KUSER_SHARED_DATA_BootId
    FIELD(ULONG, BootId) = 1;
#endif
    FIELD(ULONG, SuiteMask) = 0x110;
    FIELD(UCHAR, KdDebuggerEnabled) = 0;
#ifdef HAVE_KUSER_SHARED_DATA_QpcFrequency
    FIELD(ULONG64, QpcFrequency) = 10000000;
#endif
    FIELD(ULONG, Cookie) = (ULONG)KiRandom();
    FIELD(ULONG, ActiveProcessorCount) = 1;
    SetTime(KUSER_SHARED_DATA_SystemTime, KiLoader->BootTime);
}

void KiInitializeClock(void) { HalStartClock(KiLoader->TscFrequency / 64); }

/* Every processor's clock; processor 0 keeps the time. At the end of each second tick the quantum is over. */
void KeClockInterruptNotify(PKTRAP_FRAME frame) {
    PROCESSOR *processor = KiCurrentProcessor();
    PETHREAD thread = PsGetCurrentThread();
    HalEndOfInterrupt();
    processor->Ticks++;
#ifdef HAVE_KTHREAD_KernelTime
    if (frame->SegCs & 1)
        thread->Tcb.UserTime++;
    else
        thread->Tcb.KernelTime++;
#endif
    (void)frame;
    (void)thread;
    if (processor == &KiProcessors[0]) {
        KiTickCount++;
        KiInterruptTime += TIME_INCREMENT;
        SetTime(KUSER_SHARED_DATA_InterruptTime, KiInterruptTime);
        SetTime(KUSER_SHARED_DATA_SystemTime, KiLoader->BootTime + KiInterruptTime);
        SetTime(KUSER_SHARED_DATA_TickCount, KiTickCount);
        *(volatile ULONG *)SHARED_USER_DATA = (ULONG)KiTickCount;
    }
    if (processor->Ticks & 1) return;
    processor->QuantumEnd = TRUE;
    HalRequestSoftwareInterrupt(DISPATCH_LEVEL);
}
