# Paging of 32-bit code: two-level tables with large pages, then PAE with NX.

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
