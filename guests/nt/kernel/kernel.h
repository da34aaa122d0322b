/* The kernel's own interfaces, a section a file. */
#pragma once
#include "driver.h"
#include "hal.h"
#include "loader.h"
#include <stdarg.h>

/* For drivers too. */
#define NTKERNELAPI __declspec(dllexport)

#define PAGE_SIZE ((ULONG_PTR)0x1000)
#define MAX_PROCESSORS 8
#define KERNEL_STACK_SIZE 0x6000

#ifdef NT_X86
#include "x86/arch.h"
#else
/* What is x64's own; x86's is in x86/arch.h. */
#define STACK_CONTROL_SIZE 0x50
#define APC_STATE_PROCESS 0x20
#define NT_MACHINE 0x8664
#define ROOT_MASK PTE_FRAME
typedef ULONG64 MI_PTE;
#define PAGING_TOP 39
#define PAGING_STEP 9
#define PTE_OFFSET(address) ((address) >> 9 & 0x7FFFFFFFF8ULL)
/* MMPFN's size, and its use here: while a page is free its first word is the next free page's number. */
#define PFN_SIZE 0x30
#define MiEntry(table, index) ((MI_PTE *)(table) + ((index) & 0x1ff))
#define MiReadPte(pte) (*(pte))
#define MiWritePte(pte, entry) (*(pte) = (entry))
#define IO_SPACE 0xFFFFFFFFFFD00000ULL
#define USER_TOP 0x7FFFFFFF0000ULL
/* Where programs and their PEBs are put; the masks are in units of 64 KiB. */
#define USER_IMAGE_SPACE 0x7FF600000000ULL
#define USER_IMAGE_MASK 0xffff
#define USER_AREA_SPACE 0x4000000000ULL
#define USER_AREA_MASK 0xffffff
#define SHARED_USER_DATA ((PKUSER_SHARED_DATA)0xFFFFF78000000000ULL)
#define HIGHEST_USER_ADDRESS 0x7FFFFFFEFFFFULL
#define SELF_OFFSET KPCR_Self
#define CURRENT_PRCB_OFFSET KPCR_CurrentPrcb
#define CONTAINED_PRCB_OFFSET KPCR_Prcb
#define KiFrameStack(frame) ((frame)->Rsp)
typedef EXCEPTION_RECORD64 EXCEPTION_RECORD, *PEXCEPTION_RECORD;

/* processor.c: the CPU's own structures. IDT, GDT, TSS and the transition stack are one run of pages. */
#define AREA_GDT 0x1000
#define AREA_TSS 0x2000
#define AREA_TRANSITION_STACK 0x4200
#define AREA_SIZE 0x5000
#define IST_STACK_PAGES 2
#define GDT_LIMIT 0x57
#define KGDT64_R0_CODE 0x10
#define KGDT64_R0_DATA 0x18
#define KGDT64_R3_CMCODE 0x20
#define KGDT64_R3_DATA 0x28
#define KGDT64_R3_CODE 0x30
#define KGDT64_SYS_TSS 0x40
#define KGDT64_R3_CMTEB 0x50

#pragma pack(push, 1)
typedef struct _KTSS64 {
    ULONG Reserved0;
    ULONG64 Rsp0, Rsp1, Rsp2;
    ULONG64 Reserved1;
    ULONG64 Ist[7];
    ULONG64 Reserved3;
    USHORT Reserved2, IoMapBase;
} KTSS64;
#pragma pack(pop)

static inline PKPCR KeGetPcr(void) {
    PKPCR pcr;
    __asm__ volatile("movq %%gs:%c1, %0" : "=r"(pcr) : "i"(KPCR_Self));
    return pcr;
}
static inline PKPRCB KeGetCurrentPrcb(void) {
    PKPRCB prcb;
    __asm__ volatile("movq %%gs:%c1, %0" : "=r"(prcb) : "i"(KPCR_CurrentPrcb));
    return prcb;
}
static inline PETHREAD PsGetCurrentThread(void) {
    PETHREAD thread;
    __asm__ volatile("movq %%gs:%c1, %0" : "=r"(thread) : "i"(KPCR_Prcb + KPRCB_CurrentThread));
    return thread;
}
#endif

