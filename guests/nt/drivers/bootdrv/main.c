/* A boot driver: its thread wakes every second and counts. */
#include "imports.h"

volatile ULONG64 BootdrvHeartbeats;

static void HeartbeatThread(PVOID context) {
    (void)context;
    for (;;) {
        KeDelayExecutionThread(10000000);
        BootdrvHeartbeats++;
    }
}

NTSTATUS DriverEntry(PDRIVER_OBJECT driver, UNICODE_STRING *registry_path) {
    (void)driver;
    (void)registry_path;
    DbgPrint("bootdrv: started\n");
    return PsCreateSystemThread(NULL, NULL, HeartbeatThread, NULL);
}
