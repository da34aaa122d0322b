//! The machine around the CPUs: one plain value that the engine asks and tells the time.
//!
//! ```text
//!  engine ── port_read/write ──┬─► UART ×2 ─┐
//!    │                         ├─► PIT ─────┤ ISA lines
//!    │                         ├─► RTC ─────┼──────────► 8259 pair ──┐ INTR
//!    │                         ├─► PM block ┘     └────► I/O APIC ─┐ │
//!    │                         └─► reset ports, pvpanic ──► Signal │ │
//!    ├── mmio_read/write, apic_msr_read/write ───────────────────► local APICs
//!    │                                                                │
//!    ├◄─ interrupt_pending, acknowledge_interrupt ◄───────────────────┤
//!    ├◄─ take_signals: NMI, INIT, SIPI, reset, power-off, panic ◄─────┘
//!    └── advance(now) when next_deadline() comes
//! ```
//!
//! Everything here is data: [`Platform`] is cloned to fork a domain and serialised to save one. There are no threads,
//! no host clock and no I/O, so the same calls at the same [`Ticks`] give the same state. A device computes its
//! counters from the time of the question and names the tick at which it has something to do next.
//!
//! There is no PCI bus, HPET, VGA, keyboard controller or DMA: ports that nobody claims read all ones.

mod acpi;
mod clock;
mod interrupts;
mod ioapic;
mod lapic;
mod pic;
mod pit;
mod power;
mod rtc;
mod uart;

pub use uart::{INPUT_LIMIT, OUTPUT_LIMIT};

use crate::addr::{GuestPhysAddr, Ticks, VcpuId};
use interrupts::Interrupts;
use pit::Pit;
use power::Power;
pub(crate) use power::RESET_CONTROL;
use rtc::Rtc;
use serde::{Deserialize, Serialize};
use uart::Uart;

/// The most vCPUs a platform can have.
pub const MAX_VCPUS: u32 = 1024;

/// IA32_APIC_BASE.
const MSR_APIC_BASE: u32 = 0x1b;
/// IA32_TSC_DEADLINE.
const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// The first x2APIC MSR.
const MSR_X2APIC: u32 = 0x800;

const RTC_IRQ: u8 = 8;
/// First port and interrupt of COM1 and COM2.
const UARTS: [(u16, u8); 2] = [(0x3f8, 4), (0x2f8, 3)];

/// What a platform is made of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlatformConfig {
    /// How many vCPUs: 1 to [`MAX_VCPUS`]; other numbers are brought into that range.
    pub vcpus: u32,
    /// The rate of the TSC and of the local APIC timers. Brought down to a multiple of [`Ticks::PER_SECOND`], and
    /// no less than that.
    pub tsc_hz: u64,
    /// A port that ends the domain with the value written to it.
    pub debug_exit: Option<u16>,
    /// What the real-time clock shows at tick 0, in seconds since 1970.
    pub rtc_epoch_seconds: u64,
    /// Whether there are ACPI tables.
    pub acpi: bool,
}

/// Something that the engine has to act on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Signal {
    /// Deliver an NMI to the vCPU.
    Nmi(VcpuId),
    /// Put the vCPU into the state after INIT; its local APIC is there already.
    Init(VcpuId),
    /// A start-up IPI: if the vCPU waits for one, it starts at the vector's page.
    StartUp(VcpuId, u8),
    /// The guest asks for a machine reset through the reset control register.
    Reset,
    /// The guest powered itself off.
    PowerOff,
    /// The guest reports a panic through pvpanic.
    Panic,
    /// The guest wrote this value to the debug-exit port.
    DebugExit(u32),
    /// The guest asks for a machine reset through this other port.
    ResetBy(u16),
    /// The guest reports through pvpanic that it panicked and starts its crash kernel.
    CrashKernel,
    /// The vCPU wrote to the Microsoft interface that the guest crashed; what it said is kept there.
    GuestCrash(VcpuId),
}

/// All devices of one machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Platform {
    config: PlatformConfig,
    interrupts: Interrupts,
    uarts: [Uart; 2],
    pit: Pit,
    rtc: Rtc,
    power: Power,
    /// The earliest deadline of all devices.
    deadline: Ticks,
}

impl Platform {
    /// A machine that was just switched on.
    pub fn new(config: &PlatformConfig) -> Platform {
        let tsc_per_tick = (config.tsc_hz / Ticks::PER_SECOND).max(1);
        let config = PlatformConfig {
            vcpus: config.vcpus.clamp(1, MAX_VCPUS),
            tsc_hz: tsc_per_tick * Ticks::PER_SECOND,
            ..config.clone()
        };
        Platform {
            interrupts: Interrupts::new(config.vcpus, tsc_per_tick),
            uarts: [Uart::new(), Uart::new()],
            pit: Pit::new(),
            rtc: Rtc::new(config.rtc_epoch_seconds),
            power: Power::new(),
            deadline: Ticks::NEVER,
            config,
        }
    }

