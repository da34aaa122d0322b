/* The end: KeBugCheck2 freezes the other processors, records the code, decodes the debugger's block, and halts. */
#include "kernel.h"

ULONG KiHardwareTriggerCount;

/* Low nibble of KPRCB.IpiFrozen. */
#define FROZEN 2
#define FREEZE_OWNER 4

static void Halt(void) {
    for (;;) {
        DisableInterrupts();
        __asm__ volatile("hlt");
    }
}

/* Where a processor stays that another one froze: its registers are in its PRCB's context. */
void NT_IMPL(KiFreezeTargetExecution)(PKTRAP_FRAME frame, PKEXCEPTION_FRAME exception) {
    PKPRCB prcb = KeGetCurrentPrcb();
    (void)frame;
    (void)exception;
    __writecr8(HIGH_LEVEL);
    prcb->IpiFrozen = FROZEN;
    RtlCaptureContext((PCONTEXT)prcb->Context);
    KiSaveProcessorControlState((PKPROCESSOR_STATE)((UCHAR *)prcb + KPRCB_ProcessorState));
    while ((*(volatile UINT32 *)&prcb->IpiFrozen & 0xf) == FROZEN) {
        DisableInterrupts();
        __asm__ volatile("hlt");
    }
}

/* Drops every translation, global ones too, on this processor. */
static void FlushOwnTb(void) {
    ULONG_PTR cr4 = __readcr4();
    __writecr4(cr4 & ~((ULONG_PTR)1 << 7));
    __writecr4(cr4);
}

/* The same on all processors; at DISPATCH_LEVEL or below, without a lock that another one may spin for. */
void KeFlushEntireTb(void) {
    KIRQL old = KfRaiseIrql(DISPATCH_LEVEL);
    ULONG n, own = KeGetCurrentProcessorNumber();
    FlushOwnTb();
    for (n = 0; n < MAX_PROCESSORS; n++) {
        PROCESSOR *processor = &KiProcessors[n];
        if (n == own || !processor->Started) continue;
        processor->FlushRequest = TRUE;
        HalRequestIpi(processor->ApicId, FALSE, VECTOR_IPI);
        while (processor->FlushRequest) Pause();
    }
    KeLowerIrql(old);
}

/* The IPI: a flush or a freeze. */
void KiIpiProcessRequests(PKTRAP_FRAME frame) {
    extern void KiFreezeTargetExecution(PKTRAP_FRAME, PKEXCEPTION_FRAME);
    HalEndOfInterrupt();
    if (KiCurrentProcessor()->FlushRequest) {
        FlushOwnTb();
        KiCurrentProcessor()->FlushRequest = FALSE;
    }
    if (KiCurrentProcessor()->FreezeRequest) KiFreezeTargetExecution(frame, NULL);
}

static void FreezeOthers(void) {
    ULONG n, own = KeGetCurrentProcessorNumber(), spins;
    for (n = 0; n < MAX_PROCESSORS; n++) {
        PROCESSOR *processor = &KiProcessors[n];
        if (n == own || !processor->Started) continue;
        processor->FreezeRequest = TRUE;
        HalRequestIpi(processor->ApicId, FALSE, VECTOR_IPI);
        for (spins = 0; spins < 10000000 && (*(volatile UINT32 *)&processor->Prcb->IpiFrozen & 0xf) != FROZEN; spins++)
            Pause();
    }
    KeGetCurrentPrcb()->IpiFrozen = FREEZE_OWNER;
}

void NT_IMPL(KeBugCheck2)(ULONG code, ULONG_PTR p1, ULONG_PTR p2, ULONG_PTR p3, ULONG_PTR p4, PKTRAP_FRAME frame) {
    ULONG number = KeGetCurrentProcessorNumber();
    if (!__sync_bool_compare_and_swap(&KiBugCheckActive, 0, number << 4 | 3)) {
        /* Another processor is at it, or this one failed once more on the way. */
        if (KiBugCheckActive >> 4 != number) KiCurrentProcessor()->FreezeRequest = TRUE;
        Halt();
    }
    if (frame) {
        PCONTEXT context = (PCONTEXT)KeGetCurrentPrcb()->Context;
        context->Rip = frame->Rip;
        context->Rsp = KiFrameStack(frame);
    }
    FreezeOthers();
    KiBugCheckData[0] = code;
    KiBugCheckData[1] = p1;
    KiBugCheckData[2] = p2;
    KiBugCheckData[3] = p3;
    KiBugCheckData[4] = p4;
    KdDecodeDataBlock();
    InbvPrint("\r\n*** STOP: 0x%08X (0x%p,0x%p,0x%p,0x%p)\r\n", code, p1, p2, p3, p4);
    __writecr8(HIGH_LEVEL);
    Halt();
}
