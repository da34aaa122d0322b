/* Ring-3 processes: the program's image, PEB, TEB and stack in an address space of its own, and its first thread. */
#include "kernel.h"

KEVENT PspUserEvent;

/* What a process's first thread needs. */
typedef struct _USER_START {
    ULONG_PTR Entry, Argument, Peb, Teb;
} USER_START;

/* Offsets in a process's own area: PEB, TEB (two pages), loader data. */
#define AREA_TEB 0x1000
#define AREA_LDR 0x3000
#define USER_AREA_SIZE 0x4000

static UCHAR *MapUserPage(ULONG64 root, ULONG_PTR address, ULONG64 rights) {
    ULONG64 page = MiAllocatePage();
    if (!page || !MiMapPage(root, address, page | PTE_USER | rights)) return NULL;
    return MiDirect(page);
}

/* The rights of the image's page at this RVA. */
static ULONG64 PageRights(UCHAR *pe, ULONG rva) {
    ULONG n;
    for (n = 0; n < PE_SECTIONS(pe); n++) {
        ULONG *section = (ULONG *)PE_SECTION(pe, n);
        ULONG size = section[2] ? section[2] : section[4];
        if (rva >= section[3] && rva < section[3] + size)
            return (section[9] & 0x80000000 ? PTE_WRITE : 0) | (section[9] & 0x20000000 ? 0 : PTE_NX);
    }
    return PTE_NX;
}

/* Maps a private copy of the program at `base`; returns its entry point. */
static ULONG_PTR MapProgram(ULONG64 root, ULONG_PTR base, LOADER_FILE *file) {
    UCHAR *pe = PE(file->Base), *image;
    ULONG size = (PE_IMAGE_SIZE(pe) + 0xfff) & ~0xfffu, at;
    image = MiAllocateSystemPages(size / PAGE_SIZE, PTE_WRITE | PTE_NX);
    if (!image) return 0;
    MiLayOutImage(image, base, file->Base);
    for (at = 0; at < size; at += PAGE_SIZE) {
        UCHAR *page = MapUserPage(root, base + at, PageRights(pe, at));
        if (page) memcpy(page, image + at, PAGE_SIZE);
    }
    at = PE_ENTRY(pe);
    MiFreeSystemPages(image, size / PAGE_SIZE);
    return base + at;
}

static void PutString(UNICODE_STRING *string, UCHAR *page, ULONG_PTR address, ULONG offset, const CHAR *text) {
    WCHAR *out = (WCHAR *)(page + offset);
    USHORT n;
    for (n = 0; text[n]; n++) out[n] = (UCHAR)text[n];
    string->Length = n * 2;
    string->MaximumLength = n * 2 + 2;
    string->Buffer = (WCHAR *)(address + offset);
}

/* PEB_LDR_DATA with one entry, the program, on its three lists. */
static void FillLoaderData(UCHAR *page, ULONG_PTR address, ULONG_PTR base, ULONG_PTR entry_point, LOADER_FILE *file, const CHAR *name) {
    static const ULONG heads[] = {PEB_LDR_DATA_InLoadOrderModuleList, PEB_LDR_DATA_InMemoryOrderModuleList,
                                  PEB_LDR_DATA_InInitializationOrderModuleList};
    static const ULONG links[] = {LDR_DATA_TABLE_ENTRY_InLoadOrderLinks, LDR_DATA_TABLE_ENTRY_InMemoryOrderLinks,
                                  LDR_DATA_TABLE_ENTRY_InInitializationOrderLinks};
    PLDR_DATA_TABLE_ENTRY entry = (PLDR_DATA_TABLE_ENTRY)(page + 0x100);
    CHAR path[64];
    ULONG n;
    *(ULONG *)page = SIZEOF_PEB_LDR_DATA;
    page[4] = TRUE;
    for (n = 0; n < 3; n++) {
        ULONG_PTR *head = (ULONG_PTR *)(page + heads[n]), *link = (ULONG_PTR *)((UCHAR *)entry + links[n]);
        head[0] = head[1] = address + 0x100 + links[n];
        link[0] = link[1] = address + heads[n];
    }
    entry->DllBase = (PVOID)base;
    entry->EntryPoint = (PVOID)entry_point;
    entry->SizeOfImage = PE_IMAGE_SIZE(PE(file->Base));
    entry->TimeDateStamp = *(ULONG *)(PE(file->Base) + 8);
    RtlFormat(path, sizeof path, "C:\\Windows\\System32\\%s", name);
    PutString(&entry->FullDllName, page, address, 0x400, path);
    PutString(&entry->BaseDllName, page, address, 0x600, name);
}

