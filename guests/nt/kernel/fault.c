/* Page faults: demand-zero pages of ring 3; everything else is a mistake. */
#include "kernel.h"

ULONG64 MmPageFaults;

NTSTATUS MmAccessFault(ULONG_PTR address, ULONG_PTR error, PKTRAP_FRAME frame) {
    PKPROCESS process = (PKPROCESS)PsGetCurrentThread()->Tcb.Process;
    ULONG64 page;
    if (!(error & 1) && address >= USER_DEMAND_START && address < USER_DEMAND_END && process != (PVOID)((UCHAR *)PsSystemProcess + EPROCESS_Pcb) &&
        KeGetCurrentIrql() < DISPATCH_LEVEL) {
        __sync_fetch_and_add(&MmPageFaults, 1);
        page = MiAllocateAnyPage();
        if (!page) return STATUS_NO_MEMORY;
        if (!MiMapPage(process->DirectoryTableBase, address & ~(PAGE_SIZE - 1), page | PTE_WRITE | PTE_USER | PTE_NX)) return STATUS_NO_MEMORY;
        return STATUS_SUCCESS;
    }
    if (!(frame->SegCs & 1)) {
        if (KeGetCurrentIrql() >= DISPATCH_LEVEL)
            KeBugCheckEx(0xA, address, KeGetCurrentIrql(), error & 2 ? 1 : error & 0x10 ? 8 : 0, frame->Rip);
        if (address >= USER_TOP) KeBugCheckEx(0x50, address, error & 2 ? 2 : error & 0x10 ? 0x10 : 0, (ULONG_PTR)frame, 0);
    }
    return STATUS_ACCESS_VIOLATION;
}
