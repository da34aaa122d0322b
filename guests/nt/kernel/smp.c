/* Other processors. */
#include "kernel.h"

void KeStartAllProcessors(void) {}
BOOLEAN KvasInitialize(void) { return FALSE; }
ULONG64 KvasCreateUserRoot(ULONG64 root) { (void)root; return 0; }
