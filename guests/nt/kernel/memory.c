/* Physical pages, page tables through the loader's map of all RAM, and system PTE space. */
#include "kernel.h"

static KSPIN_LOCK MiLock;
/* The number of the first page that was freed; 0 ends the list, as page 0 is never free. */
static ULONG64 MiFreeList, MiFreeCount;
/* Pages that were never used are taken from the loader's descriptors, so that large memories cost nothing at boot. */
static PLIST_ENTRY MiFresh;
static ULONG_PTR MiNextSystemPte;
/* Runs of system pages that were given back, by size. */
typedef struct _FREE_RUN {
    struct _FREE_RUN *Next;
    ULONG_PTR Base;
    ULONG Count;
} FREE_RUN;
static FREE_RUN *MiFreeRuns;

/* Free, and above the first megabyte. */
static BOOLEAN IsFree(MEMORY_ALLOCATION_DESCRIPTOR *block) {
    return block->MemoryType == LoaderFree && block->BasePage >= 0x100;
}

/* The MMPFN array, in the first free memory that is large enough, and the free list. */
static void InitializePfnDatabase(void) {
    PLIST_ENTRY head = &KiLoaderBlock->MemoryDescriptorListHead, entry;
    ULONG64 top = 0, size, base = 0, mapped = KiLoader->DirectMapSize >> 12;
    PPHYSICAL_MEMORY_DESCRIPTOR runs;
    for (entry = head->Flink; entry != head; entry = entry->Flink) {
        MEMORY_ALLOCATION_DESCRIPTOR *block = (MEMORY_ALLOCATION_DESCRIPTOR *)entry;
        if (block->BasePage + block->PageCount > top) top = block->BasePage + block->PageCount;
        MmNumberOfPhysicalPages += block->PageCount;
    }
    size = (top * PFN_SIZE + PAGE_SIZE - 1) / PAGE_SIZE + 1;
    for (entry = head->Flink; entry != head; entry = entry->Flink) {
        MEMORY_ALLOCATION_DESCRIPTOR *block = (MEMORY_ALLOCATION_DESCRIPTOR *)entry;
        if (IsFree(block) && block->PageCount >= size && !base) {
            base = block->BasePage;
            block->BasePage += size;
            block->PageCount -= size;
        }
    }
    MmPfnDatabase = MiDirect(base << 12);
    runs = MiDirect((base + size - 1) << 12);
    for (entry = head->Flink; entry != head; entry = entry->Flink) {
        MEMORY_ALLOCATION_DESCRIPTOR *block = (MEMORY_ALLOCATION_DESCRIPTOR *)entry;
        PHYSICAL_MEMORY_RUN *run = (PHYSICAL_MEMORY_RUN *)((UCHAR *)runs + PHYSICAL_MEMORY_DESCRIPTOR_Run) + runs->NumberOfRuns;
        ULONG64 first = block->BasePage, end = first + block->PageCount;
        if (IsFree(block) && first < mapped) MiFreeCount += (end < mapped ? end : mapped) - first;
#ifdef NT_X86
        if (IsFree(block) && end > mapped) MiAddHighRun(first > mapped ? first : mapped, end);
#endif
        /* The database itself was cut out of a free block: no run begins there. */
        if (first == base + size) first = base;
        if (runs->NumberOfRuns && run[-1].BasePage + run[-1].PageCount == first) {
            run[-1].PageCount += end - first;
        } else {
            run->BasePage = first;
            run->PageCount = end - first;
            runs->NumberOfRuns++;
        }
        runs->NumberOfPages += end - first;
    }
    MmPhysicalMemoryBlock = runs;
    MmAvailablePages = MiFreeCount + MiHighFree;
    MiFresh = head->Flink;
    MmHighestPhysicalPage = top - 1;
    MmLowestPhysicalPage = 1;
}

/* The next page of the free descriptors, above the first megabyte, or 0. */
static ULONG64 TakeFresh(void) {
    for (; MiFresh != &KiLoaderBlock->MemoryDescriptorListHead; MiFresh = MiFresh->Flink) {
        MEMORY_ALLOCATION_DESCRIPTOR *block = (MEMORY_ALLOCATION_DESCRIPTOR *)MiFresh;
        if (IsFree(block) && block->PageCount && block->BasePage < KiLoader->DirectMapSize >> 12) {
            block->PageCount--;
            return block->BasePage++;
        }
    }
    return 0;
}

