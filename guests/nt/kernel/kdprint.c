/* DbgPrint: the text goes into the circular buffer, and to a debugger by `int 2d` if one listened. */
#include "kernel.h"

extern PVOID KdPrintCircularBufferPtr;
extern CHAR KdPrintDefaultCircularBuffer[0x1000];
static KSPIN_LOCK KdpPrintLock;

/* Services of `int 2d`. */
#define BREAKPOINT_PRINT 1
#define BREAKPOINT_PROMPT 2
#define BREAKPOINT_LOAD_SYMBOLS 3
#define BREAKPOINT_UNLOAD_SYMBOLS 4
#define BREAKPOINT_COMMAND_STRING 5

typedef struct _STRING {
    USHORT Length, MaximumLength;
    CHAR *Buffer;
} STRING;

NTSTATUS DebugPrint(STRING *text, ULONG component, ULONG level);
NTSTATUS DebugService2(PVOID first, PVOID second, ULONG service);

void KdpInitializePrint(void) {
    KdPrintCircularBuffer = KdPrintDefaultCircularBuffer;
    KdPrintWritePointer = KdPrintDefaultCircularBuffer;
    KdPrintBufferSize = sizeof KdPrintDefaultCircularBuffer;
}

static void KdLogDbgPrint(const CHAR *text, ULONG length) {
    CHAR *start = KdPrintCircularBufferPtr, *end = start + KdPrintBufferSize;
    CHAR *at;
    KIRQL old = KfRaiseIrql(HIGH_LEVEL);
    KiAcquireSpinLock(&KdpPrintLock);
    at = (CHAR *)KdPrintWritePointer;
    while (length--) {
        *at++ = *text++;
        if (at == end) {
            at = start;
            KdPrintRolloverCount++;
        }
    }
    KdPrintWritePointer = at;
    KiReleaseSpinLock(&KdpPrintLock);
    KeLowerIrql(old);
}

ULONG vDbgPrintExWithPrefixInternal(const CHAR *prefix, ULONG component, ULONG level, const CHAR *format, va_list list) {
    CHAR text[512];
    STRING string;
    int length = RtlFormat(text, sizeof text, "%s", prefix);
    length += RtlFormatV(text + length, (ULONG)sizeof text - (ULONG)length, format, list);
    if (length >= (int)sizeof text) length = sizeof text - 1;
    string.Length = (USHORT)length;
    string.MaximumLength = sizeof text;
    string.Buffer = text;
    KdLogDbgPrint(text, (ULONG)length);
    return (ULONG)DebugPrint(&string, component, level);
}

ULONG NT_IMPL(DbgPrint)(const CHAR *format, ...) {
    va_list list;
    ULONG status;
    va_start(list, format);
    status = vDbgPrintExWithPrefixInternal("", 101, 0, format, list);
    va_end(list);
    return status;
}

/* Tells a debugger of an image that came or went. */
void NT_IMPL(DbgLoadImageSymbols)(PVOID name, PVOID base, ULONG_PTR process) {
    struct {
        PVOID Base;
        ULONG_PTR ProcessId;
        ULONG CheckSum, SizeOfImage;
    } symbols = {base, process, 0, 0};
    DebugService2(name, &symbols, BREAKPOINT_LOAD_SYMBOLS);
}

/* The debugger's place in exception dispatching while there is none: the services of `int 2d` go by without effect,
   everything else is not its business. */
BOOLEAN NT_IMPL(KdpStub)(PKTRAP_FRAME frame, PEXCEPTION_RECORD record, PCONTEXT context) {
    ULONG64 service = record->ExceptionInformation[0];
    (void)frame;
    if (record->ExceptionCode != STATUS_BREAKPOINT || record->NumberParameters == 0) return FALSE;
    if (service < BREAKPOINT_PRINT || service > BREAKPOINT_COMMAND_STRING) return FALSE;
    /* Over the int 3 that follows every int 2d. */
    context->Rip++;
    context->Rax = service == BREAKPOINT_PRINT ? (ULONG_PTR)(ULONG)STATUS_DEVICE_NOT_CONNECTED : 0;
    return TRUE;
}

BOOLEAN NT_IMPL(KdpTrap)(PKTRAP_FRAME frame, PEXCEPTION_RECORD record, PCONTEXT context) {
    return KdpStub(frame, record, context);
}
