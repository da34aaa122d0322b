//! How a guest resets, powers off or reports its end: ACPI fixed hardware, the PC's reset ports, pvpanic, debug exit.

use super::Signal;
use super::clock::{cycles_at, first_tick_at};
use crate::addr::Ticks;
use serde::{Deserialize, Serialize};

/// PM1a event block: status and enable, 2 bytes each.
pub(super) const PM1_EVENT: u16 = 0x600;
/// PM1a control block, 2 bytes.
pub(super) const PM1_CONTROL: u16 = 0x604;
/// The power management timer, 4 bytes.
pub(super) const PM_TIMER: u16 = 0x608;
/// Its rate.
pub(super) const PM_TIMER_HZ: u64 = 3_579_545;
/// The interrupt of the fixed hardware.
pub(super) const SCI_IRQ: u8 = 9;
/// The sleep type of \_S5.
pub(super) const S5_SLEEP_TYPE: u8 = 5;
/// The reset control register.
pub(crate) const RESET_CONTROL: u16 = 0xcf9;
/// What resets the machine when written to it: a full reset.
pub(super) const RESET_VALUE: u8 = 6;
/// The pvpanic device.
pub(super) const PVPANIC: u16 = 0x505;
/// The i8042's command port; only its reset line is here.
pub(super) const I8042_COMMAND: u16 = 0x64;
/// System control port A.
pub(super) const PORT_92: u16 = 0x92;

/// PM1 status and enable: the timer's top bit toggled. The only event that this machine has.
const PM1_TIMER: u16 = 1 << 0;
/// Enable bits that exist: timer, global lock, power and sleep button, RTC.
const PM1_ENABLE_WRITABLE: u16 = 0x0721;
/// SCI_EN: always in ACPI mode, as there is no SMI command port to leave it by.
const PM1_SCI_ENABLED: u16 = 1 << 0;
/// Control bits that stay as written: BM_RLD and SLP_TYP. GBL_RLS and SLP_EN read as 0.
const PM1_CONTROL_WRITABLE: u16 = 0x1c02;
const PM1_SLEEP_ENABLE_HIGH: u8 = 0x20;

/// The guest panicked.
const PVPANIC_PANICKED: u8 = 1;
/// It panicked and starts its crash kernel: it goes on.
const PVPANIC_CRASH_LOADED: u8 = 2;

/// State of all of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Power {
    pm1_enable: u16,
    pm1_control: u16,
    /// How often the timer's top bit had toggled when the guest last cleared its status.
    toggles_seen: u64,
    port_92: u8,
    reset_control: u8,
    deadline: Ticks,
}

impl Power {
    pub(super) fn new() -> Self {
        Power {
            pm1_enable: 0,
            pm1_control: 0,
            toggles_seen: 0,
            // A20 is open.
            port_92: 2,
            reset_control: 0,
            deadline: Ticks::NEVER,
        }
    }

    /// A machine reset; the timer runs on.
    pub(super) fn reset(&mut self) {
        *self = Power {
            toggles_seen: self.toggles_seen,
            ..Power::new()
        };
    }

    /// When the SCI line changes next by itself.
    pub(super) fn deadline(&self) -> Ticks {
        self.deadline
    }

    fn toggles(now: Ticks) -> u64 {
        cycles_at(now, PM_TIMER_HZ) >> 31
    }

    fn pm1_status(&self, now: Ticks) -> u16 {
        if Self::toggles(now) != self.toggles_seen {
            PM1_TIMER
        } else {
            0
        }
    }

    /// The SCI line at `now`; also finds the next deadline.
    pub(super) fn advance(&mut self, now: Ticks) -> bool {
        let enabled = self.pm1_enable & PM1_TIMER != 0;
        let line = enabled && self.pm1_status(now) != 0;
        self.deadline = if enabled && !line {
            first_tick_at(
                Self::toggles(now).saturating_add(1).saturating_mul(1 << 31),
                PM_TIMER_HZ,
            )
        } else {
            Ticks::NEVER
        };
        line
    }

    /// Reads one byte of the PM1 blocks or the timer; `None` if `port` is none of theirs.
    pub(super) fn read(&self, now: Ticks, port: u16) -> Option<u8> {
        let byte = |value: u32, base: u16| (value >> (8 * (port - base))) as u8;
        Some(match port {
            0x600..0x602 => byte(self.pm1_status(now).into(), PM1_EVENT),
            0x602..0x604 => byte(self.pm1_enable.into(), PM1_EVENT + 2),
            0x604..0x606 => byte((self.pm1_control | PM1_SCI_ENABLED).into(), PM1_CONTROL),
            0x608..0x60c => byte(cycles_at(now, PM_TIMER_HZ) as u32, PM_TIMER),
            // Status: both buffers empty, and no more than that is there.
            I8042_COMMAND => 0,
            PORT_92 => self.port_92,
            // The events that are understood; a driver tells no others.
            PVPANIC => PVPANIC_PANICKED | PVPANIC_CRASH_LOADED,
            RESET_CONTROL => self.reset_control,
            _ => return None,
        })
    }

