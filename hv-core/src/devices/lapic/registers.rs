//! The local APIC's registers, as the xAPIC page and as x2APIC MSRs (SDM vol. 3A tables 11-1 and 11-6).

use super::timer::TimerMode;
use super::*;

/// Six LVT entries, no EOI-broadcast suppression.
const VERSION: u32 = 0x0005_0014;

/// Register numbers: MMIO offset / 16, or MSR number - 0x800.
mod register {
    pub const ID: u32 = 0x02;
    pub const VERSION: u32 = 0x03;
    pub const TPR: u32 = 0x08;
    pub const APR: u32 = 0x09;
    pub const PPR: u32 = 0x0a;
    pub const EOI: u32 = 0x0b;
    pub const RRD: u32 = 0x0c;
    pub const LDR: u32 = 0x0d;
    pub const DFR: u32 = 0x0e;
    pub const SVR: u32 = 0x0f;
    pub const ISR: u32 = 0x10;
    pub const TMR: u32 = 0x18;
    pub const IRR: u32 = 0x20;
    pub const ESR: u32 = 0x28;
    pub const ICR_LOW: u32 = 0x30;
    pub const ICR_HIGH: u32 = 0x31;
    pub const LVT_TIMER: u32 = 0x32;
    pub const LVT_ERROR: u32 = 0x37;
    pub const INITIAL_COUNT: u32 = 0x38;
    pub const CURRENT_COUNT: u32 = 0x39;
    pub const DIVIDE: u32 = 0x3e;
    pub const SELF_IPI: u32 = 0x3f;
}

/// Writable bits of the LVT entries: timer, thermal, performance counters, LINT0, LINT1, error.
const LVT_WRITABLE: [u32; 6] = [
    0x0007_00ff,
    0x0001_07ff,
    0x0001_07ff,
    0x0001_a7ff,
    0x0001_a7ff,
    0x0001_00ff,
];

const ESR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;

impl LocalApic {
    /// Reads a register; `None` if there is none of that number.
    fn read(&self, now: Ticks, number: u32) -> Option<u32> {
        use register::*;
        Some(match number {
            ID => {
                if self.is_x2apic() {
                    self.id
                } else {
                    self.id << 24
                }
            }
            register::VERSION => self::VERSION,
            TPR => self.tpr.into(),
            APR | RRD => 0,
            PPR => self.ppr().into(),
            EOI => 0,
            LDR => self.logical_id(),
            DFR => self.dfr,
            SVR => self.svr,
            ISR..TMR => self.isr.register(number - ISR),
            TMR..IRR => self.tmr.register(number - TMR),
            IRR..ESR => self.irr.register(number - IRR),
            ESR => self.esr,
            ICR_LOW => self.icr_low,
            ICR_HIGH => self.icr_high,
            LVT_TIMER..=LVT_ERROR => self.lvt[(number - LVT_TIMER) as usize],
            INITIAL_COUNT => self.timer.initial_count(),
            CURRENT_COUNT => self.timer.current_count(now),
            DIVIDE => self.timer.divide(),
            _ => return None,
        })
    }

    /// Writes a register that both modes have; reserved bits are ignored. `None` if there is none of that number.
    fn write(&mut self, now: Ticks, number: u32, value: u32) -> Option<Effect> {
        use register::*;
        match number {
            TPR => self.tpr = value as u8,
            EOI => return Some(self.end_of_interrupt()),
            SVR => {
                self.svr = value & 0x3ff;
                if !self.is_software_enabled() {
                    self.lvt.iter_mut().for_each(|entry| *entry |= LVT_MASKED);
                }
            }
            ESR => self.esr = std::mem::take(&mut self.new_errors),
            LVT_TIMER..=LVT_ERROR => return Some(self.write_lvt((number - LVT_TIMER) as usize, value)),
            INITIAL_COUNT => self.timer.set_initial_count(now, value),
            DIVIDE => self.timer.set_divide(now, value),
            ID | register::VERSION | APR | PPR | RRD | ISR..ESR | CURRENT_COUNT => {}
            _ => return None,
        }
        self.update();
        Some(Effect::None)
    }

    fn write_lvt(&mut self, index: usize, value: u32) -> Effect {
        self.lvt[index] = value & LVT_WRITABLE[index];
        if !self.is_software_enabled() {
            self.lvt[index] |= LVT_MASKED;
        }
        if index == TIMER {
            self.timer.set_mode(match value >> 17 & 3 {
                1 => TimerMode::Periodic,
                2 => TimerMode::TscDeadline,
                _ => TimerMode::OneShot,
            });
        }
        self.update();
        Effect::None
    }

    fn send(&mut self, command: u32, destination: u32, wide: bool) -> Effect {
        let fixed = matches!(
            DeliveryMode::of(command),
            DeliveryMode::Fixed | DeliveryMode::LowestPriority
        );
        if fixed && (command as u8) < 16 {
            self.raise_error(ESR_SEND_ILLEGAL_VECTOR);
            return Effect::None;
        }
        Effect::SendIpi {
            command,
            destination,
            wide,
        }
    }

