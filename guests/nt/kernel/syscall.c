/* System services: what ring 3 may ask for. Pointers from there are probed, page by page, before use. */
#include "kernel.h"

#define CONSOLE_HANDLE 4
#define EVENT_HANDLE 8

static BOOLEAN ProbeUser(ULONG_PTR address, ULONG_PTR length) {
    ULONG_PTR at;
    if (address >= USER_TOP || length > 0x10000 || address + length > USER_TOP) return FALSE;
    for (at = address & ~(PAGE_SIZE - 1); at < address + length; at += PAGE_SIZE)
        if (!MmIsAddressValid((void *)at) && (at < USER_DEMAND_START || at >= USER_DEMAND_END)) return FALSE;
    return TRUE;
}

/* Memory that ring 3 may write: what it gets on demand, and its own area. */
static BOOLEAN ProbeForWrite(void *address, ULONG_PTR length) {
    ULONG_PTR at = (ULONG_PTR)address;
    return at >= USER_DEMAND_START && at + length <= USER_DEMAND_END && ProbeUser(at, length);
}

static PEPROCESS CurrentProcess(void) {
    return (PEPROCESS)((UCHAR *)PsGetCurrentThread()->Tcb.Process - EPROCESS_Pcb);
}

NTSTATUS NtYieldExecution(void) {
    KeYieldExecution();
    return STATUS_SUCCESS;
}

NTSTATUS NtQuerySystemTime(ULONG64 *time) {
    if (!ProbeForWrite(time, sizeof *time)) return STATUS_ACCESS_VIOLATION;
    *time = KiLoader->BootTime + KiInterruptTime;
    return STATUS_SUCCESS;
}

/* A negative interval is relative, as always; absolute ones are not taken. */
NTSTATUS NtDelayExecution(BOOLEAN alertable, const INT64 *interval) {
    (void)alertable;
    if (!ProbeUser((ULONG_PTR)interval, sizeof *interval)) return STATUS_ACCESS_VIOLATION;
    return *interval < 0 ? KeDelayExecutionThread((ULONG64) - *interval) : STATUS_INVALID_PARAMETER;
}

/* The console is the only file, whatever its name. */
NTSTATUS NtCreateFile(ULONG64 *handle, ULONG access, const CHAR *name, ULONG length) {
    (void)access;
    if (!ProbeForWrite(handle, sizeof *handle) || !ProbeUser((ULONG_PTR)name, length)) return STATUS_ACCESS_VIOLATION;
    *handle = CONSOLE_HANDLE;
    return STATUS_SUCCESS;
}

NTSTATUS NtWriteFile(ULONG64 handle, ULONG64 event, PVOID routine, PVOID context, ULONG64 *written, const CHAR *buffer,
                     ULONG length) {
    CHAR text[128];
    (void)event;
    (void)routine;
    (void)context;
    if (handle != CONSOLE_HANDLE) return STATUS_INVALID_PARAMETER;
    if (!ProbeUser((ULONG_PTR)buffer, length)) return STATUS_ACCESS_VIOLATION;
    if (length > sizeof text - 1) length = sizeof text - 1;
    memcpy(text, buffer, length);
    text[length] = 0;
    if (written && ProbeForWrite(written, sizeof *written)) *written = length;
    DbgPrint("%s", text);
    return STATUS_SUCCESS;
}

NTSTATUS NtWaitForSingleObject(ULONG64 handle, BOOLEAN alertable, const INT64 *timeout) {
    INT64 wait = -1;
    (void)alertable;
    if (handle != EVENT_HANDLE) return STATUS_INVALID_PARAMETER;
    if (timeout) {
        if (!ProbeUser((ULONG_PTR)timeout, sizeof *timeout)) return STATUS_ACCESS_VIOLATION;
        wait = -*timeout;
    }
    return KeWaitForSingleObject(&PspUserEvent, UserRequest, wait);
}

/* Memory on demand is there already; this only says where. */
NTSTATUS NtAllocateVirtualMemory(ULONG64 process, ULONG64 *base, ULONG64 zero_bits, ULONG64 *size) {
    (void)process;
    (void)zero_bits;
    if (!ProbeForWrite(base, sizeof *base) || !ProbeForWrite(size, sizeof *size)) return STATUS_ACCESS_VIOLATION;
    if (*size > USER_DEMAND_END - USER_DEMAND_START - USER_STACK_SIZE) return STATUS_NO_MEMORY;
    *base = USER_DEMAND_START;
    return STATUS_SUCCESS;
}

NTSTATUS NtQueryInformationProcess(ULONG64 *id) {
    if (!ProbeForWrite(id, sizeof *id)) return STATUS_ACCESS_VIOLATION;
    *id = (ULONG_PTR)CurrentProcess()->UniqueProcessId;
    return STATUS_SUCCESS;
}

NTSTATUS NtTerminateProcess(ULONG64 process, NTSTATUS status) {
    (void)process;
    return PsTerminateSystemThread(status);
}

NTSTATUS NtClose(ULONG64 handle) { return handle == CONSOLE_HANDLE ? STATUS_SUCCESS : STATUS_INVALID_PARAMETER; }

/* The order is the numbers that user/stubs.S uses. */
PVOID KiServiceRoutines[] = {
    NtYieldExecution,      NtQuerySystemTime,       NtDelayExecution,          NtCreateFile,       NtWriteFile,
    NtWaitForSingleObject, NtAllocateVirtualMemory, NtQueryInformationProcess, NtTerminateProcess, NtClose,
};
ULONG KiSystemCalls;
ULONG KiServiceLimit = sizeof KiServiceRoutines / sizeof *KiServiceRoutines;
