/* A processor's first instructions, copied to START_CODE of its start block: real mode, then 64-bit mode at once. */
#include "frames.inc"
.text
.balign 16
.globl KiStartCode16
.code16
KiStartCode16:
    cli
    mov ax, cs
    mov ds, ax
    mov eax, dword ptr [0x90 + KPROCESSOR_STATE_SpecialRegisters + KSPECIAL_REGISTERS_Cr4]
    /* PAE, PGE, and what SSE needs; the rest follows in KiInitializeProcessor. */
    and eax, 0x6a0
    mov cr4, eax
    mov eax, dword ptr [0x90 + KPROCESSOR_STATE_SpecialRegisters + KSPECIAL_REGISTERS_Cr3]
    mov cr3, eax
    mov ecx, 0xc0000080
    mov eax, dword ptr [0x88]
    and eax, 0x901
    xor edx, edx
    wrmsr
    .byte 0x66
    lgdt [0x08]
    mov eax, 0x80050033
    mov cr0, eax
    .byte 0x66, 0xff, 0x2e, 0x10, 0x00      /* jmp far dword ptr [10h] */
.code64
.globl KiStartCode64
KiStartCode64:
    mov ax, 0x18
    mov ss, ax
    mov ds, ax
    mov es, ax
    xor ebx, ebx
    lea rbx, [rip + KiStartCode16]
    sub rbx, 0x650
    mov rsp, [rbx + 0x90 + KPROCESSOR_STATE_ContextFrame + CONTEXT_Rsp]
    jmp qword ptr [rbx + 0x70]
.globl KiStartCodeEnd
KiStartCodeEnd:

.balign 16
PROC KiStartProcessor
    .seh_endprologue
    call KiProcessorMain
    int 3
ENDPROC KiStartProcessor
