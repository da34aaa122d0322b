/* KVA shadow: the entries that a user page table maps, and the ways back. Each entry that came from ring 3 changes to
   the kernel's page table, moves the CPU's frame from the transition stack to the thread's, and goes on in the plain
   entry; each exit does the reverse. All of it lies in KVASCODE, which both page tables map. */
#include "frames.inc"
#if KVA_SHADOW
.section KVASCODE,"xr"

#define TRANSITION_TOP 0x4200

#define PCR(field) KPCR_##field

/* SS, RSP, RFLAGS, CS, RIP, and the error code if there is one, lie below the top of the transition stack. RSI is kept
   below the frame's copy. */
.macro SHADOW name plain has_error
PLACED \name KVASCODE
    .if \has_error
    .seh_pushframe @code
    .seh_endprologue
    test byte ptr [rsp + 0x10], 1
    .else
    .seh_pushframe
    .seh_endprologue
    test byte ptr [rsp + 8], 1
    .endif
    jz 1f
    swapgs
    mov rsp, gs:[PRCB(KernelDirectoryTableBase)]
    mov cr3, rsp
    mov rsp, gs:[PRCB(RspBaseShadow)]
    mov [rsp - 0x40], rsi
    mov rsi, gs:[PCR(IdtBase)]
    push qword ptr [rsi + TRANSITION_TOP - 0x08]
    push qword ptr [rsi + TRANSITION_TOP - 0x10]
    push qword ptr [rsi + TRANSITION_TOP - 0x18]
    push qword ptr [rsi + TRANSITION_TOP - 0x20]
    push qword ptr [rsi + TRANSITION_TOP - 0x28]
    .if \has_error
    push qword ptr [rsi + TRANSITION_TOP - 0x30]
    mov rsi, [rsp - 0x10]
    .else
    mov rsi, [rsp - 0x18]
    .endif
    swapgs
1:
    jmp \plain
ENDPROC \name
.section KVASCODE,"xr"
.endm

SHADOW KiDivideErrorFaultShadow KiDivideErrorFault 0
SHADOW KiDebugTrapOrFaultShadow KiDebugTrapOrFault 0
SHADOW KiBreakpointTrapShadow KiBreakpointTrap 0
SHADOW KiOverflowTrapShadow KiOverflowTrap 0
SHADOW KiBoundFaultShadow KiBoundFault 0
SHADOW KiInvalidOpcodeFaultShadow KiInvalidOpcodeFault 0
SHADOW KiNpxNotAvailableFaultShadow KiNpxNotAvailableFault 0
SHADOW KiInvalidTssFaultShadow KiInvalidTssFault 1
SHADOW KiSegmentNotPresentFaultShadow KiSegmentNotPresentFault 1
SHADOW KiStackFaultShadow KiStackFault 1
SHADOW KiGeneralProtectionFaultShadow KiGeneralProtectionFault 1
SHADOW KiPageFaultShadow KiPageFault 1
SHADOW KiFloatingErrorFaultShadow KiFloatingErrorFault 0
SHADOW KiAlignmentFaultShadow KiAlignmentFault 1
SHADOW KiXmmExceptionShadow KiXmmException 0
SHADOW KiRaiseAssertionShadow KiRaiseAssertion 0
SHADOW KiDebugServiceTrapShadow KiDebugServiceTrap 0
SHADOW KiDpcInterruptShadow KiDpcInterrupt 0
SHADOW KiSerialInterruptShadow KiSerialInterrupt 0
SHADOW KiClockInterruptShadow KiClockInterrupt 0
SHADOW KiIpiInterruptShadow KiIpiInterrupt 0
SHADOW KiUnexpectedInterruptShadow KiUnexpectedInterrupt 0

/* On IST stacks, whose first word is the kernel's root. None of these three ever returns: the processor stops. */
.macro SHADOW_IST name plain frame
PROC \name
    .if \frame == 0x30
    .seh_pushframe @code
    .else
    .seh_pushframe
    .endif
    .seh_endprologue
    push rax
    mov rax, [rsp + 8 + \frame]
    mov cr3, rax
    pop rax
    jmp \plain
ENDPROC \name
.endm

SHADOW_IST KiNmiInterruptShadow KiNmiInterrupt 0x28
SHADOW_IST KiDoubleFaultAbortShadow KiDoubleFaultAbort 0x30
SHADOW_IST KiMcheckAbortShadow KiMcheckAbort 0x28

PLACED KiSystemCall64Shadow KVASCODE
    .seh_pushframe
    .seh_endprologue
    swapgs
    mov gs:[PRCB(UserRspShadow)], rsp
    mov rsp, gs:[PRCB(KernelDirectoryTableBase)]
    mov cr3, rsp
    mov rsp, gs:[PRCB(RspBaseShadow)]
    push 0x2b
    push qword ptr gs:[PRCB(UserRspShadow)]
    jmp KiSystemServiceUser
ENDPROC KiSystemCall64Shadow
.section KVASCODE,"xr"

PLACED KiSystemCall32Shadow KVASCODE
    .seh_endprologue
    mov eax, 0xC000001C
    sysretq
ENDPROC KiSystemCall32Shadow
.section KVASCODE,"xr"

/* IRETQ to ring 3. RBP is the trap frame plus 80h; all other registers are the program's already. */
PROC KiKernelExitShadow
    .seh_endprologue
    mov gs:[PRCB(UserRspShadow)], rax
    mov rax, gs:[PCR(IdtBase)]
    add rax, TRANSITION_TOP - 0x28
    push qword ptr [rbp + TF(Rip)]
    pop qword ptr [rax]
    push qword ptr [rbp + TF(SegCs)]
    pop qword ptr [rax + 0x08]
    push qword ptr [rbp + TF(EFlags)]
    pop qword ptr [rax + 0x10]
    push qword ptr [rbp + TF(Rsp)]
    pop qword ptr [rax + 0x18]
    push qword ptr [rbp + TF(SegSs)]
    pop qword ptr [rax + 0x20]
    mov rbp, [rbp + TF(Rbp)]
    mov rsp, rax
    mov rax, gs:[PRCB(CurrentThread)]
    mov rax, [rax + KTHREAD_Process]
    mov rax, [rax + KPROCESS_UserDirectoryTableBase]
    mov cr3, rax
    mov rax, gs:[PRCB(UserRspShadow)]
    swapgs
    iretq
ENDPROC KiKernelExitShadow

/* SYSRET: RCX and R11 are set, RAX is the result. */
PROC KiKernelSysretExitShadow
    .seh_endprologue
    mov r8, gs:[PRCB(CurrentThread)]
    mov r8, [r8 + KTHREAD_Process]
    mov r8, [r8 + KPROCESS_UserDirectoryTableBase]
    mov rsp, [rbp + TF(Rsp)]
    mov rbp, [rbp + TF(Rbp)]
    mov cr3, r8
    xor r8d, r8d
    swapgs
    sysretq
ENDPROC KiKernelSysretExitShadow
#endif
