/* The ring-3 program, run under several names: waits, and makes system calls when it is told to. */
#include "nt.h"

NTSTATUS NtYieldExecution(void);
NTSTATUS NtQuerySystemTime(ULONG64 *time);
NTSTATUS NtDelayExecution(BOOLEAN alertable, const INT64 *interval);
NTSTATUS NtCreateFile(ULONG64 *handle, ULONG access, const CHAR *name, ULONG length);
NTSTATUS NtWriteFile(ULONG64 handle, ULONG64 event, PVOID routine, PVOID context, ULONG64 *written, const CHAR *buffer,
                     ULONG length);
NTSTATUS NtWaitForSingleObject(ULONG64 handle, BOOLEAN alertable, const INT64 *timeout);
NTSTATUS NtAllocateVirtualMemory(ULONG64 process, ULONG64 *base, ULONG64 zero_bits, ULONG64 *size);
NTSTATUS NtQueryInformationProcess(ULONG64 *id);
NTSTATUS NtTerminateProcess(ULONG64 process, NTSTATUS status);
NTSTATUS NtClose(ULONG64 handle);

#define CURRENT_PROCESS (~0ULL)
#define EVENT_HANDLE 8
#define SECOND 10000000LL
/* SystemTime of the page that the kernel keeps at this address in every process. */
#define SYSTEM_TIME (*(volatile ULONG *)(0x7FFE0000ULL + KUSER_SHARED_DATA_SystemTime))

/* What the compiler refers to in a program that uses floating point. */
int _fltused;

/* Counters that a debugger can watch. */
volatile ULONG64 Rounds, Failures;

/* Floating point across system calls: the registers must be the caller's. */
static double Series(int terms) {
    double sum = 0.0, term = 1.0;
    int n;
    for (n = 1; n <= terms; n++) {
        sum += term;
        term = term / (double)n;
        if ((n & 3) == 0) NtYieldExecution();
    }
    return sum;
}

/* Writes to each page of fresh memory and reads it back. */
static ULONG64 TouchMemory(ULONG64 pages) {
    ULONG64 base = 0, size = pages * 0x1000, n, sum = 0;
    if (!NT_SUCCESS(NtAllocateVirtualMemory(CURRENT_PROCESS, &base, 0, &size))) return 0;
    for (n = 0; n < pages; n++) *(volatile ULONG64 *)(base + n * 0x1000) = n + Rounds;
    for (n = 0; n < pages; n++) sum += *(volatile ULONG64 *)(base + n * 0x1000) - Rounds;
    return sum;
}

/* Long enough for clock interrupts to come while ring 3 runs. */
__attribute__((noinline)) static ULONG_PTR Work(ULONG_PTR seed) {
    ULONG_PTR n, sum = seed;
    for (n = 0; n < 700000; n++) sum = (sum << 5 | sum >> (sizeof sum * 8 - 5)) ^ n;
    return sum;
}

static void Round(ULONG64 argument) {
    static const CHAR name[] = "\\Device\\Console";
    static const CHAR text[] = "ring 3 was here\n";
    ULONG64 handle = 0, written = 0, time = 0, id = 0;
    double e = Series(20);
    NtCreateFile(&handle, 0, name, sizeof name - 1);
    NtWriteFile(handle, 0, NULL, NULL, &written, text, sizeof text - 1);
    NtClose(handle);
    NtQuerySystemTime(&time);
    NtQueryInformationProcess(&id);
    if (written != sizeof text - 1 || !time || !id || (id & 3)) Failures++;
    if (e < 2.718281 || e > 2.718282) Failures++;
    if (TouchMemory(8 + argument) != (8 + argument) * (7 + argument) / 2) Failures++;
    if (!SYSTEM_TIME) Failures++;
    if (Work((ULONG_PTR)argument) != Work((ULONG_PTR)argument)) Failures++;
    /* A pointer into the kernel must not be taken. */
    if (NtQuerySystemTime((ULONG64 *)0xFFFFF78000000014ULL) != STATUS_ACCESS_VIOLATION) Failures++;
    if (Failures) NtTerminateProcess(CURRENT_PROCESS, STATUS_UNSUCCESSFUL);
    Rounds++;
}

/* Number 3 also works by itself, once every ten seconds. */
void NtProcessStartup(ULONG64 argument, PVOID peb) {
    INT64 timeout = -10 * SECOND;
    (void)peb;
    for (;;) {
        NtWaitForSingleObject(EVENT_HANDLE, FALSE, argument == 3 ? &timeout : NULL);
        Round(argument);
    }
}