/* Fields within fields. */
#define KTHREAD_ApcState_Process (KTHREAD_ApcState + APC_STATE_PROCESS)
#define KPRCB_ProcessorState_SpecialRegisters (KPRCB_ProcessorState + KPROCESSOR_STATE_SpecialRegisters)
#define KPRCB_ProcessorState_ContextFrame (KPRCB_ProcessorState + KPROCESSOR_STATE_ContextFrame)

static inline ULONG KeGetCurrentProcessorNumber(void) { return KeGetCurrentPrcb()->Number; }

/* What the kernel keeps for a CPU beside its PRCB. */
typedef struct _PROCESSOR {
    PKPRCB Prcb;
    UCHAR *Area;
    ULONG ApicId;
    volatile BOOLEAN Started;
    volatile BOOLEAN QuantumEnd;
    volatile BOOLEAN FreezeRequest;
    volatile BOOLEAN FlushRequest;
    ULONG64 Ticks;
} PROCESSOR;
extern PROCESSOR KiProcessors[MAX_PROCESSORS];
static inline PROCESSOR *KiCurrentProcessor(void) { return &KiProcessors[KeGetCurrentProcessorNumber()]; }

void KiInitializeProcessor(ULONG number, PKPCR pcr, UCHAR *area, PETHREAD idle);
void KiSaveProcessorControlState(PKPROCESSOR_STATE state);
void KiInitializeIdt(UCHAR *idt);
extern UCHAR KiNpxNotAvailableFault[];

/* startup.c */
extern PLOADER_PARAMETER_BLOCK KiLoaderBlock;
extern LOADER_EXTENSION *KiLoader;
void Phase1Initialization(PVOID context);
BOOLEAN KiLoaderOption(const CHAR *name);
ULONG64 KiRandom(void);

/* spinlock.c */
typedef volatile ULONG KSPIN_LOCK;
static inline KIRQL KeGetCurrentIrql(void) { return (KIRQL)__readcr8(); }
KIRQL KfRaiseIrql(KIRQL level);
void KeLowerIrql(KIRQL level);
KIRQL KeAcquireSpinLockRaiseToDpc(KSPIN_LOCK *lock);
void KeReleaseSpinLock(KSPIN_LOCK *lock, KIRQL old);
void KiAcquireSpinLock(KSPIN_LOCK *lock);
void KiReleaseSpinLock(KSPIN_LOCK *lock);

/* schedule.c */
enum { Initialized, Ready, Running, Standby, Terminated, Waiting, Transition, DeferredReady };
enum { Executive = 0, DelayExecution = 4, UserRequest = 6, WrExecutive = 7 };
extern KSPIN_LOCK KiDispatcherLock;
extern ULONG64 KiContextSwitches;
void KiInitializeScheduler(void);
void KiReadyThread(PETHREAD thread);
void KiSwapThread(void);
void KiSwapProcessState(PETHREAD old, PETHREAD next);
void KiExitDispatcher(KIRQL old);
void KeYieldExecution(void);
void KiSwapContext(PETHREAD old, PETHREAD new_thread);
void KiIdleLoop(void);

/* wait.c */
NTKERNELAPI void KeInitializeEvent(PKEVENT event, BOOLEAN synchronization, BOOLEAN state);
NTKERNELAPI LONG KeSetEvent(PKEVENT event);
NTKERNELAPI NTSTATUS KeWaitForSingleObject(PKEVENT event, UCHAR reason, INT64 timeout);
NTKERNELAPI NTSTATUS KeDelayExecutionThread(ULONG64 hundred_ns);
void KiExpireTimers(void);
void KiSignalFromInterrupt(PKEVENT event);

/* clock.c */
extern ULONG64 KiInterruptTime, KiTickCount;
#define TIME_INCREMENT 156250
void KiInitializeClock(void);
void KiInitializeUserSharedData(void);
void KeClockInterruptNotify(PKTRAP_FRAME frame);
void KiDispatchInterrupt(PKTRAP_FRAME frame);

