/* Exceptions and interrupts: each entry makes a KTRAP_FRAME, calls C, and returns through the frame. */
#include "frames.inc"
.text

/* An exception: KiHandleTrap settles it, or names the status that KiExceptionDispatch raises. */
.macro EXCEPTION name vector has_error
PLACED \name
    TRAP_FRAME \has_error
    .if \vector == 14
    mov rax, cr2
    mov [rbp + TF(FaultAddress)], rax
    .endif
    lea rcx, [rbp - 0x80]
    mov edx, \vector
    call KiHandleTrap
    test eax, eax
    jz 1f
    lea rcx, [rbp - 0x80]
    mov edx, eax
    call KiExceptionDispatch
1:
    TRAP_EXIT
ENDPROC \name
.text
.endm

.macro INTERRUPT name vector handler
PROC \name
    TRAP_FRAME 0
    mov rax, cr8
    mov [rbp + TF(PreviousIrql)], al
    mov eax, \vector >> 4
    mov cr8, rax
    lea rcx, [rbp - 0x80]
    call \handler
    cli
    movzx eax, byte ptr [rbp + TF(PreviousIrql)]
    mov cr8, rax
    TRAP_EXIT
ENDPROC \name
.endm

EXCEPTION KiDivideErrorFault 0 0
EXCEPTION KiDebugTrapOrFault 1 0
EXCEPTION KiBreakpointTrap 3 0
EXCEPTION KiOverflowTrap 4 0
EXCEPTION KiBoundFault 5 0
EXCEPTION KiInvalidOpcodeFault 6 0
EXCEPTION KiNpxNotAvailableFault 7 0
EXCEPTION KiDoubleFaultAbort 8 1
EXCEPTION KiInvalidTssFault 10 1
EXCEPTION KiSegmentNotPresentFault 11 1
EXCEPTION KiStackFault 12 1
EXCEPTION KiGeneralProtectionFault 13 1
EXCEPTION KiPageFault 14 1
EXCEPTION KiFloatingErrorFault 16 0
EXCEPTION KiAlignmentFault 17 1
EXCEPTION KiMcheckAbort 18 0
EXCEPTION KiXmmException 19 0
EXCEPTION KiDebugServiceTrap 0x2d 0
EXCEPTION KiRaiseAssertion 0x2c 0

INTERRUPT KiClockInterrupt 0xd1 KeClockInterruptNotify
INTERRUPT KiIpiInterrupt 0xe1 KiIpiProcessRequests
INTERRUPT KiSerialInterrupt 0x54 KiSerialService
INTERRUPT KiUnexpectedInterrupt 0xff KiUnexpectedService

/* The dispatch interrupt, IRQL 2: timers, ends of quanta, threads made ready elsewhere. */
INTERRUPT KiDpcInterrupt 0x2f KiDispatchInterrupt

/* An NMI may come between an entry and its SWAPGS: only the base itself says whose GS it is. */
PLACED KiNmiInterrupt
    .seh_pushframe
    sub rsp, 8
    .seh_stackalloc 8
    push rbp
    .seh_pushreg rbp
    sub rsp, FRAME_LOCALS
    .seh_stackalloc FRAME_LOCALS
    lea rbp, [rsp + 0x80]
    .seh_setframe rbp, 0x80
    .seh_endprologue
    SAVE_VOLATILE
    mov qword ptr [rbp + TF(Rbx)], rbx
    mov qword ptr [rbp + TF(Rdi)], rdi
    mov qword ptr [rbp + TF(Rsi)], rsi
    cld
    mov ecx, 0xc0000101
    rdmsr
    xor ebx, ebx
    test edx, edx
    js 1f
    swapgs
    inc ebx
1:
    lea rcx, [rbp - 0x80]
    call KiProcessNmi
    test ebx, ebx
    jz 2f
    swapgs
2:
    mov rbx, [rbp + TF(Rbx)]
    mov rdi, [rbp + TF(Rdi)]
    mov rsi, [rbp + TF(Rsi)]
    RESTORE_XMM
    mov r11, [rbp + TF(R11)]
    mov r10, [rbp + TF(R10)]
    mov r9, [rbp + TF(R9)]
    mov r8, [rbp + TF(R8)]
    mov rdx, [rbp + TF(Rdx)]
    mov rcx, [rbp + TF(Rcx)]
    mov rax, [rbp + TF(Rax)]
    mov rsp, rbp
    mov rbp, [rbp + TF(Rbp)]
    add rsp, KTRAP_FRAME_Rip - 0x80
    iretq
ENDPROC KiNmiInterrupt
.text

