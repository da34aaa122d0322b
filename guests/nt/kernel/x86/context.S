/* Registers into a CONTEXT, and KeBugCheckEx, which begins with that. */
#include "frames.inc"
.text

/* RtlCaptureContext(context): the caller's registers. */
PROC _RtlCaptureContext
    push eax
    mov eax, [esp + 8]
    mov [eax + CONTEXT_Ecx], ecx
    mov [eax + CONTEXT_Edx], edx
    mov [eax + CONTEXT_Ebx], ebx
    mov [eax + CONTEXT_Esi], esi
    mov [eax + CONTEXT_Edi], edi
    mov [eax + CONTEXT_Ebp], ebp
    pop dword ptr [eax + CONTEXT_Eax]
    pushfd
    pop dword ptr [eax + CONTEXT_EFlags]
    mov ecx, cs
    mov [eax + CONTEXT_SegCs], ecx
    mov ecx, ss
    mov [eax + CONTEXT_SegSs], ecx
    mov ecx, ds
    mov [eax + CONTEXT_SegDs], ecx
    mov ecx, es
    mov [eax + CONTEXT_SegEs], ecx
    mov ecx, fs
    mov [eax + CONTEXT_SegFs], ecx
    mov ecx, gs
    mov [eax + CONTEXT_SegGs], ecx
    mov ecx, [esp]
    mov [eax + CONTEXT_Eip], ecx
    lea ecx, [esp + 4]
    mov [eax + CONTEXT_Esp], ecx
    mov ecx, [eax + CONTEXT_Ecx]
    mov dword ptr [eax + CONTEXT_ContextFlags], 0x10007
    mov eax, [eax + CONTEXT_Eax]
    ret

/* KeBugCheckEx(code, P1, P2, P3, P4): the context kept is that of the call itself, so a stack begins with this function. */
PLACED _KeBugCheckEx
    push ebp
    mov ebp, esp
    pushfd
    cli
    mov eax, fs:[KPCR_Prcb]
    push dword ptr [eax + KPRCB_Context]
    call _RtlCaptureContext
    pop ecx
    mov eax, [ebp]
    mov [ecx + CONTEXT_Ebp], eax
    mov eax, [ebp - 4]
    mov [ecx + CONTEXT_EFlags], eax
    lea eax, [ebp + 4]
    mov [ecx + CONTEXT_Esp], eax
    mov dword ptr [ecx + CONTEXT_Eip], offset _KeBugCheckEx
    mov eax, fs:[KPCR_Prcb]
    add eax, KPRCB_ProcessorState
    push eax
    call _KiSaveProcessorControlState
    add esp, 4
    cmp byte ptr fs:[KPCR_Irql], 2
    jae 1f
    push 2
    call _KiSetIrql
    add esp, 4
1:
    lock inc dword ptr [_KiHardwareTriggerCount]
    push 0
    push dword ptr [ebp + 24]
    push dword ptr [ebp + 20]
    push dword ptr [ebp + 16]
    push dword ptr [ebp + 12]
    push dword ptr [ebp + 8]
    call _KeBugCheck2
    int 3
