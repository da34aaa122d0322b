# Descriptor tables, task states, operands, page tables, stacks.

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
        .quad 0, 0                      # RANDOM
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
random_at:
        .long 0
random_far:
        .long 0
        .word 0
        .align 4
bounds:
        .long 0, 10
        .align 16
scratch:
        .fill 64, 1, 0x5a

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
