/* KVA shadow's page tables. A shadowed process has two roots: the kernel's maps everything, its user half not executable;
   the user's maps the user half and of the kernel what entries and exits touch. */
#include "kernel.h"

#if KVA_SHADOW
extern UCHAR __ImageBase[];

/* The kernel half of every user root. */
static ULONG64 KvasTemplate;

static void Share(void *address, ULONG pages) {
    ULONG64 at = (ULONG64)address & ~0xfffULL;
    for (; pages; pages--, at += PAGE_SIZE) {
        ULONG64 *pte = MiPteAddress(at);
        MiMapPage(KvasTemplate, at, *pte & ~PTE_GLOBAL);
    }
}

/* What decides it on a real machine is whether the CPU is immune; Intel's without word of it are not. */
BOOLEAN KvasWanted(void) {
    ULONG out[4];
    CpuId(0, out);
    if (KiLoaderOption("NOKVASHADOW")) return FALSE;
    return out[1] == 0x756e6547 || KiLoaderOption("KVASHADOW");
}

void KvasInitialize(void) {
    UCHAR *pe = PE(__ImageBase);
    ULONG n;
    KvasTemplate = MiAllocatePage();
    for (n = 0; n < PE_SECTIONS(pe); n++) {
        ULONG *section = (ULONG *)PE_SECTION(pe, n);
        if (!memcmp(section, "KVASCODE", 8)) Share(__ImageBase + section[3], (section[2] + 0xfff) / 0x1000);
    }
}

/* A processor's part: IDT, GDT, TSS, transition stack, and of the KPCR the last page or pages, with the roots. */
void KvasShareProcessor(ULONG number) {
    PROCESSOR *processor = &KiProcessors[number];
    KTSS64 *tss = (KTSS64 *)(processor->Area + AREA_TSS);
    ULONG n;
    for (n = 0; n < 3; n++) Share((void *)(tss->Ist[n] - (IST_STACK_PAGES - 1) * PAGE_SIZE), IST_STACK_PAGES);
    Share(processor->Area, AREA_SIZE / PAGE_SIZE);
    Share((UCHAR *)processor->Prcb + KPRCB_KernelDirectoryTableBase, 1);
    Share((UCHAR *)processor->Prcb + KPRCB_RspBaseShadow, 1);
    Share((UCHAR *)processor->Prcb + KPRCB_UserRspShadow, 1);
}

/* Called when the user half's top level is complete. */
ULONG64 KvasCreateUserRoot(ULONG64 root) {
    ULONG64 page = MiAllocatePage(), *user, *kernel = MiDirect(root), *template = MiDirect(KvasTemplate);
    ULONG n;
    if (!page) return 0;
    user = MiDirect(page);
    memcpy(user, kernel, PAGE_SIZE / 2);
    memcpy(user + 256, template + 256, PAGE_SIZE / 2);
    for (n = 0; n < 256; n++)
        if (kernel[n]) kernel[n] |= PTE_NX;
    return page;
}
#endif