    /// A read in the xAPIC page. The registers are 32 bits wide at 16-byte steps; what lies between reads 0.
    pub(in crate::devices) fn mmio_read(&mut self, now: Ticks, offset: u64, size: u8) -> u64 {
        let all_ones = u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)));
        if !self.is_enabled() || self.is_x2apic() {
            return all_ones;
        }
        self.advance(now);
        let value = self.read(now, (offset >> 4) as u32).unwrap_or_else(|| {
            self.raise_error(ESR_ILLEGAL_REGISTER);
            0
        });
        let byte = offset as u32 & 0xf;
        if byte < 4 {
            u64::from(value) >> (8 * byte) & all_ones
        } else {
            0
        }
    }

    /// A write in the xAPIC page. Only aligned writes of 32 bits or more do anything.
    pub(in crate::devices) fn mmio_write(&mut self, now: Ticks, offset: u64, size: u8, value: u64) -> Effect {
        use register::*;
        if !self.is_enabled() || self.is_x2apic() || size < 4 || offset & 0xf != 0 {
            return Effect::None;
        }
        self.advance(now);
        let value = value as u32;
        match (offset >> 4) as u32 {
            LDR => {
                self.ldr = value & 0xff00_0000;
                Effect::None
            }
            DFR => {
                self.dfr = value | 0x0fff_ffff;
                Effect::None
            }
            ICR_HIGH => {
                self.icr_high = value & 0xff00_0000;
                Effect::None
            }
            ICR_LOW => {
                self.icr_low = value & 0x000c_cfff;
                self.send(self.icr_low, self.icr_high >> 24, false)
            }
            number => self.write(now, number, value).unwrap_or_else(|| {
                self.raise_error(ESR_ILLEGAL_REGISTER);
                Effect::None
            }),
        }
    }

    /// Reads x2APIC MSR 0x800 + `number`; `None` is #GP.
    pub(in crate::devices) fn msr_read(&mut self, now: Ticks, number: u32) -> Option<u64> {
        use register::*;
        if !self.is_enabled() || !self.is_x2apic() {
            return None;
        }
        self.advance(now);
        match number {
            APR | EOI | RRD | DFR | ICR_HIGH | SELF_IPI => None,
            ICR_LOW => Some(u64::from(self.icr_high) << 32 | u64::from(self.icr_low)),
            _ => self.read(now, number).map(u64::from),
        }
    }

    /// Writes x2APIC MSR 0x800 + `number`; `None` is #GP.
    pub(in crate::devices) fn msr_write(&mut self, now: Ticks, number: u32, value: u64) -> Option<Effect> {
        use register::*;
        if !self.is_enabled() || !self.is_x2apic() {
            return None;
        }
        let allowed = match number {
            TPR | SELF_IPI => 0xff,
            EOI | ESR => 0,
            SVR => 0x3ff,
            // Bit 12, the delivery status, is tolerated as set.
            ICR_LOW => 0xffff_ffff_000c_dfff,
            LVT_TIMER..=LVT_ERROR => {
                // Delivery status and remote IRR are read-only and not reserved.
                u64::from(LVT_WRITABLE[(number - LVT_TIMER) as usize] | 0x1000)
                    | if matches!(number, 0x35 | 0x36) { 0x4000 } else { 0 }
            }
            INITIAL_COUNT => 0xffff_ffff,
            DIVIDE => 0b1011,
            _ => return None,
        };
        if value & !allowed != 0 {
            return None;
        }
        self.advance(now);
        match number {
            ICR_LOW => {
                self.icr_high = (value >> 32) as u32;
                self.icr_low = value as u32 & 0x000c_cfff;
                Some(self.send(self.icr_low, self.icr_high, true))
            }
            SELF_IPI => Some(self.send(value as u32 | 1 << 18, 0, true)),
            _ => self.write(now, number, value as u32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Ticks = Ticks(1000);

    /// An APIC that software has enabled.
    fn apic(id: u32) -> LocalApic {
        let mut apic = LocalApic::new(id, 10);
        apic.mmio_write(NOW, 0xf0, 4, 0x1ff);
        apic
    }

    #[test]
    fn x2apic_mode_has_msrs_with_reserved_bits_and_no_page() {
        let mut apic = apic(0x23);
        assert_eq!(apic.msr_read(NOW, register::ID), None);
        assert_eq!(apic.set_base(DEFAULT_BASE | BASE_EXTD), None);
        apic.set_base(DEFAULT_BASE | BASE_ENABLE | BASE_EXTD).unwrap();
        assert_eq!(apic.mmio_read(NOW, 0x20, 4), 0xffff_ffff);
        assert_eq!(apic.msr_read(NOW, register::ID), Some(0x23));
        assert_eq!(apic.msr_read(NOW, register::LDR), Some(0x2_0008));
        assert!(apic.matches(0x2_0008, true, true));
        assert!(!apic.matches(0x1_0008, true, true));
        assert_eq!(apic.msr_write(NOW, register::EOI, 1), None);
        assert_eq!(apic.msr_write(NOW, register::TPR, 0x100), None);
        assert_eq!(apic.msr_write(NOW, register::ID, 0), None);
        assert_eq!(apic.msr_read(NOW, register::SELF_IPI), None);
        assert_eq!(
            apic.set_base(DEFAULT_BASE | BASE_ENABLE),
            None,
            "x2APIC to xAPIC only through off"
        );
        apic.set_base(DEFAULT_BASE).unwrap();
        apic.set_base(DEFAULT_BASE | BASE_ENABLE).unwrap();
        assert_eq!(apic.mmio_read(NOW, 0xf0, 4), 0xff, "off and on again is a reset");
    }

    #[test]
    fn errors_show_after_the_esr_is_written() {
        let mut apic = apic(1);
        apic.mmio_write(NOW, 0x370, 4, 0xfe);
        apic.mmio_write(NOW, 0x300, 4, 0x0004_0005);
        assert_eq!(apic.acknowledge(), Some(0xfe));
        assert_eq!(apic.mmio_read(NOW, 0x280, 4), 0);
        apic.mmio_write(NOW, 0x280, 4, 0);
        assert_eq!(apic.mmio_read(NOW, 0x280, 4), 0x20);
        apic.mmio_write(NOW, 0x280, 4, 0);
        assert_eq!(apic.mmio_read(NOW, 0x280, 4), 0);
    }
}
