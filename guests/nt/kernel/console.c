/* The serial console: a banner, a prompt, and commands that make the kernel do what a debugger wants to see. */
#include "kernel.h"

#define LINE 128
#define MAX_ARGUMENTS 8

static CHAR Received[256];
static volatile ULONG ReceivedHead, ReceivedTail;
static KEVENT InputEvent;
static KSPIN_LOCK OutputLock;

void InbvPrint(const CHAR *format, ...) {
    CHAR text[256];
    const CHAR *at = text;
    va_list list;
    KIRQL old;
    va_start(list, format);
    RtlFormatV(text, sizeof text, format, list);
    va_end(list);
    old = KfRaiseIrql(HIGH_LEVEL);
    KiAcquireSpinLock(&OutputLock);
    for (; *at; at++) HalPutChar(*at);
    KiReleaseSpinLock(&OutputLock);
    KeLowerIrql(old);
}

void KiSerialService(PKTRAP_FRAME frame) {
    int c;
    (void)frame;
    while ((c = HalGetChar()) >= 0)
        if (ReceivedHead - ReceivedTail < sizeof Received) Received[ReceivedHead++ % sizeof Received] = (CHAR)c;
    HalEndOfInterrupt();
    KiSignalFromInterrupt(&InputEvent);
}

static CHAR ReadCharacter(void) {
    while (ReceivedHead == ReceivedTail) KeWaitForSingleObject(&InputEvent, UserRequest, -1);
    return Received[ReceivedTail++ % sizeof Received];
}

static void ReadLine(CHAR *line) {
    ULONG length = 0;
    for (;;) {
        CHAR c = ReadCharacter();
        if (c == '\r' || c == '\n') break;
        if (c == 8 || c == 127) {
            if (length) {
                length--;
                InbvPrint("\b \b");
            }
        } else if (c >= ' ' && length < LINE - 1) {
            line[length++] = c;
            InbvPrint("%c", c);
        }
    }
    line[length] = 0;
    InbvPrint("\r\n");
}

