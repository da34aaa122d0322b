/* The kernel's entry. */
#include "nt_layout.h"
#ifdef NT_X86
#define KiSystemStartup _KiSystemStartup
#endif
    .text
    .globl KiSystemStartup
    .def KiSystemStartup; .scl 2; .type 32; .endef
KiSystemStartup:
    cli
1:  hlt
    jmp 1b