    /// Whether a state that was read from a file is one that the devices of such a machine can be in.
    pub fn is_sound(&self, config: &PlatformConfig) -> bool {
        self.config == Platform::new(config).config
            && self.interrupts.is_sound(self.config.vcpus, self.tsc_per_tick())
            && self.pit.is_sound()
            && self.rtc.is_sound()
    }

    /// A machine reset. Virtual time, the date, the CMOS RAM and waiting console input go on.
    pub fn reset(&mut self) {
        self.interrupts = Interrupts::new(self.config.vcpus, self.tsc_per_tick());
        self.pit = Pit::new();
        self.rtc.reset();
        self.power.reset();
        self.uarts.iter_mut().for_each(Uart::reset);
        self.find_deadline();
    }

    /// The configuration in force.
    pub fn config(&self) -> &PlatformConfig {
        &self.config
    }

    fn tsc_per_tick(&self) -> u64 {
        self.config.tsc_hz / Ticks::PER_SECOND
    }

    /// The time-stamp counter at `now`, the same on every vCPU.
    pub fn tsc(&self, now: Ticks) -> u64 {
        now.0.wrapping_mul(self.tsc_per_tick())
    }

    // ---- ports ----

    /// IN of `size` (1, 2 or 4) bytes. A wide access is one byte access after the other, as on the ISA bus.
    pub fn port_read(&mut self, now: Ticks, vcpu: VcpuId, port: u16, size: u8) -> u32 {
        let _ = vcpu;
        (0..u16::from(size.clamp(1, 4))).fold(0, |value, i| {
            let byte = match port.checked_add(i) {
                // The PCI configuration ports are 32 bits wide, and a byte of them is reset control.
                Some(port) if size == 1 || !(0xcf8..0xd00).contains(&port) => self.read_byte(now, port),
                _ => 0xff,
            };
            value | u32::from(byte) << (8 * i)
        })
    }

    /// OUT of `size` (1, 2 or 4) bytes.
    pub fn port_write(&mut self, now: Ticks, vcpu: VcpuId, port: u16, size: u8, value: u32) {
        let _ = vcpu;
        let size = size.clamp(1, 4);
        if self.config.debug_exit == Some(port) {
            let mask = u32::MAX >> (32 - 8 * u32::from(size));
            self.interrupts.signals.push(Signal::DebugExit(value & mask));
            return;
        }
        if size > 1 && (0xcf8..0xd00).contains(&port) {
            return;
        }
        for i in 0..u16::from(size) {
            if let Some(port) = port.checked_add(i) {
                self.write_byte(now, port, (value >> (8 * i)) as u8);
            }
        }
    }

    fn uart_at(port: u16) -> Option<usize> {
        UARTS.iter().position(|(base, _)| port & !7 == *base)
    }

