/* From trap frames to exceptions: who settles a fault, and what becomes of one that nobody settles. */
#include "kernel.h"

static const struct {
    UCHAR Vector;
    NTSTATUS Status;
} Statuses[] = {
    {0, STATUS_INTEGER_DIVIDE_BY_ZERO}, {1, STATUS_SINGLE_STEP},       {3, STATUS_BREAKPOINT},
    {4, (NTSTATUS)0xC0000095},          {5, (NTSTATUS)0xC000008C},     {6, STATUS_ILLEGAL_INSTRUCTION},
    {13, STATUS_ACCESS_VIOLATION},      {16, (NTSTATUS)0xC0000090},    {17, (NTSTATUS)0x80000002},
    {19, (NTSTATUS)0xC00002B4},         {0x2c, (NTSTATUS)0xC0000420}, {0x2d, STATUS_BREAKPOINT},
};

/* Called by every exception's entry: 0 if it is settled, else the status to raise. */
NTSTATUS KiHandleTrap(PKTRAP_FRAME frame, ULONG vector) {
    ULONG n;
    if (vector == 14) return MmAccessFault(frame->FaultAddress, frame->ErrCode, frame);
    /* Which trap it was, where the CPU pushes no error code: KiRaiseTrap asks. */
    if (vector == 3) frame->Eip--;
    if (vector == 3 || vector == 0x2d) frame->ErrCode = vector;
    if (vector == 13) frame->FaultAddress = ~0u;
    for (n = 0; n < sizeof Statuses / sizeof *Statuses; n++)
        if (Statuses[n].Vector == vector) return Statuses[n].Status;
    KeBugCheckEx(0x7F, vector, (ULONG_PTR)frame, frame->Eip, frame->ErrCode);
    return STATUS_UNSUCCESSFUL;
}

/* The registers at a trap, as a debugger or a handler sees them. */
static void KeContextFromKframes(PKTRAP_FRAME frame, PCONTEXT context) {
    context->ContextFlags = 0x10007;
    context->Eip = frame->Eip;
    context->SegCs = frame->SegCs;
    context->Esp = KiFrameStack(frame);
    context->SegSs = frame->SegCs & 1 ? frame->HardwareSegSs : KGDT_R0_DATA;
    context->EFlags = frame->EFlags;
    context->SegDs = frame->SegDs;
    context->SegEs = frame->SegEs;
    context->SegFs = frame->SegFs;
    context->SegGs = frame->SegGs;
    context->Eax = frame->Eax;
    context->Ecx = frame->Ecx;
    context->Edx = frame->Edx;
    context->Ebx = frame->Ebx;
    context->Esi = frame->Esi;
    context->Edi = frame->Edi;
    context->Ebp = frame->Ebp;
}

/* The stack pointer of a trap within the kernel stays: the frame lies on that stack. */
static void KeContextToKframes(PKTRAP_FRAME frame, PCONTEXT context) {
    frame->Eip = context->Eip;
    frame->EFlags = context->EFlags & 0x3f4dd5;
    if (frame->SegCs & 1) frame->HardwareEsp = context->Esp;
    frame->Eax = context->Eax;
    frame->Ecx = context->Ecx;
    frame->Edx = context->Edx;
    frame->Ebx = context->Ebx;
    frame->Esi = context->Esi;
    frame->Edi = context->Edi;
    frame->Ebp = context->Ebp;
}

void KiDispatchException(PEXCEPTION_RECORD record, PKTRAP_FRAME frame, ULONG previous_mode, BOOLEAN first_chance);

void KiRaiseTrap(PKTRAP_FRAME frame, NTSTATUS status, PKEXCEPTION_FRAME exception) {
    EXCEPTION_RECORD record;
    (void)exception;
    memset(&record, 0, sizeof record);
    record.ExceptionCode = status;
    record.ExceptionAddress = (PVOID)frame->Eip;
    if (status == STATUS_BREAKPOINT) {
        /* What is asked for: 0 a break, else the service of `int 2d`, with its arguments in ECX and EDX. */
        record.NumberParameters = 3;
        record.ExceptionInformation[0] = frame->ErrCode == 0x2d ? frame->Eax : 0;
        record.ExceptionInformation[1] = frame->Ecx;
        record.ExceptionInformation[2] = frame->Edx;
    } else if (status == STATUS_ACCESS_VIOLATION) {
        record.NumberParameters = 2;
        record.ExceptionInformation[0] = frame->ErrCode & 2 ? 1 : frame->ErrCode & 0x10 ? 8 : 0;
        record.ExceptionInformation[1] = frame->FaultAddress;
    }
    if (frame->EFlags & 0x200 && KeGetCurrentIrql() < DISPATCH_LEVEL) EnableInterrupts();
    KiDispatchException(&record, frame, frame->SegCs & 1, TRUE);
}

/* No frame-based handlers: the kernel probes what it doesn't trust. */
BOOLEAN NT_IMPL(RtlDispatchException)(PEXCEPTION_RECORD record, PCONTEXT context) {
    (void)record;
    (void)context;
    return FALSE;
}
BOOLEAN RtlDispatchException(PEXCEPTION_RECORD record, PCONTEXT context);

void NT_IMPL(KiDispatchException)(PEXCEPTION_RECORD record, PKTRAP_FRAME frame, ULONG previous_mode, BOOLEAN first_chance) {
    CONTEXT context;
    memset(&context, 0, sizeof context);
    (void)first_chance;
    KeContextFromKframes(frame, &context);
    if (KdpStub(frame, record, &context)) {
        KeContextToKframes(frame, &context);
        return;
    }
    if (previous_mode) {
        DbgPrint("%s: unhandled exception %08x at %p, process ended\n",
                 (CHAR *)((PEPROCESS)((UCHAR *)PsGetCurrentThread()->Tcb.Process - EPROCESS_Pcb))->ImageFileName,
                 record->ExceptionCode, record->ExceptionAddress);
        PsTerminateSystemThread(record->ExceptionCode);
    }
    if (RtlDispatchException(record, &context)) {
        KeContextToKframes(frame, &context);
        return;
    }
    if (PsGetCurrentThread()->Tcb.Process == (PVOID)((UCHAR *)PsSystemProcess + EPROCESS_Pcb))
        KeBugCheckEx(0x7E, (ULONG_PTR)record->ExceptionCode, (ULONG_PTR)record->ExceptionAddress, (ULONG_PTR)record, (ULONG_PTR)&context);
    KeBugCheckEx(0x8E, (ULONG_PTR)record->ExceptionCode, (ULONG_PTR)record->ExceptionAddress, (ULONG_PTR)frame, 0);
}

void KiProcessNmi(PKTRAP_FRAME frame) { KeBugCheckEx(0x80, 0x4F4454, (ULONG_PTR)frame, 0, 0); }
void KiUnexpectedService(PKTRAP_FRAME frame) { (void)frame; }