static ULONG64 Number(const CHAR *text) {
    ULONG64 value = 0;
    if (text[0] == '0' && (text[1] | 0x20) == 'x') text += 2;
    for (; *text; text++) {
        CHAR c = *text | 0x20;
        if (c >= '0' && c <= '9')
            value = value << 4 | (ULONG64)(c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value << 4 | (ULONG64)(c - 'a' + 10);
    }
    return value;
}

typedef void COMMAND(ULONG count, CHAR **words);

static void CommandPs(ULONG count, CHAR **words) {
    static const CHAR *const states[] = {"init", "ready", "running", "standby", "ended", "waiting", "transition", "ready"};
    PLIST_ENTRY head = &PsActiveProcessHead, at, threads, thread;
    (void)count;
    (void)words;
    for (at = head->Flink; at != head; at = at->Flink) {
        PEPROCESS process = CONTAINING(at, EPROCESS, ActiveProcessLinks);
        InbvPrint("%4u %-16s parent %u root %I64x eprocess %p\r\n", (ULONG)(ULONG_PTR)process->UniqueProcessId,
                  (CHAR *)process->ImageFileName, (ULONG)(ULONG_PTR)process->InheritedFromUniqueProcessId,
                  (ULONG64)*(ULONG_PTR *)((UCHAR *)process + EPROCESS_Pcb + KPROCESS_DirectoryTableBase), process);
        threads = (PLIST_ENTRY)((UCHAR *)process + EPROCESS_ThreadListHead);
        for (thread = threads->Flink; thread != threads; thread = thread->Flink) {
            PETHREAD entry = CONTAINING(thread, ETHREAD, ThreadListEntry);
            InbvPrint("       thread %u %s ethread %p\r\n", (ULONG)(ULONG_PTR)entry->Cid.UniqueThread,
                      states[entry->Tcb.State & 7], entry);
        }
    }
}

static void CommandLm(ULONG count, CHAR **words) {
    PLIST_ENTRY at;
    (void)count;
    (void)words;
    for (at = PsLoadedModuleList.Flink; at != &PsLoadedModuleList; at = at->Flink) {
        PKLDR_DATA_TABLE_ENTRY entry = (PKLDR_DATA_TABLE_ENTRY)at;
        InbvPrint("%p %p %wZ\r\n", entry->DllBase, (UCHAR *)entry->DllBase + entry->SizeOfImage, &entry->FullDllName);
    }
}

static void CommandLoad(ULONG count, CHAR **words) {
    PKLDR_DATA_TABLE_ENTRY entry;
    NTSTATUS status = MmLoadSystemImage(count > 1 ? words[1] : "sample.sys", &entry);
    if (NT_SUCCESS(status))
        InbvPrint("loaded at %p\r\n", entry->DllBase);
    else
        InbvPrint("not loaded: %08x\r\n", status);
}

static void CommandUnload(ULONG count, CHAR **words) {
    PKLDR_DATA_TABLE_ENTRY entry = MiFindModule(count > 1 ? words[1] : "sample.sys");
    NTSTATUS status = entry ? MmUnloadSystemImage(entry) : STATUS_OBJECT_NAME_NOT_FOUND;
    InbvPrint(NT_SUCCESS(status) ? "unloaded\r\n" : "not unloaded: %08x\r\n", status);
}

static void CommandPrint(ULONG count, CHAR **words) {
    ULONG n;
    for (n = 1; n < count; n++) DbgPrint("%s%s", words[n], n + 1 < count ? " " : "\n");
}

static void CommandBugCheck(ULONG count, CHAR **words) {
    ULONG_PTR p[4] = {0}, n;
    for (n = 0; n < 4 && n + 2 < count; n++) p[n] = (ULONG_PTR)Number(words[n + 2]);
    KeBugCheckEx(count > 1 ? (ULONG)Number(words[1]) : 0xE2, p[0], p[1], p[2], p[3]);
}

static void CommandCrash(ULONG count, CHAR **words) {
    (void)words;
    *(volatile ULONG *)(ULONG_PTR)(count - 1) = 0;
}

static void CommandDivide(ULONG count, CHAR **words) {
    ULONG low = 1, high = 0;
    (void)words;
    __asm__ volatile("divl %2" : "+a"(low), "+d"(high) : "r"(count - 1));
}

/* Runs down the stack until the page below it faults. */
__attribute__((noinline)) static ULONG Recurse(volatile ULONG depth) {
    volatile ULONG room[64];
    if (!depth) return 0;
    room[depth & 63] = depth;
    return Recurse(depth + 1) + room[depth & 63];
}

static void CommandOverflow(ULONG count, CHAR **words) {
    (void)words;
    Recurse(count);
}

static void CommandInt3(ULONG count, CHAR **words) {
    (void)count;
    (void)words;
    __asm__ volatile("int3");
}

/* All processes that wait for the event do a round. */
static void CommandUser(ULONG count, CHAR **words) {
    ULONG calls = KiSystemCalls;
    ULONG64 faults = MmPageFaults;
    (void)count;
    (void)words;
    KeSetEvent(&PspUserEvent);
    PspUserEvent.Header.SignalState = 0;
    KeDelayExecutionThread(3000000);
    InbvPrint("%u system calls, %I64u page faults\r\n", KiSystemCalls - calls, MmPageFaults - faults);
}

static void CommandStat(ULONG count, CHAR **words) {
    (void)count;
    (void)words;
    InbvPrint("clock ticks %I64u\r\ncontext switches %I64u\r\nsystem calls %u\r\npage faults %I64u\r\nprocessors %u\r\n", KiTickCount,
              KiContextSwitches, KiSystemCalls, MmPageFaults, KeNumberProcessors);
}

static void CommandSum(ULONG count, CHAR **words) {
    (void)count;
    (void)words;
    InbvPrint("rounds %I64u\r\nchanges %I64u\r\n", KiGuardRounds, KiGuardChanges);
}

static void CommandHelp(ULONG count, CHAR **words);

static const struct {
    const CHAR *Name, *Help;
    COMMAND *Run;
} Commands[] = {
    {"ps", "processes and threads", CommandPs},
    {"lm", "loaded modules", CommandLm},
    {"load", "[NAME.sys]: load a driver", CommandLoad},
    {"unload", "[NAME.sys]: unload it", CommandUnload},
    {"print", "TEXT: DbgPrint", CommandPrint},
    {"bugcheck", "CODE P1 P2 P3 P4: KeBugCheckEx", CommandBugCheck},
    {"crash", "write to address 0", CommandCrash},
    {"divide", "divide by zero", CommandDivide},
    {"overflow", "run off the kernel stack", CommandOverflow},
    {"int3", "a breakpoint instruction", CommandInt3},
    {"user", "ring 3 makes system calls", CommandUser},
    {"stat", "counters", CommandStat},
    {"sum", "rounds of the code's checksums, changes seen", CommandSum},
    {"help", "this", CommandHelp},
};

static void CommandHelp(ULONG count, CHAR **words) {
    ULONG n;
    (void)count;
    (void)words;
    for (n = 0; n < sizeof Commands / sizeof *Commands; n++) InbvPrint("%-9s %s\r\n", Commands[n].Name, Commands[n].Help);
}

static void Execute(CHAR *line) {
    CHAR *words[MAX_ARGUMENTS];
    ULONG count = 0, n;
    while (*line && count < MAX_ARGUMENTS) {
        while (*line == ' ') *line++ = 0;
        if (!*line) break;
        words[count++] = line;
        while (*line && *line != ' ') line++;
    }
    if (!count) return;
    for (n = 0; n < sizeof Commands / sizeof *Commands; n++)
        if (!strcmp(words[0], Commands[n].Name)) {
            Commands[n].Run(count, words);
            return;
        }
    InbvPrint("%s: unknown; try help\r\n", words[0]);
}

void KiConsoleThread(PVOID context) {
    CHAR line[LINE];
    (void)context;
    KeInitializeEvent(&InputEvent, TRUE, FALSE);
    HalEnableSerialInterrupt();
    InbvPrint("NT guest: %s ready\r\n", NT_BUILD_LAB);
    for (;;) {
        InbvPrint("nt> ");
        ReadLine(line);
        Execute(line);
    }
}
