// A tiny image in the shape of a kernel, for the tests of PDB and PE files.
//
// sample.exe and sample.pdb are made from it, with clang 14 and lld 14:
//   clang --target=x86_64-pc-windows-msvc -O1 -g -gcodeview -ffreestanding -c sample.c -o sample.o
//   lld-link /dll /noentry /nodefaultlib /subsystem:native /debug /pdb:sample.pdb /pdbaltpath:sample.pdb
//     /brepro /export:NtBuildNumber,DATA /export:KeTick /export:KeAlpha /out:sample.exe sample.o

typedef struct _LIST_ENTRY {
    struct _LIST_ENTRY *Flink, *Blink;
} LIST_ENTRY;

typedef union _TICKS {
    unsigned long long Whole;
    unsigned int Halves[2];
} TICKS;

typedef struct _EPROCESS {
    char Header[24];
    unsigned long long DirectoryTableBase;
    void *UniqueProcessId;
    LIST_ENTRY ActiveProcessLinks;
    unsigned Flags : 3;
    unsigned MoreFlags : 5;
    TICKS CreateTime;
    unsigned char ImageFileName[15];
} EPROCESS;

unsigned NtBuildNumber = 0xf0004a61;
EPROCESS PsSystem = { .UniqueProcessId = (void *)4, .ImageFileName = "System" };
static volatile int KiHidden = 7;

int KeTick(EPROCESS *process) {
    process->CreateTime.Whole += KiHidden;
    return process->Flags;
}

static __attribute__((noinline)) int KiPrivate(int value) {
    return value * KiHidden;
}

int KeAlpha(int value) {
    return KiPrivate(value) + 1;
}
