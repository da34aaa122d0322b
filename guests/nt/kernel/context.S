/* Registers into a CONTEXT, and KeBugCheckEx, which begins with that. */
#include "frames.inc"
.text

/* RtlCaptureContext(context): the caller's registers. */
PROC RtlCaptureContext
    pushfq
    .seh_stackalloc 8
    .seh_endprologue
    mov [rcx + CONTEXT_Rax], rax
    mov [rcx + CONTEXT_Rcx], rcx
    mov [rcx + CONTEXT_Rdx], rdx
    mov [rcx + CONTEXT_Rbx], rbx
    mov [rcx + CONTEXT_Rbp], rbp
    mov [rcx + CONTEXT_Rsi], rsi
    mov [rcx + CONTEXT_Rdi], rdi
    mov [rcx + CONTEXT_R8], r8
    mov [rcx + CONTEXT_R9], r9
    mov [rcx + CONTEXT_R10], r10
    mov [rcx + CONTEXT_R11], r11
    mov [rcx + CONTEXT_R12], r12
    mov [rcx + CONTEXT_R13], r13
    mov [rcx + CONTEXT_R14], r14
    mov [rcx + CONTEXT_R15], r15
    fxsave64 [rcx + CONTEXT_FltSave]
    stmxcsr dword ptr [rcx + CONTEXT_MxCsr]
    mov word ptr [rcx + CONTEXT_SegCs], cs
    mov word ptr [rcx + CONTEXT_SegSs], ss
    mov word ptr [rcx + CONTEXT_SegDs], ds
    mov word ptr [rcx + CONTEXT_SegEs], es
    mov word ptr [rcx + CONTEXT_SegFs], fs
    mov word ptr [rcx + CONTEXT_SegGs], gs
    lea rax, [rsp + 0x10]
    mov [rcx + CONTEXT_Rsp], rax
    mov rax, [rsp + 8]
    mov [rcx + CONTEXT_Rip], rax
    mov eax, [rsp]
    mov [rcx + CONTEXT_EFlags], eax
    mov dword ptr [rcx + CONTEXT_ContextFlags], 0x10000f
    add rsp, 8
    ret
ENDPROC RtlCaptureContext

/* KeBugCheckEx(code, P1, P2, P3, P4): the context kept is that of the call itself, so a stack begins with this function. */
PLACED KeBugCheckEx
    mov [rsp + 0x08], rcx
    mov [rsp + 0x10], rdx
    mov [rsp + 0x18], r8
    mov [rsp + 0x20], r9
    pushfq
    .seh_stackalloc 8
    sub rsp, 0x30
    .seh_stackalloc 0x30
    .seh_endprologue
    cli
    mov rcx, gs:[KPCR_CurrentPrcb]
    mov rcx, [rcx + KPRCB_Context]
    call RtlCaptureContext
    mov rcx, gs:[KPCR_CurrentPrcb]
    add rcx, KPRCB_ProcessorState
    call KiSaveProcessorControlState
    mov r10, gs:[KPCR_CurrentPrcb]
    mov r10, [r10 + KPRCB_Context]
    mov rax, [rsp + 0x40]
    mov [r10 + CONTEXT_Rcx], rax
    mov rax, [rsp + 0x48]
    mov [r10 + CONTEXT_Rdx], rax
    mov rax, [rsp + 0x50]
    mov [r10 + CONTEXT_R8], rax
    mov rax, [rsp + 0x58]
    mov [r10 + CONTEXT_R9], rax
    mov rax, [rsp + 0x30]
    mov [r10 + CONTEXT_EFlags], eax
    lea rax, [rsp + 0x38]
    mov [r10 + CONTEXT_Rsp], rax
    lea rax, [rip + KeBugCheckEx]
    mov [r10 + CONTEXT_Rip], rax
    mov rax, cr8
    cmp eax, 2
    jae 1f
    mov eax, 2
    mov cr8, rax
1:
    lock inc dword ptr [rip + KiHardwareTriggerCount]
    mov rcx, [rsp + 0x40]
    mov rdx, [rsp + 0x48]
    mov r8, [rsp + 0x50]
    mov r9, [rsp + 0x58]
    mov rax, [rsp + 0x60]
    mov [rsp + 0x20], rax
    mov qword ptr [rsp + 0x28], 0
    call KeBugCheck2
    int 3
ENDPROC KeBugCheckEx
.text