/* Runs in the new process: out of the kernel for the first time, RCX the program's argument, RDX its PEB. */
static void PspUserThreadStartup(PVOID context) {
    USER_START start = *(USER_START *)context;
    PETHREAD thread = PsGetCurrentThread();
    __attribute__((aligned(16))) KTRAP_FRAME frame;
    ExFreePoolWithTag(context, 'trsU');
    memset(&frame, 0, sizeof frame);
    frame.Rip = start.Entry;
#ifdef NT_X64
    frame.SegCs = KGDT64_R3_CODE | 3;
    frame.EFlags = 0x202;
    frame.Rsp = USER_DEMAND_END - 0x28;
    frame.SegSs = KGDT64_R3_DATA | 3;
    frame.Rcx = start.Argument;
    frame.Rdx = start.Peb;
    frame.MxCsr = 0x1f80;
    frame.PreviousMode = 1;
#else
    {
        /* A return address, the argument of eight bytes, and the PEB. */
        ULONG *stack = (ULONG *)(USER_DEMAND_END - 0x100);
        stack[1] = start.Argument;
        stack[3] = start.Peb;
        frame.HardwareEsp = (ULONG)stack;
    }
    frame.SegCs = KGDT_R3_CODE | 3;
    frame.EFlags = 0x202;
    frame.HardwareSegSs = frame.SegDs = frame.SegEs = KGDT_R3_DATA | 3;
    frame.SegFs = KGDT_R3_TEB | 3;
    frame.ExceptionList = (PVOID)~0u;
#endif
    DisableInterrupts();
    thread->Tcb.Teb = (PVOID)start.Teb;
    thread->Tcb.PreviousMode = 1;
    thread->Win32StartAddress = (PVOID)start.Entry;
#ifdef NT_X64
    __writemsr(MSR_GS_SWAP, start.Teb);
#else
    KiSetTeb(start.Teb);
#endif
    KiServiceExitToUser(&frame);
}

NTSTATUS PspCreateUserProcess(const CHAR *name, PEPROCESS parent, ULONG64 argument, PEPROCESS *out) {
    LOADER_FILE *file = MiFindFile("smss.exe");
    PEPROCESS process;
    PETHREAD thread;
    USER_START *start;
    ULONG64 root;
    ULONG_PTR base, area, n;
    UCHAR *pages[USER_AREA_SIZE / PAGE_SIZE];
    PPEB peb;
    PTEB teb;
    if (!file) return STATUS_OBJECT_NAME_NOT_FOUND;
    process = PspCreateProcess(name, parent);
    start = ExAllocatePoolWithTag(0, sizeof *start, 'trsU');
    if (!process || !start) return STATUS_NO_MEMORY;
    root = *(ULONG_PTR *)((UCHAR *)process + EPROCESS_Pcb + KPROCESS_DirectoryTableBase);
    base = USER_IMAGE_SPACE + ((KiRandom() & USER_IMAGE_MASK) << 16);
    area = USER_AREA_SPACE + ((KiRandom() & USER_AREA_MASK) << 16);
    start->Argument = (ULONG_PTR)argument;
    start->Entry = MapProgram(root, base, file);
    start->Peb = area;
    start->Teb = area + AREA_TEB;
    MiMapPage(root, SHARED_USER_ADDRESS, KiLoader->SharedUserData | PTE_USER | PTE_NX);
    for (n = 0; n < USER_AREA_SIZE / PAGE_SIZE; n++) {
        pages[n] = MapUserPage(root, area + n * PAGE_SIZE, PTE_WRITE | PTE_NX);
        if (!pages[n]) return STATUS_NO_MEMORY;
    }
    peb = (PPEB)pages[0];
    teb = (PTEB)pages[1];
    peb->ImageBaseAddress = (PVOID)base;
    peb->Ldr = (PVOID)(area + AREA_LDR);
    peb->NumberOfProcessors = KeNumberProcessors;
#if defined(HAVE_PEB_OSMajorVersion) && defined(HAVE_PEB_OSMinorVersion) && defined(HAVE_PEB_OSBuildNumber)
    peb->OSMajorVersion = NT_MAJOR;
    peb->OSMinorVersion = NT_MINOR;
    peb->OSBuildNumber = NT_BUILD;
#endif
    FillLoaderData(pages[AREA_LDR / PAGE_SIZE], area + AREA_LDR, base, start->Entry, file, name);
    ((ULONG_PTR *)teb)[1] = USER_DEMAND_END;                   /* NtTib.StackBase */
    ((ULONG_PTR *)teb)[2] = USER_DEMAND_END - USER_STACK_SIZE; /* NtTib.StackLimit */
    ((ULONG_PTR *)teb)[6] = area + AREA_TEB;                   /* NtTib.Self */
    teb->ProcessEnvironmentBlock = (PVOID)area;
    process->Peb = (PVOID)area;
    process->SectionBaseAddress = (PVOID)base;
#if KVA_SHADOW
    if (KiKvaShadow)
        *(ULONG64 *)((UCHAR *)process + EPROCESS_Pcb + KPROCESS_UserDirectoryTableBase) = KvasCreateUserRoot(root);
#endif
    if (out) *out = process;
    thread = NULL;
    return PsCreateSystemThread(&thread, process, PspUserThreadStartup, start);
}