/* exception.c */
NTSTATUS KiHandleTrap(PKTRAP_FRAME frame, ULONG vector);
void KiExceptionDispatch(PKTRAP_FRAME frame, NTSTATUS status);
void KiRaiseTrap(PKTRAP_FRAME frame, NTSTATUS status, PKEXCEPTION_FRAME exception);
void RtlCaptureContext(PCONTEXT context);

/* fault.c */
NTSTATUS MmAccessFault(ULONG_PTR address, ULONG_PTR error, PKTRAP_FRAME frame);
extern ULONG64 MmPageFaults;

/* memory.c */
#define PTE_VALID 1ULL
#define PTE_WRITE (1ULL << 1 | 1ULL << 6 | 1ULL << 11)
#define PTE_USER (1ULL << 2)
#define PTE_ACCESSED (1ULL << 5)
#define PTE_GLOBAL (1ULL << 8)
#define PTE_UNCACHED (1ULL << 3 | 1ULL << 4)
#define PTE_NX (1ULL << 63)
#define PTE_FRAME 0x000FFFFFFFFFF000ULL
void MmInitSystem(void);
ULONG64 MiAllocatePage(void);
void MiFreePage(ULONG64 physical);
#define PFN(physical) ((UCHAR *)MmPfnDatabase + ((physical) >> 12) * PFN_SIZE)
#ifdef NT_X86
/* x86/paging.c: of RAM, the loader's map has a part; the rest is for what has addresses of its own. */
void MiInitializePaging(void);
void MiAddHighRun(ULONG64 first, ULONG64 end);
ULONG64 MiAllocateAnyPage(void);
void MiFreeHighPage(ULONG64 physical);
extern ULONG MiHighFree;
#else
#define MiAllocateAnyPage MiAllocatePage
#define MiHighFree 0
#endif
static inline void *MiDirect(ULONG64 physical) { return (void *)(ULONG_PTR)(KiLoader->DirectMap + physical); }
MI_PTE *MiPteAddress(ULONG_PTR address);
BOOLEAN MiMapPage(ULONG64 root, ULONG_PTR address, ULONG64 entry);
ULONG64 MiTranslate(ULONG64 root, ULONG_PTR address);
void *MiAllocateSystemPages(ULONG count, ULONG64 rights);
void MiFreeSystemPages(void *base, ULONG count);
void *MmMapIoSpace(ULONG64 physical, ULONG pages);
void *MmCreateKernelStack(void);
ULONG64 MiCreateAddressSpace(void);
BOOLEAN MmIsAddressValid(const void *address);

/* pool.c */
NTKERNELAPI void *ExAllocatePoolWithTag(ULONG type, ULONG_PTR size, ULONG tag);
NTKERNELAPI void ExFreePoolWithTag(void *block, ULONG tag);

/* process.c, thread.c */
extern EPROCESS *PsSystemProcess;
void PsInitSystem(void);
PEPROCESS PspCreateProcess(const CHAR *name, PEPROCESS parent);
NTKERNELAPI NTSTATUS PsCreateSystemThread(PETHREAD *out, PEPROCESS process, void (*routine)(PVOID), PVOID context);
void PspLinkThread(PETHREAD thread, PEPROCESS process);
void PspInitializeThread(PETHREAD thread, PEPROCESS process, UCHAR *stack_base, ULONG_PTR stack_size);
void KiInitializeFloatingPoint(PVOID initial_stack);
NTKERNELAPI NTSTATUS PsTerminateSystemThread(NTSTATUS status);
NTSTATUS PspCreateUserProcess(const CHAR *name, PEPROCESS parent, ULONG64 argument, PEPROCESS *out);
PVOID PspAllocateId(PVOID object);

/* user.c, syscall.c */
#define SHARED_USER_ADDRESS ((ULONG_PTR)0x7FFE0000)
#define USER_DEMAND_START ((ULONG_PTR)0x10000000)
#define USER_DEMAND_END ((ULONG_PTR)0x20000000)
#define USER_STACK_SIZE ((ULONG_PTR)0x100000)
extern KEVENT PspUserEvent;
extern ULONG KiSystemCalls;
void KiServiceExitToUser(PKTRAP_FRAME frame);

