/* A driver that comes and goes: a thread that works until it is told to end. */
#include "imports.h"

static KEVENT StopEvent, StoppedEvent;
volatile ULONG64 SampleSum;

/* Three calls deep, so that a stack shows more than one frame of the driver. */
__attribute__((noinline)) static ULONG64 SampleInner(ULONG64 value) { return value * 3 + SampleSum; }
__attribute__((noinline)) ULONG64 SampleOuter(ULONG64 value) { return SampleInner(value + 1) ^ value; }

static void SampleThread(PVOID context) {
    ULONG64 n = (ULONG64)context;
    while (KeWaitForSingleObject(&StopEvent, 0, 5000000) == STATUS_TIMEOUT) SampleSum += SampleOuter(n++);
    KeSetEvent(&StoppedEvent);
    PsTerminateSystemThread(STATUS_SUCCESS);
}

static void SampleUnload(PDRIVER_OBJECT driver) {
    (void)driver;
    KeSetEvent(&StopEvent);
    KeWaitForSingleObject(&StoppedEvent, 0, -1);
    /* The thread's last instructions are the driver's: let it go first. */
    KeDelayExecutionThread(500000);
    DbgPrint("sample: unloaded\n");
}

NTSTATUS DriverEntry(PDRIVER_OBJECT driver, UNICODE_STRING *registry_path) {
    driver->DriverUnload = SampleUnload;
    KeInitializeEvent(&StopEvent, FALSE, FALSE);
    KeInitializeEvent(&StoppedEvent, FALSE, FALSE);
    DbgPrint("%wZ: loaded at %p\n", registry_path, driver->DriverStart);
    return PsCreateSystemThread(NULL, NULL, SampleThread, NULL);
}
