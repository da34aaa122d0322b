/* Local APICs (x2APIC by MSR where the CPU has it, else the page at FEE00000) and the I/O APIC. SDM vol. 3A, chapter 11. */
#define HAL_BUILD
#include "hal.h"

#define APIC_ID 0x20
#define APIC_TPR 0x80
#define APIC_EOI 0xb0
#define APIC_SPURIOUS 0xf0
#define APIC_ICR 0x300
#define APIC_ICR_HIGH 0x310
#define APIC_LVT_TIMER 0x320
#define APIC_LVT_LINT0 0x350
#define APIC_TIMER_INITIAL 0x380
#define APIC_TIMER_DIVIDE 0x3e0
#define ICR_NMI 0x400
#define ICR_INIT 0x500
#define ICR_STARTUP 0x600
#define ICR_ASSERT 0x4000
#define ICR_PENDING 0x1000
#define ICR_SELF 0x40000
#define ICR_OTHERS 0xc0000
#define TIMER_PERIODIC 0x20000
#define MASKED 0x10000

#define SERIAL_IRQ 4

static volatile UCHAR *ApicRegisters;
static volatile ULONG *IoApic;
static BOOLEAN X2Apic, Enabled;

static ULONG ReadApic(ULONG offset) {
    if (X2Apic) return (ULONG)__readmsr(0x800 + (offset >> 4));
    return *(volatile ULONG *)(ApicRegisters + offset);
}

static void WriteApic(ULONG offset, ULONG value) {
    if (X2Apic)
        __writemsr(0x800 + (offset >> 4), value);
    else
        *(volatile ULONG *)(ApicRegisters + offset) = value;
}

static void SendIpi(ULONG apic_id, ULONG command) {
    if (X2Apic) {
        __writemsr(0x800 + (APIC_ICR >> 4), (ULONG64)apic_id << 32 | command);
        return;
    }
    WriteApic(APIC_ICR_HIGH, apic_id << 24);
    WriteApic(APIC_ICR, command);
    while (ReadApic(APIC_ICR) & ICR_PENDING) Pause();
}

static ULONG ReadIoApic(ULONG index) {
    IoApic[0] = index;
    return IoApic[4];
}

static void WriteIoApic(ULONG index, ULONG value) {
    IoApic[0] = index;
    IoApic[4] = value;
}

BOOLEAN HalInitSystem(ULONG phase, PVOID (*map)(ULONG64 physical, ULONG pages)) {
    ULONG out[4];
    ULONG pin;
    (void)phase;
    CpuId(1, out);
    X2Apic = (out[2] >> 21) & 1;
    if (!X2Apic) ApicRegisters = map(__readmsr(MSR_APIC_BASE) & 0xffffff000ULL, 1);
    IoApic = map(0xfec00000, 1);
    /* Both 8259s masked: everything comes through the I/O APIC. */
    WritePort(0x20, 0x11);
    WritePort(0x21, 0x70);
    WritePort(0x21, 4);
    WritePort(0x21, 1);
    WritePort(0xa0, 0x11);
    WritePort(0xa1, 0x78);
    WritePort(0xa1, 2);
    WritePort(0xa1, 1);
    WritePort(0x21, 0xff);
    WritePort(0xa1, 0xff);
    for (pin = 0; pin <= ((ReadIoApic(1) >> 16) & 0xff); pin++) WriteIoApic(0x10 + 2 * pin, MASKED);
    return TRUE;
}

void HalInitializeProcessor(ULONG number) {
    ULONG64 base = __readmsr(MSR_APIC_BASE);
    (void)number;
    __writemsr(MSR_APIC_BASE, base | 0x800 | (X2Apic ? 0x400 : 0));
    WriteApic(APIC_LVT_LINT0, MASKED);
    WriteApic(APIC_LVT_TIMER, MASKED);
    WriteApic(APIC_SPURIOUS, 0x100 | VECTOR_SPURIOUS);
    Enabled = TRUE;
}

ULONG HalGetApicId(void) { return X2Apic ? ReadApic(APIC_ID) : ReadApic(APIC_ID) >> 24; }

void HalStartClock(ULONG64 period) {
    WriteApic(APIC_TIMER_DIVIDE, 0xb);
    WriteApic(APIC_LVT_TIMER, TIMER_PERIODIC | VECTOR_CLOCK);
    WriteApic(APIC_TIMER_INITIAL, (ULONG)period);
}

void HalSetTaskPriority(ULONG priority) {
    if (Enabled) WriteApic(APIC_TPR, priority);
}

void HalEndOfInterrupt(void) { WriteApic(APIC_EOI, 0); }

void HalRequestIpi(ULONG apic_id, BOOLEAN all, ULONG vector) {
    SendIpi(apic_id, vector | ICR_ASSERT | (all ? ICR_OTHERS : 0));
}

void HalSendNmi(ULONG apic_id) { SendIpi(apic_id, ICR_NMI | ICR_ASSERT); }

void HalStartProcessor(ULONG apic_id, ULONG page) {
    SendIpi(apic_id, ICR_INIT | ICR_ASSERT);
    SendIpi(apic_id, ICR_STARTUP | ICR_ASSERT | page);
}

void HalRequestSoftwareInterrupt(KIRQL level) {
    SendIpi(0, (ULONG)(level == APC_LEVEL ? VECTOR_APC : VECTOR_DISPATCH) | ICR_ASSERT | ICR_SELF);
}

void HalEnableSerialInterrupt(void) {
    WriteIoApic(0x10 + 2 * SERIAL_IRQ + 1, HalGetApicId() << 24);
    WriteIoApic(0x10 + 2 * SERIAL_IRQ, VECTOR_SERIAL);
    /* Received data raises the interrupt; OUT2 connects it. */
    WritePort(0x3f8 + 4, 0x0b);
    WritePort(0x3f8 + 1, 1);
}
