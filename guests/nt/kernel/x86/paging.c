/* x86's page tables, PAE's or two-level ones, and the RAM that the loader's map doesn't reach. */
#include "kernel.h"

BOOLEAN MiPae;
ULONG MiHighFree;

/* RAM above the map: runs that were never used, and the number of the first page that was freed. */
#define HIGH_RUNS 8
static struct {
    ULONG Next, End;
} MiHighRuns[HIGH_RUNS];
static ULONG MiHighList;
static KSPIN_LOCK MiHighLock;

/* A page of address space for each processor, where it sees a page out of the map for a moment. */
#define WINDOWS 0xFFE00000UL
/* Without PAE: the root's entry for itself. */
#define SELF 0x300

void MiInitializePaging(void) { MiPae = __readcr4() >> 5 & 1; }

/* Free pages, by numbers, above the map. */
void MiAddHighRun(ULONG64 first, ULONG64 end) {
    ULONG n;
    for (n = 0; n < HIGH_RUNS && MiHighRuns[n].End; n++) {}
    if (n == HIGH_RUNS) return;
    MiHighRuns[n].Next = (ULONG)first;
    MiHighRuns[n].End = (ULONG)end;
    MiHighFree += (ULONG)(end - first);
}

static ULONG TakeHigh(void) {
    ULONG page = MiHighList, n;
    if (page) {
        MiHighList = *(ULONG *)PFN((ULONG64)page << 12);
        *(ULONG *)PFN((ULONG64)page << 12) = 0;
        return page;
    }
    /* The highest first. */
    for (n = HIGH_RUNS; n-- > 0;)
        if (MiHighRuns[n].Next < MiHighRuns[n].End) return MiHighRuns[n].Next++;
    return 0;
}

static void Zero(ULONG64 page) {
    KIRQL old = KfRaiseIrql(DISPATCH_LEVEL);
    UCHAR *window = (UCHAR *)(WINDOWS + KeGetCurrentProcessorNumber() * PAGE_SIZE);
    MI_PTE *pte = MiPteAddress((ULONG_PTR)window);
    MiWritePte(pte, page | PTE_VALID | PTE_WRITE | PTE_ACCESSED | PTE_NX);
    InvalidatePage(window);
    memset(window, 0, PAGE_SIZE);
    MiWritePte(pte, 0);
    InvalidatePage(window);
    KeLowerIrql(old);
}

/* Of the RAM above the map, which is good for nothing else, while there is some. */
ULONG64 MiAllocateAnyPage(void) {
    KIRQL old;
    ULONG page;
    if (!MiHighFree) return MiAllocatePage();
    old = KeAcquireSpinLockRaiseToDpc(&MiHighLock);
    page = TakeHigh();
    if (page) {
        MiHighFree--;
        MmAvailablePages--;
    }
    KeReleaseSpinLock(&MiHighLock, old);
    if (!page) return MiAllocatePage();
    Zero((ULONG64)page << 12);
    return (ULONG64)page << 12;
}

void MiFreeHighPage(ULONG64 physical) {
    KIRQL old = KeAcquireSpinLockRaiseToDpc(&MiHighLock);
    *(ULONG *)PFN(physical) = MiHighList;
    MiHighList = (ULONG)(physical >> 12);
    MiHighFree++;
    MmAvailablePages++;
    KeReleaseSpinLock(&MiHighLock, old);
}

/* Roots of processes have 32 bytes with PAE; a page holds many of them. */
static ULONG64 AllocateRoot(void) {
    static ULONG64 next;
    KIRQL old;
    ULONG64 root, page = 0;
    if (!(next & 0xfff)) page = MiAllocatePage();
    old = KeAcquireSpinLockRaiseToDpc(&MiHighLock);
    if (!(next & 0xfff)) next = page;
    root = next;
    if (root) next += 32;
    KeReleaseSpinLock(&MiHighLock, old);
    return root;
}

/* A page directory pointer table: user directories of its own, the kernel's third, and a copy of its fourth, in which
   the tables map themselves. */
static ULONG64 CreatePae(void) {
    ULONG64 root = AllocateRoot(), *table, *kernel = MiDirect(KiLoader->DirectoryTable), *last, *own, pages[4];
    ULONG n;
    if (!root) return 0;
    table = MiDirect(root);
    for (n = 0; n < 4; n++) {
        pages[n] = n == 2 ? kernel[2] & PTE_FRAME : MiAllocatePage();
        if (!pages[n]) return 0;
        table[n] = pages[n] | PTE_VALID;
    }
    last = MiDirect(kernel[3] & PTE_FRAME);
    own = MiDirect(pages[3]);
    memcpy(own, last, PAGE_SIZE);
    for (n = 0; n < 4; n++) own[n] = pages[n] | (last[n] & ~PTE_FRAME);
    return root;
}

/* A page directory: the kernel's upper half, and itself at the same place. */
static ULONG64 CreateTwoLevel(void) {
    ULONG64 page = MiAllocatePage();
    ULONG *root, *kernel = MiDirect(KiLoader->DirectoryTable);
    if (!page) return 0;
    root = MiDirect(page);
    memcpy(root + 0x200, kernel + 0x200, PAGE_SIZE / 2);
    root[SELF] = (ULONG)page | (kernel[SELF] & 0xfff);
    return page;
}

ULONG64 MiCreateAddressSpace(void) { return MiPae ? CreatePae() : CreateTwoLevel(); }
