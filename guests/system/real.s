# 16-bit code, copied to LOW: a protected segment, real mode, virtual 8086 mode.

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