ULONG64 MiAllocatePage(void) {
    KIRQL old = KeAcquireSpinLockRaiseToDpc(&MiLock);
    ULONG64 page = MiFreeList;
    if (page) {
        MiFreeList = *(ULONG_PTR *)PFN(page << 12);
        *(ULONG_PTR *)PFN(page << 12) = 0;
    } else {
        page = TakeFresh();
    }
    if (page) MmAvailablePages = --MiFreeCount + MiHighFree;
    KeReleaseSpinLock(&MiLock, old);
    if (!page) return 0;
    memset(MiDirect(page << 12), 0, PAGE_SIZE);
    return page << 12;
}

void MiFreePage(ULONG64 physical) {
    KIRQL old;
#ifdef NT_X86
    if (physical >= KiLoader->DirectMapSize) {
        MiFreeHighPage(physical);
        return;
    }
#endif
    old = KeAcquireSpinLockRaiseToDpc(&MiLock);
    *(ULONG_PTR *)PFN(physical) = (ULONG_PTR)MiFreeList;
    MiFreeList = physical >> 12;
    MmAvailablePages = ++MiFreeCount + MiHighFree;
    KeReleaseSpinLock(&MiLock, old);
}

/* The PTE of an address in the current address space, through the self-map. */
MI_PTE *MiPteAddress(ULONG_PTR address) {
    return (MI_PTE *)(ULONG_PTR)(KiLoader->PteBase + PTE_OFFSET(address));
}

/* The entry at a level (39, 30, 21, 12; without PAE 22, 12) that maps the address, making tables on the way if asked. */
static MI_PTE *Entry(ULONG64 root, ULONG_PTR address, ULONG shift, BOOLEAN make) {
    MI_PTE *table = MiDirect(root & ROOT_MASK);
    ULONG level;
    for (level = PAGING_TOP;; level -= PAGING_STEP) {
        MI_PTE *entry = MiEntry(table, address >> level);
        if (level == shift) return entry;
        if (!(MiReadPte(entry) & PTE_VALID)) {
            ULONG64 page;
            if (!make || !(page = MiAllocatePage())) return NULL;
            MiWritePte(entry, page | PTE_VALID | 2 | PTE_ACCESSED | 1 << 6 | (address >= USER_TOP ? 0 : PTE_USER));
        } else if (MiReadPte(entry) & 0x80) {
            return NULL;
        }
        table = MiDirect(MiReadPte(entry) & PTE_FRAME);
    }
}

BOOLEAN MiMapPage(ULONG64 root, ULONG_PTR address, ULONG64 entry) {
    MI_PTE *pte = Entry(root, address, 12, TRUE);
    if (!pte) return FALSE;
    MiWritePte(pte, entry | PTE_VALID | PTE_ACCESSED);
    InvalidatePage((void *)address);
    return TRUE;
}

/* The physical address of a mapped 4 KiB page, or 0. */
ULONG64 MiTranslate(ULONG64 root, ULONG_PTR address) {
    MI_PTE *pte = Entry(root, address, 12, FALSE);
    return pte && MiReadPte(pte) & PTE_VALID ? (MiReadPte(pte) & PTE_FRAME) | (address & 0xfff) : 0;
}

BOOLEAN MmIsAddressValid(const void *address) {
    ULONG_PTR va = (ULONG_PTR)address;
    MI_PTE *table = MiDirect(__readcr3() & ROOT_MASK);
    ULONG64 entry;
    ULONG level;
#ifdef NT_X64
    if ((INT64)(va << 16) >> 16 != (INT64)va) return FALSE;
#endif
    for (level = PAGING_TOP;; level -= PAGING_STEP) {
        entry = MiReadPte(MiEntry(table, va >> level));
        if (!(entry & PTE_VALID)) return FALSE;
        if (level == 12 || entry & 0x80) return TRUE;
        table = MiDirect(entry & PTE_FRAME);
    }
}

