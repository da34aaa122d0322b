/* What the loader passes to KiSystemStartup. The other side of it: hv-core, load/nt/block.rs. */
#pragma once
#include "nt.h"

/* Begins as Windows 10's x64 structure does; Extension is this project's own. */
typedef struct _LOADER_PARAMETER_BLOCK {
    ULONG OsMajorVersion, OsMinorVersion, Size, OsLoaderSecurityVersion;
    LIST_ENTRY LoadOrderListHead;
    LIST_ENTRY MemoryDescriptorListHead;
    LIST_ENTRY BootDriverListHead;
    LIST_ENTRY EarlyLaunchListHead;
    LIST_ENTRY CoreDriverListHead;
    LIST_ENTRY CoreExtensionsDriverListHead;
    LIST_ENTRY TpmCoreDriverListHead;
    ULONG64 KernelStack, Prcb, Process, Thread;
    ULONG KernelStackSize, RegistryLength;
    PVOID RegistryBase, ConfigurationRoot;
    CHAR *ArcBootDeviceName, *ArcHalDeviceName, *NtBootPathName, *NtHalPathName, *LoadOptions;
    PVOID NlsData, ArcDiskInformation;
    struct _LOADER_EXTENSION *Extension;
} LOADER_PARAMETER_BLOCK, *PLOADER_PARAMETER_BLOCK;

typedef struct _MEMORY_ALLOCATION_DESCRIPTOR {
    LIST_ENTRY ListEntry;
    ULONG MemoryType;
    ULONG64 BasePage, PageCount;
} MEMORY_ALLOCATION_DESCRIPTOR;
#define LoaderFree 2

/* A file that the loader left in memory. */
typedef struct _LOADER_FILE {
    CHAR Name[0x50];
    UCHAR *Base;
    ULONG64 Length;
} LOADER_FILE;

typedef struct _LOADER_EXTENSION {
    ULONG Size, Version;
    ULONG64 DirectMap;       /* where physical address 0 is mapped, and all RAM after it */
    ULONG64 PteBase;         /* the page tables' own place */
    ULONG64 DirectoryTable;  /* physical address of the root */
    ULONG64 Processors;      /* how many the machine has */
    UCHAR *Pcr;              /* zeroed pages for processor 0's KPCR */
    ULONG64 PcrSize;
    UCHAR *Gdt, *Idt, *Tss;
    UCHAR *Stack;            /* its lowest byte; KernelStack in the block is its end */
    ULONG64 SharedUserData;  /* physical address of the page at FFFFF780`00000000 */
    ULONG64 BootTime;        /* 100 ns since 1601 at TSC 0 */
    ULONG64 TscFrequency;
    ULONG64 SystemPtes;      /* an empty 512 GiB slot for the kernel's mappings */
    ULONG64 FileCount;
    LOADER_FILE *Files;
    ULONG64 Rsdp;
    ULONG64 Seed[2];
} LOADER_EXTENSION;
