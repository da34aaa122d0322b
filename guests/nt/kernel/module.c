/* Loaded modules: the loader's list becomes PsLoadedModuleList; drivers are loaded and unloaded. */
#include "kernel.h"

#define UNLOADED_DRIVERS 50
typedef struct _UNLOADED_DRIVER {
    UNICODE_STRING Name;
    PVOID StartAddress, EndAddress;
    LARGE_INTEGER CurrentTime;
} UNLOADED_DRIVER;

static KSPIN_LOCK ModuleLock;

static UNICODE_STRING CopyString(const UNICODE_STRING *from) {
    UNICODE_STRING copy = *from;
    copy.Buffer = ExAllocatePoolWithTag(0, from->Length + 2u, 'tSmM');
    copy.MaximumLength = from->Length + 2;
    memcpy(copy.Buffer, from->Buffer, from->Length);
    return copy;
}

static UNICODE_STRING MakeString(const CHAR *from) {
    UNICODE_STRING made;
    USHORT n, length = (USHORT)strlen(from);
    made.Length = length * 2;
    made.MaximumLength = made.Length + 2;
    made.Buffer = ExAllocatePoolWithTag(0, made.MaximumLength, 'tSmM');
    for (n = 0; n < length; n++) made.Buffer[n] = (UCHAR)from[n];
    return made;
}

static void Link(PKLDR_DATA_TABLE_ENTRY entry) {
    KIRQL old = KeAcquireSpinLockRaiseToDpc(&ModuleLock);
    InsertTailList(&PsLoadedModuleList, (PLIST_ENTRY)entry);
    KeReleaseSpinLock(&ModuleLock, old);
}

/* The loader's entries, whose memory will be reused, are copied. */
void MiInitializeLoadedModuleList(void) {
    PLIST_ENTRY head = &KiLoaderBlock->LoadOrderListHead, at;
    InitializeListHead(&PsLoadedModuleList);
    MmUnloadedDrivers = ExAllocatePoolWithTag(0, UNLOADED_DRIVERS * sizeof(UNLOADED_DRIVER), 'duMm');
    for (at = head->Flink; at != head; at = at->Flink) {
        PKLDR_DATA_TABLE_ENTRY from = (PKLDR_DATA_TABLE_ENTRY)at;
        PKLDR_DATA_TABLE_ENTRY entry = ExAllocatePoolWithTag(0, 0xa0, 'dLmM');
        memcpy(entry, from, SIZEOF_KLDR_DATA_TABLE_ENTRY < 0xa0 ? SIZEOF_KLDR_DATA_TABLE_ENTRY : 0xa0);
        entry->FullDllName = CopyString(&from->FullDllName);
        entry->BaseDllName = CopyString(&from->BaseDllName);
        Link(entry);
    }
#ifdef HAVE_SYMBOL_PsNtosImageEnd
    {
        PKLDR_DATA_TABLE_ENTRY kernel = (PKLDR_DATA_TABLE_ENTRY)PsLoadedModuleList.Flink;
        PsNtosImageEnd = (UCHAR *)kernel->DllBase + kernel->SizeOfImage;
    }
#endif
}

static BOOLEAN SameName(const UNICODE_STRING *one, const CHAR *other) {
    ULONG n, length = (ULONG)strlen(other);
    if (one->Length != length * 2) return FALSE;
    for (n = 0; n < length; n++)
        if ((one->Buffer[n] | 0x20) != (other[n] | 0x20)) return FALSE;
    return TRUE;
}

PKLDR_DATA_TABLE_ENTRY MiFindModule(const CHAR *name) {
    PLIST_ENTRY at;
    for (at = PsLoadedModuleList.Flink; at != &PsLoadedModuleList; at = at->Flink)
        if (SameName(&((PKLDR_DATA_TABLE_ENTRY)at)->BaseDllName, name)) return (PKLDR_DATA_TABLE_ENTRY)at;
    return NULL;
}

static const CHAR *FileName(const CHAR *path) {
    const CHAR *name = path;
    for (; *path; path++)
        if (*path == '\\') name = path + 1;
    return name;
}

LOADER_FILE *MiFindFile(const CHAR *name) {
    ULONG64 n;
    for (n = 0; n < KiLoader->FileCount; n++)
        if (!_stricmp(FileName(KiLoader->Files[n].Name), name)) return &KiLoader->Files[n];
    return NULL;
}

