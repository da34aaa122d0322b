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
    /* Which trap it was, where the CPU pushes no error code: KiRaiseTrap asks. */
    if (vector == 14) return MmAccessFault(frame->FaultAddress, frame->ErrorCode, frame);
    if (vector == 3) frame->Rip--;
    if (vector == 3 || vector == 0x2d) frame->ErrorCode = vector;
    for (n = 0; n < sizeof Statuses / sizeof *Statuses; n++)
        if (Statuses[n].Vector == vector) return Statuses[n].Status;
    KeBugCheckEx(0x7F, vector, (ULONG_PTR)frame, frame->Rip, frame->ErrorCode);
    return STATUS_UNSUCCESSFUL;
}

/* The registers at a trap, as a debugger or a handler sees them. */
static void KeContextFromKframes(PKTRAP_FRAME frame, PKEXCEPTION_FRAME exception, PCONTEXT context) {
    context->ContextFlags = 0x10000f;
    context->Rip = frame->Rip;
    context->SegCs = frame->SegCs;
    context->Rsp = frame->Rsp;
    context->SegSs = frame->SegSs;
    context->EFlags = frame->EFlags;
    context->SegDs = context->SegEs = context->SegGs = KGDT64_R3_DATA | 3;
    context->SegFs = KGDT64_R3_CMTEB | 3;
    context->Rax = frame->Rax;
    context->Rcx = frame->Rcx;
    context->Rdx = frame->Rdx;
    context->R8 = frame->R8;
    context->R9 = frame->R9;
    context->R10 = frame->R10;
    context->R11 = frame->R11;
    context->Rbp = frame->Rbp;
    context->Rbx = exception->Rbx;
    context->Rsi = exception->Rsi;
    context->Rdi = exception->Rdi;
    context->R12 = exception->R12;
    context->R13 = exception->R13;
    context->R14 = exception->R14;
    context->R15 = exception->R15;
    context->MxCsr = frame->MxCsr;
    memcpy((UCHAR *)context + CONTEXT_FltSave + 0xa0, (UCHAR *)frame + KTRAP_FRAME_Xmm0, 6 * 16);
    memcpy((UCHAR *)context + CONTEXT_FltSave + 0x100, (UCHAR *)exception + KEXCEPTION_FRAME_Xmm6, 10 * 16);
}

static void KeContextToKframes(PKTRAP_FRAME frame, PKEXCEPTION_FRAME exception, PCONTEXT context) {
    frame->Rip = context->Rip;
    frame->Rsp = context->Rsp;
    frame->EFlags = context->EFlags & 0x3f4dd5;
    frame->Rax = context->Rax;
    frame->Rcx = context->Rcx;
    frame->Rdx = context->Rdx;
    frame->R8 = context->R8;
    frame->R9 = context->R9;
    frame->R10 = context->R10;
    frame->R11 = context->R11;
    frame->Rbp = context->Rbp;
    exception->Rbx = context->Rbx;
    exception->Rsi = context->Rsi;
    exception->Rdi = context->Rdi;
    exception->R12 = context->R12;
    exception->R13 = context->R13;
    exception->R14 = context->R14;
    exception->R15 = context->R15;
}

void KiDispatchException(PEXCEPTION_RECORD64 record, PKEXCEPTION_FRAME exception, PKTRAP_FRAME frame, ULONG previous_mode,
                         BOOLEAN first_chance);

void KiRaiseTrap(PKTRAP_FRAME frame, NTSTATUS status, PKEXCEPTION_FRAME exception) {
    EXCEPTION_RECORD64 record;
    memset(&record, 0, sizeof record);
    record.ExceptionCode = status;
    record.ExceptionAddress = frame->Rip;
    if (status == STATUS_BREAKPOINT) {
        /* What is asked for: 0 a break, else the service of `int 2d`, with its arguments in RCX and RDX. */
        record.NumberParameters = 3;
        record.ExceptionInformation[0] = frame->ErrorCode == 0x2d ? frame->Rax : 0;
        record.ExceptionInformation[1] = frame->Rcx;
        record.ExceptionInformation[2] = frame->Rdx;
    } else if (status == STATUS_ACCESS_VIOLATION) {
        record.NumberParameters = 2;
        record.ExceptionInformation[0] = frame->ErrorCode & 2 ? 1 : frame->ErrorCode & 0x10 ? 8 : 0;
        record.ExceptionInformation[1] = frame->FaultAddress;
    }
    if (frame->EFlags & 0x200 && KeGetCurrentIrql() < DISPATCH_LEVEL) EnableInterrupts();
    KiDispatchException(&record, exception, frame, frame->SegCs & 1, TRUE);
}

/* No frame-based handlers yet: the kernel probes what it doesn't trust. */
BOOLEAN NT_IMPL(RtlDispatchException)(PEXCEPTION_RECORD64 record, PCONTEXT context) {
    (void)record;
    (void)context;
    return FALSE;
}
BOOLEAN RtlDispatchException(PEXCEPTION_RECORD64 record, PCONTEXT context);

void NT_IMPL(KiDispatchException)(PEXCEPTION_RECORD64 record, PKEXCEPTION_FRAME exception, PKTRAP_FRAME frame,
                                  ULONG previous_mode, BOOLEAN first_chance) {
    CONTEXT context;
    memset(&context, 0, sizeof context);
    (void)first_chance;
    KeContextFromKframes(frame, exception, &context);
    if (KdpStub(frame, record, &context)) {
        KeContextToKframes(frame, exception, &context);
        return;
    }
    if (previous_mode) {
        DbgPrint("%s: unhandled exception %08x at %p, process ended\n",
                 (CHAR *)((PEPROCESS)((UCHAR *)PsGetCurrentThread()->Tcb.Process - EPROCESS_Pcb))->ImageFileName,
                 record->ExceptionCode, (PVOID)record->ExceptionAddress);
        PsTerminateSystemThread(record->ExceptionCode);
    }
    if (RtlDispatchException(record, &context)) {
        KeContextToKframes(frame, exception, &context);
        return;
    }
    if (PsGetCurrentThread()->Tcb.Process == (PVOID)((UCHAR *)PsSystemProcess + EPROCESS_Pcb))
        KeBugCheckEx(0x7E, (ULONG_PTR)(INT64)record->ExceptionCode, record->ExceptionAddress, (ULONG_PTR)record,
                     (ULONG_PTR)&context);
    KeBugCheckEx(0x1E, (ULONG_PTR)(INT64)record->ExceptionCode, record->ExceptionAddress, record->ExceptionInformation[0],
                 record->ExceptionInformation[1]);
}

void KiProcessNmi(PKTRAP_FRAME frame) { KeBugCheckEx(0x80, 0x4F4454, (ULONG_PTR)frame, 0, 0); }
void KiUnexpectedService(PKTRAP_FRAME frame) { (void)frame; }
