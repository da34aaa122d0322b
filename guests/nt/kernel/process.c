/* Processes and threads: EPROCESS and ETHREAD on their lists, ids, creation and end. */
#include "kernel.h"

#define ID_LIMIT 512
/* MMVAD_SHORT, of which three pointers and the two page numbers behind them are filled. */
#define MMVAD_SHORT_SIZE 0x40
EPROCESS *PsSystemProcess;
/* Objects by id / 4; what PspCidTable points to. */
static PVOID PspIds[ID_LIMIT];
static KSPIN_LOCK PspLock;

PVOID PspAllocateId(PVOID object) {
    KIRQL old = KeAcquireSpinLockRaiseToDpc(&PspLock);
    ULONG n;
    for (n = 1; n < ID_LIMIT && PspIds[n]; n++) {}
    if (n < ID_LIMIT) PspIds[n] = object;
    KeReleaseSpinLock(&PspLock, old);
    return (PVOID)(ULONG_PTR)(n * 4);
}

static PLIST_ENTRY ProcessThreads(PEPROCESS process) {
    return (PLIST_ENTRY)((UCHAR *)process + EPROCESS_ThreadListHead);
}
static PKPROCESS Pcb(PEPROCESS process) { return (PKPROCESS)((UCHAR *)process + EPROCESS_Pcb); }

/* A handle table without handles, a VAD for the shared user page, the name of the program's file: the objects that every
   process has. SeAuditProcessCreationInfo is an OBJECT_NAME_INFORMATION, its text behind it; the System process has no file. */
static BOOLEAN AddProcessObjects(PEPROCESS process, const CHAR *name) {
#ifdef HAVE_EPROCESS_ObjectTable
    process->ObjectTable = ExAllocatePoolWithTag(0, 0x80, 'btbO');
    if (!process->ObjectTable) return FALSE;
#endif
#ifdef HAVE_EPROCESS_SeAuditProcessCreationInfo
    {
        CHAR path[80] = "";
        UNICODE_STRING *string;
        ULONG n;
        if (PsSystemProcess) RtlFormat(path, sizeof path, "\\Device\\HarddiskVolume1\\Windows\\System32\\%s", name);
        n = (ULONG)strlen(path) * sizeof(WCHAR);
        string = ExAllocatePoolWithTag(0, sizeof *string + n + sizeof(WCHAR), 'aPeS');
        if (!string) return FALSE;
        string->Length = (USHORT)n;
        string->MaximumLength = (USHORT)(n + sizeof(WCHAR));
        string->Buffer = (WCHAR *)(string + 1);
        for (n = 0; path[n]; n++) string->Buffer[n] = (UCHAR)path[n];
        *(PVOID *)((UCHAR *)process + EPROCESS_SeAuditProcessCreationInfo) = string;
    }
#endif
#ifdef HAVE_EPROCESS_ExitStatus
    process->ExitStatus = STATUS_PENDING;
#endif
#ifdef HAVE_EPROCESS_VadRoot
    {
        /* Up to Windows 8 the root is a node itself, whose parent it is; later a pointer to the first node. */
#if NT_BUILD < 9600
        process->VadRoot = (ULONG_PTR)process + EPROCESS_VadRoot;
#else
        ULONG_PTR *vad = ExAllocatePoolWithTag(0, MMVAD_SHORT_SIZE, 'SdaV');
        if (!vad) return FALSE;
        ((ULONG *)(vad + 3))[0] = ((ULONG *)(vad + 3))[1] = (ULONG)(SHARED_USER_ADDRESS / PAGE_SIZE);
        process->VadRoot = (ULONG_PTR)vad;
#endif
    }
#endif
    return TRUE;
}

static void InitializeProcess(PEPROCESS process, const CHAR *name, ULONG64 root) {
    PKPROCESS pcb = Pcb(process);
    ULONG n;
    pcb->Header.Type = 3;
#if NT_BUILD < 19041
    pcb->Header.Size = SIZEOF_KPROCESS / 4;
#endif
    InitializeListHead((PLIST_ENTRY)&pcb->Header.WaitListHead);
    InitializeListHead((PLIST_ENTRY)&pcb->ThreadListHead);
    InitializeListHead((PLIST_ENTRY)((UCHAR *)pcb + KPROCESS_ProcessListEntry));
    pcb->DirectoryTableBase = (ULONG_PTR)root;
    InitializeListHead(ProcessThreads(process));
    process->CreateTime.QuadPart = (INT64)(KiLoader->BootTime + KiInterruptTime);
    for (n = 0; n < 14 && name[n]; n++) process->ImageFileName[n] = (UCHAR)name[n];
}

/* A process with an address space of its own, on the list of active processes. */
PEPROCESS PspCreateProcess(const CHAR *name, PEPROCESS parent) {
    PEPROCESS process = ExAllocatePoolWithTag(0, SIZEOF_EPROCESS, 'corP');
    ULONG64 root = PsSystemProcess ? MiCreateAddressSpace() : KiLoader->DirectoryTable;
    KIRQL old;
    if (!process || !root || !AddProcessObjects(process, name)) return NULL;
    InitializeProcess(process, name, root);
    process->UniqueProcessId = PspAllocateId(process);
    if (parent) process->InheritedFromUniqueProcessId = parent->UniqueProcessId;
    old = KeAcquireSpinLockRaiseToDpc(&PspLock);
    InsertTailList(&PsActiveProcessHead, (PLIST_ENTRY)&process->ActiveProcessLinks);
    KeReleaseSpinLock(&PspLock, old);
    return process;
}