/* The address of an export, or NULL. */
static PVOID FindExport(UCHAR *image, const CHAR *name) {
    ULONG *directory = PE_DIRECTORY(PE(image), 0), n;
    UCHAR *exports = image + directory[0];
    if (!directory[1]) return NULL;
    for (n = 0; n < *(ULONG *)(exports + 24); n++) {
        const CHAR *found = (const CHAR *)image + ((ULONG *)(image + *(ULONG *)(exports + 32)))[n];
        if (!strcmp(found, name)) {
            USHORT ordinal = ((USHORT *)(image + *(ULONG *)(exports + 36)))[n];
            return image + ((ULONG *)(image + *(ULONG *)(exports + 28)))[ordinal];
        }
    }
    return NULL;
}

/* Lays a file out at `image` and moves it there; `base` is the address that it will run at. */
void MiLayOutImage(UCHAR *image, ULONG_PTR base, const UCHAR *file) {
    const UCHAR *pe = PE(file);
    ULONG_PTR delta = base - PE_BASE(pe);
    ULONG n, *directory = PE_DIRECTORY(PE(file), 5), left = directory[1];
    UCHAR *block = image + directory[0];
    memcpy(image, file, PE_HEADER_SIZE(pe));
    for (n = 0; n < PE_SECTIONS(pe); n++) {
        const ULONG *section = (const ULONG *)PE_SECTION(pe, n);
        ULONG size = section[2] && section[2] < section[4] ? section[2] : section[4];
        memcpy(image + section[3], file + section[5], size);
    }
    while (left >= 8) {
        ULONG page = *(ULONG *)block, size = *(ULONG *)(block + 4), at;
        if (size < 8 || size > left) break;
        for (at = 8; at < size; at += 2) {
            USHORT entry = *(USHORT *)(block + at);
            if (entry >> 12 == PE_RELOCATION) *(ULONG_PTR *)(image + page + (entry & 0xfff)) += delta;
        }
        block += size;
        left -= size;
    }
    PE_BASE(PE(image)) = base;
}

static NTSTATUS Bind(UCHAR *image) {
    ULONG *directory = PE_DIRECTORY(PE(image), 1);
    ULONG *import = (ULONG *)(image + directory[0]);
    if (!directory[1]) return STATUS_SUCCESS;
    for (; import[3]; import += 5) {
        PKLDR_DATA_TABLE_ENTRY module = MiFindModule((CHAR *)image + import[3]);
        ULONG_PTR *lookup = (ULONG_PTR *)(image + (import[0] ? import[0] : import[4])), *table = (ULONG_PTR *)(image + import[4]);
        if (!module) return STATUS_OBJECT_NAME_NOT_FOUND;
        for (; *lookup; lookup++, table++) {
            PVOID found = FindExport(module->DllBase, (CHAR *)image + (ULONG)*lookup + 2);
            if (!found) return STATUS_ENTRYPOINT_NOT_FOUND;
            *table = (ULONG_PTR)found;
        }
    }
    return STATUS_SUCCESS;
}

/* The rights of each section: nothing is writable and executable. */
static void Protect(UCHAR *image) {
    UCHAR *pe = PE(image);
    MI_PTE *header;
    ULONG n, size;
    ULONG_PTR at;
    for (n = 0; n < PE_SECTIONS(pe); n++) {
        ULONG *section = (ULONG *)PE_SECTION(pe, n), flags = section[9];
        size = section[2] ? section[2] : section[4];
        for (at = (ULONG_PTR)image + section[3]; at < (ULONG_PTR)image + section[3] + size; at += PAGE_SIZE) {
            MI_PTE *pte = MiPteAddress(at);
            ULONG64 entry = MiReadPte(pte) & ~(PTE_WRITE | PTE_NX);
            if (flags & 0x80000000) entry |= PTE_WRITE;
            if (!(flags & 0x20000000)) entry |= PTE_NX;
            MiWritePte(pte, entry);
        }
    }
    header = MiPteAddress((ULONG_PTR)image);
    MiWritePte(header, MiReadPte(header) & ~PTE_WRITE);
    KeFlushEntireTb();
}

static NTSTATUS CallDriver(PKLDR_DATA_TABLE_ENTRY entry) {
    PDRIVER_OBJECT driver = ExAllocatePoolWithTag(0, sizeof *driver, 'virD');
    if (!driver) return STATUS_NO_MEMORY;
    driver->Type = 4;
    driver->Size = sizeof *driver;
    driver->DriverStart = entry->DllBase;
    driver->DriverSize = entry->SizeOfImage;
    driver->DriverSection = entry;
    driver->DriverName = entry->BaseDllName;
    driver->DriverInit = (PVOID)entry->EntryPoint;
    /* SectionPointer leads back to the object; Windows keeps the image's section there. */
    entry->SectionPointer = driver;
    return driver->DriverInit(driver, &entry->BaseDllName);
}

