/* 64-bit division, as the compiler calls it: dividend and divisor on the stack, taken off by the callee. */
#include "frames.inc"
.text

/* EDX:EAX = quotient, EBX:ECX = remainder of [ebp + 8] by [ebp + 16]; bit by bit where the divisor has 33 bits or more. */
Divide:
    cmp dword ptr [ebp + 20], 0
    jne 1f
    mov ecx, [ebp + 16]
    mov eax, [ebp + 12]
    xor edx, edx
    div ecx
    mov ebx, eax
    mov eax, [ebp + 8]
    div ecx
    mov ecx, edx
    mov edx, ebx
    xor ebx, ebx
    ret
1:
    push esi
    push edi
    mov eax, [ebp + 8]
    mov edx, [ebp + 12]
    xor ecx, ecx
    xor ebx, ebx
    mov esi, 64
2:
    shl eax, 1
    rcl edx, 1
    rcl ecx, 1
    rcl ebx, 1
    jc 3f
    cmp ebx, [ebp + 20]
    jb 4f
    ja 3f
    cmp ecx, [ebp + 16]
    jb 4f
3:
    sub ecx, [ebp + 16]
    sbb ebx, [ebp + 20]
    inc eax
4:
    dec esi
    jnz 2b
    pop edi
    pop esi
    ret

PROC __aulldiv
    push ebp
    mov ebp, esp
    push ebx
    call Divide
    pop ebx
    pop ebp
    ret 16

PROC __aullrem
    push ebp
    mov ebp, esp
    push ebx
    call Divide
    mov eax, ecx
    mov edx, ebx
    pop ebx
    pop ebp
    ret 16