.macro SAVE_NONVOLATILE
    sub rsp, 0x138
    .seh_stackalloc 0x138
    mov [rsp + EF(Rbp)], rbp
    .seh_savereg rbp, EF(Rbp)
    mov [rsp + EF(Rbx)], rbx
    .seh_savereg rbx, EF(Rbx)
    mov [rsp + EF(Rdi)], rdi
    .seh_savereg rdi, EF(Rdi)
    mov [rsp + EF(Rsi)], rsi
    .seh_savereg rsi, EF(Rsi)
    mov [rsp + EF(R12)], r12
    .seh_savereg r12, EF(R12)
    mov [rsp + EF(R13)], r13
    .seh_savereg r13, EF(R13)
    mov [rsp + EF(R14)], r14
    .seh_savereg r14, EF(R14)
    mov [rsp + EF(R15)], r15
    .seh_savereg r15, EF(R15)
    movaps [rsp + EF(Xmm6)], xmm6
    .seh_savexmm xmm6, EF(Xmm6)
    movaps [rsp + EF(Xmm6) + 0x10], xmm7
    .seh_savexmm xmm7, EF(Xmm6) + 0x10
    movaps [rsp + EF(Xmm6) + 0x20], xmm8
    .seh_savexmm xmm8, EF(Xmm6) + 0x20
    movaps [rsp + EF(Xmm6) + 0x30], xmm9
    .seh_savexmm xmm9, EF(Xmm6) + 0x30
    movaps [rsp + EF(Xmm6) + 0x40], xmm10
    .seh_savexmm xmm10, EF(Xmm6) + 0x40
    movaps [rsp + EF(Xmm6) + 0x50], xmm11
    .seh_savexmm xmm11, EF(Xmm6) + 0x50
    movaps [rsp + EF(Xmm6) + 0x60], xmm12
    .seh_savexmm xmm12, EF(Xmm6) + 0x60
    movaps [rsp + EF(Xmm6) + 0x70], xmm13
    .seh_savexmm xmm13, EF(Xmm6) + 0x70
    movaps [rsp + EF(Xmm6) + 0x80], xmm14
    .seh_savexmm xmm14, EF(Xmm6) + 0x80
    movaps [rsp + EF(Xmm6) + 0x90], xmm15
    .seh_savexmm xmm15, EF(Xmm6) + 0x90
    .seh_endprologue
.endm

.macro RESTORE_NONVOLATILE
    movaps xmm6, [rsp + EF(Xmm6)]
    movaps xmm7, [rsp + EF(Xmm6) + 0x10]
    movaps xmm8, [rsp + EF(Xmm6) + 0x20]
    movaps xmm9, [rsp + EF(Xmm6) + 0x30]
    movaps xmm10, [rsp + EF(Xmm6) + 0x40]
    movaps xmm11, [rsp + EF(Xmm6) + 0x50]
    movaps xmm12, [rsp + EF(Xmm6) + 0x60]
    movaps xmm13, [rsp + EF(Xmm6) + 0x70]
    movaps xmm14, [rsp + EF(Xmm6) + 0x80]
    movaps xmm15, [rsp + EF(Xmm6) + 0x90]
    mov rbp, [rsp + EF(Rbp)]
    mov rbx, [rsp + EF(Rbx)]
    mov rdi, [rsp + EF(Rdi)]
    mov rsi, [rsp + EF(Rsi)]
    mov r12, [rsp + EF(R12)]
    mov r13, [rsp + EF(R13)]
    mov r14, [rsp + EF(R14)]
    mov r15, [rsp + EF(R15)]
    add rsp, 0x138
.endm

/* KiExceptionDispatch(trap frame, status): keeps the nonvolatile registers in a KEXCEPTION_FRAME for the dispatcher. */
PROC KiExceptionDispatch
    SAVE_NONVOLATILE
    mov r8, rsp
    call KiRaiseTrap
    RESTORE_NONVOLATILE
    ret
ENDPROC KiExceptionDispatch

/* KiSwapContext(old thread, new thread). */
PLACED KiSwapContext
    SAVE_NONVOLATILE
    call SwapContext
    RESTORE_NONVOLATILE
    ret
ENDPROC KiSwapContext
.text

/* The part that changes stacks; a waiting thread's KernelStack points to the KSWITCH_FRAME made here. */
PLACED SwapContext
    sub rsp, 0x38
    .seh_stackalloc 0x38
    mov [rsp + 0x30], rbp
    .seh_savereg rbp, 0x30
    .seh_endprologue
    mov byte ptr [rsp + 0x28], 1
    mov [rcx + KTHREAD_KernelStack], rsp
    mov rsp, [rdx + KTHREAD_KernelStack]
    call KiSwapProcessState
    mov rbp, [rsp + 0x30]
    add rsp, 0x38
    ret
ENDPROC SwapContext
.text

/* A new thread's first code. Its stack holds, from RSP on, a KSTART_FRAME: home slots, the routine, its argument, and
   a return address of 0, where stack traces end. */
