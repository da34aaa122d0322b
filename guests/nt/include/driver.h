/* What a driver sees of the kernel. */
#pragma once
#include "nt.h"

typedef struct _DRIVER_OBJECT {
    USHORT Type, Size;
    PVOID DeviceObject;
    ULONG Flags;
    PVOID DriverStart;
    ULONG DriverSize;
    PVOID DriverSection, DriverExtension;
    UNICODE_STRING DriverName;
    PVOID HardwareDatabase, FastIoDispatch;
    NTSTATUS (*DriverInit)(struct _DRIVER_OBJECT *, UNICODE_STRING *);
    PVOID DriverStartIo;
    void (*DriverUnload)(struct _DRIVER_OBJECT *);
    PVOID MajorFunction[28];
} DRIVER_OBJECT, *PDRIVER_OBJECT;

typedef struct _KEVENT { DISPATCHER_HEADER Header; } KEVENT, *PKEVENT;
