/* Exceptions and interrupts: each entry makes a KTRAP_FRAME, calls C, and returns through the frame. */
#include "frames.inc"
.text

/* An exception: KiHandleTrap settles it, or names the status that KiRaiseTrap raises. */
.macro EXCEPTION name vector has_error
PLACED \name
    TRAP_FRAME \has_error
    .if \vector == 14
    mov eax, cr2
    mov [ebp + TF(TempEsp)], eax
    .endif
    push \vector
    push ebp
    call _KiHandleTrap
    add esp, 8
    test eax, eax
    jz 1f
    push 0
    push eax
    push ebp
    call _KiRaiseTrap
1:
    TRAP_EXIT
.endm

/* The old IRQL stays on the stack as KiSetIrql's argument. */
.macro INTERRUPT name vector handler
PROC \name
    TRAP_FRAME 0
    movzx eax, byte ptr fs:[KPCR_Irql]
    push eax
    push \vector >> 4
    call _KiSetIrql
    mov [esp], ebp
    call \handler
    add esp, 4
    cli
    call _KiSetIrql
    TRAP_EXIT
.endm

EXCEPTION _KiTrap00 0 0
EXCEPTION _KiTrap01 1 0
EXCEPTION _KiTrap03 3 0
EXCEPTION _KiTrap04 4 0
EXCEPTION _KiTrap05 5 0
EXCEPTION _KiTrap06 6 0
EXCEPTION _KiTrap07 7 0
EXCEPTION _KiTrap0A 10 1
EXCEPTION _KiTrap0B 11 1
EXCEPTION _KiTrap0C 12 1
EXCEPTION _KiTrap0D 13 1
EXCEPTION _KiTrap0E 14 1
EXCEPTION _KiTrap10 16 0
EXCEPTION _KiTrap11 17 1
EXCEPTION _KiTrap12 18 0
EXCEPTION _KiTrap13 19 0
EXCEPTION _KiRaiseAssertion 0x2c 0
EXCEPTION _KiDebugService 0x2d 0

INTERRUPT _KiClockInterrupt 0xd1 _KeClockInterruptNotify
INTERRUPT _KiIpiInterrupt 0xe1 _KiIpiProcessRequests
INTERRUPT _KiSerialInterrupt 0x54 _KiSerialService
INTERRUPT _KiUnexpectedInterrupt 0xff _KiUnexpectedService

/* The dispatch interrupt, IRQL 2: timers, ends of quanta, threads made ready elsewhere. */
INTERRUPT _KiDpcInterrupt 0x2f _KiDispatchInterrupt

PLACED _KiTrap02
    TRAP_FRAME 0
    push ebp
    call _KiProcessNmi
    TRAP_EXIT

/* A double fault: a task of its own, by a task gate; what was interrupted is in the TSS that it links back to. */
PROC _KiTrap08
    mov eax, fs:[KPCR_TSS]
    xor ebp, ebp
    push 0
    push 0
    push eax
    push 8
    push 0x7f
    call _KeBugCheckEx
    int 3

/* KiSwapContext(old thread, new thread). */
PLACED _KiSwapContext
    push ebp
    mov ebp, esp
    push ebx
    push esi
    push edi
    mov ecx, [ebp + 8]
    mov edx, [ebp + 12]
    call _SwapContext
    pop edi
    pop esi
    pop ebx
    pop ebp
    ret

/* The part that changes stacks, from the thread in ECX to the one in EDX. A waiting thread's KernelStack points to the
   KSWITCH_FRAME made here: exception list, a word, the return address. */
#define FXSAVE 0x40
PLACED _SwapContext
    push 0
    push dword ptr fs:[0]
    mov eax, [ecx + KTHREAD_InitialStack]
    fxsave [eax + FXSAVE]
    mov [ecx + KTHREAD_KernelStack], esp
    mov esi, edx
    mov esp, [edx + KTHREAD_KernelStack]
    push edx
    push ecx
    call _KiSwapProcessState
    add esp, 8
    mov eax, [esi + KTHREAD_InitialStack]
    fxrstor [eax + FXSAVE]
    pop dword ptr fs:[0]
    add esp, 4
    ret

/* A new thread's first code; its stack holds the routine and its argument. Stack traces end here. */
PLACED _KiStartSystemThread
    xor ebp, ebp
    call _PspSystemThreadStartup
    int 3

/* To ring 3 for the first time, through the trap frame in the first argument. */
PROC _KiServiceExitToUser
    cli
    mov ebp, [esp + 4]
    TRAP_EXIT

/* SYSENTER from ring 3: EAX number, EDX stack with two return addresses and the arguments. */
PLACED _KiFastCallEntry
    mov ecx, 0x23
    mov ds, ecx
    mov es, ecx
    mov ecx, 0x30
    mov fs, ecx
    mov ecx, fs:[KPCR_TSS]
    mov esp, [ecx + 4]
    push 0x23
    lea ecx, [edx + 4]
    push ecx
    pushfd
    or dword ptr [esp], 0x200
    push 0x1b
    xor ecx, ecx
    cmp edx, 0x7fff0000
    jae 1f
    mov ecx, [edx]
1:
    push ecx
    TRAP_FRAME 0
    mov dword ptr [ebp + TF(SegFs)], 0x3b
    mov esi, [ebp + TF(Edx)]
    add esi, 8
    call KiSystemServiceCommon
    /* KiServiceExit: as SYSEXIT wants it. */
    cli
    mov ecx, [ebp + TF(ExceptionList)]
    mov fs:[0], ecx
    mov esp, ebp
    mov ecx, [esp + TF(SegFs)]
    mov fs, ecx
    mov ebx, [esp + TF(Ebx)]
    mov esi, [esp + TF(Esi)]
    mov edi, [esp + TF(Edi)]
    mov ebp, [esp + TF(Ebp)]
    mov edx, [esp + TF(Eip)]
    mov ecx, [esp + TF(HardwareEsp)]
    add esp, KTRAP_FRAME_EFlags
    and dword ptr [esp], 0xfffffdff
    popfd
    sti
    sysexit

/* INT 2Eh from ring 3: EAX number, EDX arguments. */
PROC _KiSystemService
    TRAP_FRAME 0
    mov esi, [ebp + TF(Edx)]
    call KiSystemServiceCommon
    mov [ebp + TF(Eax)], eax
    TRAP_EXIT

/* Calls the service that the frame's EAX asks for, with sixteen words of arguments from ESI. */
PROC KiSystemServiceCommon
    mov ecx, fs:[PRCB(CurrentThread)]
    mov byte ptr [ecx + KTHREAD_PreviousMode], 1
    lock inc dword ptr [_KiSystemCalls]
    sti
    mov eax, [ebp + TF(Eax)]
    cmp eax, [_KiServiceLimit]
    jae 2f
    cmp esi, 0x7fff0000 - 0x40
    jae 3f
    mov ebx, esp
    sub esp, 0x40
    mov edi, esp
    mov ecx, 16
    rep movsd
    call dword ptr [eax * 4 + _KiServiceRoutines]
    mov esp, ebx
    ret
2:
    mov eax, 0xC000001C
    ret
3:
    mov eax, 0xC0000005
    ret