PLACED KiStartSystemThread
    .seh_stackalloc 0x38
    .seh_endprologue
    mov rcx, [rsp + 0x20]
    mov rdx, [rsp + 0x28]
    call PspSystemThreadStartup
    int 3
ENDPROC KiStartSystemThread
.text

/* To ring 3 for the first time, through a trap frame that RCX points to. */
PROC KiServiceExitToUser
    .seh_pushframe
    .seh_stackalloc 8
    .seh_pushreg rbp
    .seh_stackalloc FRAME_LOCALS
    .seh_setframe rbp, 0x80
    .seh_endprologue
    cli
    mov rsp, rcx
    lea rbp, [rcx + 0x80]
    mov rbx, [rbp + TF(Rbx)]
    mov rdi, [rbp + TF(Rdi)]
    mov rsi, [rbp + TF(Rsi)]
    TRAP_EXIT
ENDPROC KiServiceExitToUser

/* SYSCALL from ring 3: RCX return address, R11 RFLAGS, RAX number, R10 first argument. */
PLACED KiSystemCall64
    .seh_pushframe
    .seh_stackalloc 8
    .seh_pushreg rbp
    .seh_stackalloc FRAME_LOCALS
    .seh_setframe rbp, 0x80
    .seh_endprologue
    swapgs
    mov gs:[KPCR_UserRsp], rsp
    mov rsp, gs:[PRCB(RspBase)]
    push 0x2b
    push qword ptr gs:[KPCR_UserRsp]
    .globl KiSystemServiceUser
KiSystemServiceUser:
    push r11
    push 0x33
    push rcx
    mov rcx, r10
    sub rsp, 8
    push rbp
    sub rsp, FRAME_LOCALS
    lea rbp, [rsp + 0x80]
    mov [rbp + TF(Rbx)], rbx
    mov [rbp + TF(Rdi)], rdi
    mov [rbp + TF(Rsi)], rsi
    mov [rbp + TF(Rax)], rax
    mov [rbp + TF(Rcx)], rcx
    mov [rbp + TF(Rdx)], rdx
    mov [rbp + TF(R8)], r8
    mov [rbp + TF(R9)], r9
    mov byte ptr [rbp + TF(PreviousMode)], 1
    SAVE_XMM
    mov rbx, gs:[PRCB(CurrentThread)]
    lea r10, [rbp - 0x80]
    mov [rbx + KTHREAD_TrapFrame], r10
    mov byte ptr [rbx + KTHREAD_PreviousMode], 1
#ifdef HAVE_KTHREAD_SystemCallNumber
    mov [rbx + KTHREAD_SystemCallNumber], eax
#endif
#ifdef HAVE_KPRCB_KeSystemCalls
    inc dword ptr gs:[PRCB(KeSystemCalls)]
#endif
    lock inc dword ptr [rip + KiSystemCalls]
    sti
    cmp eax, dword ptr [rip + KiServiceLimit]
    jae 2f
    /* Home slots and four more arguments from the caller's stack, if that is user memory. */
    sub rsp, 0x50
    mov r11, [rbp + TF(Rsp)]
    mov rbx, r11
    shr rbx, 47
    jnz 1f
    mov rbx, [r11 + 0x28]
    mov [rsp + 0x20], rbx
    mov rbx, [r11 + 0x30]
    mov [rsp + 0x28], rbx
    mov rbx, [r11 + 0x38]
    mov [rsp + 0x30], rbx
    mov rbx, [r11 + 0x40]
    mov [rsp + 0x38], rbx
1:
    mov eax, eax
    lea r10, [rip + KiServiceRoutines]
    .globl KiSystemServiceCopyEnd
KiSystemServiceCopyEnd:
    call qword ptr [r10 + rax * 8]
    add rsp, 0x50
    jmp KiSystemServiceExit
2:
    mov eax, 0xC000001C
    .globl KiSystemServiceExit
KiSystemServiceExit:
    cli
    mov rbx, [rbp + TF(Rbx)]
    mov rdi, [rbp + TF(Rdi)]
    mov rsi, [rbp + TF(Rsi)]
    RESTORE_XMM
    xor edx, edx
    xor r8d, r8d
    xor r9d, r9d
    xor r10d, r10d
    mov r11, [rbp + TF(EFlags)]
    mov rcx, [rbp + TF(Rip)]
#if KVA_SHADOW
    test byte ptr [rip + KiKvaShadow], 1
    jnz 3f
#endif
    mov rsp, [rbp + TF(Rsp)]
    mov rbp, [rbp + TF(Rbp)]
    swapgs
    sysretq
#if KVA_SHADOW
3:
    jmp KiKernelSysretExitShadow
#endif
ENDPROC KiSystemCall64
.text

PLACED KiSystemCall32
    .seh_endprologue
    mov eax, 0xC000001C
    sysretq
ENDPROC KiSystemCall32
.text