    fn read_byte(&mut self, now: Ticks, port: u16) -> u8 {
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 => {
                let value = self.interrupts.pic.read(port);
                self.interrupts.pic_changed();
                value
            }
            0x40..=0x43 => {
                self.run_pit(now);
                self.pit.read(now, port)
            }
            0x61 => self.pit.read_port_61(now),
            0x70 | 0x71 => {
                let value = self.rtc.read(now, port);
                self.rtc_changed();
                value
            }
            0x4d0 | 0x4d1 => self.interrupts.pic.read_elcr(port),
            _ => match Self::uart_at(port) {
                Some(index) => {
                    let value = self.uarts[index].read(port & 7);
                    self.uart_changed(index);
                    value
                }
                None => self.power.read(now, port).unwrap_or(0xff),
            },
        }
    }

    fn write_byte(&mut self, now: Ticks, port: u16, value: u8) {
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 => {
                self.interrupts.pic.write(port, value);
                self.interrupts.pic_changed();
            }
            0x40..=0x43 => {
                self.run_pit(now);
                self.pit.write(now, port, value);
                self.run_pit(now);
            }
            0x61 => self.pit.write_port_61(now, value),
            0x70 | 0x71 => {
                self.rtc.write(now, port, value);
                self.rtc_changed();
            }
            0x4d0 | 0x4d1 => {
                self.interrupts.pic.write_elcr(port, value);
                self.interrupts.pic_changed();
            }
            _ => match Self::uart_at(port) {
                Some(index) => {
                    self.uarts[index].write(port & 7, value);
                    self.uart_changed(index);
                }
                None => {
                    let signal = self.power.write(now, port, value);
                    self.interrupts.signals.extend(signal);
                    self.run_power(now);
                }
            },
        }
    }

    fn uart_changed(&mut self, index: usize) {
        self.interrupts
            .set_irq(UARTS[index].1, self.uarts[index].interrupt_line());
    }

    fn rtc_changed(&mut self) {
        self.interrupts.set_irq(RTC_IRQ, self.rtc.interrupt_line());
        self.find_deadline();
    }

    fn run_pit(&mut self, now: Ticks) {
        let irq = self.pit.advance(now);
        if irq.rose {
            self.interrupts.pulse_irq(0);
        }
        self.interrupts.set_irq(0, irq.level);
        self.find_deadline();
    }

    fn run_power(&mut self, now: Ticks) {
        let line = self.power.advance(now);
        self.interrupts.set_irq(power::SCI_IRQ, line);
        self.find_deadline();
    }

    // ---- memory-mapped registers and MSRs ----

    /// Whether `addr` is in the I/O APIC's page or in the local APICs' page at its default place. A vCPU whose
    /// [`Self::apic_base`] is elsewhere is the caller's affair.
    #[inline]
    pub fn is_mmio(&self, addr: GuestPhysAddr) -> bool {
        matches!(addr.0 & !0xfff, ioapic::BASE | lapic::DEFAULT_BASE)
    }

    /// A read of `size` bytes: in the I/O APIC's page, or else in the page of the vCPU's own local APIC.
    pub fn mmio_read(&mut self, now: Ticks, vcpu: VcpuId, addr: GuestPhysAddr, size: u8) -> u64 {
        if addr.0 & !0xfff == ioapic::BASE {
            let value = u64::from(self.interrupts.ioapic.read(addr.0 & 0xfff));
            return value & (u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8))));
        }
        let value = self.interrupts.lapics[vcpu.index()].mmio_read(now, addr.0 & 0xfff, size);
        self.find_deadline();
        value
    }

    /// A write of `size` bytes.
    pub fn mmio_write(&mut self, now: Ticks, vcpu: VcpuId, addr: GuestPhysAddr, size: u8, value: u64) {
        if addr.0 & !0xfff == ioapic::BASE {
            self.interrupts.ioapic.write(addr.0 & 0xfff, value as u32);
            self.interrupts.send_due_pins();
            return;
        }
        let effect = self.interrupts.lapics[vcpu.index()].mmio_write(now, addr.0 & 0xfff, size, value);
        self.interrupts.carry_out(vcpu, effect);
        self.find_deadline();
    }

    /// RDMSR of an x2APIC register (0x800 to 0x8ff), IA32_TSC_DEADLINE or IA32_APIC_BASE. `None` is #GP.
    pub fn apic_msr_read(&mut self, now: Ticks, vcpu: VcpuId, msr: u32) -> Option<u64> {
        let apic = &mut self.interrupts.lapics[vcpu.index()];
        let value = match msr {
            MSR_APIC_BASE => Some(apic.base()),
            MSR_TSC_DEADLINE => {
                apic.advance(now);
                Some(apic.tsc_deadline())
            }
            MSR_X2APIC..=0x8ff => apic.msr_read(now, msr - MSR_X2APIC),
            _ => None,
        };
        self.find_deadline();
        value
    }

    /// WRMSR of the same MSRs. `None` is #GP.
    pub fn apic_msr_write(&mut self, now: Ticks, vcpu: VcpuId, msr: u32, value: u64) -> Option<()> {
        let apic = &mut self.interrupts.lapics[vcpu.index()];
        let done = match msr {
            MSR_APIC_BASE => {
                apic.advance(now);
                apic.set_base(value)
            }
            MSR_TSC_DEADLINE => {
                apic.set_tsc_deadline(now, value);
                Some(())
            }
            MSR_X2APIC..=0x8ff => apic
                .msr_write(now, msr - MSR_X2APIC, value)
                .map(|effect| self.interrupts.carry_out(vcpu, effect)),
            _ => None,
        };
        self.find_deadline();
        done
    }

    /// Whether an interrupt line is wired so that it reaches a vCPU whose interrupts are off.
    pub fn has_nmi_source(&self) -> bool {
        self.interrupts.has_nmi_source()
    }

    /// Asks the machine to tell that the guest reports a crash.
    pub(crate) fn report_guest_crash(&mut self, vcpu: VcpuId) {
        self.interrupts.signals.push(Signal::GuestCrash(vcpu));
    }

    /// CR8: bits 7:4 of the vCPU's task priority.
    pub fn cr8(&self, vcpu: VcpuId) -> u64 {
        (self.interrupts.lapics[vcpu.index()].tpr() >> 4).into()
    }

    /// Writes CR8. Bits 63:4 are reserved: the caller raises #GP for them.
    pub fn set_cr8(&mut self, vcpu: VcpuId, value: u64) {
        self.interrupts.lapics[vcpu.index()].set_tpr(((value & 0xf) as u8) << 4);
    }

    /// The vCPU's IA32_APIC_BASE.
    pub fn apic_base(&self, vcpu: VcpuId) -> u64 {
        self.interrupts.lapics[vcpu.index()].base()
    }

    // ---- time ----

    /// The earliest tick at which [`Self::advance`] has something to do; [`Ticks::NEVER`] if there is none.
    #[inline]
    pub fn next_deadline(&self) -> Ticks {
        self.deadline
    }

    fn find_deadline(&mut self) {
        self.deadline = self
            .interrupts
            .deadline()
            .min(self.pit.deadline())
            .min(self.rtc.deadline())
            .min(self.power.deadline());
    }

    /// Does everything that is due at or before `now`. It may be called late: periodic timers keep their phase, and
    /// what they missed is one interrupt.
    pub fn advance(&mut self, now: Ticks) {
        if now < self.deadline {
            return;
        }
        self.interrupts.advance(now);
        if self.pit.deadline() <= now {
            self.run_pit(now);
        }
        if self.rtc.deadline() <= now {
            self.rtc.advance(now);
            self.rtc_changed();
        }
        if self.power.deadline() <= now {
            self.run_power(now);
        }
        self.find_deadline();
    }

    // ---- interrupts ----

    /// Whether the vCPU would accept an interrupt now, if RFLAGS.IF lets it.
    #[inline]
    pub fn interrupt_pending(&self, vcpu: VcpuId) -> bool {
        self.interrupts.lapics[vcpu.index()].is_pending()
    }

    /// The vCPU acknowledges its interrupt: the vector, which is in service from now on.
    pub fn acknowledge_interrupt(&mut self, vcpu: VcpuId) -> Option<u8> {
        self.interrupts.acknowledge(vcpu)
    }

    /// Pulses LINT1 of every vCPU, where a PC has its NMI button: whether that is an NMI is the guest's LVT1 setting.
    pub fn press_nmi_button(&mut self) {
        for index in 0..self.interrupts.lapics.len() {
            let effect = self.interrupts.lapics[index].pulse_lint1();
            self.interrupts.carry_out(VcpuId(index as u32), effect);
        }
    }

    /// Whether [`Self::take_signals`] has any. Look after every access and after [`Self::advance`].
    #[inline]
    pub fn has_signals(&self) -> bool {
        !self.interrupts.signals.is_empty()
    }

    /// Takes the signals in the order they came.
    pub fn take_signals(&mut self) -> Vec<Signal> {
        std::mem::take(&mut self.interrupts.signals)
    }

    // ---- console ----

    /// Queues input for a UART (0 is COM1, 1 is COM2). Returns how many bytes were accepted: the queue holds
    /// [`INPUT_LIMIT`], and what comes when it is full is not taken.
    pub fn console_input(&mut self, port: usize, bytes: &[u8]) -> usize {
        let Some(uart) = self.uarts.get_mut(port) else {
            return 0;
        };
        let accepted = uart.input(bytes);
        self.uart_changed(port);
        accepted
    }

    /// Takes what the guest wrote to a UART. Output isn't part of a saved state: take it before saving.
    pub fn take_console_output(&mut self, port: usize) -> Vec<u8> {
        self.uarts
            .get_mut(port)
            .map(Uart::take_output)
            .unwrap_or_default()
    }

    /// Whether there is output of any UART.
    #[inline]
    pub fn has_console_output(&self) -> bool {
        self.uarts.iter().any(Uart::has_output)
    }

    // ---- descriptions ----

    /// The ACPI tables, to be written to guest memory; none if the configuration says so.
    pub fn acpi_tables(&self) -> Vec<(GuestPhysAddr, Vec<u8>)> {
        if self.config.acpi {
            acpi::tables(self.config.vcpus)
        } else {
            Vec::new()
        }
    }

    /// Where the RSDP is among them.
    pub fn rsdp_address(&self) -> GuestPhysAddr {
        acpi::RSDP_ADDRESS
    }

    /// The state of the interrupt controllers in lines for a person.
    pub fn describe_interrupts(&self) -> String {
        let mut text: String = self
            .interrupts
            .lapics
            .iter()
            .map(|apic| apic.describe())
            .collect();
        text += &self.interrupts.ioapic.describe();
        text += &self.interrupts.pic.describe();
        text
    }

    /// The state of the other devices in lines for a person.
    pub fn describe_devices(&self) -> String {
        let mut text = self.pit.describe();
        text += &self.rtc.describe();
        text += &self.uarts[0].describe("COM1");
        text += &self.uarts[1].describe("COM2");
        text
    }
}

#[cfg(test)]
mod tests;
