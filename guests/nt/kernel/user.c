/* Ring-3 processes. */
#include "kernel.h"

KEVENT PspUserEvent;
NTSTATUS PspCreateUserProcess(const CHAR *name, PEPROCESS parent, ULONG64 argument, PEPROCESS *out) {
    PEPROCESS process = PspCreateProcess(name, parent);
    (void)argument;
    if (out) *out = process;
    return process ? STATUS_SUCCESS : STATUS_NO_MEMORY;
}
ULONG KiServiceLimit;
PVOID KiServiceRoutines[1];
