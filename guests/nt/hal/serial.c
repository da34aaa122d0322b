/* COM1, a 16550 at 3F8, and the ways to stop. */
#define HAL_BUILD
#include "hal.h"

#define COM1 0x3f8

void HalPutChar(CHAR c) {
    while (!(ReadPort(COM1 + 5) & 0x20)) Pause();
    WritePort(COM1, (UCHAR)c);
}

int HalGetChar(void) {
    if (!(ReadPort(COM1 + 5) & 1)) return -1;
    return ReadPort(COM1);
}

void HalProcessorIdle(void) { __asm__ volatile("sti; hlt" : : : "memory"); }

void HalReturnToFirmware(ULONG action) {
    (void)action;
    WritePort(0xcf9, 6);
    for (;;) {
        DisableInterrupts();
        __asm__ volatile("hlt");
    }
}
