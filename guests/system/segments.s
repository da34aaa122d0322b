# 32-bit protected mode, ring 0: segment registers, far control transfers, exceptions, TF and the debug registers.

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
        random_descriptors 32
