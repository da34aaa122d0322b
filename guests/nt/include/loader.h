/* What the loader passes to KiSystemStartup. The other side of it: hv-core, load/nt/block.rs. */
#pragma once
#include "nt.h"

/* Begins as Windows 10's structure does; Extension is this project's own. */
typedef struct _LOADER_PARAMETER_BLOCK {
    ULONG OsMajorVersion, OsMinorVersion, Size, OsLoaderSecurityVersion;
    LIST_ENTRY LoadOrderListHead;
    LIST_ENTRY MemoryDescriptorListHead;
    LIST_ENTRY BootDriverListHead;
    LIST_ENTRY EarlyLaunchListHead;
    LIST_ENTRY CoreDriverListHead;
    LIST_ENTRY CoreExtensionsDriverListHead;
    LIST_ENTRY TpmCoreDriverListHead;
    ULONG_PTR KernelStack, Prcb, Process, Thread;
    ULONG KernelStackSize, RegistryLength;
    PVOID RegistryBase, ConfigurationRoot;
    CHAR *ArcBootDeviceName, *ArcHalDeviceName, *NtBootPathName, *NtHalPathName, *LoadOptions;
    PVOID NlsData, ArcDiskInformation;
    struct _LOADER_EXTENSION *Extension;
} LOADER_PARAMETER_BLOCK, *PLOADER_PARAMETER_BLOCK;

typedef struct _MEMORY_ALLOCATION_DESCRIPTOR {
    LIST_ENTRY ListEntry;
    ULONG MemoryType;
    ULONG_PTR BasePage, PageCount;
} MEMORY_ALLOCATION_DESCRIPTOR;
#define LoaderFree 2

/* A file that the loader left in memory. */
typedef struct _LOADER_FILE {
    CHAR Name[0x50];
    UCHAR *Base;
    ULONG_PTR Length;
} LOADER_FILE;

/* Each number and each pointer has eight bytes of its own. */
#define WIDE __attribute__((aligned(8)))
typedef struct _LOADER_EXTENSION {
    ULONG Size, Version;
    ULONG64 DirectMap;       /* where physical address 0 is mapped, and RAM after it */
    ULONG64 PteBase;         /* the page tables' own place */
    ULONG64 DirectoryTable;  /* physical address of the root */
    ULONG64 Processors;      /* how many the machine has */
    WIDE UCHAR *Pcr;         /* zeroed pages for processor 0's KPCR */
    ULONG64 PcrSize;
    WIDE UCHAR *Gdt;
    WIDE UCHAR *Idt;
    WIDE UCHAR *Tss;
    WIDE UCHAR *Stack;       /* its lowest byte; KernelStack in the block is its end */
    ULONG64 SharedUserData;  /* physical address of the page at SHARED_USER_DATA */
    ULONG64 BootTime;        /* 100 ns since 1601 at TSC 0 */
    ULONG64 TscFrequency;
    ULONG64 SystemPtes;      /* an empty part of the address space for the kernel's mappings */
    ULONG64 FileCount;
    WIDE LOADER_FILE *Files;
    ULONG64 Rsdp;
    ULONG64 Seed[2];
    ULONG64 DirectMapSize;   /* what of RAM is mapped there: on x86 maybe not all */
} LOADER_EXTENSION;
