# What is called: functions of 32-bit code, the task, and the handlers of every vector.

        .code32
far_function:
        mov eax, cs
        mov edx, [esp + 4]
        retf
far_function_32:
        mov eax, [esp]
        ret
gate_function:
        mov eax, cs
        mov eax, ss
        mov eax, [esp + 8]
        mov edx, [esp + 12]
        retf 8

task:
        mov eax, cs
        str eax
        pushfd
        pop eax
        and eax, 0x4000                 # NT
        mov eax, [task_tss]             # the back link
        mov eax, [gdt + TSS_TASK + 4]
        iretd
        jmp task

# ---------------------------------------------------------------- fault handlers
        .macro stubs bits
        .set n, 0
        .rept 0x35
        .align 16
        .if n == 8 || (n >= 10 && n <= 14) || n == 17
        .if \bits == 64
        pop rdx
        .else
        pop edx
        .endif
        .else
        xor edx, edx
        .endif
        mov ecx, n
        jmp finish_\bits
        .set n, n + 1
        .endr
        .endm

        .align 16
stubs_32:
        stubs 32
finish_32:
        cmp ecx, 0x34
        je to_ring_0
        mov ebp, cr2
        mov [esp], ebx
        and dword ptr [esp + 8], 0xfffffeff
        test dword ptr [esp + 8], 0x20000
        jnz leave_v86
        iretd
leave_v86:
        jmp ebx
to_ring_0:
        jmp eax

        .code64
        .align 16
stubs_64:
        stubs 64
finish_64:
        cmp ecx, 0x34
        je to_ring_0_64
        mov rbp, cr2
        mov [rsp], rbx
        mov rsi, [rsp + 8]              # CS
        mov rsi, [rsp + 32]             # SS
        and dword ptr [rsp + 16], 0xfffffeff
        iretq
to_ring_0_64:
        jmp rax