NTSTATUS MmLoadSystemImage(const CHAR *name, PKLDR_DATA_TABLE_ENTRY *out) {
    LOADER_FILE *file = MiFindFile(name);
    PKLDR_DATA_TABLE_ENTRY entry;
    UCHAR *pe, *image;
    ULONG size;
    NTSTATUS status;
    if (!file) return STATUS_OBJECT_NAME_NOT_FOUND;
    if (MiFindModule(name)) return STATUS_ALREADY_LOADED;
    if (file->Length < 0x200 || *(USHORT *)file->Base != 0x5a4d) return STATUS_INVALID_IMAGE_FORMAT;
    pe = PE(file->Base);
    if (*(USHORT *)(pe + 0x5c) != 1) return STATUS_INVALID_IMAGE_FORMAT;
    size = (PE_IMAGE_SIZE(pe) + 0xfff) & ~0xfffu;
    image = MiAllocateSystemPages(size / PAGE_SIZE, PTE_WRITE);
    if (!image) return STATUS_NO_MEMORY;
    MiLayOutImage(image, (ULONG_PTR)image, file->Base);
    status = Bind(image);
    if (!NT_SUCCESS(status)) {
        MiFreeSystemPages(image, size / PAGE_SIZE);
        return status;
    }
    Protect(image);
    pe = PE(image);
    entry = ExAllocatePoolWithTag(0, 0xa0, 'dLmM');
    entry->DllBase = image;
    entry->EntryPoint = image + PE_ENTRY(pe);
    entry->SizeOfImage = size;
    entry->ExceptionTable = image + PE_DIRECTORY(pe, 3)[0];
    entry->ExceptionTableSize = PE_DIRECTORY(pe, 3)[1];
    entry->CheckSum = PE_CHECKSUM(pe);
#ifdef HAVE_KLDR_DATA_TABLE_ENTRY_TimeDateStamp
    entry->TimeDateStamp = *(ULONG *)(pe + 8);
#endif
#ifdef HAVE_KLDR_DATA_TABLE_ENTRY_SizeOfImageNotRounded
    entry->SizeOfImageNotRounded = PE_IMAGE_SIZE(pe);
#endif
    entry->FullDllName = MakeString(file->Name);
    entry->BaseDllName = MakeString(FileName(file->Name));
    entry->Flags = 0x49104000;
    entry->LoadCount = 1;
    Link(entry);
    status = CallDriver(entry);
    if (!NT_SUCCESS(status)) {
        MmUnloadSystemImage(entry);
        return status;
    }
    if (out) *out = entry;
    return STATUS_SUCCESS;
}

/* Takes a driver off the list and remembers it in MmUnloadedDrivers. */
NTSTATUS MmUnloadSystemImage(PKLDR_DATA_TABLE_ENTRY entry) {
    PDRIVER_OBJECT driver = entry->SectionPointer;
    UNLOADED_DRIVER *unloaded = (UNLOADED_DRIVER *)MmUnloadedDrivers;
    KIRQL old;
    if (!driver || !driver->DriverUnload) return STATUS_INVALID_PARAMETER;
    driver->DriverUnload(driver);
    old = KeAcquireSpinLockRaiseToDpc(&ModuleLock);
    RemoveEntryList((PLIST_ENTRY)entry);
    unloaded += MmLastUnloadedDriver % UNLOADED_DRIVERS;
    unloaded->Name = entry->BaseDllName;
    unloaded->StartAddress = entry->DllBase;
    unloaded->EndAddress = (UCHAR *)entry->DllBase + entry->SizeOfImage;
    unloaded->CurrentTime.QuadPart = (INT64)(KiLoader->BootTime + KiInterruptTime);
    MmLastUnloadedDriver++;
    KeReleaseSpinLock(&ModuleLock, old);
    MiFreeSystemPages(entry->DllBase, (ULONG)(entry->SizeOfImage / PAGE_SIZE));
    ExFreePoolWithTag(driver, 'virD');
    ExFreePoolWithTag(entry->FullDllName.Buffer, 'tSmM');
    ExFreePoolWithTag(entry, 'dLmM');
    return STATUS_SUCCESS;
}

/* Drivers that the loader put into memory: everything after the kernel and the HAL. */
void IopStartBootDrivers(void) {
    PLIST_ENTRY at = PsLoadedModuleList.Flink->Flink->Flink, next;
    for (; at != &PsLoadedModuleList; at = next) {
        next = at->Flink;
        CallDriver((PKLDR_DATA_TABLE_ENTRY)at);
    }
}
