/* hal.dll: interrupt controllers, the timer, the serial port. */
#pragma once
#include "nt.h"
#ifdef HAL_BUILD
#define HALAPI __declspec(dllexport)
#else
#define HALAPI __declspec(dllimport)
#endif
/* Finds the controllers; `map` maps device registers. */
HALAPI BOOLEAN HalInitSystem(ULONG phase, PVOID (*map)(ULONG64 physical, ULONG pages));
/* Enables the calling processor's local APIC. */
HALAPI void HalInitializeProcessor(ULONG number);
HALAPI ULONG HalGetApicId(void);
/* Starts the calling processor's clock: VECTOR_CLOCK every `period` TSC ticks. */
HALAPI void HalStartClock(ULONG64 period);
HALAPI void HalEndOfInterrupt(void);
/* The local APIC's task priority: interrupts of its class and below wait. */
HALAPI void HalSetTaskPriority(ULONG priority);
/* Sends an interrupt; `all` to every processor but this one. */
HALAPI void HalRequestIpi(ULONG apic_id, BOOLEAN all, ULONG vector);
HALAPI void HalSendNmi(ULONG apic_id);
/* INIT and start-up IPIs: the processor begins at the page `vector`. */
HALAPI void HalStartProcessor(ULONG apic_id, ULONG page);
HALAPI void HalRequestSoftwareInterrupt(KIRQL level);
HALAPI void HalEnableSerialInterrupt(void);
HALAPI void HalPutChar(CHAR c);
/* The next character received, or -1. */
HALAPI int HalGetChar(void);
HALAPI void HalProcessorIdle(void);
HALAPI void HalReturnToFirmware(ULONG action);
