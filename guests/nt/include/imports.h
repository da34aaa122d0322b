/* The kernel's exports, as drivers import them. */
#pragma once
#include "driver.h"
#define IMPORT __declspec(dllimport)
IMPORT ULONG DbgPrint(const CHAR *format, ...);
IMPORT void *ExAllocatePoolWithTag(ULONG type, ULONG_PTR size, ULONG tag);
IMPORT void ExFreePoolWithTag(void *block, ULONG tag);
IMPORT NTSTATUS KeDelayExecutionThread(ULONG64 hundred_ns);
IMPORT void KeInitializeEvent(PKEVENT event, BOOLEAN synchronization, BOOLEAN state);
IMPORT LONG KeSetEvent(PKEVENT event);
IMPORT NTSTATUS KeWaitForSingleObject(PKEVENT event, UCHAR reason, INT64 timeout);
IMPORT NTSTATUS PsCreateSystemThread(PVOID *out, PVOID process, void (*routine)(PVOID), PVOID context);
IMPORT NTSTATUS PsTerminateSystemThread(NTSTATUS status);