    /// Writes one byte. Sets off at most one signal.
    pub(super) fn write(&mut self, now: Ticks, port: u16, value: u8) -> Option<Signal> {
        let merge = |old: u16, base: u16| {
            let shift = 8 * (port - base);
            (old & !(0xff << shift)) | u16::from(value) << shift
        };
        match port {
            0x600 if u16::from(value) & PM1_TIMER != 0 => self.toggles_seen = Self::toggles(now),
            0x602..0x604 => self.pm1_enable = merge(self.pm1_enable, PM1_EVENT + 2) & PM1_ENABLE_WRITABLE,
            0x604..0x606 => {
                self.pm1_control = merge(self.pm1_control, PM1_CONTROL) & PM1_CONTROL_WRITABLE;
                let sleep = port == PM1_CONTROL + 1 && value & PM1_SLEEP_ENABLE_HIGH != 0;
                if sleep && value >> 2 & 7 == S5_SLEEP_TYPE {
                    return Some(Signal::PowerOff);
                }
            }
            // Pulse output line 0, which is the processor's reset.
            I8042_COMMAND if value == 0xfe => return Some(Signal::ResetBy(port)),
            PORT_92 => {
                let rising = value & !self.port_92 & 1 != 0;
                self.port_92 = value & 3;
                return rising.then_some(Signal::ResetBy(port));
            }
            PVPANIC if value & PVPANIC_PANICKED != 0 => return Some(Signal::Panic),
            PVPANIC if value & PVPANIC_CRASH_LOADED != 0 => return Some(Signal::CrashKernel),
            RESET_CONTROL => {
                self.reset_control = value & 0x0a;
                return (value & 4 != 0).then_some(Signal::Reset);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Ticks = Ticks(12_345);

    #[test]
    fn sleep_type_5_powers_off_and_others_do_not() {
        let mut power = Power::new();
        assert_eq!(power.write(NOW, 0x605, 5 << 2), None, "no SLP_EN");
        assert_eq!(power.write(NOW, 0x605, 0x20 | 3 << 2), None);
        assert_eq!(power.write(NOW, 0x605, 0x20 | 5 << 2), Some(Signal::PowerOff));
        assert_eq!(power.read(NOW, 0x604), Some(1), "SCI_EN");
        assert_eq!(power.read(NOW, 0x605), Some(5 << 2), "SLP_EN reads 0");
    }

    #[test]
    fn every_reset_port_resets() {
        let mut power = Power::new();
        assert_eq!(power.write(NOW, 0x64, 0xfe), Some(Signal::ResetBy(0x64)));
        assert_eq!(power.write(NOW, 0x64, 0xae), None);
        assert_eq!(power.write(NOW, 0xcf9, 6), Some(Signal::Reset));
        assert_eq!(power.write(NOW, 0xcf9, 2), None);
        assert_eq!(power.write(NOW, 0x92, 2), None, "A20 only");
        assert_eq!(power.write(NOW, 0x92, 3), Some(Signal::ResetBy(0x92)));
    }

    #[test]
    fn a_panic_ends_the_machine_but_not_one_that_a_crash_kernel_follows() {
        let mut power = Power::new();
        assert_eq!(power.read(NOW, 0x505), Some(3), "both events are offered");
        assert_eq!(power.write(NOW, 0x505, 1), Some(Signal::Panic));
        assert_eq!(power.write(NOW, 0x505, 2), Some(Signal::CrashKernel));
        assert_eq!(power.write(NOW, 0x505, 3), Some(Signal::Panic));
        assert_eq!(power.write(NOW, 0x505, 4), None);
    }

    #[test]
    fn the_pm_timer_runs_at_its_rate() {
        let power = Power::new();
        let bytes =
            [0x608, 0x609, 0x60a, 0x60b].map(|port| power.read(Ticks(Ticks::PER_SECOND), port).unwrap());
        assert_eq!(u32::from_le_bytes(bytes), 3_579_545);
    }

    #[test]
    fn the_timer_event_raises_the_sci_when_the_top_bit_toggles() {
        let mut power = Power::new();
        assert_eq!(power.deadline(), Ticks::NEVER);
        power.write(NOW, 0x602, 1);
        assert!(!power.advance(NOW));
        let toggle = power.deadline();
        assert_eq!(toggle, first_tick_at(1 << 31, PM_TIMER_HZ));
        assert!(power.advance(toggle));
        assert_eq!(power.read(toggle, 0x600), Some(1));
        power.write(toggle, 0x600, 1);
        assert!(!power.advance(toggle));
        assert_eq!(power.deadline(), first_tick_at(2 << 31, PM_TIMER_HZ));
    }
}
