# random_descriptors BITS: puts each of the test's descriptors into the GDT and lets everything load it that can.
#
# The test writes random.inc: at `random` sixteen bytes a case up to `random_end`: the descriptor, the selector with
# flags above it, the descriptor's upper half in long mode. Flags: code may be entered through it from 32-bit code,
# from 64-bit code; it is a gate, which needs a target; it isn't for long mode. EDI holds selector and flags throughout.

        .set MAY_ENTER_32, 0x10000
        .set MAY_ENTER_64, 0x20000
        .set IS_GATE, 0x40000
        .set NOT_IN_64, 0x80000

        .macro random_descriptors bits
        .if \bits == 64
        .set kernel_code, CODE64
        .set user_code, UCODE64
        .set task_state, TSS64
        .set local_table, 0
        .else
        .set kernel_code, CODE32
        .set user_code, UCODE32
        .set task_state, TSS_MAIN
        .set local_table, LDT
        .endif
        mov dword ptr [random_at], offset random
random_next_\bits:
        mov eax, [random_at]
        mov edx, [eax]
        mov [gdt + RANDOM], edx
        mov edx, [eax + 4]
        mov [gdt + RANDOM + 4], edx
        mov edx, [eax + 12]
        mov [gdt + RANDOM + 8], edx
        mov edi, [eax + 8]
        mov [random_far + 4], di
        .if \bits == 64
        test edi, NOT_IN_64
        jnz 2f
        .endif
        test edi, IS_GATE
        jz 1f
        set_gate gdt+RANDOM, random_entered_\bits
1:      mov eax, 0x55
        lar eax, edi
        mov edx, 0x66
        lsl edx, edi
        verr di
        verw di
        .irp register, ds, es, fs, gs
        faulting 1f
        mov \register, edi
1:      mov ecx, \register
        .endr
        faulting 1f
        mov ss, edi
1:      mov ecx, ss
        mov eax, DATA32
        mov ss, eax
        mov ds, eax
        mov es, eax
        faulting 1f
        lldt di
1:      sldt edx
        mov eax, local_table
        lldt ax
        faulting 1f
        ltr di
1:      str edx
        and dword ptr [gdt + task_state + 4], 0xfffffdff
        mov eax, task_state
        ltr ax
        # A stack for ring 3. An absent one is #SS; QEMU takes #NP.
        test byte ptr [gdt + RANDOM + 5], 0x80
        jz 1f
        faulting 1f
        movzx eax, di
        random_return user_code, \bits
1:      random_back
        # Code: called, and returned to
        test edi, MAY_ENTER_\bits
        jz 2f
        mov dword ptr [random_far], offset random_entered_\bits
        faulting 1f
        call fword ptr [random_far]
1:      random_back
        faulting 1f
        mov eax, edi
        and eax, 3
        cmp eax, 3
        mov eax, DATA32
        jne 3f
        mov eax, UDATA32
3:      movzx edx, di
        random_return edx, \bits
1:      random_back
2:      add dword ptr [random_at], 16
        cmp dword ptr [random_at], offset random_end
        je random_end_\bits
        jmp random_next_\bits
random_entered_\bits:                   # in code of 32 or 64 bits, in any ring
        mov ecx, cs
        mov edx, ss
        mov eax, ebx
        int 0x34
random_end_\bits:
        xor eax, eax
        mov fs, eax
        mov gs, eax
        .endm

# IRET to random_entered with this CS, and EAX as SS
        .macro random_return code, bits
        .if \bits == 64
        push rax
        push offset user_stack_top
        push 2
        .ifc \code, edx
        push rdx
        .else
        push \code
        .endif
        push offset random_entered_64
        iretq
        .else
        push eax
        push offset user_stack_top
        push 2
        push \code
        push offset random_entered_32
        iretd
        .endif
        .endm

# in ring 0 again, with flat segments
        .macro random_back
        mov eax, DATA32
        mov ss, eax
        mov ds, eax
        mov es, eax
        mov esp, offset stack_top
        .endm
