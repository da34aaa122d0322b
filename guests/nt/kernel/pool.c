/* Pool: blocks of fixed sizes with a POOL_HEADER before each, cut from pages of the map of all RAM. */
#include "kernel.h"

/* POOL_HEADER, x64: sizes in units of 16 bytes, then the tag. */
typedef struct _POOL_HEADER {
    UCHAR PreviousSize, PoolIndex, BlockSize, PoolType;
    ULONG PoolTag;
    ULONG64 Large; /* pages of a large block; Windows has the owning process here */
} POOL_HEADER;

#define CLASSES 12
static KSPIN_LOCK PoolLock;
/* Blocks of 32, 64 ... bytes up to a page; the link is where the caller's data was. */
static void *PoolFree[CLASSES];

static ULONG Class(ULONG_PTR size) {
    ULONG n = 0;
    while (32ULL << n < size) n++;
    return n;
}

void *ExAllocatePoolWithTag(ULONG type, ULONG_PTR size, ULONG tag) {
    ULONG_PTR whole = size + sizeof(POOL_HEADER);
    POOL_HEADER *header;
    ULONG n;
    KIRQL old;
    if (whole > PAGE_SIZE) {
        ULONG pages = (ULONG)((whole + PAGE_SIZE - 1) / PAGE_SIZE);
        header = MiAllocateSystemPages(pages, PTE_WRITE | PTE_NX);
        if (!header) return NULL;
        header->Large = pages;
    } else {
        n = Class(whole);
        old = KeAcquireSpinLockRaiseToDpc(&PoolLock);
        if (!PoolFree[n]) {
            ULONG64 page = MiAllocatePage();
            ULONG_PTR at;
            for (at = 0; page && at < PAGE_SIZE; at += 32ULL << n) {
                UCHAR *block = (UCHAR *)MiDirect(page) + at;
                *(void **)(block + sizeof(POOL_HEADER)) = PoolFree[n];
                PoolFree[n] = block;
            }
        }
        header = PoolFree[n];
        if (header) PoolFree[n] = *(void **)(header + 1);
        KeReleaseSpinLock(&PoolLock, old);
        if (!header) return NULL;
        header->Large = 0;
        header->BlockSize = (UCHAR)(2U << n);
    }
    header->PoolType = (UCHAR)(type | 2);
    header->PoolTag = tag;
    memset(header + 1, 0, size);
    return header + 1;
}

void ExFreePoolWithTag(void *block, ULONG tag) {
    POOL_HEADER *header = (POOL_HEADER *)block - 1;
    KIRQL old;
    ULONG n;
    (void)tag;
    if (header->Large) {
        MiFreeSystemPages(header, (ULONG)header->Large);
        return;
    }
    n = header->BlockSize ? Class(header->BlockSize * 16ULL) : CLASSES;
    if (n >= CLASSES) n = Class(PAGE_SIZE);
    header->PoolType = 0;
    old = KeAcquireSpinLockRaiseToDpc(&PoolLock);
    *(void **)(header + 1) = PoolFree[n];
    PoolFree[n] = header;
    KeReleaseSpinLock(&PoolLock, old);
}
