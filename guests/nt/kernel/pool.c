/* Pool: blocks of fixed sizes with a POOL_HEADER before each, cut from pages of the map of all RAM; larger blocks are whole
   pages without a header, listed in a table. */
#include "kernel.h"

/* POOL_HEADER: sizes in units of two pointers, then the tag. */
typedef struct _POOL_HEADER {
#ifdef NT_X64
    UCHAR PreviousSize, PoolIndex, BlockSize, PoolType;
    ULONG PoolTag;
    ULONG64 ProcessBilled;
#else
    USHORT PreviousSize : 9, PoolIndex : 7, BlockSize : 9, PoolType : 7;
    ULONG PoolTag;
#endif
} POOL_HEADER;
#define POOL_UNIT (2 * sizeof(PVOID))

#define CLASSES 8
#define SMALLEST ((ULONG_PTR)32)
static KSPIN_LOCK PoolLock;
/* Blocks of 32, 64 ... bytes up to a page; the link is where the caller's data was. */
static void *PoolFree[CLASSES];

/* Blocks of whole pages. */
#define BIG_PAGES 64
static struct {
    void *Va;
    ULONG Tag, Pages;
} PoolBigPages[BIG_PAGES];

static ULONG Class(ULONG_PTR size) {
    ULONG n = 0;
    while (SMALLEST << n < size) n++;
    return n;
}

static void *AllocateBig(ULONG_PTR size, ULONG tag) {
    ULONG pages = (ULONG)((size + PAGE_SIZE - 1) / PAGE_SIZE), n;
    void *block = MiAllocateSystemPages(pages, PTE_WRITE | PTE_NX);
    KIRQL old = KeAcquireSpinLockRaiseToDpc(&PoolLock);
    for (n = 0; n < BIG_PAGES && PoolBigPages[n].Va; n++) {}
    if (block && n < BIG_PAGES) {
        PoolBigPages[n].Va = block;
        PoolBigPages[n].Tag = tag;
        PoolBigPages[n].Pages = pages;
    }
    KeReleaseSpinLock(&PoolLock, old);
    if (block && n == BIG_PAGES) {
        MiFreeSystemPages(block, pages);
        block = NULL;
    }
    return block;
}

static void FreeBig(void *block) {
    KIRQL old = KeAcquireSpinLockRaiseToDpc(&PoolLock);
    ULONG pages = 0, n;
    for (n = 0; n < BIG_PAGES && PoolBigPages[n].Va != block; n++) {}
    if (n < BIG_PAGES) {
        pages = PoolBigPages[n].Pages;
        PoolBigPages[n].Va = NULL;
    }
    KeReleaseSpinLock(&PoolLock, old);
    if (pages) MiFreeSystemPages(block, pages);
}

void *ExAllocatePoolWithTag(ULONG type, ULONG_PTR size, ULONG tag) {
    ULONG_PTR whole = size + sizeof(POOL_HEADER);
    POOL_HEADER *header;
    ULONG n;
    KIRQL old;
    if (whole > PAGE_SIZE) return AllocateBig(size, tag);
    n = Class(whole);
    old = KeAcquireSpinLockRaiseToDpc(&PoolLock);
    if (!PoolFree[n]) {
        ULONG64 page = MiAllocatePage();
        ULONG_PTR at;
        for (at = 0; page && at < PAGE_SIZE; at += SMALLEST << n) {
            UCHAR *block = (UCHAR *)MiDirect(page) + at;
            *(void **)(block + sizeof(POOL_HEADER)) = PoolFree[n];
            PoolFree[n] = block;
        }
    }
    header = PoolFree[n];
    if (header) PoolFree[n] = *(void **)(header + 1);
    KeReleaseSpinLock(&PoolLock, old);
    if (!header) return NULL;
    /* A block of a whole page has 0 here on x64. */
    header->BlockSize = (SMALLEST << n) / POOL_UNIT;
    header->PoolType = type | 2;
    header->PoolTag = tag;
    memset(header + 1, 0, size);
    return header + 1;
}

void ExFreePoolWithTag(void *block, ULONG tag) {
    POOL_HEADER *header = (POOL_HEADER *)block - 1;
    KIRQL old;
    ULONG n;
    (void)tag;
    if (!((ULONG_PTR)block & (PAGE_SIZE - 1))) {
        FreeBig(block);
        return;
    }
    n = Class(header->BlockSize ? header->BlockSize * POOL_UNIT : PAGE_SIZE);
    header->PoolType = 0;
    old = KeAcquireSpinLockRaiseToDpc(&PoolLock);
    *(void **)(header + 1) = PoolFree[n];
    PoolFree[n] = header;
    KeReleaseSpinLock(&PoolLock, old);
}
