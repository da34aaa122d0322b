/* What all images of the guest share: lists, intrinsics, status codes. Structures come from the profile. */
#pragma once
#include "nt_layout.h"

#define NULL ((void *)0)
#define TRUE 1
#define FALSE 0
#define CONTAINING(address, type, field) ((type *)((CHAR *)(address) - type##_##field))

typedef UCHAR KIRQL;
#define PASSIVE_LEVEL 0
#define APC_LEVEL 1
#define DISPATCH_LEVEL 2
#define DEVICE_LEVEL 5
#define CLOCK_LEVEL 13
#define IPI_LEVEL 14
#define HIGH_LEVEL 15

/* An interrupt's level is the high half of its vector. */
#define VECTOR_APC 0x1f
#define VECTOR_DISPATCH 0x2f
#define VECTOR_SERIAL 0x54
#define VECTOR_CLOCK 0xd1
#define VECTOR_IPI 0xe1
#define VECTOR_SPURIOUS 0xff

#define STATUS_SUCCESS ((NTSTATUS)0x00000000)
#define STATUS_PENDING ((NTSTATUS)0x00000103)
#define STATUS_UNSUCCESSFUL ((NTSTATUS)0xC0000001)
#define STATUS_ACCESS_VIOLATION ((NTSTATUS)0xC0000005)
#define STATUS_INVALID_PARAMETER ((NTSTATUS)0xC000000D)
#define STATUS_NO_MEMORY ((NTSTATUS)0xC0000017)
#define STATUS_ILLEGAL_INSTRUCTION ((NTSTATUS)0xC000001D)
#define STATUS_INVALID_SYSTEM_SERVICE ((NTSTATUS)0xC000001C)
#define STATUS_OBJECT_NAME_NOT_FOUND ((NTSTATUS)0xC0000034)
#define STATUS_INTEGER_DIVIDE_BY_ZERO ((NTSTATUS)0xC0000094)
#define STATUS_PRIVILEGED_INSTRUCTION ((NTSTATUS)0xC0000096)
#define STATUS_DEVICE_NOT_CONNECTED ((NTSTATUS)0xC000009D)
#define STATUS_INVALID_IMAGE_FORMAT ((NTSTATUS)0xC000007B)
#define STATUS_ALREADY_LOADED ((NTSTATUS)0xC000010E)
#define STATUS_ENTRYPOINT_NOT_FOUND ((NTSTATUS)0xC0000139)
#define STATUS_BREAKPOINT ((NTSTATUS)0x80000003)
#define STATUS_SINGLE_STEP ((NTSTATUS)0x80000004)
#define STATUS_TIMEOUT ((NTSTATUS)0x00000102)
#define NT_SUCCESS(status) ((NTSTATUS)(status) >= 0)

static inline void InitializeListHead(PLIST_ENTRY head) { head->Flink = head->Blink = head; }
static inline int IsListEmpty(PLIST_ENTRY head) { return head->Flink == head; }
static inline void RemoveEntryList(PLIST_ENTRY entry) {
    entry->Blink->Flink = entry->Flink;
    entry->Flink->Blink = entry->Blink;
}
static inline void InsertTailList(PLIST_ENTRY head, PLIST_ENTRY entry) {
    entry->Flink = head;
    entry->Blink = head->Blink;
    head->Blink->Flink = entry;
    head->Blink = entry;
}

#define MSR_APIC_BASE 0x1b
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_SFMASK 0xc0000084
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_GS_SWAP 0xc0000102

static inline ULONG64 __readmsr(ULONG number) {
    ULONG low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(number));
    return (ULONG64)high << 32 | low;
}
static inline void __writemsr(ULONG number, ULONG64 value) {
    __asm__ volatile("wrmsr" : : "c"(number), "a"((ULONG)value), "d"((ULONG)(value >> 32)) : "memory");
}
#define CONTROL_REGISTER(n)                                                                                            \
    static inline ULONG_PTR __readcr##n(void) {                                                                        \
        ULONG_PTR value;                                                                                                 \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(value));                                                          \
        return value;                                                                                                  \
    }                                                                                                                  \
    static inline void __writecr##n(ULONG_PTR value) { __asm__ volatile("mov %0, %%cr" #n : : "r"(value) : "memory"); }
CONTROL_REGISTER(0)
CONTROL_REGISTER(2)
CONTROL_REGISTER(3)
CONTROL_REGISTER(4)
#ifdef NT_X64
CONTROL_REGISTER(8)
#endif
#define DEBUG_REGISTER(n)                                                                                              \
    static inline ULONG_PTR __readdr##n(void) {                                                                        \
        ULONG_PTR value;                                                                                                 \
        __asm__ volatile("mov %%dr" #n ", %0" : "=r"(value));                                                          \
        return value;                                                                                                  \
    }
DEBUG_REGISTER(0)
DEBUG_REGISTER(1)
DEBUG_REGISTER(2)
DEBUG_REGISTER(3)
DEBUG_REGISTER(6)
DEBUG_REGISTER(7)
static inline ULONG_PTR ReadFlags(void) {
    ULONG_PTR value;
    __asm__ volatile("pushf; pop %0" : "=r"(value));
    return value;
}
static inline void InvalidatePage(const void *address) {
    __asm__ volatile("invlpg (%0)" : : "r"(address) : "memory");
}
static inline ULONG64 ReadTimeStampCounter(void) {
    ULONG low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (ULONG64)high << 32 | low;
}

static inline void DisableInterrupts(void) { __asm__ volatile("cli" : : : "memory"); }
static inline void EnableInterrupts(void) { __asm__ volatile("sti" : : : "memory"); }
static inline void Pause(void) { __asm__ volatile("pause"); }
static inline UCHAR ReadPort(USHORT port) {
    UCHAR value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
static inline void WritePort(USHORT port, UCHAR value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void CpuId(ULONG leaf, ULONG out[4]) {
    __asm__ volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "a"(leaf), "c"(0));
}

#define FENCE() __asm__ volatile("" : : : "memory")

void *memcpy(void *to, const void *from, ULONG_PTR length);
void *memset(void *to, int value, ULONG_PTR length);
int memcmp(const void *one, const void *other, ULONG_PTR length);
