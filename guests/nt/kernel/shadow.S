#include "frames.inc"
.text
PROC KiKernelExitShadow
 .seh_endprologue
 int 3
ENDPROC KiKernelExitShadow
PROC KiKernelSysretExitShadow
 .seh_endprologue
 int 3
ENDPROC KiKernelSysretExitShadow
