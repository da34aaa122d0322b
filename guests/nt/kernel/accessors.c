/* What drivers ask of processes and threads: the exported functions that only return a field. */
#include "kernel.h"

#define PROCESS_FIELD(name, type, field) \
    NTKERNELAPI type name(PEPROCESS process) { return (type)process->field; }

PROCESS_FIELD(PsGetProcessId, PVOID, UniqueProcessId)
PROCESS_FIELD(PsGetProcessInheritedFromUniqueProcessId, PVOID, InheritedFromUniqueProcessId)
PROCESS_FIELD(PsGetProcessPeb, PPEB, Peb)
/* The argument is loaded before anything is added to it, as Microsoft's compiler does. */
NTKERNELAPI UCHAR *PsGetProcessImageFileName(PEPROCESS process) {
    UCHAR *base = (UCHAR *)process;
    __asm__("" : "+r"(base));
    return base + EPROCESS_ImageFileName;
}
#ifdef HAVE_EPROCESS_SectionBaseAddress
PROCESS_FIELD(PsGetProcessSectionBaseAddress, PVOID, SectionBaseAddress)
#endif
#ifdef NT_X64
NTKERNELAPI INT64 PsGetProcessCreateTimeQuadPart(PEPROCESS process) { return process->CreateTime.QuadPart; }
#endif

NTKERNELAPI PVOID PsGetThreadProcessId(PETHREAD thread) { return thread->Cid.UniqueProcess; }
NTKERNELAPI PVOID PsGetThreadId(PETHREAD thread) { return thread->Cid.UniqueThread; }
NTKERNELAPI PVOID PsGetThreadTeb(PETHREAD thread) { return thread->Tcb.Teb; }
NTKERNELAPI PEPROCESS PsGetThreadProcess(PETHREAD thread) { return (PEPROCESS)thread->Tcb.Process; }
NTKERNELAPI PEPROCESS IoThreadToProcess(PETHREAD thread) { return (PEPROCESS)thread->Tcb.Process; }
