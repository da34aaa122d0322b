# Long mode: interrupts, bases, compatibility mode, SYSCALL, SMEP and SMAP, IRETQ, page edges; the end.

        mov dword ptr [table_b + 8 + 4], 0
        mov dword ptr [table_b + 8], 0x2000e7
        mov eax, offset table_b + 7
        mov [table_c + 8*1], eax        # the pointer table is in the same page as the root: entry 0 and entry 1
        mov eax, offset table_d + 7
        mov [table_c], eax
        mov eax, offset table_b + 7
        mov [table_d], eax
        mov ecx, 0xc0000080
        mov eax, 0x901                  # NXE, LME, SCE
        xor edx, edx
        wrmsr
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        mov ecx, 0xc0000080
        rdmsr                           # LMA
        mov eax, cs                     # compatibility mode still
        far_jump CODE64, long
        .code64
long:
        mov eax, DATA32
        mov ds, eax
        mov es, eax
        mov ss, eax
        lidt [idt64_pointer]
        lgdt [gdt64_pointer]
        mov eax, TSS64
        ltr ax
        mov rsp, offset stack_top
        mov r8, 0x1122334455667788
        mov r15, r8
        faulting 1f
        mov fs, eax                     # a system descriptor
1:      faulting 1f
        ud2
1:      faulting 1f
        int3
1:      faulting 1f
        mov rax, 0x8000000000000000
        mov [rax], rax
1:      # Through the stack segment that would be #SS: QEMU's TCG knows only #GP.
        faulting 1f
        mov rax, [0x40000000]
1:      faulting 1f
        mov eax, 0x400000
        jmp rax
1:      # A jump to a non-canonical address faults before it on Intel's CPUs, after it on others and in QEMU.
        faulting 1f
        int 0x30
1:      faulting 1f
        int 0x32
1:      faulting 1f
        .byte 0x06                      # PUSH ES is gone
1:      faulting 1f
        mov eax, 0x7ff8
        mov ds, eax
1:      xor eax, eax
        mov ss, eax                     # null is a stack in ring 0
        push rax
        mov eax, DATA32
        mov ss, eax
        pushfq
        pop rax
        mov rax, cr8
        mov eax, 5
        mov cr8, rax
        mov rax, cr8
        xor eax, eax
        mov cr8, rax

        # Bases
        mov ecx, 0xc0000100
        mov eax, offset scratch
        xor edx, edx
        wrmsr
        inc ecx
        mov eax, 0x55667788
        mov edx, 0x00001234
        wrmsr
        inc ecx
        mov eax, 0x11223344
        mov edx, 0xffff8000
        wrmsr
        swapgs
        swapgs
        mov rax, fs:[0]
        mov rax, cr4
        or eax, 0x10000
        mov cr4, rax
        rdfsbase rax
        mov rax, offset scratch + 8
        wrgsbase rax
        rdgsbase rdx
        mov rdx, gs:[0]

        # 64-bit far calls and returns
        call fword ptr [far_64]
        push CODE64
        lea rax, [rip + 1f]
        push rax
        .byte 0x48, 0xcb                # RETFQ
1:      call fword ptr [far_gate_64]

        # Compatibility mode and back
        push CODE32
        push offset compatible
        .byte 0x48, 0xcb
        .code32
compatible:
        mov eax, 0xffffffff
        inc eax
        mov edx, [esp]
        faulting 1f
        ud2
1:      faulting 1f
        int 0x30
1:      faulting 1f
        mov eax, [0x40000000]
1:      call far_function_32
        far_jump CODE64, 1f
        .code64
1:
        random_descriptors 64
        # SYSCALL and SYSRET
        mov ecx, 0xc0000081
        xor eax, eax
        mov edx, 0x00230008             # SYSRET: 0x33 and 0x2b; SYSCALL: 8 and 0x10
        wrmsr
        inc ecx
        mov eax, offset syscall_64
        xor edx, edx
        wrmsr
        inc ecx
        mov eax, offset syscall_32
        wrmsr
        inc ecx
        mov eax, 0x700
        wrmsr
        mov rcx, offset user64
        mov r11d, 0x202
        mov rsp, offset user_stack_top
        sysretq
user64:
        mov eax, cs
        mov eax, ss
        mov rax, rsp
        faulting 1f
        hlt
1:      faulting 1f
        swapgs
1:      faulting 1f
        int 0x31
1:      faulting 1f
        mov rax, cr3
1:      push 0x3202
        popfq
        pushfq
        pop rax
        and eax, 0x3200
        mov eax, 1
        or eax, eax                     # no status flag is set: QEMU's SYSCALL clears them
        std
        syscall
        cld
        mov rax, r11
        mov rax, rcx
        # compatibility mode in ring 3
        push UCODE32
        push offset user_compatible
        .byte 0x48, 0xcb
        .code32
user_compatible:
        mov eax, cs
        faulting 1f
        cli
1:      push eax
        pop edx
        far_jump UCODE64, 1f
        .code64
1:      mov eax, offset 2f
        int 0x34
2:      mov rsp, offset stack_top

        # SMEP and SMAP: user pages everywhere, so the code's own page becomes a supervisor's
        mov rdi, offset table_a + 8*0x100
        mov ecx, 0x80
1:      and dword ptr [rdi], 0xfffffffb
        add rdi, 8
        dec ecx
        jnz 1b
        mov rax, cr3
        mov cr3, rax
        mov rax, cr4
        or eax, 0x300000
        mov cr4, rax
        faulting 1f
        mov eax, [0x200000]             # SMAP
1:      stac
        mov eax, [0x200000]
        clac
        faulting 1f
        mov [0x200000], eax
1:      faulting 1f
        mov eax, 0x200000
        jmp rax                         # SMEP
1:      mov rax, cr4
        and eax, 0xffcfffff
        mov cr4, rax

        # IRETQ within a ring takes SS:RSP too, and a null SS
        push 0
        push offset stack_top - 64
        push 0x202
        push CODE64
        lea rax, [rip + 1f]
        push rax
        iretq
1:      mov rax, rsp
        mov eax, ss
        mov ecx, DATA32
        mov ss, ecx
        cli
        mov rsp, offset stack_top

        # String instructions and page edges
        mov rsi, 0x200ff0
        mov rdi, 0x201ff0
        mov ecx, 4
        rep movsq
        mov rdi, 0x1fffff8
        mov ecx, 3
        faulting 1f
        rep stosq                       # the second one faults
1:      mov rax, rdi
        lock cmpxchg16b [scratch]
        bts dword ptr [scratch], 70
        look scratch
done:   jmp done

        .code64
far_function_64:
        mov eax, cs
        .byte 0xcb                      # the call was of 32 bits
gate_function_64:
        mov eax, cs
        mov rax, [rsp]
        .byte 0x48, 0xcb
syscall_64:
        mov eax, cs
        mov eax, ss
        mov rax, r11
        sysretq
syscall_32:
        .byte 0x0f, 0x07                # SYSRET
