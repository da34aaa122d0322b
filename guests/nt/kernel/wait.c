/* Events and sleeping. Waiting threads hang in the event's list, sleeping ones also in the timer list. */
#include "kernel.h"

/* A waiting thread's own record, on its stack. */
typedef struct _KWAIT {
    LIST_ENTRY WaitEntry, TimerEntry;
    PETHREAD Thread;
    ULONG64 DueTime;
    NTSTATUS Status;
    PKEVENT Event;
} KWAIT;

#define OF(entry, field) ((KWAIT *)((UCHAR *)(entry) - __builtin_offsetof(KWAIT, field)))

static LIST_ENTRY KiTimers = {&KiTimers, &KiTimers};
/* Events that interrupt handlers signalled; the dispatch interrupt sets them. */
static volatile PKEVENT KiPendingEvents[4];

void KeInitializeEvent(PKEVENT event, BOOLEAN synchronization, BOOLEAN state) {
    event->Header.Type = synchronization;
    event->Header.Size = sizeof(KEVENT) / 4;
    event->Header.SignalState = state;
    InitializeListHead((PLIST_ENTRY)&event->Header.WaitListHead);
}

/* With the dispatcher lock. */
static void Wake(KWAIT *wait, NTSTATUS status) {
    if (wait->Event) RemoveEntryList(&wait->WaitEntry);
    if (wait->DueTime != ~0ULL) RemoveEntryList(&wait->TimerEntry);
    wait->Status = status;
    KiReadyThread(wait->Thread);
}

static LONG SetEvent(PKEVENT event) {
    LONG old = event->Header.SignalState;
    PLIST_ENTRY head = (PLIST_ENTRY)&event->Header.WaitListHead;
    event->Header.SignalState = 1;
    while (!IsListEmpty(head)) {
        Wake(OF(head->Flink, WaitEntry), STATUS_SUCCESS);
        if (event->Header.Type == 1) {
            event->Header.SignalState = 0;
            break;
        }
    }
    return old;
}

LONG KeSetEvent(PKEVENT event) {
    KIRQL old = KeAcquireSpinLockRaiseToDpc(&KiDispatcherLock);
    LONG state = SetEvent(event);
    KiExitDispatcher(old);
    return state;
}

/* For interrupt handlers, which may not take the dispatcher lock. */
void KiSignalFromInterrupt(PKEVENT event) {
    ULONG n;
    for (n = 0; n < 4; n++)
        if (KiPendingEvents[n] == event || __sync_bool_compare_and_swap(&KiPendingEvents[n], NULL, event)) break;
    HalRequestSoftwareInterrupt(DISPATCH_LEVEL);
}

/* Sets due times right: with the dispatcher lock, from the dispatch interrupt. */
void KiExpireTimers(void) {
    PLIST_ENTRY entry = KiTimers.Flink;
    ULONG n;
    while (entry != &KiTimers) {
        KWAIT *wait = OF(entry, TimerEntry);
        entry = entry->Flink;
        if (wait->DueTime <= KiInterruptTime) Wake(wait, STATUS_TIMEOUT);
    }
    for (n = 0; n < 4; n++) {
        PKEVENT event = __sync_lock_test_and_set(&KiPendingEvents[n], NULL);
        if (event) SetEvent(event);
    }
}

/* Waits for the event; `timeout` in 100 ns, 0 polls, negative for ever. */
NTSTATUS KeWaitForSingleObject(PKEVENT event, UCHAR reason, INT64 timeout) {
    KWAIT wait;
    PETHREAD thread = PsGetCurrentThread();
    KIRQL old = KeAcquireSpinLockRaiseToDpc(&KiDispatcherLock);
    if (event && event->Header.SignalState > 0) {
        if (event->Header.Type == 1) event->Header.SignalState = 0;
        KiExitDispatcher(old);
        return STATUS_SUCCESS;
    }
    if (timeout == 0) {
        KiExitDispatcher(old);
        return STATUS_TIMEOUT;
    }
    wait.Thread = thread;
    wait.Event = event;
    wait.Status = STATUS_SUCCESS;
    wait.DueTime = timeout < 0 ? ~0ULL : KiInterruptTime + (ULONG64)timeout;
    if (event) InsertTailList((PLIST_ENTRY)&event->Header.WaitListHead, &wait.WaitEntry);
    if (timeout > 0) InsertTailList(&KiTimers, &wait.TimerEntry);
    thread->Tcb.State = Waiting;
    thread->Tcb.WaitIrql = old;
    thread->Tcb.WaitMode = 0;
    thread->Tcb.WaitReason = reason;
    KiSwapThread();
    KiExitDispatcher(old);
    return wait.Status;
}

NTSTATUS KeDelayExecutionThread(ULONG64 hundred_ns) {
    KeWaitForSingleObject(NULL, DelayExecution, (INT64)hundred_ns + 1);
    return STATUS_SUCCESS;
}