/* module.c */
void MiLayOutImage(UCHAR *image, ULONG_PTR base, const UCHAR *file);
#define PE(image) ((image) + *(ULONG *)((image) + 0x3c))
#define PE_SECTIONS(pe) (*(USHORT *)((pe) + 6))
#define PE_ENTRY(pe) (*(ULONG *)((pe) + 0x28))
#ifdef NT_X64
#define PE_BASE(pe) (*(ULONG64 *)((pe) + 0x30))
#define PE_DIRECTORY(pe, n) ((ULONG *)((pe) + 0x88) + 2 * (n))
#define PE_RELOCATION 10
#else
#define PE_BASE(pe) (*(ULONG *)((pe) + 0x34))
#define PE_DIRECTORY(pe, n) ((ULONG *)((pe) + 0x78) + 2 * (n))
#define PE_RELOCATION 3
#endif
#define PE_IMAGE_SIZE(pe) (*(ULONG *)((pe) + 0x50))
#define PE_HEADER_SIZE(pe) (*(ULONG *)((pe) + 0x54))
#define PE_CHECKSUM(pe) (*(ULONG *)((pe) + 0x58))
#define PE_SECTION(pe, n) ((pe) + 0x18 + *(USHORT *)((pe) + 0x14) + 40 * (n))
void MiInitializeLoadedModuleList(void);
NTSTATUS MmLoadSystemImage(const CHAR *name, PKLDR_DATA_TABLE_ENTRY *out);
NTSTATUS MmUnloadSystemImage(PKLDR_DATA_TABLE_ENTRY entry);
PKLDR_DATA_TABLE_ENTRY MiFindModule(const CHAR *name);
LOADER_FILE *MiFindFile(const CHAR *name);
void IopStartBootDrivers(void);

/* kdinit.c, kdprint.c */
void KdInitSystem(void);
void KdEncodeDataBlock(void);
void KdDecodeDataBlock(void);
ULONG DbgPrint(const CHAR *format, ...);
ULONG vDbgPrintExWithPrefixInternal(const CHAR *prefix, ULONG component, ULONG level, const CHAR *format, va_list list);
BOOLEAN KdpStub(PKTRAP_FRAME frame, PEXCEPTION_RECORD record, PCONTEXT context);
void KdpInitializePrint(void);

/* bugcheck.c */
void KeBugCheckEx(ULONG code, ULONG_PTR p1, ULONG_PTR p2, ULONG_PTR p3, ULONG_PTR p4);
void KeBugCheck2(ULONG code, ULONG_PTR p1, ULONG_PTR p2, ULONG_PTR p3, ULONG_PTR p4, PKTRAP_FRAME frame);
void KeFlushEntireTb(void);
void KiIpiProcessRequests(PKTRAP_FRAME frame);
void KiFreezeTargetExecution(PKTRAP_FRAME frame, PKEXCEPTION_FRAME exception);

/* format.c */
int RtlFormatV(CHAR *out, ULONG size, const CHAR *format, va_list list);
int RtlFormat(CHAR *out, ULONG size, const CHAR *format, ...);
int strcmp(const CHAR *one, const CHAR *other);
int _stricmp(const CHAR *one, const CHAR *other);
ULONG_PTR strlen(const CHAR *text);

/* console.c */
void KiConsoleThread(PVOID context);
void KiSerialService(PKTRAP_FRAME frame);
void InbvPrint(const CHAR *format, ...);

/* guard.c */
void KiGuardThread(PVOID context);
extern ULONG64 KiGuardRounds, KiGuardChanges;

/* smp.c */
void KeStartAllProcessors(void);
void KiAllocateIstStacks(ULONG number);

/* shadow.c */
BOOLEAN KvasWanted(void);
void KvasInitialize(void);
void KvasShareProcessor(ULONG number);
ULONG64 KvasCreateUserRoot(ULONG64 root);

