/* System calls: the number in EAX, the arguments on the stack behind two return addresses, as ntdll has them. */
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
    mov eax, \number
    call _KiFastSystemCall
    ret
.endm

    .globl _KiFastSystemCall
    .def _KiFastSystemCall
    .scl 2
    .type 32
    .endef
_KiFastSystemCall:
    mov edx, esp
    sysenter
    ret

/* The way of processors without SYSENTER; one service takes it, so that both ways are used. */
    .globl _KiIntSystemCall
    .def _KiIntSystemCall
    .scl 2
    .type 32
    .endef
_KiIntSystemCall:
    lea edx, [esp + 8]
    int 0x2e
    ret

SERVICE _NtYieldExecution 0
SERVICE _NtQuerySystemTime 1
SERVICE _NtDelayExecution 2
SERVICE _NtCreateFile 3
SERVICE _NtWriteFile 4
SERVICE _NtWaitForSingleObject 5
SERVICE _NtAllocateVirtualMemory 6
    .globl _NtQueryInformationProcess
    .def _NtQueryInformationProcess
    .scl 2
    .type 32
    .endef
    .balign 16
_NtQueryInformationProcess:
    mov eax, 7
    call _KiIntSystemCall
    ret
SERVICE _NtTerminateProcess 8
SERVICE _NtClose 9
