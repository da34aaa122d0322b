# System code of every mode, to be single-stepped in two machines that are compared after each instruction.
#
#   32-bit ─► ring 3, call gate, SYSENTER ─► task switch ─► virtual 8086 ─► 16-bit, real mode ─► 32-bit paging ─► PAE
#     ─► 64-bit: interrupts with IST, SYSCALL, compatibility mode, ring 3, SMEP and SMAP, FSGSBASE
#
# Registers are the only output: whatever an instruction leaves in memory is loaded again. A fault's handler counts
# in its vector (ECX), the error code (EDX) and CR2 (EBP), and goes on at the address in EBX.
# Assembled by `as --64`, linked at 1 MiB, made ELF32 by objcopy; multiboot starts it.
        .intel_syntax noprefix
        .set CODE32, 0x08
        .set DATA32, 0x10
        .set CODE64, 0x18
        .set UCODE32, 0x23
        .set UDATA32, 0x2b
        .set UCODE64, 0x33
        .set CODE16, 0x38
        .set DATA16, 0x40
        .set TSS_MAIN, 0x48
        .set TSS_TASK, 0x58
        .set GATE, 0x63
        .set LDT, 0x68
        .set ABSENT, 0x70
        .set SMALL, 0x78
        .set TSS64, 0x80
        .set GATE64, 0x93
        .set LOW, 0x20000               # where 16-bit code is copied to

        .text
        .code32
        .align 4
        .long 0x1badb002, 0, -0x1badb002
        # What the test wants to know: at 0x10000c.
        .long begin, done, finish_32, finish_64, gdt, gdt_end, table_c, stacks, stack_top

# resume LABEL: where the next fault's handler goes on
        .macro faulting label
        mov ebx, offset \label
        .endm

        .macro far_jump selector, to
        .byte 0xea
        .long \to
        .word \selector
        .endm

        .macro far_call selector, to
        .byte 0x9a
        .long \to
        .word \selector
        .endm

# the base of a descriptor, and the target of a gate
        .macro set_base at, to
        mov eax, offset \to
        mov [\at + 2], ax
        shr eax, 16
        mov [\at + 4], al
        mov [\at + 7], ah
        .endm

        .macro set_gate at, to
        mov eax, offset \to
        mov [\at], ax
        shr eax, 16
        mov [\at + 6], ax
        .endm

# memory that an instruction wrote
        .macro look address
        mov eax, [\address]
        mov edx, [\address+4]
        .endm

        .globl _start
_start:
        cli
        cld
        mov al, 0xff                    # no interrupt that the firmware left enabled
        out 0x21, al
        out 0xa1, al
        lgdt [gdt_pointer]
        lidt [idt32_pointer]
        fninit
        mov eax, DATA32
        mov ds, eax
        mov es, eax
        mov ss, eax
        mov esp, offset stack_top
        xor eax, eax
        mov fs, eax
        mov gs, eax
        lldt ax
        far_jump CODE32, 1f
1:      mov eax, 0x11
        mov cr0, eax
        # Tables that hold addresses
        set_base gdt+TSS_MAIN, main_tss
        set_base gdt+TSS_TASK, task_tss
        set_base gdt+LDT, ldt
        set_base gdt+SMALL, data_start
        set_base gdt+TSS64, tss64
        set_gate gdt+0x60, gate_function
        set_gate gdt+0x90, gate_function_64
        mov edx, offset stubs_32
        mov edi, offset idt32
1:      mov eax, edx
        mov [edi], ax
        shr eax, 16
        mov [edi + 6], ax
        add edi, 8
        add edx, 16
        cmp edi, offset idt32_end
        jne 1b
        mov edx, offset stubs_64
        mov edi, offset idt64
1:      mov eax, edx
        mov [edi], ax
        shr eax, 16
        mov [edi + 6], ax
        add edi, 16
        add edx, 16
        cmp edi, offset idt64_end
        jne 1b
        xor eax, eax
        mov cr2, eax
        mov cr3, eax
        mov cr4, eax
        mov ecx, 0xc0000080
        xor edx, edx
        wrmsr
        xor ebx, ebx
        xor ecx, ecx
        xor esi, esi
        xor edi, edi
        xor ebp, ebp
        push 2
        popfd
        jmp begin

# ---------------------------------------------------------------- 32-bit protected mode, ring 0
begin:
        lidt [idt32_pointer]
        sgdt [scratch]
        look scratch
        sidt [scratch]
        look scratch
        mov eax, TSS_MAIN
        ltr ax
        str edx
        mov edx, [gdt + TSS_MAIN + 4]   # busy now
        mov eax, LDT
        lldt ax
        sldt edx
        smsw eax
        smsw word ptr [scratch]
        look scratch
        mov eax, cr0
        lmsw ax

        # Segments: null, absent, too privileged, wrong type, beyond a limit. What a loaded segment forbids is not
        # looked at: QEMU's TCG doesn't check limits and types when memory is accessed.
        mov eax, 0
        mov es, eax
        faulting 1f
        mov eax, ABSENT
        mov es, eax
1:      faulting 1f
        mov ss, eax
1:      faulting 1f
        mov eax, 0
        mov ss, eax
1:      faulting 1f
        mov eax, TSS_MAIN
        mov ds, eax
1:      faulting 1f
        mov eax, 0x7ff8
        mov ds, eax
1:      faulting 1f
        mov eax, 0x0c                   # of the LDT, which is empty there
        mov ds, eax
1:      mov eax, 0x07                   # the LDT's first, ring 3
        mov es, eax
        mov eax, es
        mov edx, es:[gdt]
        mov eax, SMALL
        mov fs, eax
        mov eax, fs:[0x7c]
        mov eax, CODE32
        mov gs, eax
        mov eax, gs:[gdt]
        mov eax, DATA32
        mov es, eax
        push fs
        pop gs
        mov eax, gs
        push es
        pop fs
        lds esi, [far_data]
        les edi, [far_data]
        lss esp, [far_stack]
        push 0x12345678
        pop eax
        mov esp, offset stack_top

        # LAR, LSL, VERR, VERW, ARPL
        mov eax, 0xdead
        mov ecx, CODE32
        lar eax, ecx
        lsl edx, ecx
        verr cx
        verw cx
        mov ecx, SMALL
        lar eax, ecx
        lsl edx, ecx
        verw cx
        mov ecx, GATE
        lar eax, ecx
        lsl edx, ecx
        mov ecx, 0x7ff0
        lar eax, ecx
        verr cx
        mov eax, 0x10
        mov ecx, 3
        arpl ax, cx
        arpl ax, cx

        # Far control transfers
        far_call CODE32, far_function
        call fword ptr [far_pointer]
        faulting 1f
        far_jump DATA32, 0
1:      faulting 1f
        far_jump ABSENT, 0
1:      faulting 1f
        far_jump 0, 0
1:      jmp fword ptr [far_next]
far_on:

        # Exceptions and software interrupts
        faulting 1f
        ud2
1:      faulting 1f
        xor ecx, ecx
        div ecx
1:      faulting 1f
        int3
1:      faulting 1f
        int 0x30
1:      faulting 1f
        int 0x32                        # absent
1:      faulting 1f
        int 0x33                        # no gate
1:      faulting 1f
        int 0xff                        # beyond the IDT
1:      faulting 1f
        mov al, 0x7f
        add al, 1
        into
1:      faulting 1f
        mov eax, 5
        bound eax, [bounds]
1:      faulting 1f
        mov eax, 50
        bound eax, [bounds]
1:      faulting 1f
        .byte 0xf0, 0x90                # LOCK NOP
1:      faulting 1f
        .byte 0x0f, 0x20, 0x08          # CR1
1:      sti
        pushfd
        pop eax
        and eax, 0x200
        cli

        # TF: a trap behind each instruction
        faulting 2f
        pushfd
        or dword ptr [esp], 0x100
        popfd
        nop
2:      mov eax, dr6
        and eax, 0x4000
        xor ecx, ecx
        mov dr6, ecx

        # Debug registers
        mov eax, offset scratch
        mov dr0, eax
        mov eax, 0x000d0001             # 4 bytes, writes
        mov dr7, eax
        faulting 1f
        mov dword ptr [scratch], 7
1:      mov eax, dr6
        and eax, 0xf
        xor eax, eax
        mov dr7, eax
        mov dr6, eax

        # The x87 and TS, EM
        mov eax, cr0
        or eax, 8
        mov cr0, eax
        faulting 1f
        fnop
1:      clts
        fninit
        fld1
        fldpi
        fstp qword ptr [scratch]
        look scratch
        fnstsw ax

# ---------------------------------------------------------------- ring 3
        push UDATA32
        push offset user_stack_top
        push 0x202
        push UCODE32
        push offset user32
        iretd
user32:
        mov eax, cs
        mov eax, UDATA32
        mov ds, eax
        mov es, eax
        mov fs, eax
        mov gs, eax
        pushfd
        pop eax
        and eax, 0x3200
        push 0x3202
        popfd                           # IOPL stays
        pushfd
        pop eax
        and eax, 0x3200
        faulting 1f
        cli
1:      faulting 1f
        hlt
1:      faulting 1f
        mov eax, cr0
1:      faulting 1f
        mov eax, DATA32
        mov ds, eax
1:      faulting 1f
        in al, 0x61                     # the map denies it
1:      faulting 1f
        int 0x30                        # for ring 0 only
1:      faulting 1f
        int 0x31
1:      faulting 1f
        far_call CODE32, user32
1:      push 0x1111
        push 0x2222
        far_call GATE, 0                     # two parameters
        mov eax, esp
        mov eax, ss
        faulting 1f
        lgdt [gdt_pointer]
1:      faulting 1f
        wrmsr
1:      mov eax, offset back_in_ring_0
        int 0x34                        # to ring 0, for good
back_in_ring_0:
        mov esp, offset stack_top
        mov eax, DATA32
        mov ds, eax
        mov es, eax
        mov eax, ss

        # SYSENTER and SYSEXIT
        mov ecx, 0x174
        mov eax, CODE32
        xor edx, edx
        wrmsr
        inc ecx
        mov eax, offset stack_top
        wrmsr
        inc ecx
        mov eax, offset sysenter_target
        wrmsr
        mov edx, offset after_sysexit
        mov ecx, offset user_stack_top
        .byte 0x0f, 0x35                # SYSEXIT: selectors are CODE32 + 16 and + 24
        ud2
after_sysexit:
        mov eax, cs
        mov eax, ss
        sysenter
        ud2
sysenter_target:
        mov eax, cs
        mov eax, ss
        mov eax, esp

# ---------------------------------------------------------------- tasks
        mov eax, DATA32
        mov ds, eax
        mov es, eax
        xor eax, eax
        mov fs, eax
        mov gs, eax
        lldt ax
        mov dword ptr [task_tss + 0x20], offset task
        far_call TSS_TASK, 0
        mov eax, [gdt + TSS_TASK + 4]
        mov eax, [main_tss + 0x20]
        pushfd
        pop eax
        and eax, 0x4000
        mov eax, cr0
        clts
        mov edx, [main_tss + 0x24]
        and edx, 0x4ed7

# ---------------------------------------------------------------- 16-bit code
        mov esi, offset low_code
        mov edi, LOW
        mov ecx, offset low_code_end
        sub ecx, offset low_code
        rep movsb
        far_jump CODE16, 0
from_16:
        mov eax, DATA32
        mov ds, eax
        mov es, eax
        mov ss, eax
        mov esp, offset stack_top
        lidt [idt32_pointer]

# ---------------------------------------------------------------- virtual 8086
        faulting from_v86
        push 0                          # GS FS DS ES
        push 0
        push LOW >> 4
        push LOW >> 4
        push LOW >> 4                   # SS SP
        push 0xfffc
        push 0x20002                    # VM, IOPL 0
        push LOW >> 4
        push low_v86 - low_code
        iretd
from_v86:

# ---------------------------------------------------------------- 32-bit paging
        mov eax, DATA32
        mov ds, eax
        mov es, eax
        mov ss, eax
        mov esp, offset stack_top
        mov edi, offset table_a         # the directory: 4 MiB pages, the first as a table
        mov eax, 0x87
1:      mov [edi], eax
        add edi, 4
        add eax, 0x400000
        cmp edi, offset table_a + 64
        jne 1b
        mov eax, offset table_b + 7
        mov [table_a], eax
        mov edi, offset table_b
        mov eax, 7
1:      mov [edi], eax
        add edi, 4
        add eax, 0x1000
        cmp edi, offset table_b + 0x1000
        jne 1b
        mov eax, cr4
        or eax, 0x10                    # PSE
        mov cr4, eax
        mov eax, offset table_a
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        mov eax, [0x400000]             # a large page
        mov dword ptr [0x800000], 5
        mov eax, [table_a + 4]          # A
        mov eax, [table_a + 8]          # A and D
        faulting 1f
        mov eax, [0x4000000]            # absent directory entry
1:      and dword ptr [table_b + 4*0x150], 0xfffffffe
        invlpg [0x150000]
        faulting 1f
        mov eax, [0x150000]
1:      faulting 1f
        mov [0x150004], eax
1:      faulting 1f
        mov eax, 0x150000
        jmp eax
1:      or dword ptr [table_b + 4*0x150], 1
        and dword ptr [table_b + 4*0x151], 0xfffffffd
        invlpg [0x151000]
        mov dword ptr [0x151000], 1     # WP is off
        mov eax, cr0
        or eax, 0x10000
        mov cr0, eax
        faulting 1f
        mov dword ptr [0x151000], 2
1:      mov eax, [table_b + 4*0x151]
        and dword ptr [table_b + 4*0x152], 0xfffffffb
        invlpg [0x152000]
        mov eax, [0x152000]
        faulting 1f
        mov eax, 0x12345678
        xchg eax, [0x151ffe]            # over the edge of a read-only page
1:      # user mode
        push UDATA32
        push offset user_stack_top
        push 2
        push UCODE32
        push offset 2f
        iretd
2:      mov eax, UDATA32
        mov ds, eax
        mov es, eax
        faulting 1f
        mov eax, [0x152000]
1:      faulting 1f
        mov [0x152000], eax
1:      faulting 1f
        mov [0x151000], eax
1:      mov eax, offset 2f
        int 0x34
2:      mov eax, DATA32
        mov ds, eax
        mov es, eax
        mov esp, offset stack_top
        # Global pages and a bad bit
        mov eax, cr4
        or eax, 0x80
        mov cr4, eax
        mov dword ptr [table_a + 12], 0x00e00087 | 0x200000
        faulting 1f
        mov eax, [0xc00000]
1:      mov eax, cr0
        and eax, 0x7fffffff
        mov cr0, eax

# ---------------------------------------------------------------- PAE
        mov edi, offset table_a
        mov ecx, 0x400
        xor eax, eax
        rep stosd
        mov edi, offset table_b
        mov ecx, 0x400
        rep stosd
        mov eax, offset table_b + 1     # pointers in table_c, directory in table_b, table in table_a
        mov [table_c], eax
        mov eax, offset table_a + 7
        mov [table_b], eax
        mov dword ptr [table_b + 8], 0x2000e7
        mov dword ptr [table_b + 16], 0x4000e7
        mov dword ptr [table_b + 20], 0x80000000   # NX
        mov edi, offset table_a
        mov eax, 7
1:      mov [edi], eax
        add edi, 8
        add eax, 0x1000
        cmp edi, offset table_a + 0x1000
        jne 1b
        mov ecx, 0xc0000080
        mov eax, 0x800
        xor edx, edx
        wrmsr
        mov eax, cr4
        or eax, 0x20
        mov cr4, eax
        mov eax, offset table_c
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        mov eax, [0x200000]
        mov eax, [0x400000]
        faulting 1f
        mov eax, 0x400000
        jmp eax
1:      faulting 1f
        mov eax, [0x40000000]           # absent pointer
1:      mov dword ptr [table_b + 8 + 4], 0x00100000  # a reserved bit
        invlpg [0x200000]
        faulting 1f
        mov eax, [0x200000]
1:      mov eax, cr0
        and eax, 0x7fffffff
        mov cr0, eax

# ---------------------------------------------------------------- long mode
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

# ---------------------------------------------------------------- functions of 32-bit code
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

# ---------------------------------------------------------------- 16-bit code, copied to LOW
        .code16
low_code:
low_16:
        mov eax, cs
        mov ax, DATA16
        mov ss, ax
        mov ds, ax
        mov esp, 0x1fffc
        push ax                         # SP is 16 bits
        pop dx
        mov eax, esp
        call 1f
1:      pop ax
        push 0x1234
        pop cx
        mov eax, dword ptr [low_16 - low_code]
        # to real mode
        mov eax, cr0
        and al, 0xfe
        mov cr0, eax
        .byte 0xea
        .word low_real - low_code, LOW >> 4
low_real:
        mov ax, cs
        mov ds, ax
        mov ss, ax
        mov sp, 0xfff0
        xor ax, ax
        mov es, ax
        lidt [low_idt - low_code]
        mov bx, low_resume - low_code
        int 3
low_resume:
        mov bx, low_resume2 - low_code
        xor cx, cx
        div cx
low_resume2:
        mov bx, low_resume4 - low_code
        ud2
low_resume4:
        push cs
        call 2f
        jmp 3f
2:      retf
3:      pushf
        popf
        pushfd
        pop eax
        and eax, 0x3000
        mov ax, 0xf000
        mov fs, ax
        lea esi, [eax + 8]
        # and back
        mov eax, cr0
        or al, 1
        mov cr0, eax
        .byte 0x66
        .byte 0xea
        .long from_16
        .word CODE32

low_handler:
        mov si, sp
        mov [si], bx
        mov ax, [si + 2]
        iret

low_v86:
        mov ax, cs
        mov dx, ss
        mov bp, sp
        push 0x1234
        pop cx
        mov ax, [0]
        xor ax, ax
        mov gs, ax
        # IOPL 0: any of these would fault; this one ends the visit
        int 0x21

        .align 4
low_ivt:
        .rept 16
        .word low_handler - low_code, LOW >> 4
        .endr
low_idt:
        .word 16*4 - 1
        .long LOW + low_ivt - low_code
low_code_end:

# ---------------------------------------------------------------- data
# A gate of each vector: for ring 3 are INT3, INTO and two of ours; one is absent, one is no gate.
        .macro gates code, wide
        .set n, 0
        .rept 0x35
        .word 0, \code
        .if n == 3 || n == 4 || n == 0x31 || n == 0x34
        .set kind, 0xee00
        .elseif n == 0x32
        .set kind, 0x0e00
        .elseif n == 0x33
        .set kind, 0x9200
        .elseif n == 5
        .set kind, 0x8f00
        .else
        .set kind, 0x8e00
        .endif
        .if \wide && n == 12
        .set kind, 0x8e01
        .endif
        .word kind, 0
        .if \wide
        .quad 0
        .endif
        .set n, n + 1
        .endr
        .endm

        .data
        .align 16
data_start:
gdt:
        .quad 0
        .quad 0x00cf9a000000ffff        # CODE32; accessed bits are for the CPU to set
        .quad 0x00cf92000000ffff        # DATA32
        .quad 0x00af9a000000ffff        # CODE64
        .quad 0x00cffa000000ffff        # UCODE32
        .quad 0x00cff2000000ffff        # UDATA32
        .quad 0x00affa000000ffff        # UCODE64
        .quad 0x00009a020000ffff        # CODE16, at LOW
        .quad 0x000092020000ffff        # DATA16
        .quad 0x000089000000008b        # TSS_MAIN, with an I/O map
        .quad 0
        .quad 0x0000890000000067        # TSS_TASK
        .quad 0x0000ec0200080000        # GATE, two parameters
        .quad 0x00008200000000ff        # LDT
        .quad 0x00cf12000000ffff        # ABSENT
        .quad 0x004092000000007f        # SMALL
        .quad 0x0000890000000067, 0     # TSS64
        .quad 0x0000ec0000180000, 0     # GATE64
gdt_end:
        .align 16
ldt:
        .quad 0x00cff2000000ffff
        .fill 31, 8, 0
main_tss:
        .long 0, stack_top, DATA32
        .fill 0x66 - 12, 1, 0
        .word 0x68
        .fill 0x24, 1, 0xff
task_tss:
        .fill 0x1c, 1, 0
        .long 0, task, 2, 1, 2, 3, 4, task_stack_top, 6, 7, 8
        .long DATA32, CODE32, DATA32, DATA32, 0, 0, 0
        .word 0, 0x68
        .align 8
tss64:
        .long 0, stack_top, 0
        .fill 0x24 - 12, 1, 0
        .long ist_top, 0
        .fill 0x68 - 0x2c, 1, 0
        .align 16
idt32:
        gates CODE32, 0
idt32_end:
        .align 16
idt64:
        gates CODE64, 1
idt64_end:
gdt_pointer:
gdt64_pointer:
        .word gdt_end - gdt - 1
        .long gdt, 0
idt32_pointer:
        .word idt32_end - idt32 - 1
        .long idt32
idt64_pointer:
        .word idt64_end - idt64 - 1
        .long idt64, 0
far_pointer:
        .long far_function
        .word CODE32
far_next:
        .long far_on
        .word CODE32
far_data:
        .long 0x1234
        .word DATA32
far_stack:
        .long stack_top - 32
        .word DATA32
far_64:
        .long far_function_64
        .word CODE64
far_gate_64:
        .long 0
        .word GATE64
bounds:
        .long 0, 10
        .align 16
scratch:
        .fill 64, 1, 0x5a
data_end:

        .bss
        .align 4096
table_a: .fill 4096, 1, 0
table_b: .fill 4096, 1, 0
table_c: .fill 4096, 1, 0
table_d: .fill 4096, 1, 0
stacks:
        .fill 1024, 1, 0
task_stack_top:
        .fill 1024, 1, 0
ist_top:
        .fill 2048, 1, 0
user_stack_top:
        .fill 2048, 1, 0
stack_top:
        .fill 64, 1, 0