/* What a thread has before it runs: lists, id, stack. */
void PspInitializeThread(PETHREAD thread, PEPROCESS process, UCHAR *stack_base, ULONG_PTR stack_size) {
    PKTHREAD tcb = (PKTHREAD)((UCHAR *)thread + ETHREAD_Tcb);
    tcb->Header.Type = 6;
    InitializeListHead((PLIST_ENTRY)&tcb->Header.WaitListHead);
    tcb->StackBase = stack_base;
    tcb->StackLimit = stack_base - stack_size;
    tcb->InitialStack = stack_base - STACK_CONTROL_SIZE;
    tcb->KernelStack = tcb->InitialStack;
    tcb->Process = (PVOID)Pcb(process);
    *(PVOID *)((UCHAR *)tcb + KTHREAD_ApcState_Process) = Pcb(process);
    tcb->Priority = 8;
    tcb->BasePriority = 8;
#ifdef NT_X86
    KiInitializeFloatingPoint(tcb->InitialStack);
#endif
}

void PspLinkThread(PETHREAD thread, PEPROCESS process) {
    KIRQL old = KeAcquireSpinLockRaiseToDpc(&PspLock);
    InsertTailList(ProcessThreads(process), (PLIST_ENTRY)&thread->ThreadListEntry);
    InsertTailList((PLIST_ENTRY)&Pcb(process)->ThreadListHead, (PLIST_ENTRY)((UCHAR *)thread + KTHREAD_ThreadListEntry));
    process->ActiveThreads++;
    KeReleaseSpinLock(&PspLock, old);
}

/* The first code of a thread, on its own stack: the dispatcher lock is still held by the switch to it. */
void PspSystemThreadStartup(void (*routine)(PVOID), PVOID context) {
    KiReleaseSpinLock(&KiDispatcherLock);
    KeLowerIrql(PASSIVE_LEVEL);
    EnableInterrupts();
    routine(context);
    PsTerminateSystemThread(STATUS_SUCCESS);
}

extern UCHAR KiStartSystemThread[];

/* A thread of the kernel, in the System process unless another is named. */
NTSTATUS PsCreateSystemThread(PETHREAD *out, PEPROCESS process, void (*routine)(PVOID), PVOID context) {
    PETHREAD thread = ExAllocatePoolWithTag(0, SIZEOF_ETHREAD, 'erhT');
    UCHAR *stack = MmCreateKernelStack();
    ULONG_PTR *frame;
    KIRQL old;
    if (!thread || !stack) return STATUS_NO_MEMORY;
    if (!process) process = PsSystemProcess;
    PspInitializeThread(thread, process, stack, KERNEL_STACK_SIZE);
    thread->Cid.UniqueProcess = process->UniqueProcessId;
    thread->Cid.UniqueThread = PspAllocateId(thread);
    thread->StartAddress = (PVOID)routine;
    thread->CreateTime.QuadPart = (INT64)(KiLoader->BootTime + KiInterruptTime);
    /* KSTART_FRAME: routine and argument, and a return address of 0; below it the KSWITCH_FRAME. */
#ifdef NT_X64
    frame = (ULONG_PTR *)((UCHAR *)thread->Tcb.InitialStack - 0x40);
    frame[4] = (ULONG_PTR)routine;
    frame[5] = (ULONG_PTR)context;
    frame[7] = 0;
    frame -= 8;
    frame[6] = 0;
    frame[7] = (ULONG_PTR)KiStartSystemThread;
#else
    frame = (ULONG_PTR *)((UCHAR *)thread->Tcb.InitialStack - V86_SIZE) - 2;
    frame[0] = (ULONG_PTR)routine;
    frame[1] = (ULONG_PTR)context;
    frame -= 3;
    frame[0] = ~0u;
    frame[1] = 0;
    frame[2] = (ULONG_PTR)KiStartSystemThread;
#endif
    thread->Tcb.KernelStack = frame;
    PspLinkThread(thread, process);
    if (out) *out = thread;
    old = KeAcquireSpinLockRaiseToDpc(&KiDispatcherLock);
    KiReadyThread(thread);
    KiExitDispatcher(old);
    return STATUS_SUCCESS;
}

/* Ends the calling thread. Its stack stays: a terminated thread is still a thread that a debugger may look at. */
NTSTATUS PsTerminateSystemThread(NTSTATUS status) {
    PETHREAD thread = PsGetCurrentThread();
    PEPROCESS process = (PEPROCESS)((UCHAR *)thread->Tcb.Process - EPROCESS_Pcb);
    KIRQL old = KeAcquireSpinLockRaiseToDpc(&PspLock);
#ifdef HAVE_ETHREAD_ExitStatus
    thread->ExitStatus = status;
#endif
    RemoveEntryList((PLIST_ENTRY)&thread->ThreadListEntry);
    RemoveEntryList((PLIST_ENTRY)((UCHAR *)thread + KTHREAD_ThreadListEntry));
    process->ActiveThreads--;
    PspIds[(ULONG_PTR)thread->Cid.UniqueThread / 4 % ID_LIMIT] = NULL;
    KeReleaseSpinLock(&PspLock, old);
    old = KeAcquireSpinLockRaiseToDpc(&KiDispatcherLock);
    thread->Tcb.State = Terminated;
    KiSwapThread();
    KeBugCheckEx(0xF4, 3, (ULONG_PTR)thread, 0, old);
    return status;
}

void PsInitSystem(void) {
    InitializeListHead(&PsActiveProcessHead);
    InitializeProcess(&KiInitialProcess, "Idle", KiLoader->DirectoryTable);
    PsIdleProcess = &KiInitialProcess;
    PspCidTable = PspIds;
    PspLinkThread(&KiInitialThread, &KiInitialProcess);
    PsSystemProcess = PspCreateProcess("System", NULL);
    PsInitialSystemProcess = (PVOID)PsSystemProcess;
}
