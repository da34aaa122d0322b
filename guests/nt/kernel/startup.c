/* From the loader to the first threads: KiSystemStartup runs on processor 0 with the loader's tables and stack. */
#include "kernel.h"

PLOADER_PARAMETER_BLOCK KiLoaderBlock;
LOADER_EXTENSION *KiLoader;

/* xorshift64*, seeded by the loader: the same boot draws the same numbers. */
ULONG64 KiRandom(void) {
    static ULONG64 state;
    if (!state) state = KiLoader->Seed[0] | 1;
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1dULL;
}

/* Whether the loader options have this word. */
BOOLEAN KiLoaderOption(const CHAR *name) {
    const CHAR *at = KiLoaderBlock->LoadOptions;
    ULONG_PTR length = strlen(name);
    while (*at) {
        while (*at == ' ') at++;
        if (!memcmp(at, name, length) && (at[length] == ' ' || !at[length])) return TRUE;
        while (*at && *at != ' ') at++;
    }
    return FALSE;
}

static void KiInitializeKernel(void) {
    PKPCR pcr = (PKPCR)KiLoader->Pcr;
#if KPCR_IN_IMAGE
    pcr = (PKPCR)&KiInitialPCR;
#endif
    PspInitializeThread(&KiInitialThread, &KiInitialProcess, (UCHAR *)KiLoaderBlock->KernelStack,
                        KiLoaderBlock->KernelStackSize);
    KiInitialThread.Tcb.State = Running;
    *(ULONG_PTR *)((UCHAR *)&KiInitialProcess + EPROCESS_Pcb + KPROCESS_DirectoryTableBase) = (ULONG_PTR)KiLoader->DirectoryTable;
#if KVA_SHADOW
    KiKvaShadow = KvasWanted();
#ifdef HAVE_SYMBOL_KiKvaShadowMode
    KiKvaShadowMode = KiKvaShadow;
#endif
#endif
    KiInitializeProcessor(0, pcr, KiLoader->Idt, &KiInitialThread);
}

void KiSystemStartup(PLOADER_PARAMETER_BLOCK block) {
    KiLoaderBlock = block;
    KiLoader = block->Extension;
    KeLoaderBlock = block;
    KeNumberProcessors = 1;
#ifdef HAVE_SYMBOL_KeNumberProcessorsGroup0
    KeNumberProcessorsGroup0 = 1;
#endif
    KeTimeIncrement = TIME_INCREMENT;
    KiInitializeKernel();
    MmInitSystem();
    MiInitializeLoadedModuleList();
    HalInitSystem(0, MmMapIoSpace);
    HalInitializeProcessor(0);
    KiProcessors[0].ApicId = HalGetApicId();
    KiInitializeScheduler();
    KiInitializeUserSharedData();
    KdInitSystem();
    PsInitSystem();
    KiProcessors[0].Started = TRUE;
    PsCreateSystemThread(NULL, PsSystemProcess, Phase1Initialization, NULL);
    KiInitializeClock();
    KeLowerIrql(PASSIVE_LEVEL);
    EnableInterrupts();
    KiIdleLoop();
}

void Phase1Initialization(PVOID context) {
    /* As many as tools expect of a running system; a parent is the number of an earlier one, 0 the System process. */
    static const struct {
        const CHAR *Name;
        ULONG Parent;
    } programs[] = {{"smss.exe", 0},     {"csrss.exe", 1},    {"wininit.exe", 1}, {"services.exe", 3},
                    {"winlogon.exe", 1}, {"lsass.exe", 3},    {"svchost.exe", 4}, {"svchost.exe", 4},
                    {"svchost.exe", 4},  {"spoolsv.exe", 4},  {"dwm.exe", 5},     {"explorer.exe", 5}};
    PEPROCESS processes[1 + sizeof programs / sizeof *programs] = {PsSystemProcess};
    ULONG n;
    (void)context;
    KeInitializeEvent(&PspUserEvent, FALSE, FALSE);
    KeStartAllProcessors();
    IopStartBootDrivers();
    for (n = 0; n < sizeof programs / sizeof *programs; n++) {
        PEPROCESS parent = processes[programs[n].Parent];
        if (!NT_SUCCESS(PspCreateUserProcess(programs[n].Name, parent, n, &processes[n + 1])))
            processes[n + 1] = PsSystemProcess;
    }
    PsCreateSystemThread(NULL, PsSystemProcess, KiGuardThread, NULL);
    PsCreateSystemThread(NULL, PsSystemProcess, KiConsoleThread, NULL);
    /* The keys are drawn and the block encoded last, as KeInitSystem does in phase 1. */
    if (KDBG_ENCODED && KiLoaderOption("NODEBUG")) KdEncodeDataBlock();
    PsTerminateSystemThread(STATUS_SUCCESS);
}