/* Address space in the system PTE slot, with an unmapped page before each run. */
static ULONG_PTR ReserveSystemPtes(ULONG count) {
    KIRQL old = KeAcquireSpinLockRaiseToDpc(&MiLock);
    FREE_RUN **link = &MiFreeRuns;
    ULONG_PTR base = 0;
    for (; *link; link = &(*link)->Next)
        if ((*link)->Count == count) {
            base = (*link)->Base;
            *link = (*link)->Next;
            break;
        }
    if (!base) {
        base = MiNextSystemPte + PAGE_SIZE;
        MiNextSystemPte = base + count * PAGE_SIZE;
    }
    KeReleaseSpinLock(&MiLock, old);
    return base;
}

void *MiAllocateSystemPages(ULONG count, ULONG64 rights) {
    ULONG_PTR base = ReserveSystemPtes(count);
    ULONG n;
    for (n = 0; n < count; n++) {
        ULONG64 page = MiAllocateAnyPage();
        if (!page || !MiMapPage(KiLoader->DirectoryTable, base + n * PAGE_SIZE, page | rights | PTE_GLOBAL)) return NULL;
    }
    return (void *)base;
}

void MiFreeSystemPages(void *base, ULONG count) {
    FREE_RUN *run = ExAllocatePoolWithTag(0, sizeof *run, 'nuRF');
    KIRQL old;
    ULONG n;
    /* First nobody may reach the pages any more, then they are free. */
    for (n = 0; n < count; n++) {
        MI_PTE *pte = MiPteAddress((ULONG_PTR)base + n * PAGE_SIZE);
        MiWritePte(pte, MiReadPte(pte) & ~PTE_VALID);
    }
    KeFlushEntireTb();
    for (n = 0; n < count; n++) {
        MI_PTE *pte = MiPteAddress((ULONG_PTR)base + n * PAGE_SIZE);
        MiFreePage(MiReadPte(pte) & PTE_FRAME);
        MiWritePte(pte, 0);
    }
    if (!run) return;
    run->Base = (ULONG_PTR)base;
    run->Count = count;
    old = KeAcquireSpinLockRaiseToDpc(&MiLock);
    run->Next = MiFreeRuns;
    MiFreeRuns = run;
    KeReleaseSpinLock(&MiLock, old);
}

/* Device registers, in the HAL's 4 MiB at the top of the address space. */
void *MmMapIoSpace(ULONG64 physical, ULONG pages) {
    static ULONG_PTR next = IO_SPACE;
    ULONG_PTR base = next;
    ULONG n;
    next += (pages + 1) * PAGE_SIZE;
    for (n = 0; n < pages; n++)
        MiMapPage(KiLoader->DirectoryTable, base + n * PAGE_SIZE,
                  ((physical & PTE_FRAME) + n * PAGE_SIZE) | PTE_WRITE | PTE_UNCACHED | PTE_NX | PTE_GLOBAL);
    return (void *)base;
}

/* A kernel stack; returns its base, the end. The page below it stays unmapped. */
void *MmCreateKernelStack(void) {
    UCHAR *low = MiAllocateSystemPages(KERNEL_STACK_SIZE / PAGE_SIZE, PTE_WRITE | PTE_NX);
    return low ? low + KERNEL_STACK_SIZE : NULL;
}

#ifdef NT_X64
/* A root with the kernel's half of the address space, mapping itself at the same place. */
ULONG64 MiCreateAddressSpace(void) {
    ULONG64 page = MiAllocatePage(), *root, *kernel = MiDirect(KiLoader->DirectoryTable);
    ULONG self = KiLoader->PteBase >> 39 & 0x1ff;
    if (!page) return 0;
    root = MiDirect(page);
    memcpy(root + 256, kernel + 256, PAGE_SIZE / 2);
    root[self] = page | (kernel[self] & ~PTE_FRAME);
    return page;
}
#endif

void MmInitSystem(void) {
#ifdef NT_X86
    MiInitializePaging();
#endif
    MiNextSystemPte = (ULONG_PTR)KiLoader->SystemPtes;
#ifdef HAVE_SYMBOL_MmPteBase
    MmPteBase = KiLoader->PteBase;
#endif
    MmSystemRangeStart = (PVOID)SYSTEM_RANGE_START;
    MmHighestUserAddress = (PVOID)HIGHEST_USER_ADDRESS;
    MmUserProbeAddress = USER_TOP;
    InitializePfnDatabase();
}
