/* A processor's first instructions, copied to START_CODE of its start block: real mode, then protected mode with paging
   at once. */
#include "frames.inc"
.text
.balign 16
.globl _KiStartCode16, _KiStartCode32, _KiStartCodeEnd
.code16
_KiStartCode16:
    cli
    mov ax, cs
    mov ds, ax
    mov eax, dword ptr [0x18]
    mov cr4, eax
    mov eax, dword ptr [0x14]
    mov cr3, eax
    mov ecx, 0xc0000080
    mov eax, dword ptr [0x1c]
    xor edx, edx
    wrmsr
    .byte 0x66
    lgdt [0x08]
    mov eax, dword ptr [0x10]
    mov cr0, eax
    .byte 0x66, 0xff, 0x2e, 0x20, 0x00      /* jmp far dword ptr [20h] */
.code32
_KiStartCode32:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov ebx, 0x2000
    mov esp, [ebx + 0x2c]
    xor ebp, ebp
    push 0
    jmp dword ptr [ebx + 0x28]
_KiStartCodeEnd:
