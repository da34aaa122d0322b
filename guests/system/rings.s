# 32-bit protected mode between its rings and tasks, and the ways into 16-bit code and virtual 8086 mode.

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
