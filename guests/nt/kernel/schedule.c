/* Spin locks, IRQL, and the scheduler: one ready queue under one lock, round robin, a quantum of two clock ticks. */
#include "kernel.h"

KSPIN_LOCK KiDispatcherLock;
ULONG64 KiContextSwitches;

/* Ready threads, linked through their own list entry; the thread keeps it in its stack control area. */
static LIST_ENTRY KiReadyQueue;

void KiAcquireSpinLock(KSPIN_LOCK *lock) {
    while (__sync_lock_test_and_set(lock, 1))
        while (*lock) Pause();
}

void KiReleaseSpinLock(KSPIN_LOCK *lock) { __sync_lock_release(lock); }

KIRQL KfRaiseIrql(KIRQL level) {
    KIRQL old = KeGetCurrentIrql();
    __writecr8(level);
    return old;
}

void KeLowerIrql(KIRQL level) { __writecr8(level); }

KIRQL KeAcquireSpinLockRaiseToDpc(KSPIN_LOCK *lock) {
    KIRQL old = KfRaiseIrql(DISPATCH_LEVEL);
    KiAcquireSpinLock(lock);
    return old;
}

void KeReleaseSpinLock(KSPIN_LOCK *lock, KIRQL old) {
    KiReleaseSpinLock(lock);
    KeLowerIrql(old);
}

void KiInitializeScheduler(void) { InitializeListHead(&KiReadyQueue); }

/* The unused place at the top of every kernel stack, where Windows has its stack control block. */
static PLIST_ENTRY QueueEntry(PETHREAD thread) { return (PLIST_ENTRY)thread->Tcb.InitialStack; }
static PETHREAD QueuedThread(PLIST_ENTRY entry) { return *(PETHREAD *)(entry + 1); }

/* With the dispatcher lock: makes a thread ready and wakes a processor for it. */
void KiReadyThread(PETHREAD thread) {
    PLIST_ENTRY entry = QueueEntry(thread);
    ULONG n;
    thread->Tcb.State = Ready;
    *(PETHREAD *)(entry + 1) = thread;
    InsertTailList(&KiReadyQueue, entry);
    for (n = 0; n < MAX_PROCESSORS; n++) {
        PROCESSOR *processor = &KiProcessors[n];
        if (!processor->Started || processor->Prcb->CurrentThread != processor->Prcb->IdleThread) continue;
        if (n == KeGetCurrentProcessorNumber())
            HalRequestSoftwareInterrupt(DISPATCH_LEVEL);
        else
            HalRequestIpi(processor->ApicId, FALSE, VECTOR_DISPATCH);
        return;
    }
}

/* With the dispatcher lock, at DISPATCH_LEVEL: gives the processor to the next thread; the lock is held on return too. */
void KiSwapThread(void) {
    PKPRCB prcb = KeGetCurrentPrcb();
    PETHREAD old = (PETHREAD)prcb->CurrentThread, next;
    if (IsListEmpty(&KiReadyQueue)) {
        if (old->Tcb.State == Running) return;
        next = (PETHREAD)prcb->IdleThread;
    } else {
        PLIST_ENTRY entry = KiReadyQueue.Flink;
        RemoveEntryList(entry);
        next = QueuedThread(entry);
        if (old->Tcb.State == Running) {
            if (old == (PETHREAD)prcb->IdleThread) {
                old->Tcb.State = Ready;
            } else {
                KiReadyThread(old);
            }
        }
    }
    if (next == old) {
        next->Tcb.State = Running;
        return;
    }
    next->Tcb.State = Running;
#ifdef HAVE_KTHREAD_NextProcessor
    next->Tcb.NextProcessor = prcb->Number;
#endif
#ifdef HAVE_KTHREAD_Running
    next->Tcb.Running = 1;
    old->Tcb.Running = 0;
#endif
#ifdef HAVE_KTHREAD_ContextSwitches
#ifdef HAVE_KTHREAD_ContextSwitches
    next->Tcb.ContextSwitches++;
#endif
#endif
    prcb->CurrentThread = (PVOID)next;
    KiProcessors[prcb->Number].QuantumEnd = FALSE;
    KiContextSwitches++;
    KiSwapContext(old, next);
}

#ifdef NT_X64
/* Called by SwapContext on the new thread's stack: its address space, its stack for ring 3, its TEB. */
void KiSwapProcessState(PETHREAD old, PETHREAD next) {
    PKPRCB prcb = KeGetCurrentPrcb();
    PKPROCESS process = (PKPROCESS)next->Tcb.Process;
    PKPCR pcr = KeGetPcr();
    KTSS64 *tss = *(KTSS64 **)((UCHAR *)pcr + KPCR_TssBase);
    ULONG64 root = process->DirectoryTableBase;
    (void)old;
    if ((__readcr3() & PTE_FRAME) != (root & PTE_FRAME)) __writecr3(root);
    prcb->RspBase = (ULONG64)next->Tcb.InitialStack;
    tss->Rsp0 = prcb->RspBase;
    __writemsr(MSR_GS_SWAP, (ULONG64)next->Tcb.Teb);
#if KVA_SHADOW
    if (KiKvaShadow) {
        prcb->KernelDirectoryTableBase = root;
        prcb->RspBaseShadow = prcb->RspBase;
        tss->Rsp0 = (ULONG64)(KiProcessors[prcb->Number].Area + AREA_TRANSITION_STACK);
    }
#endif
}
#endif

/* Lets go of the dispatcher lock and gives way if the quantum is over or an idle processor got work. */
void KiExitDispatcher(KIRQL old) {
    KiReleaseSpinLock(&KiDispatcherLock);
    KeLowerIrql(old);
}

void KeYieldExecution(void) {
    KIRQL old = KeAcquireSpinLockRaiseToDpc(&KiDispatcherLock);
    KiSwapThread();
    KiExitDispatcher(old);
}

/* The dispatch interrupt: timers, then whoever is next if the quantum is over or the processor idle. */
void KiDispatchInterrupt(PKTRAP_FRAME frame) {
    PKPRCB prcb = KeGetCurrentPrcb();
    (void)frame;
    HalEndOfInterrupt();
#ifdef HAVE_KPRCB_DpcRoutineActive
    prcb->DpcRoutineActive = 1;
#endif
    EnableInterrupts();
    KiAcquireSpinLock(&KiDispatcherLock);
    KiExpireTimers();
#ifdef HAVE_KPRCB_DpcRoutineActive
    prcb->DpcRoutineActive = 0;
#endif
    if (KiProcessors[prcb->Number].QuantumEnd || prcb->CurrentThread == prcb->IdleThread) {
        KiProcessors[prcb->Number].QuantumEnd = FALSE;
        KiSwapThread();
    }
    KiReleaseSpinLock(&KiDispatcherLock);
    DisableInterrupts();
}

/* The idle thread: a halted CPU until an interrupt; the dispatch interrupt switches to a thread that is ready. */
void NT_IMPL(KiIdleLoop)(void) {
    for (;;) HalProcessorIdle();
}
