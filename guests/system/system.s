# System code of every mode, to be single-stepped in two machines that are compared after each instruction.
#
#   32-bit ─► ring 3, call gate, SYSENTER ─► task switch ─► virtual 8086 ─► 16-bit, real mode ─► 32-bit paging ─► PAE
#     ─► 64-bit: interrupts with IST, SYSCALL, compatibility mode, ring 3, SMEP and SMAP, FSGSBASE
#
# Registers are the only output: whatever an instruction leaves in memory is loaded again. A fault's handler counts
# in its vector (ECX), the error code (EDX) and CR2 (EBP), and goes on at the address in EBX.
# Assembled by `as --64`, linked at 1 MiB, made ELF32 by objcopy; multiboot starts it. The test does that, and writes
# the random.inc that is included.
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
        .set RANDOM, 0xa0
        .set LOW, 0x20000               # where 16-bit code is copied to

        .text
        .code32
        .align 4
        .long 0x1badb002, 0, -0x1badb002
        # What the test wants to know: at 0x10000c.
        .long begin, done, finish_32, finish_64, gdt, gdt_end, table_c, stacks, stack_top
        .long random_at, random, random_end, ist_top

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

        .include "random.s"
        .include "segments.s"
        .include "rings.s"
        .include "paging.s"
        .include "long.s"
        .include "handlers.s"
        .include "real.s"
        .include "data.s"
        .include "random.inc"
