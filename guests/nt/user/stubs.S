/* System calls: the number in EAX, the first argument in R10, as ntdll has them. */
.intel_syntax noprefix
.text

.macro SERVICE name number
    .globl \name
    .def \name
    .scl 2
    .type 32
    .endef
    .balign 16
\name:
    mov r10, rcx
    mov eax, \number
    syscall
    ret
.endm

SERVICE NtYieldExecution 0
SERVICE NtQuerySystemTime 1
SERVICE NtDelayExecution 2
SERVICE NtCreateFile 3
SERVICE NtWriteFile 4
SERVICE NtWaitForSingleObject 5
SERVICE NtAllocateVirtualMemory 6
SERVICE NtQueryInformationProcess 7
SERVICE NtTerminateProcess 8
SERVICE NtClose 9
